"""What the log stores: entries and keyframes there and back, and nothing but DecodeError for what another hand left there."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import (
    LIVE,
    MSGPACK,
    DecodeError,
    Document,
    EventEntry,
    Limits,
    Patch,
    PatchEntry,
    SourceStatus,
    StatusEntry,
    StoredEvent,
    Value,
    apply,
    decode_entry,
    decode_keyframe,
    encode_event_entry,
    encode_keyframe,
    encode_patch_entry,
    encode_status_entry,
    frames,
)
from rtsync.core._msgpack import pack, unpack
from rtsync.core._values import MAX_DEPTH
from tests.strategies import documents, few_documents, fingerprint, freshness, links, numbers, patches, texts, values

writers = st.text(max_size=40) | st.sampled_from(["", "n" * 31, "n" * 32, "n" * 255, "n" * 256, "n" * 70_000])
statuses = st.builds(SourceStatus, freshness, numbers, texts)

# ---- there and back ------------------------------------------------------------------------------------------------


@given(writers, links, patches(), few_documents, st.booleans())
def test_change_returns_as_it_was(writer: str, base: int, patch: Patch, document: Document, keyframe: bool) -> None:
    """Writer, the link it was made for, a patch that does the same, and whether a keyframe follows."""
    entry = decode_entry(encode_patch_entry(writer, base, patch, keyframe=keyframe))
    assert isinstance(entry, PatchEntry)
    assert (entry.writer, entry.base, entry.keyframe) == (writer, base, keyframe)
    assert fingerprint(apply(entry.patch, document)) == fingerprint(apply(patch, document))


@given(writers, values())
def test_event_returns_with_its_value_still_encoded(writer: str, value: Value) -> None:
    """The value is what `pack` makes of it, whatever the size of the writer's name."""
    entry = decode_entry(encode_event_entry(writer, value))
    assert isinstance(entry, EventEntry)
    assert entry.writer == writer
    assert entry.value == pack(value)
    assert fingerprint(unpack(entry.value)) == fingerprint(value)


@given(values())
def test_value_of_a_stored_event_can_be_spliced_into_a_frame(value: Value) -> None:
    """What was proven to be one value when it was read from the log makes a whole frame."""
    entry = decode_entry(encode_event_entry("n1", value))
    assert isinstance(entry, EventEntry)
    data = MSGPACK.encode_event(1, StoredEvent(5, 3, 9, entry.value))
    (frame,) = MSGPACK.read_server(data, Limits(1 << 20, 100, 100_000))
    assert isinstance(frame, frames.Event)
    assert (frame.alias, frame.offset, frame.span, frame.link) == (1, 5, 2, 9)
    assert fingerprint(frame.value) == fingerprint(value)


@given(writers, links, statuses)
def test_status_returns_as_it_was(writer: str, base: int, status: SourceStatus) -> None:
    """Writer, the link it was made for, and the status."""
    assert decode_entry(encode_status_entry(writer, base, status)) == StatusEntry(writer, base, status)


@given(documents(), statuses)
def test_keyframe_returns_as_it_was(document: Document, status: SourceStatus) -> None:
    """Document and status, type by type."""
    back, back_status = decode_keyframe(encode_keyframe(document, status))
    assert fingerprint(back) == fingerprint(document)
    assert back_status == status


def test_source_is_live_until_it_says_otherwise() -> None:
    """The status of a channel whose source never said a thing."""
    assert SourceStatus("live", 0, "") == LIVE


# ---- what another hand left there ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        pack(None),
        pack([]),
        pack({}),
        pack([1, 0, "n", []]),
        pack([2, 0, "n", [], 0]),
        pack([1.0, 9, "n", [], 0]),
        pack([1, 4, "n", [], 0]),
        pack([1, 0, 5, [], 0]),
        pack([1, 0, "n", [], None]),
        pack([1, 0, "n", [], -1]),
        pack([1, 0, "n", [], 2**48]),
        pack([1, 0, "n", [], True]),
        pack([1, 0, "n", {}, 0]),
        pack([1, 0, "n", [{"a": 1}, {}, ["a"]], 0]),
        pack([1, 0, "n", [{0: 1}], 0]),
        pack([1, 2, "n", [], 0]),
        pack([1, 2, "n", ["fresh", 0, ""], 0]),
        pack([1, 2, "n", ["live", -1, ""], 0]),
        pack([1, 2, "n", ["live", 2**53, ""], 0]),
        pack([1, 2, "n", ["live", 0.0, ""], 0]),
        pack([1, 2, "n", ["live", 0, None], 0]),
        pack([1, 2, "n", ["live", 0, "", 1], 0]),
        pack([1, 0, "n", [], 0]) + b"\xc0",
        # events: an array of four, version 1, kind 1, then writer and value
        b"\x94\x01\x01",
        b"\x94\x01\x01\xa1",
        b"\x94\x01\x01\xd9",
        b"\x94\x01\x01\xa1n",
        b"\x94\x01\x01\xa1n\x91",
        b"\x94\x01\x01\xa1n\xdd\xff\xff\xff\xff",
        b"\x94\x01\x01\xa1n\xc0\xc0",
        b"\x94\x01\x01\xa1n\xc1",
        b"\x94\x01\x01\x05\xc0",
        b"\x94\x01\x01\xa1\xff\xc0",
        b"\x94\x01\x01\x90\xc0",
        b"\x95\x01\x01\xa1n\xc0\x00",
        b"\x93\x01\x01\xa1n",
    ],
)
def test_payload_of_another_shape_is_a_decode_error(payload: bytes) -> None:
    """A node does not fall over what it finds in the log."""
    with pytest.raises(DecodeError):
        decode_entry(payload)


def test_payload_of_another_version_is_named_as_that() -> None:
    """During an upgrade, operators read why a node cannot follow."""
    with pytest.raises(DecodeError, match="not a log entry of this version"):
        decode_entry(pack([2, 0, "n", [], 0]))
    with pytest.raises(DecodeError, match="not a log keyframe of this version"):
        decode_keyframe(pack([2, {}, ["live", 0, ""]]))


def nested(depth: int, inside: object = 1) -> object:
    """Maps nested *depth* deep."""
    for _ in range(depth):
        inside = {"k": inside}
    return inside


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        pack([]),
        pack({}),
        pack([1, [], ["live", 0, ""]]),
        pack([1, {}, ["live", 0]]),
        pack([1, {}, None]),
        pack([1, {}]),
        pack([1, {}, ["live", 0, ""]]) + b"\xc0",
        pack([1, {0: 1}, ["live", 0, ""]]),
        pack([1, nested(MAX_DEPTH + 1), ["live", 0, ""]]),
        pack([1, nested(400), ["live", 0, ""]]),
        pack([1, {"a": [nested(400)]}, ["live", 0, ""]]),
    ],
)
def test_keyframe_of_another_shape_is_a_decode_error(payload: bytes) -> None:
    """What cannot be a document never becomes one."""
    with pytest.raises(DecodeError):
        decode_keyframe(payload)


def test_deepest_document_is_stored() -> None:
    """What may be published can be kept."""
    document = nested(MAX_DEPTH)
    assert decode_keyframe(encode_keyframe(document, LIVE)) == (document, LIVE)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", [b"", b"\x94\x01\x01\xa1n", b"\x95\x01\x00\xa1n"])
def test_headers_that_lie_reserve_no_memory(head: bytes) -> None:
    """1 MiB of array headers, each promising 65,535 values, would make an unpacker ask for 500 MB."""
    payload = head + b"\xdc\xff\xff" * 350_000
    with pytest.raises(DecodeError):
        decode_entry(payload)
    tracemalloc.start()
    with suppress(DecodeError):
        decode_entry(payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: b"\x94\x01\x01" + tail))
def test_arbitrary_bytes_raise_nothing_but_a_decode_error(payload: bytes) -> None:
    """Whatever the log holds."""
    with suppress(DecodeError):
        decode_entry(payload)
    with suppress(DecodeError):
        decode_keyframe(payload)


@given(patches(), st.data())
def test_change_with_a_changed_byte_raises_nothing_but_a_decode_error(patch: Patch, data: st.DataObject) -> None:
    """Nearly valid bytes reach further than random ones."""
    raw = bytearray(encode_patch_entry("n", 5, patch))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        decode_entry(bytes(raw))
