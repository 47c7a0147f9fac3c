"""The frames of protocol v1: golden bytes in both profiles, and what a frame may hold."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TypedDict, cast

import pytest
from hypothesis import given

from rtsync.core import (
    JSON,
    MSGPACK,
    PROFILES,
    DecodeError,
    Document,
    KeyTable,
    Limits,
    Position,
    StoredEvent,
    document_from_wire,
    frames,
    patch_from_wire,
    patch_to_wire,
)
from rtsync.core._frames import parse_client_frame, parse_server_frame, to_wire
from rtsync.core._json import loads_many
from rtsync.core._msgpack import pack
from tests.strategies import client_frames, fingerprint, server_frames

WIDE = Limits(1 << 20, 100, 100_000)


class Golden(TypedDict, total=False):
    """One frame of ``golden_frames.json``, which clients in other languages read too."""

    name: str
    sender: str
    type: int
    profile: str
    hex: str
    parts: list[list[str]]
    text: str
    knows_keys: list[str]
    fields: dict[str, object]


GOLDENS: list[Golden] = json.loads(Path(__file__).with_name("golden_frames.json").read_text())["frames"]


def golden_id(golden: Golden) -> str:
    """Name a golden frame in the report of a test run."""
    return f"{golden['profile'].rpartition('.')[2]}: {golden['name']}"


every_golden = pytest.mark.parametrize("golden", GOLDENS, ids=golden_id)


def message_of(golden: Golden) -> bytes | str:
    """Return the frame as the link carries it."""
    return golden["text"] if "text" in golden else bytes.fromhex(golden["hex"])


def read(golden: Golden) -> frames.Frame:
    """Decode the frame on the side that receives it."""
    profile, message = PROFILES[golden["profile"]], message_of(golden)
    read_all = profile.read_client if golden["sender"] == "client" else profile.read_server
    (frame,) = read_all(message, WIDE)
    return frame


def described(golden: Golden) -> dict[str, object]:
    """Return the fields as the file describes them, with the tags of JSON read."""
    (value,) = loads_many(json.dumps(golden["fields"]), WIDE)
    return cast("dict[str, object]", value)


def describe(frame: frames.Frame, knows_keys: list[str]) -> dict[str, object]:
    """Return the fields of *frame* in the terms of the file: lists for tuples, text for numbered keys."""
    plain = dict(zip([field.name for field in fields(frame)], to_wire(frame)[1:], strict=True))
    if isinstance(frame, frames.Delta):
        plain["patch"] = patch_to_wire(patch_from_wire(frame.patch, [*knows_keys, *frame.keys]))
    elif isinstance(frame, frames.Subscribe):
        plain["items"] = [
            {"channel": item.channel, "position": list(item.position) if item.position else None, "rate": item.rate}
            for item in frame.items
        ]
    elif isinstance(frame, frames.Keyframe):
        body = plain.pop("body")
        if frame.parts == 1:
            plain["document"] = document_from_wire(body, frame.keys)
        else:
            plain["piece"] = body.hex() if isinstance(body, bytes) else body
    return plain


def written(golden: Golden) -> bytes:
    """Encode the frame from its description, the way a server or client does."""
    profile, has = PROFILES[golden["profile"]], described(golden)
    keys = KeyTable()
    if golden["type"] == frames.Delta.TYPE:
        offset, patch = cast(int, has["offset"]), patch_from_wire(has["patch"])
        base = offset - cast(int, has["span"])
        keys.learn_document(dict.fromkeys(golden.get("knows_keys", [])), base)
        keys.learn_patch(patch, offset)
        return profile.encode_delta(cast(int, has["alias"]), Position("", offset, cast(int, has["link"])), base, patch, keys)
    if golden["type"] == frames.Event.TYPE:
        alias, offset, span, link = (cast(int, has[name]) for name in ("alias", "offset", "span", "link"))
        return profile.encode_event(alias, StoredEvent(offset, offset - span, link, pack(has["value"])))
    if golden["type"] == frames.Keyframe.TYPE:
        position = Position(*cast("tuple[str, int, int]", has["position"]))
        document = cast(Document, has.get("document", {"a": "hello"}))
        keys.learn_document(document, position.offset)
        piece = 1 << 20 if has["parts"] == 1 else 6 if profile is MSGPACK else 18
        parts = profile.encode_keyframe(cast(int, has["alias"]), position, document, keys, piece)
        assert len(parts) == has["parts"]
        return parts[cast(int, has["part"])]
    return profile.encode(read(golden))


# ---- golden bytes --------------------------------------------------------------------------------------------------


@every_golden
def test_frame_is_read_as_described(golden: Golden) -> None:
    """The receiver of the golden bytes holds the fields that the file names."""
    frame = read(golden)
    assert golden["type"] == frame.TYPE
    assert fingerprint(describe(frame, golden.get("knows_keys", []))) == fingerprint(described(golden))


@every_golden
def test_frame_is_written_as_described(golden: Golden) -> None:
    """The sender of the described fields writes the golden bytes."""
    profile = PROFILES[golden["profile"]]
    assert profile.message(written(golden)) == message_of(golden)


@every_golden
def test_golden_bytes_are_explained_from_first_to_last(golden: Golden) -> None:
    """The parts are the whole, so that no byte goes without a word."""
    if "hex" in golden:
        assert "".join(part for part, _ in golden["parts"]).replace(" ", "") == golden["hex"]
        assert all(meaning for _, meaning in golden["parts"])
    else:
        assert golden["text"].endswith("\n")


@every_golden
def test_every_beginning_of_a_golden_frame_is_a_decode_error(golden: Golden) -> None:
    """A cut frame never passes for a shorter one. (The line break of JSON alone may be missing.)"""
    message = message_of(golden)
    for end in range(1, len(message) - ("text" in golden)):
        with pytest.raises(DecodeError):
            read({**golden, "text": message[:end]} if isinstance(message, str) else {**golden, "hex": message[:end].hex()})


def test_every_frame_has_golden_bytes_in_both_profiles() -> None:
    """Who adds a frame adds its bytes."""
    every = [*frames.ClientFrame.__args__, *frames.ServerFrame.__args__]
    for profile in PROFILES:
        assert {golden["type"] for golden in GOLDENS if golden["profile"] == profile} == {frame.TYPE for frame in every}


# ---- there and back ------------------------------------------------------------------------------------------------


@given(client_frames)
def test_frame_of_a_client_returns_as_it_was(frame: frames.ClientFrame) -> None:
    """Both profiles carry the same frame."""
    for profile in (MSGPACK, JSON):
        (back,) = profile.read_client(profile.message(profile.encode(frame)), WIDE)
        assert type(back) is type(frame)
        assert fingerprint(to_wire(back)) == fingerprint(to_wire(frame))


@given(server_frames)
def test_frame_of_a_server_returns_as_it_was(frame: frames.ServerFrame) -> None:
    """Both profiles carry the same frame."""
    for profile in (MSGPACK, JSON):
        (back,) = profile.read_server(profile.message(profile.encode(frame)), WIDE)
        assert type(back) is type(frame)
        assert fingerprint(to_wire(back)) == fingerprint(to_wire(frame))


# ---- how it may grow -----------------------------------------------------------------------------------------------


def test_unknown_type_is_ignored() -> None:
    """A newer peer may send frames that this version has never heard of; the other side's frames are none of ours."""
    assert parse_client_frame([99, "x"]) is None
    assert parse_server_frame([99]) is None
    assert parse_server_frame([-1]) is None
    assert parse_client_frame([frames.Ping.TYPE, 1, 2]) is None
    assert parse_server_frame([frames.Pong.TYPE, 1, 2]) is None


def test_trailing_fields_are_ignored() -> None:
    """A newer peer may add fields."""
    assert parse_client_frame([5, 1, 2, {"new": True}, None]) == frames.Pong(1, 2)
    assert parse_client_frame([2, 1, [["x", None, None, "new"]]]) == frames.Subscribe(1, (frames.SubscribeItem("x"),))


@pytest.mark.parametrize(
    ("wire", "frame"),
    [
        ([1], frames.Hello()),
        ([1, "t"], frames.Hello("t")),
        ([2, 1, [["x"]]], frames.Subscribe(1, (frames.SubscribeItem("x", None, None),))),
        ([2, 1, []], frames.Subscribe(1, ())),
        ([4, 1, "x"], frames.Rate(1, "x", None)),
        ([4, 1, "x", 5], frames.Rate(1, "x", 5.0)),
        ([8], frames.Bye("")),
    ],
)
def test_fields_with_a_default_may_be_left_out_by_a_client(wire: object, frame: frames.ClientFrame) -> None:
    """The shortest form of each frame is enough, and an integer is a number of seconds."""
    assert parse_client_frame(wire) == frame


@pytest.mark.parametrize(
    ("wire", "frame"),
    [
        ([35, 1, 2, 1, 3, []], frames.Delta(1, 2, 1, 3, [], ())),
        ([38, 1, "live", 0], frames.Status(1, "live", 0, "")),
        ([39, 0, "x"], frames.Unsubscribed(0, "x", "", "")),
        ([41, None, "slow"], frames.Error(None, "slow", "", "", "", False, None)),
        ([42, 1], frames.Ping(1, 0)),
    ],
)
def test_fields_with_a_default_may_be_left_out_by_a_server(wire: object, frame: frames.ServerFrame) -> None:
    """The shortest form of each frame is enough."""
    assert parse_server_frame(wire) == frame


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", [None, 1, "x", {}, [], ["1"], [None], [True, 1, 2], [1.0], [[1]]])
def test_what_is_no_frame_is_a_decode_error(wire: object) -> None:
    """A frame is an array that begins with its type."""
    with pytest.raises(DecodeError, match="a frame is an array that begins with its type"):
        parse_client_frame(wire)


@pytest.mark.parametrize(
    ("wire", "field"),
    [
        ([1, 5], "token"),
        ([1, None, None], "client"),
        ([1, None, "", b"s"], "session"),
        ([1, None, "", None, []], "secret"),
        ([2], "request"),
        ([2, 1], "items"),
        ([2, -1, []], "request"),
        ([2, True, []], "request"),
        ([2, 1.0, []], "request"),
        ([2, 2**53, []], "request"),
        ([2, None, []], "request"),
        ([2, 1, None], "items"),
        ([2, 1, {}], "items"),
        ([2, 1, ["x"]], "items"),
        ([2, 1, [[]]], "items"),
        ([2, 1, [[5]]], "items"),
        ([2, 1, [["x", 5]]], "items"),
        ([2, 1, [["x", []]]], "items"),
        ([2, 1, [["x", ["e", 1]]]], "items"),
        ([2, 1, [["x", ["e", 1, 2, 3]]]], "items"),
        ([2, 1, [["x", [None, 1, 2]]]], "items"),
        ([2, 1, [["x", ["e", -1, 2]]]], "items"),
        ([2, 1, [["x", ["e", 2**53, 2]]]], "items"),
        ([2, 1, [["x", ["e", 1, -1]]]], "items"),
        ([2, 1, [["x", ["e", 1, 2**48]]]], "items"),
        ([2, 1, [["x", ["e", 1, 1.0]]]], "items"),
        ([2, 1, [["x", None, "1"]]], "items"),
        ([2, 1, [["x", None, -0.5]]], "items"),
        ([2, 1, [["x", None, float("nan")]]], "items"),
        ([2, 1, [["x", None, float("inf")]]], "items"),
        ([2, 1, [["x", None, True]]], "items"),
        ([3, 1, "x"], "channels"),
        ([3, 1, [5]], "channels"),
        ([4, 1], "channel"),
        ([4, 1, "x", "1"], "rate"),
        ([5, 1], "messages"),
        ([5, 1, -1], "messages"),
        ([8, None], "reason"),
    ],
)
def test_bad_field_of_a_client_is_named(wire: object, field: str) -> None:
    """Every field says what it may hold."""
    with pytest.raises(DecodeError, match="expected") as caught:
        parse_client_frame(wire)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("wire", "field"),
    [
        ([32, "s", "z", None, 1, 1, 0, [], {}], "limits"),
        ([32, "s", "z", None, 1, 1, 0, {}, {"a": {1: 2}}], "reconnect"),
        ([32, "s", "z", None, 1, 1, 0, {}], "reconnect"),
        ([33, 1, "x", 1, "other", ["", 0, 0], True, None, "live", 0], "kind"),
        ([33, 1, "x", 1, ["state"], ["", 0, 0], True, None, "live", 0], "kind"),
        ([33, 1, "x", 1, "state", ["", 0, 0], 1, None, "live", 0], "recovered"),
        ([33, 1, "x", 1, "state", ["", 0, 0], None, None, "live", 0], "recovered"),
        ([33, 1, "x", 1, "state", ["", 0, 0], True, None, "fresh", 0], "freshness"),
        ([33, 1, "x", 1, "state", ["", 0, 0], True, None, "live", 0, "", [1]], "keys"),
        ([34, 1, ["", 0, 0], 0, 1], "body"),
        ([35, 1, 2, 1, 2**48, []], "link"),
        ([36, 1, 2, 1, 3, {1: 2}], "value"),
        ([36, 1, 2, 1, 3, [{"a": {1: 2}}]], "value"),
        ([37, 1, None, ["", 0, 0]], "start"),
        ([41, 1, "c", "", "", "", 0], "retryable"),
        ([41, -1, "c"], "request"),
        ([43, "r", 1], "spread"),
    ],
)
def test_bad_field_of_a_server_is_named(wire: object, field: str) -> None:
    """Every field says what it may hold; numbers name keys in documents and patches alone."""
    with pytest.raises(DecodeError) as caught:
        parse_server_frame(wire)
    assert caught.value.field == field
