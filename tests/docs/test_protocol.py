"""The protocol page says what the code does: every byte, field, code and number on it is held against the code."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import pytest

from rtsync import Settings
from rtsync.core import (
    JSON,
    MAX_NAME_BYTES,
    MSGPACK,
    PROFILES,
    REMOVED,
    Code,
    DecodeError,
    Document,
    FamilyPattern,
    InvalidName,
    KeyTable,
    Limits,
    Patch,
    Position,
    Profile,
    StateLog,
    StoredEvent,
    apply,
    document_from_wire,
    frames,
    parse_channel,
    patch_from_wire,
    same,
)
from rtsync.core._json import dumps, loads_many
from rtsync.core._msgpack import pack, unpack, unpack_many
from rtsync.hub._rates import LADDER
from tests.docs.pages import ROOT, Page, bytes_of_hex, unwrapped

PAGE = Page("docs/reference/protocol.md")
LIMITS = Limits(1 << 20, 64, 1 << 16)

# ---- the examples, made by the code ----------------------------------------------------------------------------------

EPOCH = "q7Vd"
AT_12 = Position(EPOCH, 12, 0x09EE_7C21_50B3)
AT_16 = Position(EPOCH, 16, 0xE352_08D4_6F1A)
AT_17 = Position(EPOCH, 17, 0x5D20_93E7_BC48)

QUOTE: Document = {
    "bid": Decimal("4102"),
    "ask": Decimal("4105.5"),
    "venue": {"name": "dydx", "open": True},
    "note": "thin",
}
VENUE_CHANGE: Patch = {"open": False}
CHANGE: Patch = {"bid": Decimal("4101.50"), "halted": True, "venue": VENUE_CHANGE, "note": REMOVED}


def both(frame: frames.Frame) -> tuple[bytes, bytes]:
    """Return *frame* in both profiles."""
    return MSGPACK.encode(frame), JSON.encode(frame)


def quoted() -> tuple[StateLog, KeyTable]:
    """Return the log of the quote and the key table that goes with it."""
    log, keys = StateLog(10, AT_16, QUOTE), KeyTable()
    keys.learn_document(QUOTE, AT_16.offset)
    return log, keys


def keyframe(profile: Profile, piece: int = 1000) -> bytes:
    """Return the keyframe of the quote."""
    log, keys = quoted()
    return b"".join(profile.encode_keyframe(7, log.head, log.document, keys, piece))


def delta(profile: Profile) -> bytes:
    """Return the delta that follows it."""
    log, keys = quoted()
    log.put(AT_17.offset, AT_17.link, CHANGE)
    keys.learn_patch(CHANGE, AT_17.offset)
    return profile.encode_delta(7, log.head, AT_16.offset, log.since(AT_16.offset), keys)


def event(profile: Profile) -> bytes:
    """Return an event."""
    value = pack({"id": 6, "qty": Decimal("0.25"), "at": datetime(2026, 11, 20, 9, 30, tzinfo=UTC)})
    return profile.encode_event(9, StoredEvent(6, 4, 0x77B0_2E95_D1C6, value))


def subscribed(keys: tuple[str, ...]) -> frames.Subscribed:
    """Return the answer to a subscribe that resumes."""
    return frames.Subscribed(1, "prices:ETH-USD", 7, "state", AT_12, True, 2.0, "live", 0, "", keys)


SUBSCRIBE = frames.Subscribe(
    1, (frames.SubscribeItem("prices:ETH-USD", AT_12, 2.0), frames.SubscribeItem("alerts", Position("", 0, 0)))
)
WELCOME = frames.Welcome(
    session="Xk3v",
    secret="w8Zt",
    user="ann",
    heartbeat=20.0,
    timeout=10.0,
    time=1_790_000_000_000,
    limits={"max_frame_bytes": 65536, "max_subscriptions": 128, "message_rate": 50.0},
    reconnect={"delay_min": 1.0, "delay_max": 15.0, "factor": 2.0, "jitter": 0.5, "spread": 1.0},
)
ERROR = frames.Error(4, "too_many", "at most 128 subscriptions", "channel", "prices:BTC-USD", True, 1.5)

# {heading: (the frame's class, how it travels in msgpack, and in JSON)}
EXAMPLES: dict[str, tuple[type[frames.Frame], tuple[bytes, bytes]]] = {
    "Hello": (frames.Hello, both(frames.Hello("eyJ0", "walker/1", "Xk3v", "w8Zt"))),
    "Subscribe": (frames.Subscribe, both(SUBSCRIBE)),
    "Unsubscribe": (frames.Unsubscribe, both(frames.Unsubscribe(2, ("alerts", "prices:ETH-USD")))),
    "Rate": (frames.Rate, both(frames.Rate(3, "prices:ETH-USD", 0.5))),
    "Pong": (frames.Pong, both(frames.Pong(5, 212))),
    "Bye": (frames.Bye, both(frames.Bye("closed"))),
    "Welcome": (frames.Welcome, both(WELCOME)),
    "Subscribed": (
        frames.Subscribed,
        (MSGPACK.encode(subscribed(("bid", "ask"))), JSON.encode(subscribed(()))),
    ),
    "Keyframe": (frames.Keyframe, (keyframe(MSGPACK), keyframe(JSON))),
    "Delta": (frames.Delta, (delta(MSGPACK), delta(JSON))),
    "Event": (frames.Event, (event(MSGPACK), event(JSON))),
    "Gap": (frames.Gap, both(frames.Gap(9, Position(EPOCH, 1, AT_12.link), Position(EPOCH, 3, AT_16.link), "window"))),
    "Status": (frames.Status, both(frames.Status(7, "stale", 1_790_000_004_500, "no source is running"))),
    "Unsubscribed": (frames.Unsubscribed, both(frames.Unsubscribed(2, "alerts"))),
    "Error": (frames.Error, both(ERROR)),
    "Ping": (frames.Ping, both(frames.Ping(5, 1_790_000_000_000))),
    "Drain": (frames.Drain, both(frames.Drain("the node restarts", 1.0, 10.0))),
}
PARTS = keyframe(MSGPACK, 32), keyframe(JSON, 100)

# What the page says of a value, and the value.
VALUES: dict[str, object] = {
    "null": None,
    "true": True,
    "false": False,
    "integer 7": 7,
    "integer −1": -1,
    "integer 2⁵³": 2**53,
    "integer −2⁶³": -(2**63),
    "float 1.0": 1.0,
    "float 0.1": 0.1,
    "decimal 4102": Decimal("4102"),
    "decimal 4101.50": Decimal("4101.50"),
    "decimal −0.001": Decimal("-0.001"),
    "decimal 0.00": Decimal("0.00"),
    "decimal 1E+3": Decimal("1E+3"),
    "text": "é",
    "bytes 00 ff": b"\x00\xff",
    "timestamp": datetime(2026, 11, 20, 9, 30, tzinfo=UTC),
    "timestamp with µs": datetime(2026, 11, 20, 9, 30, 0, 250_000, tzinfo=UTC),
    "list": [1, None],
    "map": {"a": 1},
    "map with one key `$d`": {"$d": "4102"},
    "map with one key `$`": {"$": 1},
    "map with two keys": {"$d": 1, "a": 2},
}

# {word in the column "type": (what a decoder takes, what it refuses)}
TYPES: dict[str, tuple[list[object], list[object]]] = {
    "text": (["", "a"], [1, b"a", ["a"]]),
    "uint": ([0, 2**53 - 1], [-1, 2**53, 1.0, True, "1"]),
    "link": ([0, 2**48 - 1], [-1, 2**48, 1.0, "1"]),
    "bool": ([True, False], [0, 1, "true"]),
    "seconds": ([0, 1, 0.5], [-1, True, "1"]),
    "map": ([{}, {"a": 1}], [[], {1: 2}]),
    "position": ([["", 0, 0], ["e", 5, 6]], [["e", 5], ["e", 5, 6, 7], [None, 0, 0], "e"]),
    "list of text": ([[], ["a"]], ["a", [1], {}]),
    "list of items": ([[], [["a"]], [["a", None, None]], [["a", ["", 0, 0], 1.0, "more"]]], [["a"], [[]], "a"]),
    "value": ([None, 1, {"a": [1]}], [{1: 2}]),
    "any": ([None, {1: 2}], []),
}


# ---- tests -----------------------------------------------------------------------------------------------------------


def test_every_frame_has_a_section_and_a_row() -> None:
    """A frame that the code knows is on the page, with its type and sender."""
    shown = {(row[1], int(row[0]), row[2]) for row in PAGE.tables("Frames")[0]}
    known = {(frame.__name__.lower(), frame.TYPE, "client" if frame.TYPE < 32 else "server") for frame, _ in EXAMPLES.values()}
    assert shown == known
    assert {frame for frame, _ in EXAMPLES.values()} == {
        getattr(frames, name) for name in frames.__all__ if isinstance(getattr(getattr(frames, name), "TYPE", None), int)
    } - {frames.Frame}


@pytest.mark.parametrize("title", EXAMPLES)
def test_fields_are_those_of_the_code(title: str) -> None:
    """Numbers, names, types and defaults of a frame's fields are as shown."""
    frame, _ = EXAMPLES[title]
    rows = PAGE.tables(title)[0]
    declared = fields(frame)
    assert [(row[0], row[1]) for row in rows] == [(str(number), field.name) for number, field in enumerate(declared, 1)]
    for row, field in zip(rows, declared, strict=True):
        default = "required" if field.default is MISSING else _default_shown(field.default)
        assert row[3] == default, f"default of {field.name}"
        word, optional, nil = row[2].partition(" or nil")
        takes, refuses = TYPES.get(word) or ([part.strip("` ") for part in re.split(r",| or ", row[2])], ["other", 1, ""])
        for value in [*takes, *([None] if nil or optional else [])]:
            field.metadata["read"](value, field.name)
        for value in [*refuses, *([] if optional or None in takes else [None])]:
            with pytest.raises(DecodeError):
                field.metadata["read"](value, field.name)


def _default_shown(default: object) -> str:
    return "nil" if default is None else json.dumps(default)


@pytest.mark.parametrize("title", EXAMPLES)
def test_example_is_what_the_code_writes(title: str) -> None:
    """The dump and the JSON line of a frame are the bytes that the code makes of the same values."""
    in_msgpack, in_json = EXAMPLES[title][1]
    assert bytes_of_hex(PAGE.blocks(title, "hex")[0]) == in_msgpack
    assert unwrapped(PAGE.blocks(title, "json")[0]) == in_json.decode().splitlines()


@pytest.mark.parametrize("title", EXAMPLES)
def test_dump_numbers_the_fields_as_the_table_does(title: str) -> None:
    """The remarks beside a dump name type and fields in their order."""
    frame, _ = EXAMPLES[title]
    dump = PAGE.blocks(title, "hex")[0]
    assert f"type {frame.TYPE}: {frame.__name__.lower()}\n" in dump
    remarks = re.findall(r"  (\d+) (\w+): ", dump)
    names = [field.name for field in fields(frame)]
    assert remarks == [(str(number), name) for number, name in enumerate(names, 1)][: len(remarks)]
    assert len(remarks) >= sum(field.default is MISSING for field in fields(frame))


@pytest.mark.parametrize("title", EXAMPLES)
def test_example_says_the_same_in_both_profiles(title: str) -> None:
    """A decoder makes the same frame of the dump and of the JSON line, key tables aside."""
    one, other = _read(MSGPACK, bytes_of_hex(PAGE.blocks(title, "hex")[0])), _read(JSON, _json_of(title))
    assert type(one) is type(other)
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "keys":
            assert b == ()
        elif field.name == "body":
            assert isinstance(one, frames.Keyframe)
            assert same(document_from_wire(a, one.keys), b)
        elif field.name == "patch":
            assert isinstance(one, frames.Delta)
            _, keys = quoted()
            known = [*keys.defined_by(AT_16.offset), *one.keys]
            assert patch_from_wire(a, known) == patch_from_wire(b)
        else:
            assert a == b


def _json_of(title: str) -> str:
    """Return the first frame in JSON below a heading, without the breaks of the page."""
    return "".join(unwrapped(PAGE.blocks(title, "json")[0]))


def _read(profile: Profile, message: bytes | str) -> frames.Frame:
    (wire,) = unpack_many(message, LIMITS, numbered_keys=True) if isinstance(message, bytes) else loads_many(message, LIMITS)
    read = profile.read_client if cast("list[int]", wire)[0] < 32 else profile.read_server
    (frame,) = read(message, LIMITS)
    return frame


def test_keyframe_and_delta_make_the_document_they_promise() -> None:
    """Applying the delta of the page to the keyframe of the page gives what was published."""
    start = _read(JSON, _json_of("Keyframe"))
    change = _read(JSON, _json_of("Delta"))
    assert isinstance(start, frames.Keyframe)
    assert isinstance(change, frames.Delta)
    document = apply(patch_from_wire(change.patch), cast(Document, start.body))
    assert same(document, apply(CHANGE, QUOTE))
    assert change.offset - change.span == start.position.offset


def test_keyframe_in_parts_is_what_the_code_writes() -> None:
    """The parts are the code's, in both profiles, and joined they hold the document of the whole keyframe."""
    dump, lines = PAGE.blocks("Keyframe", "hex")[1], unwrapped(PAGE.blocks("Keyframe", "json")[1])
    assert bytes_of_hex(dump) == PARTS[0]
    assert "".join(line + "\n" for line in lines).encode() == PARTS[1]
    for profile, parts in zip((MSGPACK, JSON), PARTS, strict=True):
        read = profile.read_server(profile.message(parts), LIMITS)
        bodies = [frame.body for frame in read if isinstance(frame, frames.Keyframe)]
        assert len(bodies) == 2
        document, keys = cast("Sequence[object]", profile.read_keyframe(bodies))
        assert same(document_from_wire(document, cast("list[str]", keys)), QUOTE)


def test_values_are_written_as_the_table_shows() -> None:
    """Each value of the table is encoded, and decoded, as it says."""
    rows = PAGE.tables("Examples of values")[0]
    assert [row[0] for row in rows] == list(VALUES)
    for (_, in_msgpack, in_json), value in zip(rows, VALUES.values(), strict=True):
        assert pack(value).hex(" ") == in_msgpack
        assert dumps(value) == in_json
        assert same(unpack(bytes.fromhex(in_msgpack)), value)  # type: ignore[arg-type]
        assert same(loads_many(in_json, LIMITS)[0], value)  # type: ignore[arg-type]


def test_patches_do_what_the_table_says() -> None:
    """Each patch of the table turns the document before it into the one behind it."""
    rows = PAGE.tables("Patches")[1]
    assert len(rows) > 5
    for before, patch, after in rows:
        document = cast(Document, json.loads(before))
        assert same(apply(patch_from_wire(json.loads(patch)), document), json.loads(after))


def test_codes_are_those_of_the_code() -> None:
    """Words, close codes and retryability of the table are the code's, in its order, with a sentence each."""
    rows = PAGE.tables("Codes")[0]
    assert [(row[0], int(row[1]), row[2]) for row in rows] == [
        (code.text, code.close, "yes" if code.retryable else "no") for code in Code
    ]
    assert all(row[3].endswith(".") for row in rows)


def test_limits_are_the_settings_and_their_defaults() -> None:
    """The numbers of the table are what a server does unless told otherwise."""
    settings = Settings()
    rows = PAGE.tables("Limits")[0]
    assert {row[0]: float(row[1]) for row in rows} == {row[0]: float(getattr(settings, row[0])) for row in rows}
    advice = PAGE.tables("Reconnecting")[1]
    assert {row[0]: float(row[1]) for row in advice} == {
        "delay_min": settings.reconnect_delay_min,
        "factor": settings.reconnect_factor,
        "delay_max": settings.reconnect_delay_max,
        "jitter": settings.reconnect_jitter,
        "spread": settings.reconnect_spread,
    }


def test_numbers_in_the_text_are_the_defaults() -> None:
    """Seconds and bytes that sentences mention are those of the settings and rules."""
    settings = Settings()
    text = " ".join(PAGE.text.split())
    assert f"within {settings.hello_timeout:g} s (`hello_timeout`)" in text
    assert f"within {settings.ack_timeout:g} s (`ack_timeout`)" in text
    assert f"more than about {settings.flush_bytes >> 10} KiB (`flush_bytes`)" in text
    assert f"grows to {settings.ack_window_bytes >> 10} KiB" in text
    assert f"no less than {settings.min_ack_window_bytes >> 10} KiB" in text
    assert f"(`max_document_bytes`, {settings.max_document_bytes >> 20} MiB by default)" in text
    assert "rounds down to " + ", ".join(f"{step:g}" for step in LADDER[:-1]) + f" or {LADDER[-1]:g}" in text
    assert f"at most {MAX_NAME_BYTES} bytes" in text
    assert [row[0] for row in PAGE.tables("Transport")[0]] == list(PROFILES)


def test_channel_names_are_spelled_as_the_table_shows() -> None:
    """A segment's text becomes what the table says, which is the only spelling that is taken."""
    pattern = FamilyPattern("x:{value}")
    for text, spelled in PAGE.tables("Channel names")[0]:
        assert pattern.channel(text) == f"x:{spelled}"
        assert parse_channel(f"x:{spelled}") == f"x:{spelled}"
        if text != spelled and ":" not in text:
            with pytest.raises(InvalidName, match=re.escape(spelled)):
                parse_channel(f"x:{text}")


def test_source_lines_of_docstrings_lead_to_sections() -> None:
    """Where the code names a section of the page, there is one."""
    named = {
        title
        for path in (ROOT / "src").rglob("*.py")
        for title in re.findall(r'docs/reference/protocol\.md, "([^"]+)"', path.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= set(PAGE.headings)
