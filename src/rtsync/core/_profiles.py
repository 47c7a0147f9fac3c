"""
Profiles: the two ways protocol v1 is written on a link, with the same frames and the same values.

Everything is bytes until it is sent; frames of one message are simply joined. The msgpack profile numbers document keys by the
channel's key table; the JSON profile writes one frame a line with text keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeVar

from ._errors import Code, DecodeError
from ._frames import (
    ClientFrame,
    Delta,
    Event,
    Frame,
    Keyframe,
    ServerFrame,
    parse_client_frame,
    parse_server_frame,
    to_wire,
)
from ._json import dumps, loads_many
from ._keys import KeyTable, number_keys
from ._limits import Limits
from ._logs import StoredEvent
from ._msgpack import pack, unpack, unpack_many
from ._patch import Patch
from ._patch_wire import patch_to_wire
from ._position import Position
from ._values import MAX_DEPTH, Document

__all__ = ["JSON", "MSGPACK", "PROFILES", "Message", "Profile"]

_T = TypeVar("_T")

Message = bytes | str
"""What a WebSocket carries: bytes in the msgpack profile, text in JSON."""


class Profile(Protocol):
    """How frames are written on one kind of link."""

    name: str
    """Subprotocol name."""

    def encode(self, frame: Frame) -> bytes:
        """Return *frame* alone, ready to be joined with others."""
        ...

    def encode_delta(self, alias: int, head: Position, base: int, patch: Patch, keys: KeyTable) -> bytes:
        """Return the delta from offset *base* to *head*."""
        ...

    def encode_event(self, alias: int, event: StoredEvent) -> bytes:
        """Return the frame of one event."""
        ...

    def encode_keyframe(self, alias: int, head: Position, document: Document, keys: KeyTable, piece: int) -> Sequence[bytes]:
        """Return the keyframe at *head*, in one frame or, if it is larger than *piece* bytes, in several."""
        ...

    def message(self, frames: bytes) -> Message:
        """Return joined *frames* as what the link carries."""
        ...

    def read_client(self, message: Message, limits: Limits) -> list[ClientFrame]:
        """Return the frames a client sent. Raises `DecodeError`."""
        ...

    def read_server(self, message: Message, limits: Limits) -> list[ServerFrame]:
        """Return the frames a server sent. Raises `DecodeError`."""
        ...

    def read_keyframe(self, pieces: Sequence[object]) -> object:
        """Return the ``[document, keys]`` that the bodies of a keyframe's parts hold. Raises `DecodeError`."""
        ...


class _MsgpackProfile:
    name: str = "rtsync.v1.msgpack"

    def encode(self, frame: Frame) -> bytes:
        return pack(to_wire(frame))

    def encode_delta(self, alias: int, head: Position, base: int, patch: Patch, keys: KeyTable) -> bytes:
        fields = [Delta.TYPE, alias, head.offset, head.offset - base, head.link, patch_to_wire(patch, keys.numbers)]
        if defined := keys.defined_after(base):
            fields.append(defined)
        return pack(fields)

    def encode_event(self, alias: int, event: StoredEvent) -> bytes:
        # The value is spliced in as the log holds it: nothing of it is decoded or encoded again.
        return _open([Event.TYPE, alias, event.offset, event.offset - event.previous, event.link], 1) + event.value

    def encode_keyframe(self, alias: int, head: Position, document: Document, keys: KeyTable, piece: int) -> Sequence[bytes]:
        defined = keys.defined_by(head.offset)
        encoded = pack([number_keys(document, keys.numbers), defined])
        whole = _open([Keyframe.TYPE, alias, list(head), 0, 1], 2) + encoded[1:]
        if len(whole) <= piece:
            return [whole]
        step = _step(piece, len(encoded))
        pieces = [encoded[at : at + step] for at in range(0, len(encoded), step)]
        return [pack([Keyframe.TYPE, alias, list(head), number, len(pieces), part]) for number, part in enumerate(pieces)]

    def message(self, frames: bytes) -> Message:
        return frames

    def read_client(self, message: Message, limits: Limits) -> list[ClientFrame]:
        return [frame for wire in self._read(message, limits, False) if (frame := parse_client_frame(wire)) is not None]

    def read_server(self, message: Message, limits: Limits) -> list[ServerFrame]:
        return [frame for wire in self._read(message, limits, True) if (frame := parse_server_frame(wire)) is not None]

    def read_keyframe(self, pieces: Sequence[object]) -> object:
        encoded = b"".join(_all(bytes, pieces))
        return _whole(unpack_many(encoded, _no_larger_than(len(encoded)), numbered_keys=True))

    def _read(self, message: Message, limits: Limits, numbered_keys: bool) -> list[object]:
        if type(message) is not bytes:
            raise DecodeError(Code.BAD_FRAME, "this profile is binary")
        return unpack_many(message, limits, numbered_keys=numbered_keys)


class _JsonProfile:
    name: str = "rtsync.v1.json"

    def encode(self, frame: Frame) -> bytes:
        return _line(to_wire(frame))

    def encode_delta(self, alias: int, head: Position, base: int, patch: Patch, keys: KeyTable) -> bytes:
        return _line([Delta.TYPE, alias, head.offset, head.offset - base, head.link, patch_to_wire(patch)])

    def encode_event(self, alias: int, event: StoredEvent) -> bytes:
        value = unpack(event.value)
        return _line([Event.TYPE, alias, event.offset, event.offset - event.previous, event.link, value])

    def encode_keyframe(self, alias: int, head: Position, document: Document, keys: KeyTable, piece: int) -> Sequence[bytes]:
        encoded = dumps([document, []])
        # The frame of a single part ends as this does: with document, keys and a bracket.
        whole = (dumps([Keyframe.TYPE, alias, list(head), 0, 1])[:-1] + "," + encoded[1:] + "\n").encode()
        if len(whole) <= piece:
            return [whole]
        step = _step(piece // (2 if encoded.isascii() else 4), len(encoded))  # a character takes four bytes, escaped two
        pieces = [encoded[at : at + step] for at in range(0, len(encoded), step)]
        return [_line([Keyframe.TYPE, alias, list(head), number, len(pieces), part]) for number, part in enumerate(pieces)]

    def message(self, frames: bytes) -> Message:
        return frames.decode()

    def read_client(self, message: Message, limits: Limits) -> list[ClientFrame]:
        return [frame for wire in self._read(message, limits) if (frame := parse_client_frame(wire)) is not None]

    def read_server(self, message: Message, limits: Limits) -> list[ServerFrame]:
        return [frame for wire in self._read(message, limits) if (frame := parse_server_frame(wire)) is not None]

    def read_keyframe(self, pieces: Sequence[object]) -> object:
        encoded = "".join(_all(str, pieces))
        return _whole(loads_many(encoded, _no_larger_than(len(encoded) * 4)))

    def _read(self, message: Message, limits: Limits) -> list[object]:
        if type(message) is not str:
            raise DecodeError(Code.BAD_FRAME, "this profile is text")
        return loads_many(message, limits)


def _line(wire: object) -> bytes:
    return (dumps(wire) + "\n").encode()


def _open(fields: list[object], more: int) -> bytes:
    """Return the beginning of the array that holds *fields* (with *more* at most 15 together) and goes on."""
    return bytes([0x90 | len(fields) + more]) + pack(fields)[1:]


def _step(piece: int, size: int) -> int:
    """Return where to cut *size* bytes: after *piece*, but so that there are two pieces, since a single part is not cut."""
    return max(1, min(piece, (size + 1) // 2))


def _no_larger_than(size: int) -> Limits:
    """Return limits for pieces let in one by one: as deep as a document in ``[document, keys]``, with a tag at its deepest."""
    return Limits(size, MAX_DEPTH + 2, 4 + 3 * size)


def _whole(values: list[object]) -> object:
    """Return the one value of *values* if it is ``[document, keys]``."""
    if len(values) == 1 and type(values[0]) is list and len(values[0]) == 2:
        document, keys = values[0]
        if type(document) is dict and type(keys) is list and all(type(key) is str for key in keys):
            return values[0]
    raise DecodeError(Code.BAD_FRAME, "the parts do not make [document, keys]", field="body")


def _all(kind: type[_T], pieces: Sequence[object]) -> Iterator[_T]:
    for piece in pieces:
        if not isinstance(piece, kind):
            raise DecodeError(Code.BAD_FRAME, "a part of another kind", field="body")
        yield piece


MSGPACK: Final[Profile] = _MsgpackProfile()
JSON: Final[Profile] = _JsonProfile()

PROFILES: Final[dict[str, Profile]] = {profile.name: profile for profile in (MSGPACK, JSON)}
"""The closed list of profiles by subprotocol name, in the server's order of preference."""
