"""The logs of one node: which positions they know as theirs, and what a cursor missed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import REMOVED, Document, EventLog, Patch, Position, StateLog, StoredEvent, apply
from tests.strategies import few_documents, fingerprint, patches

START = Position("e1", 10, 0xA)


def link_of(offset: int) -> int:
    """The link that entries of these tests carry."""
    return offset * 7 + 1


def event(offset: int, previous: int) -> StoredEvent:
    """An event that says where it stands."""
    return StoredEvent(offset, previous, link_of(offset), b"\x01")


def offsets_from(start: int, steps: list[int]) -> Iterator[int]:
    """Offsets with holes of the given steps."""
    for step in steps:
        start += step
        yield start


# ---- state ---------------------------------------------------------------------------------------------------------

histories = st.lists(st.tuples(st.integers(1, 3), patches()), max_size=10)


@given(few_documents, st.integers(1, 5), histories)
def test_state_log_leads_every_cursor_it_covers_to_the_head(
    start: Document, window: int, history: list[tuple[int, Patch]]
) -> None:
    """Whatever `covers` grants, `since` keeps; only entries of the window verify."""
    log = StateLog(window, START, start)
    states = {START.offset: start}
    links = {START.offset: START.link}
    offset = START.offset
    for step, patch in history:
        for hole in range(offset + 1, offset + step):
            states[hole] = states[offset]
        states[offset + step] = apply(patch, states[offset])
        offset += step
        links[offset] = link_of(offset)
        log.put(offset, link_of(offset), patch)
    window_offsets = list(links)[-window:]
    assert log.head == Position("e1", offset, links[offset])
    assert log.tail == window_offsets[0]
    assert fingerprint(log.document) == fingerprint(states[offset])
    for cursor in range(START.offset - 1, offset + 2):
        assert log.covers(cursor) is (window_offsets[0] <= cursor <= offset)
        assert log.link_at(cursor) == (links[cursor] if cursor in window_offsets else None)
        assert log.verify(Position("e1", cursor, links.get(cursor, 0))) is (cursor in window_offsets)
        if log.covers(cursor):
            assert fingerprint(apply(log.since(cursor), states[cursor])) == fingerprint(states[offset])


def test_state_log_knows_only_its_own_history() -> None:
    """Another epoch, another link, an older, a newer or a missing offset: not ours."""
    log = StateLog(2, START, {})
    log.put(11, link_of(11), {"a": 1})
    log.put(13, link_of(13), {"a": 2})
    assert log.verify(Position("e1", 11, link_of(11)))
    assert log.verify(Position("e1", 13, link_of(13)))
    assert not log.verify(Position("e2", 13, link_of(13)))
    assert not log.verify(Position("e1", 13, link_of(11)))
    assert not log.verify(START)
    assert not log.verify(Position("e1", 12, link_of(12)))
    assert not log.verify(Position("e1", 14, link_of(14)))


def test_state_log_never_written_is_where_a_cursor_from_nothing_stands() -> None:
    """The empty history is a history: its start verifies and misses nothing."""
    log = StateLog(5, Position.start(""), {})
    assert log.verify(Position("", 0, 0))
    assert log.since(0) == {}


def test_state_log_with_a_window_of_one_knows_its_head_alone() -> None:
    """The smallest window still serves live cursors at the head."""
    log = StateLog(1, START, {"a": 1})
    log.put(11, link_of(11), {"a": REMOVED})
    assert log.tail == 11
    assert not log.covers(10)
    assert log.since(11) == {}


def test_state_log_reset_forgets_the_history_before() -> None:
    """After a keyframe only its own position can be resumed from, in a new epoch as in the old."""
    log = StateLog(5, START, {"a": 1})
    log.put(11, link_of(11), {"a": 2})
    log.reset(Position("e2", 3, 9), {"b": 1})
    assert (log.head, log.tail, log.document) == (Position("e2", 3, 9), 3, {"b": 1})
    assert log.verify(Position("e2", 3, 9))
    assert not log.verify(Position("e1", 11, link_of(11)))
    assert not log.covers(11)
    log.put(4, 1, {"b": 2})
    assert log.since(3) == {"b": 2}


def test_document_of_a_state_log_may_be_kept() -> None:
    """A put makes a new document and leaves the one before as it was."""
    log = StateLog(5, START, {"a": 1})
    before = log.document
    log.put(11, 1, {"a": 2})
    assert before == {"a": 1}


# ---- events --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.lists(st.integers(1, 3), max_size=12))
def test_event_log_gives_every_cursor_it_covers_the_events_it_missed(window: int, steps: list[int]) -> None:
    """In order, none missing, none twice; what fell out is not covered."""
    log = EventLog(window, START)
    offsets = [START.offset, *offsets_from(START.offset, steps)]
    for previous, offset in pairwise(offsets):
        log.put(event(offset, previous))
    kept = offsets[1:][-window:]
    tail = offsets[len(offsets) - len(kept) - 1]
    links = {offset: link_of(offset) for offset in offsets[1:]} | {START.offset: START.link}
    assert log.head == Position("e1", offsets[-1], links[offsets[-1]])
    assert log.tail == Position("e1", tail, links[tail])
    for cursor in range(START.offset - 1, offsets[-1] + 2):
        assert log.covers(cursor) is (tail <= cursor <= offsets[-1])
        assert log.link_at(cursor) == (links[cursor] if cursor in {tail, *kept} else None)
        assert log.verify(Position("e1", cursor, links.get(cursor, 0))) is (cursor in {tail, *kept})
        if log.covers(cursor):
            assert [entry.offset for entry in log.after(cursor)] == [offset for offset in kept if offset > cursor]


def test_events_form_a_chain_from_the_tail_on() -> None:
    """Each event names the one before it, so that a reader can prove that none is missing."""
    log = EventLog(3, START)
    for previous, offset in pairwise([10, 12, 13, 17, 20, 21]):
        log.put(event(offset, previous))
    at = log.tail.offset
    for entry in log.after(at):
        assert entry.previous == at
        at = entry.offset
    assert at == log.head.offset


@pytest.mark.parametrize(
    "position",
    [
        Position("e2", 12, link_of(12)),
        Position("e1", 12, link_of(11)),
        Position("e1", 10, START.link),
        Position("e1", 14, link_of(14)),
    ],
)
def test_event_log_knows_only_its_own_history(position: Position) -> None:
    """Another epoch, another link, fallen out, ahead of the head: not ours."""
    log = EventLog(2, START)
    for offset in (11, 12, 13):
        log.put(event(offset, offset - 1))
    assert log.verify(Position("e1", 12, link_of(12)))
    assert not log.verify(position)


def test_event_log_reset_begins_again_empty() -> None:
    """The new tail is the only position known."""
    log = EventLog(2, START)
    log.put(event(11, 10))
    log.reset(Position("e2", 5, 6))
    assert log.head == log.tail == Position("e2", 5, 6)
    assert log.after(5) == []
    assert log.verify(Position("e2", 5, 6))
    assert not log.verify(Position("e1", 11, link_of(11)))
