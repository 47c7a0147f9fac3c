"""Changes as lines, for people and for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rtsync._tail_text import json_line, plain_line
from rtsync.client import Change, Event, Gap
from rtsync.core import LIVE, REMOVED, Patch, Position, Replace, SourceStatus, Value

NOON = datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=UTC)
CLOCK = f"{NOON.astimezone():%H:%M:%S}"
BEFORE, HERE = Position("e", 6, 4), Position("e", 7, 5)
STALE = SourceStatus("stale", 1_767_355_200_000, "no data for 5 s")


def keyframe(value: dict[str, Value], status: SourceStatus = LIVE) -> Change:
    return Change("keyframe", value, None, HERE, status)


def delta(patch: Patch) -> Change:
    return Change("delta", {"whatever": 1}, patch, HERE, LIVE)


def plain(update: Change | Event | Gap) -> str:
    line = plain_line("c:x", update, NOON)
    assert line.startswith(f"{CLOCK} c:x ")
    return line.removeprefix(f"{CLOCK} c:x ")


def parsed(update: Change | Event | Gap, status: SourceStatus = LIVE) -> dict[str, Any]:
    line = json_line("c:x", update, status)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    assert found.pop("channel") == "c:x"
    return found


# ---- for people


def test_a_keyframe_is_told_whole() -> None:
    assert plain(keyframe({"bid": Decimal("1.50"), "at": NOON, "deep": {"a": None, "b": {}}})) == (
        f"bid=1.50 at={CLOCK} deep.a= deep.b={{}}"
    )
    assert plain(keyframe({})) == "is empty"


def test_a_delta_is_told_by_what_changed() -> None:
    inner: Patch = {"9.5": REMOVED, "9": Decimal(2)}
    assert plain(delta({"bids": inner, "book": Replace({"x": 1})})) == "bids.9.5=- bids.9=2 book.x=1"


def test_long_changes_are_cut_short() -> None:
    line = plain(keyframe({f"k{index}": index for index in range(11)}))
    assert line == "k0=0 k1=1 k2=2 k3=3 k4=4 k5=5 k6=6 k7=7 … 3 more"


def test_freshness_is_told_when_it_changes_and_when_it_is_bad() -> None:
    assert plain(Change("status", {}, None, HERE, STALE)) == "is stale: no data for 5 s"
    assert plain(Change("status", {}, None, HERE, LIVE)) == "is live"
    assert plain(delta({})) == "is live"
    assert plain(keyframe({"a": 1}, STALE)) == "a=1 (stale)"


def test_events_and_gaps_are_told() -> None:
    assert plain(Event({"price": Decimal(5), "side": "buy"}, HERE)) == "price=5 side=buy"
    assert plain(Event("hello", HERE)) == "hello"
    assert plain(Gap(BEFORE, HERE, "the window has moved on")) == "events are missing: the window has moved on"


def test_a_line_stays_one_line_whatever_it_tells() -> None:
    assert plain(keyframe({"a\n": "b\x1b[2J"})) == "a·=b·[2J"


# ---- for programs


def test_json_of_a_keyframe_has_the_document() -> None:
    document: dict[str, Value] = {
        "bid": Decimal("1.50"),
        "at": NOON,
        "raw": b"\x00\xff",
        "n": 1,
        "f": 1.5,
        "no": None,
        "é": "ü",
    }
    assert parsed(keyframe(document, STALE)) == {
        "kind": "keyframe",
        "position": ["e", 7, 5],
        "value": {"bid": "1.50", "at": "2026-01-02T12:00:00.250000Z", "raw": "AP8=", "n": 1, "f": 1.5, "no": None, "é": "ü"},
        "status": {"freshness": "stale", "since": 1_767_355_200_000, "reason": "no data for 5 s"},
    }


def test_json_of_a_delta_has_the_patch_as_on_the_wire() -> None:
    """Null, removed and replaced stay distinct."""
    inner: Patch = {"gone": REMOVED, "null": None}
    found = parsed(delta({"inner": inner, "whole": Replace({"x": Decimal(1)})}))
    assert found["kind"] == "delta"
    assert found["patch"] == [{"whole": {"x": "1"}}, {"inner": [{"null": None}, {}, ["gone"]]}]
    assert "value" not in found


def test_json_of_a_status_has_neither() -> None:
    found = parsed(Change("status", {"a": 1}, None, HERE, STALE))
    assert (found["kind"], found["status"]["freshness"]) == ("status", "stale")
    assert not {"value", "patch"} & set(found)


def test_json_of_events_and_gaps_takes_the_freshness_of_the_subscription() -> None:
    assert parsed(Event([1, {"a": Decimal(2)}], HERE), STALE) == {
        "kind": "event",
        "position": ["e", 7, 5],
        "value": [1, {"a": "2"}],
        "status": {"freshness": "stale", "since": 1_767_355_200_000, "reason": "no data for 5 s"},
    }
    assert parsed(Gap(BEFORE, HERE, "why")) == {
        "kind": "gap",
        "position": ["e", 7, 5],
        "start": ["e", 6, 4],
        "reason": "why",
        "status": {"freshness": "live", "since": 0, "reason": ""},
    }
