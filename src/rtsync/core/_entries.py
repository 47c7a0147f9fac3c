"""
What the log stores: the payloads of entries and keyframes.

An entry is ``[version, kind, writer, body]``: a wire patch, an event's value, or the source's status. Patches and statuses add
a fifth field, the link of the entry they were made for. A keyframe is ``[version, document, status]``. Statuses travel in the
log so that they stand in order with the data they are about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from ._errors import Code, DecodeError
from ._frames import Freshness
from ._msgpack import pack, prove_one_value, unpack
from ._patch import Patch
from ._patch_wire import document_from_wire, patch_from_wire, patch_to_wire
from ._position import LINK_BITS, MAX_OFFSET
from ._values import Document, Value

__all__ = [
    "LIVE",
    "EventEntry",
    "PatchEntry",
    "SourceStatus",
    "StatusEntry",
    "decode_entry",
    "decode_keyframe",
    "encode_event_entry",
    "encode_keyframe",
    "encode_patch_entry",
    "encode_status_entry",
]

_VERSION: Final = 1
_PATCH, _EVENT, _STATUS, _KEYFRAMED_PATCH = 0, 1, 2, 3
_EVENT_HEAD: Final = bytes([0x94, _VERSION, _EVENT])
"""How every event begins: an array of four, version, kind."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What a source says of its channel. ``since`` is in ms since 1970, 0 if it was never anything else."""

    freshness: Freshness = "live"
    since: int = 0
    reason: str = ""


LIVE: Final = SourceStatus()


@dataclass(frozen=True, slots=True)
class PatchEntry:
    """
    A change of a state channel's document.

    ``base`` is the link of the entry it was made for: a reader whose head has another link holds another history, even where
    the offsets meet. ``keyframe`` says that its writer saves a keyframe next, so that no other node need do so.
    """

    writer: str
    base: int
    patch: Patch
    keyframe: bool = False


@dataclass(frozen=True, slots=True)
class EventEntry:
    """An event; its value stays as msgpack."""

    writer: str
    value: bytes


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """A change of the source's status, made for the entry whose link is ``base``."""

    writer: str
    base: int
    status: SourceStatus


def encode_patch_entry(writer: str, base: int, patch: Patch, *, keyframe: bool = False) -> bytes:
    """Return the payload of a change made for the entry whose link is *base*."""
    return pack([_VERSION, _KEYFRAMED_PATCH if keyframe else _PATCH, writer, patch_to_wire(patch), base])


def encode_event_entry(writer: str, value: Value) -> bytes:
    """Return the payload of an event."""
    return _EVENT_HEAD + pack(writer) + pack(value)


def encode_status_entry(writer: str, base: int, status: SourceStatus) -> bytes:
    """Return the payload of a status made for the entry whose link is *base*."""
    return pack([_VERSION, _STATUS, writer, _status_to_wire(status), base])


def decode_entry(payload: bytes) -> PatchEntry | EventEntry | StatusEntry:
    """
    Return what *payload* holds.

    Raises:
        DecodeError: If it is not an entry of a version this node knows.
    """
    if payload[:3] == _EVENT_HEAD:  # only its head is decoded
        prove_one_value(payload)  # so that its value can be spliced into a frame without breaking it
        begin, end = _text_at(payload, 3)
        try:
            return EventEntry(payload[begin:end].decode(), payload[end:])
        except UnicodeDecodeError:
            raise _unknown("entry") from None
    wire = unpack(payload)
    if type(wire) is list and len(wire) == 5:
        version, kind, writer, body, base = wire
        if version == _VERSION and type(writer) is str and type(base) is int and 0 <= base < 1 << LINK_BITS:
            if kind in (_PATCH, _KEYFRAMED_PATCH):
                return PatchEntry(writer, base, patch_from_wire(body), kind == _KEYFRAMED_PATCH)
            if kind == _STATUS:
                return StatusEntry(writer, base, _status_from_wire(body))
    raise _unknown("entry")


def encode_keyframe(document: Document, status: SourceStatus) -> bytes:
    """Return the payload of a keyframe."""
    return pack([_VERSION, document, _status_to_wire(status)])


def decode_keyframe(payload: bytes) -> tuple[Document, SourceStatus]:
    """Return the document and status of a keyframe. Raises `DecodeError`."""
    wire = unpack(payload)
    if type(wire) is list and len(wire) == 3 and wire[0] == _VERSION and type(wire[1]) is dict:
        return cast(Document, document_from_wire(wire[1])), _status_from_wire(wire[2])
    raise _unknown("keyframe")


def _status_to_wire(status: SourceStatus) -> list[object]:
    return [status.freshness, status.since, status.reason]


def _status_from_wire(wire: object) -> SourceStatus:
    if type(wire) is list and len(wire) == 3:
        freshness, since, reason = wire
        if freshness in ("live", "stale", "closed") and type(since) is int and 0 <= since <= MAX_OFFSET and type(reason) is str:
            return SourceStatus(freshness, since, reason)
    raise _unknown("status")


def _text_at(payload: bytes, at: int) -> tuple[int, int]:
    """Return where the msgpack text whose header stands *at* begins and ends."""
    head = payload[at]
    if 0xA0 <= head <= 0xBF:
        return at + 1, at + 1 + (head & 0x1F)
    if 0xD9 <= head <= 0xDB:
        begin = at + 1 + (1 << (head - 0xD9))
        return begin, begin + int.from_bytes(payload[at + 1 : begin], "big")
    raise _unknown("entry")


def _unknown(what: str) -> DecodeError:
    return DecodeError(Code.BAD_FRAME, f"not a log {what} of this version")
