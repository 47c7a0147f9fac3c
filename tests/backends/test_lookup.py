"""From a URL to a backend, and what a URL that leads nowhere is told."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from rtsync.backends import Backend, MemoryBackend, _lookup, open_backend
from rtsync.core import SettingsError

Install = Callable[..., None]


class Elsewhere:
    """A backend of somebody else's."""

    def __init__(self, url: str, pool: int) -> None:
        self.url = url
        self.pool = pool

    @classmethod
    def from_url(cls, url: str, *, pool: int = 4) -> Elsewhere:
        if "broken" in url:
            raise SettingsError("settings.backend", "broken")
        return cls(url, pool)


def open_elsewhere(url: str) -> Elsewhere:
    return Elsewhere(url, 1)


not_a_backend = 7


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Pretend that just these entry points are installed: ``install(scheme="module:object", ...)``."""

    def install(*points: tuple[str, str]) -> None:
        installed = EntryPoints(EntryPoint(name, f"{__name__}:{value}", _lookup.ENTRY_POINT_GROUP) for name, value in points)
        monkeypatch.setattr(_lookup, "entry_points", lambda **params: installed.select(**params))

    install()
    return install


@pytest.mark.parametrize("url", ["memory://", "MEMORY://"])
def test_memory_is_found_without_metadata(install: Install, url: str) -> None:
    assert isinstance(open_backend(url), MemoryBackend)


def test_memory_cannot_be_taken_over_by_another_distribution(install: Install) -> None:
    install(("memory", "Elsewhere"))
    assert isinstance(open_backend("memory://"), MemoryBackend)


def test_every_memory_url_is_a_store_of_its_own(install: Install) -> None:
    one, two = open_backend("memory://"), open_backend("memory://")
    assert isinstance(one, MemoryBackend)
    assert isinstance(two, MemoryBackend)
    assert one.store is not two.store


def test_a_registered_scheme_gets_the_url_as_it_is(install: Install) -> None:
    install(("else", "Elsewhere"), ("else+cluster", "Elsewhere"))
    for url in ("else://User:pa%2Fss@host/1?x=y", "else+cluster://a,b/c"):
        backend: object = open_backend(url)
        assert isinstance(backend, Elsewhere)
        assert (backend.url, backend.pool) == (url, 4)


def test_a_plain_callable_serves_as_well(install: Install) -> None:
    install(("else", "open_elsewhere"))
    backend: object = open_backend("else://")
    assert isinstance(backend, Elsewhere)


def test_options_reach_the_backend(install: Install) -> None:
    install(("else", "Elsewhere"))
    backend: object = open_backend("else://", options={"pool": 9})
    assert isinstance(backend, Elsewhere)
    assert backend.pool == 9


def test_options_that_the_backend_does_not_know_are_named(install: Install) -> None:
    install(("else", "Elsewhere"))
    with pytest.raises(SettingsError, match="'size'") as caught:
        open_backend("else://", options={"size": "hunter2"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SettingsError, match="memory://"):
        open_backend("memory://", options={"size": 1})


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+sentinel", "redis+cluster"])
def test_a_redis_scheme_without_its_distribution_says_what_to_install(install: Install, scheme: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_backend(f"{scheme}://h1,h2/service/0")
    assert f"no backend for {scheme}://" in str(caught.value)
    assert 'pip install "rtsync[redis]"' in str(caught.value)


@pytest.mark.parametrize("scheme", ["nats", "tls"])
def test_a_nats_scheme_without_its_distribution_says_what_to_install(install: Install, scheme: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_backend(f"{scheme}://localhost")
    assert 'pip install "rtsync[nats]"' in str(caught.value)


def test_an_unknown_scheme_is_told_the_known_ones(install: Install) -> None:
    install(("else", "Elsewhere"))
    with pytest.raises(SettingsError) as caught:
        open_backend("kafka://localhost")
    assert caught.value.field == "settings.backend"
    assert "no backend for kafka://; installed: else://, memory://" in str(caught.value)
    assert "pip" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "user:hunter2@localhost",
        "localhost:6379/hunter2",
        "://hunter2",
        "hunter2",
        "",
        " redis://u:hunter2@h",
        "kafka://user:hunter2@localhost",
        "redis://:hunter2@localhost",
        "memory://user:hunter2@",
    ],
)
def test_no_error_shows_what_may_be_a_secret(install: Install, url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_backend(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.field == "settings.backend"


def test_a_scheme_that_two_distributions_claim_is_refused(install: Install) -> None:
    install(("else", "Elsewhere"), ("else", "open_elsewhere"))
    with pytest.raises(SettingsError, match="more than once"):
        open_backend("else://")


def test_a_scheme_registered_twice_for_the_same_object_is_fine(install: Install) -> None:
    install(("else", "Elsewhere"), ("ELSE", "Elsewhere"))
    backend: object = open_backend("else://")
    assert isinstance(backend, Elsewhere)


def test_a_distribution_that_cannot_be_imported_is_named(install: Install) -> None:
    install(("else", "missing"))
    with pytest.raises(SettingsError, match="cannot be imported") as caught:
        open_backend("else://")
    assert isinstance(caught.value.__cause__, AttributeError)


def test_something_registered_that_is_no_backend_is_refused(install: Install) -> None:
    install(("else", "not_a_backend"))
    with pytest.raises(SettingsError, match="neither callable nor has from_url"):
        open_backend("else://")


def test_the_backends_own_error_comes_through(install: Install) -> None:
    install(("else", "Elsewhere"))
    with pytest.raises(SettingsError, match="broken"):
        open_backend("else://broken")


def test_the_memory_backend_satisfies_the_protocol() -> None:
    backend: Backend = MemoryBackend()
    assert backend is not None
