"""Both profiles carry the same frames; whatever else arrives is a DecodeError, at no cost worth speaking of."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import (
    JSON,
    MSGPACK,
    PROFILES,
    DecodeError,
    Document,
    KeyTable,
    Limits,
    Message,
    Patch,
    Position,
    Profile,
    StateLog,
    StoredEvent,
    Value,
    apply,
    document_from_wire,
    frames,
    patch_from_wire,
)
from rtsync.core._frames import to_wire
from rtsync.core._json import dumps
from rtsync.core._msgpack import pack
from rtsync.core._values import MAX_DEPTH
from tests.strategies import client_frames, documents, few_documents, fingerprint, patches, server_frames, values

WIDE = Limits(1 << 20, 128, 1 << 20)
INBOUND = Limits(max_bytes=64 << 10, max_depth=16, max_nodes=4_096)
HEAD = Position("e1", 1_000, 77)

both = pytest.mark.parametrize("profile", [MSGPACK, JSON], ids=["msgpack", "json"])


def read_one(profile: Profile, data: bytes) -> frames.ServerFrame:
    """Return the one frame in *data*."""
    (frame,) = profile.read_server(profile.message(data), WIDE)
    return frame


# ---- messages ------------------------------------------------------------------------------------------------------


def test_list_of_profiles_is_closed_and_in_order_of_preference() -> None:
    """The subprotocol names are part of the protocol."""
    assert list(PROFILES.items()) == [("rtsync.v1.msgpack", MSGPACK), ("rtsync.v1.json", JSON)]
    assert [profile.name for profile in PROFILES.values()] == list(PROFILES)


@both
@given(st.lists(server_frames, max_size=4))
def test_frames_are_joined_to_a_message(profile: Profile, many: list[frames.ServerFrame]) -> None:
    """Frames encoded alone read in order when they travel together, and an empty message holds none."""
    message = profile.message(b"".join(map(profile.encode, many)))
    assert fingerprint(list(map(to_wire, profile.read_server(message, WIDE)))) == fingerprint(list(map(to_wire, many)))


@both
def test_unknown_frames_among_others_are_skipped(profile: Profile) -> None:
    """What a newer peer adds does not hide what this version knows."""
    new = {MSGPACK: b"\x92\x7f\xc0", JSON: b"[127,null]\n"}[profile]
    known = profile.encode(frames.Pong(1, 2))
    assert profile.read_client(profile.message(new + known + new), INBOUND) == [frames.Pong(1, 2)]
    assert profile.read_server(profile.message(new + profile.encode(frames.Ping(1))), INBOUND) == [frames.Ping(1)]


@pytest.mark.parametrize(("profile", "message"), [(MSGPACK, "[8]"), (JSON, b"\x91\x08")])
def test_message_of_the_other_kind_is_a_decode_error(profile: Profile, message: Message) -> None:
    """A text message on a binary link, and the other way round."""
    for read in (profile.read_client, profile.read_server):
        with pytest.raises(DecodeError, match="this profile is"):
            read(message, INBOUND)


@both
def test_one_bad_frame_spoils_its_message(profile: Profile) -> None:
    """A message is taken whole or not at all."""
    bad = {MSGPACK: b"\x91\xc0", JSON: b"[null]\n"}[profile]
    with pytest.raises(DecodeError):
        profile.read_client(profile.message(profile.encode(frames.Bye()) + bad), INBOUND)


# ---- deltas, events, keyframes -------------------------------------------------------------------------------------


@both
@given(few_documents, st.lists(patches(), min_size=1, max_size=5), st.data())
def test_delta_from_any_base_leads_its_reader_to_the_head(
    profile: Profile, start: Document, history: list[Patch], data: st.DataObject
) -> None:
    """A reader with the document and the keys of the base holds those of the head afterwards."""
    log, keys, states = StateLog(100, Position("e1", 10, 1), start), KeyTable(), [start]
    keys.learn_document(start, 10)
    for offset, patch in enumerate(history, 11):
        log.put(offset, offset, patch)
        keys.learn_patch(patch, offset)
        states.append(log.document)
    base = data.draw(st.integers(0, len(history)), label="base") + 10
    frame = read_one(profile, profile.encode_delta(3, log.head, base, log.since(base), keys))
    assert isinstance(frame, frames.Delta)
    assert (frame.alias, frame.offset, frame.offset - frame.span, frame.link) == (3, log.head.offset, base, log.head.link)
    knows = list(keys.defined_by(base)) if profile is MSGPACK else []
    document = apply(patch_from_wire(frame.patch, [*knows, *frame.keys]), states[base - 10])
    assert fingerprint(document) == fingerprint(log.document)
    assert profile is JSON or [*knows, *frame.keys] == list(keys.defined_by(log.head.offset))


@both
@given(values())
def test_event_arrives_as_it_was_stored(profile: Profile, value: Value) -> None:
    """The stored bytes become a frame in either profile."""
    frame = read_one(profile, profile.encode_event(6, StoredEvent(1_000, 990, 77, pack(value))))
    assert isinstance(frame, frames.Event)
    assert (frame.alias, frame.offset, frame.span, frame.link) == (6, 1_000, 10, 77)
    assert fingerprint(frame.value) == fingerprint(value)


def whole_document(profile: Profile, data: list[frames.ServerFrame]) -> Value:
    """Return the document that the parts of a keyframe bring."""
    parts = [frame for frame in data if isinstance(frame, frames.Keyframe)]
    assert [(part.part, part.parts, part.position) for part in parts] == [
        (number, len(parts), HEAD) for number in range(len(parts))
    ]
    if len(parts) == 1:
        return document_from_wire(parts[0].body, parts[0].keys)
    body, keys = cast("tuple[object, list[str]]", profile.read_keyframe([part.body for part in parts]))
    return document_from_wire(body, keys)


@both
@given(documents(), st.integers(1, 200))
def test_keyframe_in_parts_brings_the_document(profile: Profile, document: Document, piece: int) -> None:
    """Whole or cut anywhere, inside a character's escape too, and no part is larger than asked but for its header."""
    keys = KeyTable()
    keys.learn_document(document, HEAD.offset)
    encoded = profile.encode_keyframe(3, HEAD, document, keys, piece)
    assert fingerprint(whole_document(profile, [read_one(profile, data) for data in encoded])) == fingerprint(document)
    empty = profile.encode(frames.Keyframe(3, HEAD, len(encoded), len(encoded), ""))
    assert all(len(data) <= max(piece, 4) + len(empty) + 4 for data in encoded) or len(encoded) == 1


@both
def test_keyframe_stays_in_one_frame_up_to_the_size_of_a_piece(profile: Profile) -> None:
    """The limit is the size of the frame."""
    keys = KeyTable()
    (whole,) = profile.encode_keyframe(3, HEAD, {"a": "x" * 100}, keys, 1 << 20)
    assert len(profile.encode_keyframe(3, HEAD, {"a": "x" * 100}, keys, len(whole))) == 1
    assert len(profile.encode_keyframe(3, HEAD, {"a": "x" * 100}, keys, len(whole) - 1)) > 1


def test_keyframe_numbers_only_the_keys_it_defines() -> None:
    """The keys beyond a full table travel as text."""
    document: Document = {f"k{number}": None for number in range(600)}
    keys = KeyTable()
    keys.learn_document(document, HEAD.offset)
    frame = read_one(MSGPACK, MSGPACK.encode_keyframe(3, HEAD, document, keys, 1 << 20)[0])
    assert isinstance(frame, frames.Keyframe)
    assert len(frame.keys) == 512
    assert document_from_wire(frame.body, frame.keys) == document


PIECES: list[tuple[Profile, list[object]]] = [
    (MSGPACK, []),
    (MSGPACK, [""]),
    (MSGPACK, [b""]),
    (MSGPACK, [pack([{}, []]), "x"]),
    (MSGPACK, [pack([{}, []]), pack(1)]),
    (MSGPACK, [pack([{}, []])[:-1]]),
    (MSGPACK, [pack({})]),
    (MSGPACK, [pack([{}])]),
    (MSGPACK, [pack([[], []])]),
    (MSGPACK, [pack([{}, {}])]),
    (MSGPACK, [pack([{}, [1]])]),
    (MSGPACK, [pack([{"a": float("nan")}, []])]),
    (MSGPACK, [b"\x92\xdd\xff\xff\xff\xff"]),
    (JSON, []),
    (JSON, [b"[{},[]]"]),
    (JSON, ["[{},[]]", b""]),
    (JSON, ["[{},[]]\n", "1"]),
    (JSON, ["[{},[]"]),
    (JSON, ["{}"]),
    (JSON, ["[{}]"]),
    (JSON, ["[[],[]]"]),
    (JSON, ["[{},{}]"]),
    (JSON, ["[{},[1]]"]),
    (JSON, ["[NaN,[]]"]),
]


@pytest.mark.parametrize(("profile", "pieces"), PIECES)
def test_pieces_that_make_no_keyframe_are_a_decode_error(profile: Profile, pieces: list[object]) -> None:
    """Parts are proven when they are whole, as one frame would be."""
    with pytest.raises(DecodeError):
        profile.read_keyframe(pieces)


def nested(depth: int, innermost: Value) -> dict[str, Value]:
    """Maps nested *depth* deep."""
    document: dict[str, Value] = {"k": innermost}
    for _ in range(depth - 1):
        document = {"k": document}
    return document


@both
def test_deepest_document_travels_in_every_way(profile: Profile) -> None:
    """What may be published reaches a reader whose limit is twice the depth of documents and a little more."""
    limits = Limits(1 << 20, 2 * MAX_DEPTH + 3, 1_000)
    document, keys = nested(MAX_DEPTH, b"deep"), KeyTable()
    keys.learn_document(document, HEAD.offset)
    for piece in (1 << 20, 50):
        encoded = profile.encode_keyframe(3, HEAD, document, keys, piece)
        data = [frame for part in encoded for frame in profile.read_server(profile.message(part), limits)]
        assert whole_document(profile, data) == document
    patch: Patch = nested(MAX_DEPTH, b"deep")  # type: ignore[assignment]
    (delta,) = profile.read_server(profile.message(profile.encode_delta(3, HEAD, HEAD.offset, patch, keys)), limits)
    assert isinstance(delta, frames.Delta)
    assert patch_from_wire(delta.patch, keys.defined_by(HEAD.offset)) == patch
    event = StoredEvent(1_000, 999, 77, pack(document))
    (back,) = profile.read_server(profile.message(profile.encode_event(6, event)), limits)
    assert isinstance(back, frames.Event)
    assert back.value == document


# ---- what is not ours ----------------------------------------------------------------------------------------------


@both
@given(client_frames, server_frames, st.data())
def test_changed_message_raises_nothing_but_a_decode_error(
    profile: Profile, from_client: frames.Frame, from_server: frames.Frame, data: st.DataObject
) -> None:
    """Cut, grown, or with bytes replaced: frames or a DecodeError."""
    for frame, read in ((from_client, profile.read_client), (from_server, profile.read_server)):
        message = profile.message(profile.encode(frame))
        at = data.draw(st.integers(0, len(message)))
        if isinstance(message, bytes):
            new = data.draw(
                st.binary(max_size=3) | st.sampled_from([b"\xc1", b"\x81\x01", b"\xdd\xff\xff\xff\xff", b"\xd6\xff"])
            )
            changed: list[Message] = [message[:at], message[:at] + new + message[at:], message[:at] + new + message[at + 1 :]]
        else:
            text = data.draw(st.text(max_size=3) | st.sampled_from(["\\ud800", '{"$d":', "NaN", "]", '"']))
            changed = [message[:at], message[:at] + text + message[at:], message[:at] + text + message[at + 1 :]]
        for each in changed:
            with suppress(DecodeError):
                read(each, INBOUND)


@given(st.lists(st.binary(max_size=50), max_size=3), st.lists(st.text(max_size=50), max_size=3))
def test_arbitrary_pieces_raise_nothing_but_a_decode_error(binary: list[object], text: list[object]) -> None:
    """Whatever the parts of a keyframe hold."""
    for profile, pieces in ((MSGPACK, binary), (JSON, text)):
        with suppress(DecodeError):
            profile.read_keyframe(pieces)


def subscribe_to(many: int) -> frames.Subscribe:
    """A frame with many items, of which the last is bad in neither profile but in the frame."""
    items = [frames.SubscribeItem(f"x:{number}", Position("e", number, number)) for number in range(many)]
    return frames.Subscribe(1, (*items, frames.SubscribeItem("x", None, -1.0)))


SIZE = 64 << 10
BAD_BINARY: dict[str, bytes] = {
    "nested array headers": b"\xdc\xff\xff" * (SIZE // 3),
    "nested small array headers": b"\xdc\x0f\xa0" * (SIZE // 3),
    "empty arrays": b"\x90" * SIZE,
    "empty maps": b"\x80" * SIZE,
    "empty maps in an array": b"\xdc\x05\x50" + b"\x80" * 1_360,
    "maps in an array": b"\xdc\x03\x30" + b"\x81\xa0\xc0" * 816,
    "a claim of 4 G elements": b"\xdd\xff\xff\xff\xff" + b"\xc0" * (SIZE - 5),
    "a claim of 4 G pairs": b"\xdf\xff\xff\xff\xff" + b"\xc0" * (SIZE - 5),
    "a claim of 4 G bytes": b"\xc6\xff\xff\xff\xff" + b"\xc0" * (SIZE - 5),
    "numbers": b"\x01" * SIZE,
    "numbers in an array": b"\xdc\x0f\xf0" + b"\x01" * 4_080,
    "1,000 levels": b"\x91" * 1_000 + b"\xc0",
    "0xc1": b"\xc1" * SIZE,
    "0xc1 at the end": b"\xdc\x0f\xf0" + b"\x01" * 4_079 + b"\xc1",
    "one text": b"\xda\xff\xf0" + b"a" * (SIZE - 16),
    "one text that is not UTF-8": b"\xda\xff\xf0" + b"\xff" * (SIZE - 16),
    "long texts": b"\xdc\x0f\xf0" + b"\xad" + (b"\xad" + b"a" * 13) * 4_000,
    "a map of many keys": b"\xde\x07\xf0" + b"".join(b"\xa4%04d\xc0" % number for number in range(2_032)),
    "a map of one key many times": b"\xde\x07\xf0" + b"\xa1a\xc0" * 2_032,
    "a map of numbers": b"\xde\x07\xf0" + b"\x01\xc0" * 2_032,
    "Decimals": b"\xdc\x03\x30" + b"\xd6\x01\xfe\x11\x11\x11" * 816,
    "large Decimals": b"\xdc\x03\x30" + (b"\xc7\x1b\x01\x80\x11" + b"\x22" * 25) * 816,
    "timestamps": b"\xdc\x03\x30" + (b"\xc7\x0c\xff\x00\x00\x00\x01" + b"\xff" * 8) * 816,
    "timestamps out of range": b"\xdc\x03\x30" + (b"\xc7\x0c\xff\x00\x00\x00\x01\x7f" + b"\xff" * 7) * 816,
    "extensions of nobody": b"\xdc\x03\x30" + b"\xd4\x05\x00" * 816,
    "many frames, the last bad": b"\x93\x05\x01\x02" * 580 + b"\x93\x05\x01\xc0",
    "many unknown frames, the last bad": b"\x91\x7f" * 800 + b"\x91\xc0",
    "a large frame, its last item bad": MSGPACK.encode(subscribe_to(500)),
    "trailing bytes": MSGPACK.encode(frames.Bye()) + b"\xa5",
}
BAD_TEXT: dict[str, str] = {
    "open brackets": "[" * SIZE,
    "open brackets within the limit": "[" * 4_000,
    "closed brackets": "]" * SIZE,
    "pairs": "{}" * (SIZE // 2),
    "empty maps in an array": "[" + ",".join(["{}"] * 1_020) + "]",
    "empty arrays in an array": "[" + ",".join(["[]"] * 2_000) + "]",
    "maps in an array": "[" + ",".join(['{"":0}'] * 816) + "]",
    "numbers on lines": "1\n" * (SIZE // 2),
    "numbers on few lines": "1\n" * 1_000,
    "line breaks": "\n" * SIZE,
    "spaces": " " * SIZE,
    "spaces in an array": "[" + " " * (SIZE - 2) + "]",
    "commas": "," * SIZE,
    "colons": ":" * SIZE,
    "quotes": '"' * SIZE,
    "escaped quotes without an end": '"' + '\\"' * (SIZE // 2 - 1),
    "escaped quotes with an end": '"' + '\\"' * (SIZE // 2 - 1) + '"',
    "escaped quotes and half an escape": '"' + '\\"' * (SIZE // 2 - 1) + "\\",
    "backslashes": "\\" * SIZE,
    "escaped backslashes": '"' + "\\" * (SIZE - 2) + '"',
    "escaped line breaks": '"' + "\\\n" * (SIZE // 2 - 1),
    "escapes": '"' + "\\u0041" * (SIZE // 6 - 1) + '"',
    "escapes in an array": "[" + ",".join(['"\\u0041\\n"'] * 4_000) + "]",
    "half surrogate pairs": '"' + "\\ud800" * (SIZE // 6 - 1) + '"',
    "surrogate pairs": '"' + "\\ud83d\\ude80" * (SIZE // 12 - 1) + '"',
    "surrogate pairs in an array": "[" + ",".join(['"\\ud83d\\ude80"'] * 4_000) + "]",
    "digits": "1" * SIZE,
    "digits and a point": "1" * (SIZE - 2) + ".0",
    "a point and digits": "0." + "1" * (SIZE - 2),
    "zeros and an exponent": "0." + "0" * (SIZE - 8) + "1e5",
    "an exponent of digits": "1e" + "9" * (SIZE - 2),
    "minus signs": "-" * SIZE,
    "NaN": "[" + ",".join(["NaN"] * 4_000) + "]",
    "numbers in an array": "[" + ",".join(["1"] * 4_000) + "]",
    "floats in an array": "[" + ",".join(["1.5"] * 4_000) + "]",
    "texts in an array": "[" + ",".join(['""'] * 4_000) + "]",
    "a map of many keys": "{" + ",".join(f'"{number}":0' for number in range(2_000)) + "}",
    "a map of one key many times": "{" + ",".join(['"a":0'] * 2_000) + "}",
    "Decimals": "[" + ",".join(['{"$d":"1.50"}'] * 816) + "]",
    "large Decimals": "[" + ",".join(['{"$d":"' + "1" * 38 + '"}'] * 816) + "]",
    "Decimals with exponents": "[" + ",".join(['{"$d":"1E+5"}'] * 816) + "]",
    "timestamps": "[" + ",".join(['{"$t":"2021-10-28T12:30:00.000001Z"}'] * 816) + "]",
    "long integers": "[null," + ",".join(['{"$i":"9223372036854775807"}'] * 815) + "]",
    "bytes": "[" + ",".join(['{"$b":"AP8="}'] * 816) + "]",
    "escaped keys": "[" + ",".join(['{"$$":0}'] * 816) + "]",
    "one large Decimal": '{"$d":"' + "1" * (SIZE - 20) + '"}',
    "one large integer": '{"$i":"' + "1" * (SIZE - 20) + '"}',
    "one large timestamp": '{"$t":"' + "1" * (SIZE - 20) + '"}',
    "one large piece of bytes": '{"$b":"' + "A" * (SIZE - 20) + '"}',
    "one large tag": '{"$' + "a" * (SIZE - 20) + '":0}',
    "text beyond ASCII": '"' + "é" * (SIZE // 2 - 1) + '"',
    "brackets beyond ASCII": "é" + "[" * (SIZE - 2),
    "many frames, the last bad": "[5,1,2]\n" * 580 + "[5,1,null]\n",
    "many unknown frames, the last bad": "[127]\n" * 800 + "[null]\n",
    "a large frame, its last item bad": dumps(to_wire(subscribe_to(500))),
    "trailing text": dumps(to_wire(frames.Bye())) + "x",
}
BAD: dict[str, tuple[Profile, Message]] = {
    **{f"msgpack: {name}": (MSGPACK, data[:SIZE]) for name, data in BAD_BINARY.items()},
    **{f"json: {name}": (JSON, text) for name, text in BAD_TEXT.items()},
}


def refuse(profile: Profile, message: Message) -> None:
    """Read *message* and expect the DecodeError."""
    with pytest.raises(DecodeError):
        profile.read_client(message, INBOUND)


def spent(work: Callable[[], None]) -> float:
    """Return the seconds of CPU that *work* takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def slowness() -> float:
    """Return how many times slower this interpreter runs, at the moment, than the budgets were made for; at least 1."""

    def work() -> None:
        table: dict[int, int] = {}
        for number in range(20_000):
            table[number & 1_023] = number

    return max(1.0, min(spent(work) for _ in range(3)) / 0.002)


@pytest.mark.parametrize("name", BAD)
def test_bad_message_of_legal_size_takes_neither_memory_nor_time(name: str) -> None:
    """Under 2 MiB beside the message, and at most 2 ms of CPU in the best of several runs."""
    profile, message = BAD[name]
    assert len(message.encode() if isinstance(message, str) else message) <= SIZE
    refuse(profile, message)
    tracemalloc.start()
    refuse(profile, message)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20
    if sys.gettrace() is None:  # a tracer, such as that of a coverage run, takes most of the time
        fastest = min(spent(lambda: refuse(profile, message)) for _ in range(5))
        assert fastest <= 0.002 * slowness()


@both
def test_message_over_the_legal_size_is_refused_by_its_size_alone(profile: Profile) -> None:
    """Nobody looks at what is inside."""
    message: Message = bytes(SIZE + 1) if profile is MSGPACK else " " * (SIZE + 1)
    with pytest.raises(DecodeError, match="at most 65536 are accepted"):
        profile.read_client(message, INBOUND)


@both
def test_largest_legal_frame_is_read(profile: Profile) -> None:
    """The limits leave room for what clients really send: here 128 subscriptions with positions."""
    items = tuple(frames.SubscribeItem("n" * 200, Position("e" * 22, 2**53 - 1, 2**48 - 1), 0.5) for _ in range(128))
    subscribe = frames.Subscribe(2**53 - 1, items)
    assert profile.read_client(profile.message(profile.encode(subscribe)), INBOUND) == [subscribe]


def test_pairs_of_names_and_frames_are_the_same_in_both_profiles() -> None:
    """A frame decoded from one profile, encoded in the other and decoded again is the frame."""
    frame: frames.ServerFrame = frames.Status(5, "stale", 1, "é")
    for one, other in pairwise([MSGPACK, JSON, MSGPACK]):
        frame = read_one(other, other.encode(read_one(one, one.encode(frame))))
    assert frame == frames.Status(5, "stale", 1, "é")
