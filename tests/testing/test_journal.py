"""Whatever a client shows that the log does not bear out is reported as the rule that it breaks."""

from __future__ import annotations

from itertools import count

from rtsync.backends import Retention
from rtsync.core import (
    LIVE,
    Change,
    Channel,
    Document,
    Event,
    Gap,
    Patch,
    Position,
    Value,
    encode_event_entry,
    encode_patch_entry,
)
from rtsync.testing._history import RecordingStore
from rtsync.testing._journal import Journal, ViewJournal

STATE = Retention(keyframed=True, window=100)
EVENTS = Retention(keyframed=False, window=3)
DOCUMENT = Channel("document")
STREAM = Channel("stream")


class Rig:
    """A store, what is appended to it, and a client's view of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.now = 0.0
        self.channel = channel
        self.store = RecordingStore(lambda: self.now)
        self.journal = Journal(self.store, lambda: self.now)
        self.view = ViewJournal(self.journal, "client", channel, None)
        self._links = count(1)
        self._epochs = (f"epoch {number}" for number in count(1))

    def _append(self, payload: bytes, retention: Retention) -> Position:
        self.now += 1.0
        link, mint = next(self._links), self._epochs.__next__
        return self.store.append(self.channel, payload, link, retention, None, 0, now=self.now, mint=mint).position

    def patch(self, patch: Patch) -> Position:
        return self._append(encode_patch_entry("node", 0, patch), STATE)

    def event(self, value: Value) -> Position:
        return self._append(encode_event_entry("node", value), EVENTS)

    def keyframe(self, value: Document, position: Position) -> None:
        self.view.take(Change("keyframe", value, None, position, LIVE))

    def delta(self, value: Document, position: Position, patch: Patch | None = None) -> None:
        self.view.take(Change("delta", value, patch, position, LIVE))

    @property
    def broken(self) -> list[str]:
        return [violation.rule for violation in self.journal.violations]


def documents() -> tuple[Rig, list[Position]]:
    rig = Rig(DOCUMENT)
    return rig, [rig.patch({"a": number}) for number in range(4)]


def events(number: int = 3) -> tuple[Rig, list[Position]]:
    rig = Rig(STREAM)
    return rig, [rig.event(number) for number in range(number)]


# ---- documents -----------------------------------------------------------------------------------------------------


def test_keyframes_and_deltas_that_show_what_the_log_held_break_no_rule() -> None:
    rig, at = documents()
    rig.keyframe({"a": 0}, at[0])
    rig.delta({"a": 1}, at[1], {"a": 1})
    rig.delta({"a": 3}, at[3])
    rig.keyframe({"a": 2}, at[2])
    assert rig.broken == []
    assert [line[3] for line in rig.journal.lines] == ["keyframe", "delta", "delta", "keyframe"]


def test_a_document_that_the_log_never_held_there_breaks_i2() -> None:
    rig, at = documents()
    rig.keyframe({"a": 1}, at[0])
    rig.delta({"a": 0}, at[1])
    assert rig.journal.counts["violations"] == 2
    assert rig.broken == ["I2"]  # said once a minute


def test_a_document_that_is_equal_but_not_the_same_breaks_i2() -> None:
    rig, at = documents()
    rig.keyframe({"a": True}, at[1])
    assert rig.broken == ["I2"]


def test_a_patch_that_does_not_lead_where_it_says_breaks_i1() -> None:
    rig, at = documents()
    rig.keyframe({"a": 0}, at[0])
    rig.delta({"a": 1}, at[1], {"b": 1})
    assert rig.broken == ["I1"]


def test_a_delta_that_goes_back_or_into_another_epoch_breaks_i4() -> None:
    for back in (0, 1):
        rig, at = documents()
        rig.keyframe({"a": 1}, at[1])
        rig.delta({"a": back}, at[back])
        assert rig.broken == ["I4"]
    rig, at = documents()
    rig.keyframe({"a": 1}, at[1])
    rig.store.new_epoch(DOCUMENT, at[0].epoch, now=9.0, mint=lambda: "renamed")
    rig.delta({"a": 2}, at[2]._replace(epoch="renamed"))
    assert rig.broken == ["I4"]


def test_a_position_that_names_no_entry_breaks_i5() -> None:
    rig, at = documents()
    rig.keyframe({"a": 0}, at[0]._replace(link=99))
    assert rig.broken == ["I5"]


def test_a_change_of_freshness_that_moves_the_view_breaks_i4() -> None:
    rig, at = documents()
    value: Document = {"a": 0}
    rig.keyframe(value, at[0])
    rig.view.take(Change("status", value, None, at[0], LIVE))
    assert rig.broken == []
    rig.view.take(Change("status", value, None, at[1], LIVE))
    assert rig.broken == ["I4"]


# ---- events --------------------------------------------------------------------------------------------------------


def test_events_in_order_break_no_rule() -> None:
    rig, at = events()
    for number, position in enumerate(at):
        rig.view.take(Event(number, position))
    assert rig.broken == []


def test_an_event_that_is_missing_or_comes_twice_breaks_i7() -> None:
    for first, second in ((0, 2), (1, 1), (2, 1)):
        rig, at = events()
        rig.view.take(Event(first, at[first]))
        rig.view.take(Event(second, at[second]))
        assert rig.broken == ["I7"], (first, second)


def test_an_event_with_another_value_breaks_i2() -> None:
    rig, at = events()
    rig.view.take(Event(1, at[0]))
    assert rig.broken == ["I2"]


def test_an_event_of_a_history_that_was_rolled_back_under_the_same_epoch_breaks_i7_without_a_gap() -> None:
    rig, at = events()
    rig.view.take(Event(1, at[1]))
    rig.store.roll_back(STREAM, 2)
    rig.event("other 1")
    after = rig.event("other 2")
    rig.view.take(Event("other 2", after))
    assert rig.broken == ["I7"]


def test_a_gap_over_what_has_left_the_window_breaks_no_rule() -> None:
    rig, at = events(6)
    rig.view.take(Event(0, at[0]))
    rig.view.take(Gap(at[0], at[2], "window"))
    rig.view.take(Event(3, at[3]))
    assert rig.broken == []


def test_a_gap_where_the_log_still_holds_everything_breaks_i7() -> None:
    rig, at = events(3)
    rig.view.take(Event(0, at[0]))
    rig.view.take(Gap(at[0], at[1], "window"))
    assert rig.broken == ["I7"]


def test_a_gap_that_does_not_begin_at_what_is_held_breaks_i7() -> None:
    rig, at = events(6)
    rig.view.take(Event(0, at[0]))
    rig.view.take(Gap(at[1], at[3], "window"))
    assert rig.broken == ["I7"]


def test_a_gap_that_leads_back_breaks_i7() -> None:
    rig, at = events(6)
    rig.view.take(Event(5, at[5]))
    rig.view.take(Gap(at[5], at[3], "epoch"))
    assert rig.journal.counts["violations"] == 2
    assert rig.broken == ["I7"]


def test_a_new_history_needs_a_gap() -> None:
    rig, at = events()
    rig.view.take(Event(2, at[2]))
    rig.store.lose_log(STREAM)
    first = rig.event("new")
    second = rig.event("newer")
    rig.view.take(Gap(at[2], first, "epoch"))
    rig.view.take(Event("newer", second))
    assert rig.broken == []
    rig.view.held = at[2]
    rig.view.take(Event("newer", second))
    assert rig.broken == ["I7"]


# ---- publishers ----------------------------------------------------------------------------------------------------


def test_what_was_acked_and_is_there_breaks_no_rule() -> None:
    rig = Rig(STREAM)
    value: Value = {"mark": ["p", 1]}
    rig.journal.acked("p", STREAM, ("p", 1), rig.event(value), value)
    rig.journal.not_acked("p", STREAM, ("p", 2), "rejected")
    rig.event({"mark": ["p", 3]})
    rig.journal.not_acked("p", STREAM, ("p", 3), "unknown")
    rig.journal.check_outcomes()
    assert rig.broken == []


def test_an_ack_of_what_is_not_there_breaks_i10() -> None:
    rig = Rig(STREAM)
    position = rig.event({"mark": ["p", 1]})
    rig.journal.acked("p", STREAM, ("p", 2), position, None)
    assert rig.broken == ["I10"]
    rig.journal.acked("q", STREAM, ("q", 1), position._replace(link=99), None)
    assert rig.broken == ["I10", "I10"]


def test_what_was_rejected_and_is_there_breaks_i10() -> None:
    rig = Rig(STREAM)
    rig.event({"mark": ["p", 1]})
    rig.journal.not_acked("p", STREAM, ("p", 1), "rejected")
    rig.journal.check_outcomes()
    assert rig.broken == ["I10"]


def test_what_was_appended_twice_breaks_i10() -> None:
    rig = Rig(STREAM)
    rig.event({"mark": ["p", 1]})
    rig.event({"mark": ["p", 1]})
    rig.journal.not_acked("p", STREAM, ("p", 1), "unknown")
    rig.journal.check_outcomes()
    assert rig.journal.counts["violations"] == 2
    assert rig.broken == ["I10"]


# ---- the trace -----------------------------------------------------------------------------------------------------


def test_the_trace_does_not_depend_on_the_order_within_a_microsecond_and_ends_where_it_is_told() -> None:
    def trace(*lines: tuple[float, str], until: float = 100.0) -> str:
        rig = Rig(STREAM)
        for now, who in lines:
            rig.now = now
            rig.journal.write(who, STREAM, "event", None, "")
        return rig.journal.trace(until)

    assert trace((1.0, "a"), (1.0, "b")) == trace((1.0, "b"), (1.0, "a"))
    assert trace((1.0, "a"), (2.0, "b")) != trace((1.0, "b"), (2.0, "a"))
    assert trace((1.0, "a"), (2.0, "b"), until=2.0) == trace((1.0, "a"))
