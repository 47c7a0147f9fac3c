"""A store that never forgets tells what its logs held, through everything that happens to a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from math import inf

import pytest

from rtsync.backends import Retention
from rtsync.core import (
    LIVE,
    Channel,
    Document,
    Position,
    Value,
    checked_patch,
    encode_event_entry,
    encode_patch_entry,
    encode_status_entry,
)
from rtsync.testing._history import History, RecordingStore

STATE = Retention(keyframed=True, window=100)
EVENTS = Retention(keyframed=False, window=3)
DOCUMENT = Channel("document")
STREAM = Channel("stream")


class Log:
    """Appends to a recording store at seconds 1, 2, 3 …"""

    def __init__(self) -> None:
        self.now = 0.0
        self.store = RecordingStore(lambda: self.now)
        self.links = count(1)
        self.epochs = (f"epoch {number}" for number in count(1))

    def append(self, channel: Channel, payload: bytes, *, link: int | None = None, token: int = 0) -> Position:
        self.now += 1.0
        retention = STATE if channel == DOCUMENT else EVENTS
        link = next(self.links) if link is None else link
        mint: Callable[[], str] = self.epochs.__next__
        return self.store.append(channel, payload, link, retention, None, token, now=self.now, mint=mint).position

    def patch(self, patch: Mapping[str, object], *, writer: str = "node", token: int = 0) -> Position:
        return self.append(DOCUMENT, encode_patch_entry(writer, 0, checked_patch(patch)), token=token)

    def event(self, value: Value, **options: int) -> Position:
        return self.append(STREAM, encode_event_entry("node", value), **options)

    @property
    def document(self) -> History:
        return self.store.histories[DOCUMENT]

    @property
    def stream(self) -> History:
        return self.store.histories[STREAM]


def value_at(history: History, position: Position) -> Document | Value:
    past = history.find(position)
    assert past is not None
    return past.value


def test_every_document_that_a_log_ever_held_is_found_by_its_position() -> None:
    log = Log()
    positions = [log.patch({"a": number, f"k{number}": {}}) for number in range(3)]
    assert [value_at(log.document, position) for position in positions] == [
        {"a": 0, "k0": {}},
        {"a": 1, "k0": {}, "k1": {}},
        {"a": 2, "k0": {}, "k1": {}, "k2": {}},
    ]
    assert value_at(log.document, Position.start(positions[0].epoch)) == {}
    assert log.document.find(positions[0]._replace(link=9)) is None
    assert log.document.find(positions[0]._replace(epoch="another")) is None


def test_an_entry_is_passed_when_the_next_one_comes_and_a_status_passes_no_event() -> None:
    log = Log()
    first = log.event("one")
    log.append(STREAM, encode_status_entry("node", 0, LIVE))
    past = log.stream.find(first)
    assert past is not None
    assert (past.passed_at, log.stream.head) == (inf, past)
    second = log.event("two")
    newest = log.stream.find(second)
    assert newest is not None
    assert (past.passed_at, newest.before, log.stream.head) == (3.0, past, newest)


def test_an_append_with_a_known_link_is_no_entry() -> None:
    log = Log()
    first = log.event("one", link=7)
    assert log.event("one", link=7) == first
    assert len(log.stream.entries) == 1
    assert log.stream.problems == []


def test_what_was_rolled_back_is_lost_and_the_entry_before_it_is_the_head_again() -> None:
    log = Log()
    positions = [log.patch({"marks": {"p": number}}) for number in range(3)]
    log.now = 10.0
    assert log.store.roll_back(DOCUMENT, 2) == 2
    first, second, third = (log.document.find(position) for position in positions)
    assert first is not None and second is not None and third is not None
    assert (first.lost_at, first.passed_at, log.document.head) == (inf, inf, first)
    assert (second.lost_at, second.passed_at, third.lost_at, third.passed_at) == (10.0, 3.0, 10.0, 10.0)
    assert list(log.document.marks) == [("p", 0)]
    again = log.patch({"marks": {"p": 1}})
    assert again[:2] == positions[1][:2]
    assert value_at(log.document, again) == {"marks": {"p": 1}}
    assert (log.document.ever[("p", 1)], log.document.problems) == (2, [])


def test_a_renamed_history_is_found_by_both_names_as_far_as_they_go() -> None:
    log = Log()
    before = log.patch({"a": 1})
    log.now = 5.0
    log.store.new_epoch(DOCUMENT, before.epoch, now=5.0, mint=log.epochs.__next__)
    after = log.patch({"a": 2})
    assert log.document.is_current(after.epoch)
    assert not log.document.is_current(before.epoch)
    assert log.document.find(before) is log.document.find(before._replace(epoch=after.epoch)) is not None
    assert log.document.find(after._replace(epoch=before.epoch)) is None


@pytest.mark.parametrize("everything", [False, True])
def test_a_log_that_was_lost_begins_again_empty(everything: bool) -> None:
    log = Log()
    before = log.patch({"a": 1})
    if everything:
        log.store.lose()
    else:
        log.store.lose_log(DOCUMENT)
    assert not log.document.is_current(before.epoch)
    assert value_at(log.document, log.patch({"b": 1})) == {"b": 1}
    past = log.document.find(before)
    assert past is not None
    assert (past.value, past.lost_at, log.document.losses) == ({"a": 1}, 1.0, 1)


def test_the_same_mark_twice_in_one_history_is_a_problem() -> None:
    log = Log()
    log.event({"mark": ["p", 1]})
    log.event({"mark": ["p", 1]})
    assert [problem[:4] for problem in log.stream.problems] == ["I10:"]


def test_two_writers_with_one_token_are_a_problem_but_for_a_while_after_tokens_began_anew() -> None:
    log = Log()
    log.patch({"a": 1}, writer="one", token=5)
    log.patch({"a": 2}, writer="two", token=5)
    assert [problem[:4] for problem in log.document.problems] == ["I11:"]
    log.store.lose(revisions=True)
    log.patch({"a": 3}, writer="one", token=5)
    assert len(log.document.problems) == 1
    log.now = 60.0
    log.patch({"a": 4}, writer="three", token=5)
    assert len(log.document.problems) == 1
    log.patch({"a": 5}, writer="one", token=5)
    assert len(log.document.problems) == 2


def test_it_is_known_what_a_trimmed_log_still_holds() -> None:
    log = Log()
    positions = [log.event(number) for number in range(5)]
    assert [log.store.keeps_after(STREAM, position.offset) for position in positions] == [False, True, True, True, True]


def test_runs_that_agree_on_a_digest_agree_on_everything_before() -> None:
    def digests(*values: Value) -> list[bytes]:
        log = Log()
        for value in values:
            log.event(value)
        return [past.digest for past in log.stream.entries.values()]

    assert digests(1, 2, 3) == digests(1, 2, 3)
    assert digests(1, 2, 3)[0] == digests(1, 9, 3)[0]
    assert digests(1, 2, 3)[2] != digests(1, 9, 3)[2]
