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
from tests.docs.pages import ROOT, Page, bytes_of_hex

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
CHANGE: Patch = {"bid": Decimal("4101.50"), "halted": True, "venue": {"open": False}, "note": REMOVED}


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

# Patches: a document, the wire patch in JSON, and what becomes of the document. They are read from the page.
