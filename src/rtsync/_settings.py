"""Every number an operator may turn, with its unit, its default and why it is that."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, get_type_hints

from .core import FamilyPattern, InvalidName, SettingsError, parse_channel

__all__ = ["Settings", "SettingsWarning"]


class SettingsWarning(UserWarning):
    """An environment variable looks like a setting and is none."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    low: float
    high: float
    unit: str


def _seconds(default: float, low: float = 0.01, high: float = 3600.0) -> float:
    return field(default=default, metadata={"bounds": _Bounds(low, high, " s")})


def _number(default: float, low: float, high: float) -> float:
    return field(default=default, metadata={"bounds": _Bounds(low, high, "")})


def _bytes(default: int, low: int = 1024, high: int = 64 << 20) -> int:
    return field(default=default, metadata={"bounds": _Bounds(low, high, " bytes")})


def _count(default: int, low: int = 1, high: int = 1_000_000) -> int:
    return field(default=default, metadata={"bounds": _Bounds(low, high, "")})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """
    How an application runs. Immutable; checked as a whole when it is made.

    Durations are seconds, sizes are bytes. ``repr`` shows everything but secrets.

    Raises:
        SettingsError: A value is mistyped or out of range, or contradicts another. ``error.field`` is ``settings.NAME``.
    """

    # ---- where

    backend_url: str = "memory://"
    """
    URL of the backend; its scheme chooses the distribution. Default: memory, which needs no broker and serves one process.
    User, password and query are hidden in ``repr`` and never part of an error message.
    """

    path: str = "/rt"
    """URL path below which all routes stand (``/rt/ws``). Default ``/rt``: short, and unlikely to be taken."""

    autostart: bool = False
    """
    Start with the first request if nothing has before: for servers that tell apps of no startup, such as daphne. Default off:
    a forgotten lifespan is better found than covered up, and with this the end comes with the event loop's, unannounced.
    """

    # ---- connections

    hello_timeout: float = _seconds(10.0)
    """Seconds a new connection has to say hello. Default 10: ample on a bad link; strangers hold a slot no longer."""

    heartbeat_interval: float = _seconds(20.0)
    """
    Seconds between the server's pings to a silent client. Default 20: data flows in both directions below the 30 s after which
    the strictest proxies and phone networks forget a connection; common ones wait 60.
    """

    heartbeat_timeout: float = _seconds(10.0)
    """
    Seconds after a ping within which anything must arrive from the client; at most `heartbeat_interval`. Default 10: a dead
    peer is gone within 30 s, and a link may lose packets for several seconds. The client gives the server as long.
    """

    send_timeout: float = _seconds(5.0)
    """
    Seconds that the last message of an ending session (its error, its drain notice) may block in ``send``. Default 5: long for
    a network, short at shutdown. Not a measure of slowness; that is `ack_timeout`.
    """

    close_timeout: float = _seconds(5.0)
    """
    Seconds to wait for the peer's close after ours. Default 5: a close waits behind all that the kernel still holds, so a slow
    peer may never see it; the reason is told again when it resumes.
    """

    max_subscriptions: int = _count(128, high=100_000)
    """Most subscriptions of one connection. Default 128: more than a full dashboard uses; bounds memory per connection."""

    message_rate: float = _number(50.0, 0.1, 100_000)
    """Messages per second that one connection may send in the long run. Default 50: acks and rate changes need far fewer."""

    message_burst: int = _count(100)
    """Messages that one connection may send at once. Default 100: a reconnect that restores many subscriptions passes."""

    # ---- what a peer may send

    max_frame_bytes: int = _bytes(64 << 10, high=16 << 20)
    """Bytes of one inbound message, checked before decoding. Default 64 KiB: clients send requests, not documents."""

    max_depth: int = _count(16, low=4, high=128)
    """Nesting of an inbound message. Default 16: requests need five; deep nesting is how decoders are attacked."""

    max_nodes: int = _count(4096, low=16)
    """Values in an inbound message, keys included. Default 4096: several times what 128 subscriptions with positions need."""

    # ---- documents and logs

    max_document_bytes: int = _bytes(1 << 20)
    """Bytes of one encoded document or event; a larger one is refused at publish. Default 1 MiB: what brokers take unasked."""

    state_window: int = _count(1000, low=2)
    """
    Entries of a state channel kept for resuming. Default 1000: 20 s at 50 updates a second, longer than a reconnect takes.
    A client further behind gets a keyframe.
    """

    events_window: int = _count(1000)
    """Events kept by an event family that names no window. Default 1000; a client further behind is told which it missed."""

    channel_linger: float = _seconds(30.0, low=0.0, high=86_400.0)
    """
    Seconds a node keeps a channel's log in memory after the last subscriber left. Default 30: page reloads and reconnects find
    it warm. 0 forgets it at once.
    """

    # ---- fan-out

    flush_bytes: int = _bytes(64 << 10, high=16 << 20)
    """
    Bytes of one flush beyond its first frame; the rest waits a turn. Default 64 KiB: the size at which servers begin to hold
    back, so that one client's flush never delays the others by more.
    """

    ack_window_bytes: int = _bytes(256 << 10)
    """
    Most bytes sent to a session and not yet acknowledged; beyond them its data waits in the log, where it still conflates.
    Default 256 KiB: fills 20 Mbit/s at 100 ms, while kernels would hide 4 MB of stale data.
    """

    min_ack_window_bytes: int = _bytes(16 << 10)
    """
    The window a slow session's shrinks to; at most `ack_window_bytes`. Default 16 KiB: two seconds of a 64 kbit/s link.
    """

    ack_timeout: float = _seconds(30.0)
    """
    Seconds a session may owe an ack before it is ended as slow. Default 30: as patient as the heartbeat is with silence.
    """

    frame_cache_bytes: int = _bytes(4 << 20, low=0, high=1 << 30)
    """
    Bytes of encoded frames kept for the head of one channel; they are shared by all its subscribers. Default 4 MiB: the
    largest keyframe in both profiles, and deltas. 0 keeps none, and encodes again for each reader.
    """

    default_rate: float | None = field(default=None, metadata={"bounds": _Bounds(0.01, 1000.0, "")})
    """
    Updates per second and channel for subscriptions that ask for no rate. Default ``None``: as fast as the link allows.
    Events are never thinned.
    """

    default_subscriptions: tuple[str, ...] = ()
    """
    Channels every new session is subscribed to at once: canonical names, or patterns such as ``portfolio:{user}`` whose
    parameters the session fills in. Default: none. Separated by commas in the environment; at most `max_subscriptions`.
    """

    # ---- sources

    family_intervals: Mapping[str, float] = field(default_factory=dict, hash=False)
    """
    Seconds between two calls of a family's interval source, by its pattern (``{"portfolio:{user}": 5}``): overrides what the
    source declares. Default: none. A JSON object in the environment.
    """

    source_linger: float = _seconds(5.0, low=0.0)
    """Seconds a source runs on after its last subscriber left. Default 5: page reloads do not restart it. 0 ends it at once."""

    source_backoff_min: float = _seconds(0.5)
    """Seconds before a failed source starts again; doubles with each failure in a row. Default 0.5: readers hardly notice."""

    source_backoff_max: float = _seconds(30.0)
    """Most seconds between two starts of a failing source. Default 30: gentle on what it reads, and soon after its repair."""

    # ---- nodes

    lease_ttl: float = _seconds(10.0, low=0.05)
    """
    Seconds after its last renewal when another node may take over a source. Default 10: rides out a pause of the process or a
    broker's failover, and bounds how long prices stand still when a node dies.
    """

    lease_renew: float = _seconds(3.0)
    """Seconds between renewals of a lease; less than half of `lease_ttl`. Default 3: two may fail before it is lost."""

    beat_interval: float = _seconds(2.0)
    """Seconds between two beats by which a node shows that it lives. Default 2: one small write per node."""

    beat_timeout: float = _seconds(5.0, low=0.05)
    """
    Seconds without a beat after which the channels a node writes are shown as stale; more than twice `beat_interval`.
    Default 5: one beat may be lost, and a dead writer's data does not pass as live for longer.
    """

    probe_interval: float = _seconds(2.0)
    """Seconds between two probes that prove the backend's announcements still arrive. Default 2: one append vouches for all."""

    probe_timeout: float = _seconds(3.0)
    """
    Seconds a probe may take before channels are shown as stale and read again. Default 3: with `probe_interval`, no data passes
    as live for more than 5 s after the backend fell silent.
    """

    head_check_interval: float = _seconds(5.0)
    """
    Seconds, on average, between two comparisons of a watched channel's head with the backend's. Default 5: finds a single lost
    announcement that probes cannot see. Checks are spread at random, so channels do not ask in step.
    """

    publish_timeout: float = _seconds(5.0)
    """Seconds after which a publish ends as unknown. Default 5: above a broker's failover pauses, below a user's patience."""

    drain_timeout: float = _seconds(10.0)
    """
    Seconds over which a stopping node sends its clients away. Default 10: other nodes are not stormed, and it fits the 30 s
    that orchestrators allow.
    """

    # ---- advice to reconnecting clients

    reconnect_delay_min: float = _seconds(1.0)
    """Seconds before a client's first attempt. Default 1, then 2, 4, 8, 15, 15: quick after a hiccup, gentle in an outage."""

    reconnect_delay_max: float = _seconds(15.0)
    """Most seconds between two attempts. Default 15: what a person watching a screen still waits for."""

    reconnect_factor: float = _number(2.0, 1.0, 10.0)
    """Growth of the delay from one attempt to the next. Default 2; 1 keeps it constant."""

    reconnect_jitter: float = _number(0.5, 0.0, 1.0)
    """
    Fraction of each delay that is left to chance: *d* becomes anything between *d* × (1 − jitter) and *d*. Default 0.5: clients
    cut together do not return together. 0 makes delays exact.
    """

    reconnect_spread: float = _seconds(1.0, low=0.0)
    """Seconds over which clients sent away together spread their first attempt. Default 1. 0 lets all come at once."""

    def __post_init__(self) -> None:
        for name, bounds in _BOUNDS.items():
            self._set(name, _checked_number(name, getattr(self, name), bounds))
        _check_url(self.backend_url)
        _check_path(self.path)
        self._set("default_subscriptions", _checked_subscriptions(self.default_subscriptions))
        self._set("family_intervals", _checked_intervals(self.family_intervals))
        for smaller, larger in _AT_MOST:
            low, high = getattr(self, smaller), getattr(self, larger)
            if low > high:
                raise _error(smaller, f"must be at most settings.{larger} ({high}), is {low}")
        for smaller, larger in _BELOW_HALF:
            low, high = getattr(self, smaller), getattr(self, larger)
            if low * 2 >= high:
                raise _error(smaller, f"must be less than half of settings.{larger} ({high}), is {low}")
        if len(self.default_subscriptions) > self.max_subscriptions:
            count = len(self.default_subscriptions)
            raise _error(
                "default_subscriptions", f"has {count} channels, settings.max_subscriptions is {self.max_subscriptions}"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def from_env(cls, prefix: str = "RTSYNC_", environ: Mapping[str, str] = os.environ) -> Settings:
        """
        Return settings in which every field whose variable is set, *prefix* + the field's name in capitals, is taken from it.

        Numbers are written plainly, tuples as items separated by commas, mappings as JSON, absence as ``none``. A variable that
        starts with the prefix and is no setting causes a `SettingsWarning` that names the nearest one.

        Raises:
            SettingsError: As the constructor does, but naming the variable; or the prefix is empty.
        """
        if not prefix:
            raise SettingsError("prefix", "must not be empty")
        variables = {prefix + name.upper(): name for name in _TYPES}
        for key in environ:
            if key not in variables and key.upper().startswith(prefix.upper()):
                hint = _near_miss(key.upper(), variables)
                warnings.warn(f"{ascii(key)[1:-1]} is not a setting{hint}", SettingsWarning, stacklevel=2)
        given = {name: key for key, name in variables.items() if key in environ}
        values: dict[str, Any] = {name: _parsed(key, name, environ[key]) for name, key in given.items()}
        try:
            return cls(**values)
        except SettingsError as error:
            name, problem = (
                re.sub(r"settings\.(\w+)", lambda found: given.get(found[1], found[0]), text)
                for text in (error.field, error.problem)
            )
            raise SettingsError(name, problem) from None

    def replace(self, **changes: Any) -> Settings:
        """Return a copy with *changes* made and everything checked again. Raises `SettingsError`, also for unknown names."""
        for name in changes:
            if name not in _TYPES:
                raise _error(name, f"is not a setting{_near_miss(name, _TYPES)}")
        return replace(self, **changes)

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in _TYPES}
        shown["backend_url"] = _redacted(self.backend_url)
        shown["family_intervals"] = dict(self.family_intervals)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


# ---- rules between fields ------------------------------------------------------------------------------------------

_AT_MOST: Final = (
    ("heartbeat_timeout", "heartbeat_interval"),
    ("min_ack_window_bytes", "ack_window_bytes"),
    ("source_backoff_min", "source_backoff_max"),
    ("reconnect_delay_min", "reconnect_delay_max"),
)
# One renewal or beat may be lost, and one more still comes in time.
_BELOW_HALF: Final = (("lease_renew", "lease_ttl"), ("beat_interval", "beat_timeout"))


# ---- single fields -------------------------------------------------------------------------------------------------

_TYPES: Final[dict[str, Any]] = get_type_hints(Settings)
_BOUNDS: Final[dict[str, _Bounds]] = {item.name: item.metadata["bounds"] for item in fields(Settings) if item.metadata}
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\x00-\x1f\x7f]*")
_PATH = re.compile(r"(?:/[A-Za-z0-9_.~-]+)+")


def _error(name: str, problem: str) -> SettingsError:
    return SettingsError(f"settings.{name}", problem)


def _checked_number(name: str, value: object, bounds: _Bounds) -> float | None:
    kind = _TYPES[name]
    if value is None and kind not in (int, float):
        return None
    whole = kind is int
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise _error(name, f"must be a {'whole ' if whole else ''}number, is {type(value).__name__}")
    if not bounds.low <= value <= bounds.high:  # False for NaN, too
        raise _error(name, f"must be between {bounds.low} and {bounds.high}{bounds.unit}, is {value}")
    return value if whole else float(value)


def _check_url(url: object) -> None:
    if not isinstance(url, str) or not _URL.fullmatch(url):
        # Without the value: it may hold a password.
        raise _error("backend_url", "must be a URL such as memory:// or redis://host:6379/0")


def _check_path(path: object) -> None:
    if not isinstance(path, str) or not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise _error("path", f"must look like /rt or /api/rt, without a slash at the end, is {_shown(path)}")


def _checked_subscriptions(channels: object) -> tuple[str, ...]:
    name = "default_subscriptions"
    if not isinstance(channels, (tuple, list)):
        raise _error(name, f"must be a tuple of channels, is {type(channels).__name__}")
    for index, channel in enumerate(channels):
        try:
            if isinstance(channel, str) and "{" in channel:
                FamilyPattern(channel)
            else:
                parse_channel(channel)
        except InvalidName as error:
            raise _error(f"{name}[{index}]", error.problem) from None
    if len(set(channels)) < len(channels):
        raise _error(name, "names a channel twice")
    return tuple(channels)


def _checked_intervals(intervals: object) -> Mapping[str, float]:
    name = "family_intervals"
    if not isinstance(intervals, Mapping):
        raise _error(name, f"must map patterns to seconds, is {type(intervals).__name__}")
    checked: dict[str, float] = {}
    for pattern, seconds in intervals.items():
        try:
            FamilyPattern(pattern)
        except InvalidName as error:
            raise _error(name, f"{_shown(pattern)} is no family: {error.problem}") from None
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0.01 <= seconds <= 86_400:
            raise _error(name, f"of {pattern} must be between 0.01 and 86400 s, is {_shown(seconds)}")
        checked[pattern] = float(seconds)
    return MappingProxyType(checked)


def _shown(value: object) -> str:
    """Return a short ASCII rendering for an error message."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _redacted(url: str) -> str:
    # A password may hold any character, so everything up to the last @ goes; so does the query, which may hold one, too.
    scheme, _, rest = url.partition("://")
    _, at, place = rest.rpartition("@")
    place, mark, _ = place.partition("?")
    return f"{scheme}://{'***@' if at else ''}{place}{'?***' if mark else ''}"


# ---- the environment -----------------------------------------------------------------------------------------------


def _parse_text(text: str) -> str:
    return text


def _parse_bool(text: str) -> bool:
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


def _parse_float_or_none(text: str) -> float | None:
    return None if text.strip().lower() in ("", "none") else _parse_float(text)


def _parse_tuple(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",")) if text.strip() else ()


def _parse_mapping(text: str) -> dict[str, float]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError('must be a JSON object such as {"portfolio:{user}": 5}')
    return found


_WORDS: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_PARSERS: Final[dict[object, Callable[[str], object]]] = {
    str: _parse_text,
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    float | None: _parse_float_or_none,
    tuple[str, ...]: _parse_tuple,
    Mapping[str, float]: _parse_mapping,
}


def _parsed(variable: str, name: str, text: str) -> object:
    try:
        return _PARSERS[_TYPES[name]](text)
    except ValueError as error:
        raise SettingsError(variable, f"{error}, is {_shown(text)}") from None


def _near_miss(word: str, words: Iterable[str]) -> str:
    near = get_close_matches(word, words, n=1)
    return f"; did you mean {near[0]}?" if near else ""
