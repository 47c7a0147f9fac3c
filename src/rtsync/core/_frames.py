"""
The frames of protocol v1 as frozen values.

A frame travels as an array: its type, then its fields in the order written here. Unknown types and trailing fields are ignored;
fields with a default may be left out.

Source: docs/reference/protocol.md, "Frames".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Final, Literal, cast

from ._errors import Code, DecodeError
from ._patch_wire import prove_text_keys
from ._position import LINK_BITS, MAX_OFFSET, Position
from ._values import Value

__all__ = [
    "Bye",
    "ClientFrame",
    "Delta",
    "Drain",
    "Error",
    "Event",
    "Frame",
    "Freshness",
    "Gap",
    "Hello",
    "Keyframe",
    "Kind",
    "Ping",
    "Pong",
    "Rate",
    "ServerFrame",
    "Status",
    "Subscribe",
    "SubscribeItem",
    "Subscribed",
    "Unsubscribe",
    "Unsubscribed",
    "Welcome",
    "parse_client_frame",
    "parse_server_frame",
    "to_wire",
]

Kind = Literal["state", "events"]
Freshness = Literal["live", "stale", "closed"]

_Reader = Callable[[object, str], Any]


def _reads(reader: _Reader, default: Any = MISSING) -> Any:
    """Declare a field with the function that checks and converts what came over the wire."""
    return field(metadata={"read": reader}, default=default)


# ---- what fields may hold ------------------------------------------------------------------------------------------


def _bad(name: str, expected: str) -> DecodeError:
    return DecodeError(Code.BAD_FRAME, f"expected {expected}", field=name)


def _text(value: object, name: str) -> str:
    if type(value) is not str:
        raise _bad(name, "text")
    return value


def _flag(value: object, name: str) -> bool:
    if type(value) is not bool:
        raise _bad(name, "true or false")
    return value


def _uint(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_OFFSET:
        raise _bad(name, "an integer from 0 to 2**53 - 1")
    return value


def _link(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << LINK_BITS:
        raise _bad(name, f"an integer of {LINK_BITS} bits")
    return value


def _seconds(value: object, name: str) -> float:
    if type(value) not in (int, float) or not 0 <= cast(float, value) < math.inf:  # not a number is not either
        raise _bad(name, "a number of seconds")
    return float(cast(float, value))


def _anything(value: object, name: str) -> object:
    return value


def _value(value: object, name: str) -> object:
    prove_text_keys(value, field=name)  # only documents and patches number theirs
    return value


def _optional(reader: _Reader) -> _Reader:
    return lambda value, name: None if value is None else reader(value, name)


def _list_of(reader: _Reader) -> _Reader:
    def read(value: object, name: str) -> tuple[object, ...]:
        if type(value) is not list:
            raise _bad(name, "a list")
        return tuple([reader(item, name) for item in value])

    return read


def _one_of(*words: str) -> _Reader:
    def read(value: object, name: str) -> str:
        if type(value) is not str or value not in words:
            raise _bad(name, " or ".join(words))
        return value

    return read


def _map(value: object, name: str) -> dict[str, Value]:
    if type(value) is not dict:
        raise _bad(name, "a map")
    prove_text_keys(value, field=name)
    return value


def _position(value: object, name: str) -> Position:
    if type(value) is not list or len(value) != 3:
        raise _bad(name, "[epoch, offset, link]")
    return Position(_text(value[0], name), _uint(value[1], name), _link(value[2], name))


def _item(value: object, name: str) -> SubscribeItem:
    if type(value) is not list or not value:
        raise _bad(name, "[channel, position, rate]")
    channel, position, rate = value if len(value) == 3 else [*value, None, None][:3]
    return SubscribeItem(
        _text(channel, name),
        None if position is None else _position(position, name),
        None if rate is None else _seconds(rate, name),
    )


# ---- client to server ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """Base of all frames."""

    TYPE: ClassVar[int] = -1


@dataclass(frozen=True, slots=True)
class Hello(Frame):
    """First frame of a connection. ``session`` and ``secret`` are those of the previous connection, which ends at once."""

    TYPE: ClassVar[int] = 1
    token: str | None = _reads(_optional(_text), None)
    client: str = _reads(_text, "")
    session: str | None = _reads(_optional(_text), None)
    secret: str | None = _reads(_optional(_text), None)


@dataclass(frozen=True, slots=True)
class SubscribeItem:
    """
    One channel of a subscribe.

    ``position`` is what the client holds (``None``: nothing). ``rate`` is the most updates a second it wants: ``None`` for all,
    0 to pause.
    """

    channel: str
    position: Position | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Subscribe(Frame):
    """Subscribe to channels, or resynchronise ones already subscribed. Each is answered by `Subscribed` or `Error`."""

    TYPE: ClassVar[int] = 2
    request: int = _reads(_uint)
    items: tuple[SubscribeItem, ...] = _reads(_list_of(_item))


@dataclass(frozen=True, slots=True)
class Unsubscribe(Frame):
    """End subscriptions. Each is answered by `Unsubscribed` or `Error`."""

    TYPE: ClassVar[int] = 3
    request: int = _reads(_uint)
    channels: tuple[str, ...] = _reads(_list_of(_text))


@dataclass(frozen=True, slots=True)
class Rate(Frame):
    """Change the rate of one subscription; 0 pauses it, ``None`` takes the limit away."""

    TYPE: ClassVar[int] = 4
    request: int = _reads(_uint)
    channel: str = _reads(_text)
    rate: float | None = _reads(_optional(_seconds), None)


@dataclass(frozen=True, slots=True)
class Pong(Frame):
    """Answer to the `Ping` with the same ``id``: how many messages the client has received on this connection so far."""

    TYPE: ClassVar[int] = 5
    id: int = _reads(_uint)
    messages: int = _reads(_uint)


@dataclass(frozen=True, slots=True)
class Bye(Frame):
    """The client is about to close; close codes alone are not carried by every server."""

    TYPE: ClassVar[int] = 8
    reason: str = _reads(_text, "")


# ---- server to client ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome(Frame):
    """Answer to `Hello`. ``time`` is in ms since 1970; ``limits`` and ``reconnect`` name numbers of the server's settings."""

    TYPE: ClassVar[int] = 32
    session: str = _reads(_text)
    secret: str = _reads(_text)
    user: str | None = _reads(_optional(_text))
    heartbeat: float = _reads(_seconds)
    timeout: float = _reads(_seconds)
    time: int = _reads(_uint)
    limits: dict[str, Value] = _reads(_map)
    reconnect: dict[str, Value] = _reads(_map)


@dataclass(frozen=True, slots=True)
class Status(Frame):
    """Freshness of a channel. ``since`` is in ms since 1970."""

    TYPE: ClassVar[int] = 38
    alias: int = _reads(_uint)
    freshness: Freshness = _reads(_one_of("live", "stale", "closed"))
    since: int = _reads(_uint)
    reason: str = _reads(_text, "")


@dataclass(frozen=True, slots=True)
class Subscribed(Frame):
    """
    A subscription instance begins; earlier frames of this alias belong to the one before.

    ``request`` is 0 when the server subscribed on its own. ``recovered`` says that ``position`` is the client's own and what
    follows continues it; else a keyframe (state) or a gap or event (events) follows. ``keys`` is the key table as of
    ``position`` where that is not brought by a keyframe.
    """

    TYPE: ClassVar[int] = 33
    request: int = _reads(_uint)
    channel: str = _reads(_text)
    alias: int = _reads(_uint)
    kind: Kind = _reads(_one_of("state", "events"))
    position: Position = _reads(_position)
    recovered: bool = _reads(_flag)
    rate: float | None = _reads(_optional(_seconds))
    freshness: Freshness = _reads(_one_of("live", "stale", "closed"))
    since: int = _reads(_uint)
    reason: str = _reads(_text, "")
    keys: tuple[str, ...] = _reads(_list_of(_text), ())


@dataclass(frozen=True, slots=True)
class Keyframe(Frame):
    """
    The whole document at ``position``, or part ``part`` of ``parts`` of its encoding.

    A single part carries the document itself; several carry pieces (bytes or text) of the encoded ``[document, keys]``.
    ``keys`` replaces the key table.
    """

    TYPE: ClassVar[int] = 34
    alias: int = _reads(_uint)
    position: Position = _reads(_position)
    part: int = _reads(_uint)
    parts: int = _reads(_uint)
    body: object = _reads(_anything)
    keys: tuple[str, ...] = _reads(_list_of(_text), ())


@dataclass(frozen=True, slots=True)
class Delta(Frame):
    """What changed between ``offset - span`` and ``offset``: a wire patch, and the keys its base did not know."""

    TYPE: ClassVar[int] = 35
    alias: int = _reads(_uint)
    offset: int = _reads(_uint)
    span: int = _reads(_uint)
    link: int = _reads(_link)
    patch: object = _reads(_anything)
    keys: tuple[str, ...] = _reads(_list_of(_text), ())


@dataclass(frozen=True, slots=True)
class Event(Frame):
    """The event at ``offset``; the one before it stands at ``offset - span``."""

    TYPE: ClassVar[int] = 36
    alias: int = _reads(_uint)
    offset: int = _reads(_uint)
    span: int = _reads(_uint)
    link: int = _reads(_link)
    value: Value = _reads(_value)


@dataclass(frozen=True, slots=True)
class Gap(Frame):
    """Events after ``start`` up to and including ``position`` will not be delivered; the next event follows ``position``."""

    TYPE: ClassVar[int] = 37
    alias: int = _reads(_uint)
    start: Position = _reads(_position)
    position: Position = _reads(_position)
    reason: str = _reads(_text, "")


@dataclass(frozen=True, slots=True)
class Unsubscribed(Frame):
    """A subscription ended: asked for (``code`` empty) or by the server. ``request`` is 0 when the server ended it."""

    TYPE: ClassVar[int] = 39
    request: int = _reads(_uint)
    channel: str = _reads(_text)
    code: str = _reads(_text, "")
    message: str = _reads(_text, "")


@dataclass(frozen=True, slots=True)
class Error(Frame):
    """
    A request, or the connection (``request`` is ``None``), failed.

    ``field`` is what was wrong, ``channel`` which of a batch. ``retry_after`` is in seconds where ``retryable``.
    """

    TYPE: ClassVar[int] = 41
    request: int | None = _reads(_optional(_uint))
    code: str = _reads(_text)
    message: str = _reads(_text, "")
    field: str = _reads(_text, "")
    channel: str = _reads(_text, "")
    retryable: bool = _reads(_flag, False)
    retry_after: float | None = _reads(_optional(_seconds), None)


@dataclass(frozen=True, slots=True)
class Ping(Frame):
    """Ask for a `Pong`: sign of life and acknowledgement in one. ``time`` is server time in ms since 1970."""

    TYPE: ClassVar[int] = 42
    id: int = _reads(_uint)
    time: int = _reads(_uint, 0)


@dataclass(frozen=True, slots=True)
class Drain(Frame):
    """The server will close soon: reconnect after ``retry_after`` seconds plus a random part of ``spread`` seconds."""

    TYPE: ClassVar[int] = 43
    reason: str = _reads(_text)
    retry_after: float = _reads(_seconds)
    spread: float = _reads(_seconds)


ClientFrame = Hello | Subscribe | Unsubscribe | Rate | Pong | Bye
ServerFrame = Welcome | Subscribed | Keyframe | Delta | Event | Gap | Status | Unsubscribed | Error | Ping | Drain

# ---- to and from the wire ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shape:
    frame: type[Frame]
    names: tuple[str, ...]
    fields: tuple[tuple[str, _Reader], ...]
    required: int


def _shape(frame: type[Frame]) -> _Shape:
    declared: Sequence[Field[Any]] = fields(frame)
    return _Shape(
        frame,
        tuple(item.name for item in declared),
        tuple((item.name, item.metadata["read"]) for item in declared),
        sum(item.default is MISSING for item in declared),
    )


_CLIENT_SHAPES: Final = {frame.TYPE: _shape(frame) for frame in (Hello, Subscribe, Unsubscribe, Rate, Pong, Bye)}
_SERVER_SHAPES: Final = {
    frame.TYPE: _shape(frame)
    for frame in (Welcome, Subscribed, Keyframe, Delta, Event, Gap, Status, Unsubscribed, Error, Ping, Drain)
}
_NAMES: Final = {shape.frame: shape.names for shape in (*_CLIENT_SHAPES.values(), *_SERVER_SHAPES.values())}


def to_wire(frame: Frame) -> list[object]:
    """Return *frame* as the array that travels."""
    return [frame.TYPE, *[_plain(getattr(frame, name)) for name in _NAMES[type(frame)]]]


def parse_client_frame(wire: object) -> ClientFrame | None:
    """Return the frame a client sent, ``None`` for a type this version does not know. Raises `DecodeError`."""
    return cast("ClientFrame | None", _parse(wire, _CLIENT_SHAPES))


def parse_server_frame(wire: object) -> ServerFrame | None:
    """Return the frame a server sent, ``None`` for a type this version does not know. Raises `DecodeError`."""
    return cast("ServerFrame | None", _parse(wire, _SERVER_SHAPES))


def _parse(wire: object, shapes: dict[int, _Shape]) -> Frame | None:
    if type(wire) is not list or not wire or type(wire[0]) is not int:
        raise DecodeError(Code.BAD_FRAME, "a frame is an array that begins with its type")
    shape = shapes.get(wire[0])
    if shape is None:
        return None
    if len(wire) <= shape.required:
        raise _bad(shape.names[len(wire) - 1], f"a field of {shape.frame.__name__.lower()}")
    return shape.frame(*[read(value, name) for (name, read), value in zip(shape.fields, wire[1:], strict=False)])


def _plain(value: object) -> object:
    """Turn positions and items, which are tuples and values of ours, into what codecs carry."""
    if type(value) is SubscribeItem:
        return [value.channel, _plain(value.position), value.rate]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
