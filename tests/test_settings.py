"""Settings are right when they exist: checked as a whole, read from the environment, silent about secrets."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest

from rtsync import _settings
from rtsync._settings import Settings, SettingsWarning
from rtsync.core import SettingsError

NAMES = [item.name for item in dataclasses.fields(Settings)]
NUMBERS = [item.name for item in dataclasses.fields(Settings) if item.metadata]


def refusal(**changes: Any) -> SettingsError:
    """Return the error that settings with *changes* raise."""
    with pytest.raises(SettingsError) as caught:
        Settings(**changes)
    return caught.value


# ---- values --------------------------------------------------------------------------------------------------------


def test_defaults_are_valid_and_comparable() -> None:
    """Settings need no arguments, and equal ones are equal."""
    assert Settings() == Settings()
    assert Settings() != Settings(hello_timeout=3)
    assert hash(Settings(family_intervals={"a": 1})) == hash(Settings(family_intervals={"a": 2}))


def test_settings_cannot_be_changed_in_place() -> None:
    """What was checked stays as it was checked, whatever happens to the values it was made of."""
    intervals = {"portfolio:{user}": 5.0}
    settings = Settings(family_intervals=intervals)
    intervals["prices:{symbol}"] = -1
    assert settings.family_intervals == {"portfolio:{user}": 5.0}
    with pytest.raises(TypeError):
        settings.family_intervals["a"] = 1  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.path = "/x"  # type: ignore[misc]


def test_numbers_take_the_type_of_their_field() -> None:
    """An int is a fine duration and reads back as a float; lists of channels become tuples."""
    settings = Settings(hello_timeout=3, default_rate=2, default_subscriptions=["news"])  # type: ignore[arg-type]
    assert isinstance(settings.hello_timeout, float)
    assert isinstance(settings.default_rate, float)
    assert settings.default_subscriptions == ("news",)


@pytest.mark.parametrize("name", NUMBERS)
def test_number_out_of_range_is_refused_by_name(name: str) -> None:
    """Every number has two limits, and the error names the setting and both."""
    bounds = next(item.metadata["bounds"] for item in dataclasses.fields(Settings) if item.name == name)
    for value in (-1, 10**12):
        error = refusal(**{name: value})
        assert error.field == f"settings.{name}"
        assert str(bounds.low) in error.problem and str(bounds.high) in error.problem


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_refused(value: float) -> None:
    """NaN and the infinities are no durations."""
    assert refusal(hello_timeout=value).field == "settings.hello_timeout"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("hello_timeout", "10", "must be a number, is str"),
        ("hello_timeout", True, "must be a number, is bool"),
        ("hello_timeout", None, "must be a number, is NoneType"),
        ("max_depth", 16.0, "must be a whole number, is float"),
        ("max_depth", True, "must be a whole number, is bool"),
        ("max_depth", None, "must be a whole number, is NoneType"),
        ("default_rate", "fast", "must be a number, is str"),
        ("default_rate", 0, "between 0.01 and 1000.0"),
    ],
)
def test_mistyped_number_is_refused_by_name(name: str, value: object, problem: str) -> None:
    """The error says which type was needed and which was given."""
    error = refusal(**{name: value})
    assert error.field == f"settings.{name}"
    assert problem in error.problem


@pytest.mark.parametrize("path", ["/rt", "/api/rt", "/a.b/~c_d-1"])
def test_plain_path_is_accepted(path: str) -> None:
    """One or more plain segments."""
    assert Settings(path=path).path == path


@pytest.mark.parametrize("path", ["", "/", "rt", "/rt/", "//rt", "/rt?x", "/r t", "/rt/..", "/./rt", "/rt\n", "/{x}", None])
def test_path_that_would_not_route_is_refused(path: object) -> None:
    """A path that no request could match, or that could match others, is found at start."""
    assert refusal(path=path).field == "settings.path"


def test_long_bad_value_is_shown_shortened() -> None:
    """An error message stays one readable line."""
    assert len(str(refusal(path="x" * 1000))) < 200


# ---- channels ------------------------------------------------------------------------------------------------------


def test_default_subscriptions_are_channels_or_patterns() -> None:
    """Both a name in canonical form and a pattern to be filled in are accepted."""
    channels = ("news", "prices:BTC%2FUSD", "portfolio:{user}")
    assert Settings(default_subscriptions=channels).default_subscriptions == channels


@pytest.mark.parametrize(
    ("channels", "field", "problem"),
    [
        ("news", "default_subscriptions", "must be a tuple of channels, is str"),
        (("news", "prices:BTC/USD"), "default_subscriptions[1]", "write prices:BTC%2FUSD"),
        (("portfolio:{User}",), "default_subscriptions[0]", "neither a literal"),
        ((7,), "default_subscriptions[0]", "must be text, is int"),
        (("news", "news"), "default_subscriptions", "twice"),
    ],
)
def test_bad_default_subscription_is_refused(channels: object, field: str, problem: str) -> None:
    """The error names the item."""
    error = refusal(default_subscriptions=channels)
    assert error.field == f"settings.{field}"
    assert problem in error.problem


@pytest.mark.parametrize(
    ("intervals", "problem"),
    [
        ([("a", 1)], "must map patterns to seconds, is list"),
        ({"a b": 1}, "'a b' is no family"),
        ({3: 1}, "3 is no family: must be text, is int"),
        ({"a": 0}, "between 0.01 and 86400"),
        ({"a": math.nan}, "between 0.01 and 86400"),
        ({"a": True}, "between 0.01 and 86400"),
        ({"a": "5"}, "between 0.01 and 86400"),
    ],
)
def test_bad_family_interval_is_refused(intervals: object, problem: str) -> None:
    """Keys are patterns, values are seconds."""
    error = refusal(family_intervals=intervals)
    assert error.field == "settings.family_intervals"
    assert problem in error.problem


# ---- rules between fields ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("smaller", "larger", "limit"),
    [
        ("heartbeat_timeout", "heartbeat_interval", 6),
        ("min_ack_window_bytes", "ack_window_bytes", 2048),
        ("source_backoff_min", "source_backoff_max", 6),
        ("reconnect_delay_min", "reconnect_delay_max", 6),
    ],
)
def test_lower_limit_may_reach_its_upper_limit_and_no_further(smaller: str, larger: str, limit: int) -> None:
    """Settings that bound each other are checked together."""
    Settings().replace(**{smaller: limit, larger: limit})
    error = refusal(**{smaller: limit + 1, larger: limit})
    assert error.field == f"settings.{smaller}"
    assert f"at most settings.{larger} ({limit}" in error.problem


@pytest.mark.parametrize(("smaller", "larger"), [("lease_renew", "lease_ttl"), ("beat_interval", "beat_timeout")])
def test_two_renewals_fit_into_a_lifetime(smaller: str, larger: str) -> None:
    """A single lost renewal or beat never costs the lease or the word of a node."""
    Settings().replace(**{smaller: 2.9, larger: 6})
    error = refusal(**{smaller: 3, larger: 6})
    assert error.field == f"settings.{smaller}"
    assert f"less than half of settings.{larger}" in error.problem


def test_default_subscriptions_count_against_the_limit() -> None:
    """A session that could not hold its own default subscriptions is found at start."""
    Settings(max_subscriptions=2, default_subscriptions=("a", "b"))
    assert refusal(max_subscriptions=1, default_subscriptions=("a", "b")).field == "settings.default_subscriptions"


# ---- replace -------------------------------------------------------------------------------------------------------


def test_replace_changes_a_copy_and_checks_it() -> None:
    """The rest stays, the original too, and the rules hold for the result."""
    settings = Settings(path="/live", family_intervals={"a": 1})
    changed = settings.replace(heartbeat_interval=15)
    assert (changed.path, changed.family_intervals, changed.heartbeat_interval) == ("/live", {"a": 1}, 15.0)
    assert settings.heartbeat_interval == 20.0
    with pytest.raises(SettingsError, match=r"settings\.heartbeat_timeout"):
        settings.replace(heartbeat_interval=9)


def test_replace_of_an_unknown_setting_suggests_the_nearest() -> None:
    """A misspelt name is a typed error."""
    with pytest.raises(SettingsError, match=r"settings\.hello_time: is not a setting; did you mean hello_timeout\?"):
        Settings().replace(hello_time=3)


# ---- the environment -----------------------------------------------------------------------------------------------


def from_env(**environ: str) -> Settings:
    """Read settings from *environ*, names without prefix."""
    return Settings.from_env(environ={f"RTSYNC_{name}": value for name, value in environ.items()})


def test_empty_environment_gives_the_defaults() -> None:
    """Variables of others are left alone."""
    assert Settings.from_env(environ={"PATH": "/bin", "HOME": "/root"}) == Settings()


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operator exports counts, also after import."""
    monkeypatch.setenv("RTSYNC_PATH", "/live")
    assert Settings.from_env().path == "/live"


def test_each_type_is_parsed_from_its_text() -> None:
    """Text, numbers, absence, tuples and mappings have one plain spelling each."""
    settings = from_env(
        BACKEND_URL="redis://localhost",
        MAX_DEPTH="12",
        HELLO_TIMEOUT="2.5",
        DEFAULT_RATE="4",
        DEFAULT_SUBSCRIPTIONS="news, portfolio:{user}",
        FAMILY_INTERVALS='{"portfolio:{user}": 5}',
    )
    assert settings == Settings(
        backend_url="redis://localhost",
        max_depth=12,
        hello_timeout=2.5,
        default_rate=4.0,
        default_subscriptions=("news", "portfolio:{user}"),
        family_intervals={"portfolio:{user}": 5.0},
    )


@pytest.mark.parametrize("text", ["none", "None", "", " "])
def test_absence_and_emptiness_can_be_written(text: str) -> None:
    """No rate and no subscriptions have a spelling."""
    assert from_env(DEFAULT_RATE=text).default_rate is None
    assert from_env(DEFAULT_SUBSCRIPTIONS="").default_subscriptions == ()


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), (" Yes ", True), ("ON", True), ("0", False), ("off", False)]
)
def test_switches_are_words(text: str, value: bool) -> None:
    """A switch can be written in the usual ways."""
    assert _settings._parse_bool(text) is value


def test_switch_that_is_no_word_is_refused() -> None:
    """Nothing but the usual ways is guessed at."""
    with pytest.raises(ValueError, match="true or false"):
        _settings._parse_bool("maybe")


def test_every_field_can_be_read_from_the_environment() -> None:
    """No field has a type that the environment cannot express."""
    settings = Settings(default_rate=3, default_subscriptions=("a", "b"))
    written: Mapping[str, str] = {
        f"RTSYNC_{name.upper()}": {"default_subscriptions": "a,b", "family_intervals": "{}"}.get(
            name, str(getattr(settings, name))
        )
        for name in NAMES
    }
    assert Settings.from_env(environ=written) == settings


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("MAX_DEPTH", "4.5", "must be a whole number, is '4.5'"),
        ("MAX_DEPTH", "", "must be a whole number, is ''"),
        ("MAX_DEPTH", "1", "between 4 and 128"),
        ("HELLO_TIMEOUT", "10s", "must be a number, is '10s'"),
        ("HELLO_TIMEOUT", "nan", "between 0.01 and 3600"),
        ("DEFAULT_RATE", "fast", "must be a number, is 'fast'"),
        ("PATH", "rt", "must look like /rt"),
        ("FAMILY_INTERVALS", "5", "must be a JSON object"),
        ("FAMILY_INTERVALS", "{", "must be a JSON object"),
        ("FAMILY_INTERVALS", "[" * 100_000, "must be a JSON object"),
        ("FAMILY_INTERVALS", '{"a": "x"}', "between 0.01 and 86400"),
        ("DEFAULT_SUBSCRIPTIONS", "a,,b", "empty segment"),
    ],
)
def test_bad_variable_is_refused_by_its_name(name: str, text: str, problem: str) -> None:
    """The operator reads the variable's name, not the field's."""
    with pytest.raises(SettingsError) as caught:
        from_env(**{name: text})
    assert caught.value.field.startswith(f"RTSYNC_{name}")
    assert problem in caught.value.problem


def test_contradiction_with_a_default_names_the_variable_that_was_set() -> None:
    """Of two settings that disagree, the one in the environment is shown by its variable."""
    with pytest.raises(SettingsError) as caught:
        from_env(HEARTBEAT_INTERVAL="5")
    assert caught.value.field == "settings.heartbeat_timeout"
    assert "RTSYNC_HEARTBEAT_INTERVAL (5.0)" in caught.value.problem


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("RTSYNC_HEARTBEAT_INTERVALL", "; did you mean RTSYNC_HEARTBEAT_INTERVAL?"),
        ("rtsync_path", "; did you mean RTSYNC_PATH?"),
        ("RTSYNC_ZZZZZZZZZZZZZZZZ", ""),
    ],
)
def test_unknown_variable_warns_with_the_nearest_name_and_without_its_value(variable: str, hint: str) -> None:
    """A misspelt variable is not ignored in silence, and the warning points at the caller."""
    with pytest.warns(SettingsWarning) as caught:
        settings = Settings.from_env(environ={variable: "/canary"})
    assert settings == Settings()
    assert str(caught[0].message) == f"{variable} is not a setting{hint}"
    assert caught[0].filename == __file__


def test_another_prefix_has_its_own_variables() -> None:
    """Two applications in one environment stay apart."""
    with warnings.catch_warnings(action="error"):
        settings = Settings.from_env("APP_RT_", {"APP_RT_PATH": "/live", "RTSYNC_PATH": "/other", "RTSYNC_X": "1"})
    assert settings.path == "/live"


def test_empty_prefix_is_refused() -> None:
    """Without a prefix every variable of the process would be taken for a setting."""
    with pytest.raises(SettingsError, match="prefix"):
        Settings.from_env("", {})


# ---- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:canary@host:6379/0", "redis://***@host:6379/0"),
        ("redis://:can@nary?/x@host", "redis://***@host"),
        ("nats://canary@host", "nats://***@host"),
        ("nats://u:canary@h1,nats://u:canary@h2", "nats://***@h2"),
        ("redis://host/0?password=canary", "redis://host/0?***"),
        ("redis://u:canary@host?a=b@c", "redis://***@c"),
    ],
)
def test_repr_shows_the_backend_without_its_secrets(url: str, shown: str) -> None:
    """User, password and query never reach a log through ``repr``, ``str`` or formatting."""
    settings = Settings(backend_url=url)
    assert settings.backend_url == url
    for text in (repr(settings), str(settings), f"{settings}"):
        assert f"backend_url={shown!r}" in text
        assert "canary" not in text


@pytest.mark.parametrize("url", ["canary", "://canary", "REDIS://canary", "redis://can ary", "redis://canary\n", 5, None])
def test_bad_backend_url_is_refused_without_showing_it(url: object) -> None:
    """A mistyped URL may still hold a password."""
    error = refusal(backend_url=url)
    assert error.field == "settings.backend_url"
    assert "canary" not in str(error)
    if isinstance(url, str):
        with pytest.raises(SettingsError) as caught:
            from_env(BACKEND_URL=url)
        assert caught.value.field == "RTSYNC_BACKEND_URL"
        assert "canary" not in str(caught.value)


def test_repr_shows_every_setting() -> None:
    """An operator reads the whole configuration from one line."""
    text = repr(Settings(family_intervals={"a": 5}))
    assert all(f"{name}=" in text for name in NAMES)
    assert "family_intervals={'a': 5.0}" in text


# ---- documentation -------------------------------------------------------------------------------------------------


def test_every_setting_says_its_unit_default_and_reason() -> None:
    """Each field is followed by a docstring that names its default, and its unit where it has one."""
    tree = ast.parse(inspect.getsource(_settings))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings").body
    documented: dict[str, str] = {}
    for node, following in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant), node.target.id
            documented[node.target.id] = str(following.value.value)
    assert list(documented) == NAMES
    for item in dataclasses.fields(Settings):
        text = documented[item.name]
        assert "Default" in text, item.name
        unit = item.metadata["bounds"].unit.strip() if item.metadata else ""
        assert {"s": "econds", "bytes": "ytes", "": ""}[unit] in text, item.name
