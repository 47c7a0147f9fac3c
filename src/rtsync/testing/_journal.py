"""
What clients saw and publishers were told in a simulation, checked against what the logs held.

The rules, by the names under which they are reported:

- I1: a delta is applied to the very document it was made for;
- I2: what a client shows at a position is what the log held there;
- I4: a position goes back, or into another history, only with a keyframe or a gap;
- I5: a position names one entry, for ever and to everybody;
- I6: no subscription is refused, and no publisher left without an answer;
- I7: events come in order, once, and what is missing lies inside exactly one gap; there is no gap where nothing is missing;
- I8: when nothing is wrong, everybody holds the head and says so;
- I9: what a node cannot confirm is not shown as live for longer than five seconds;
- I10: what was acked is in the log once, what was rejected never is, and what is unknown at most once;
- I11: the entries of a leased channel have tokens that never fall, and each token has one writer;
- I18: who leaves, leaves nothing behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import takewhile
from math import inf
from typing import Final

from ..core import Change, Document, Event, Gap, Position, SourceStatus, Update, Value, apply, same
from ._history import History, Mark, Past, RecordingStore

__all__ = ["Journal", "Line", "ViewJournal", "Violation"]

Line = tuple[int, str, str, str, str, int, int, str]
"""Microsecond, who, channel, what, epoch, offset, link, digest."""

_MOST_VIOLATIONS: Final = 100
_COMPLAIN_EVERY: Final = 60.0

_CHECKED_PATCHES: Final = 16
"""Of so many deltas one is checked to lead from the document before to the one after; all are checked for where they lead."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken: when, which one, by whom and how."""

    at: float
    rule: str
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:.6f} s  {self.rule}, {self.who}: {self.what}"


class Journal:
    """The lines that everybody wrote, and the rules that were broken."""

    def __init__(self, store: RecordingStore, clock: Callable[[], float]) -> None:
        self.store = store
        self.clock = clock
        self.lines: list[Line] = []
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()
        self.worst: dict[str, float] = {}  # {measure: seconds}
        self._complained: dict[tuple[str, str], float] = {}
        self._told: dict[str, dict[Mark, str]] = {}  # {channel: {mark: outcome}}

    def write(self, who: str, channel: str, what: str, position: Position | None, digest: str) -> None:
        """Add a line."""
        epoch, offset, link = position or ("", 0, 0)
        self.lines.append((round(self.clock() * 1e6), who, channel, what, epoch[:8], offset, link, digest))

    def broken(self, rule: str, who: str, what: str) -> None:
        """Note that a rule was broken; of a rule that somebody goes on breaking, every minute."""
        self.counts["violations"] += 1
        now = self.clock()
        if now - self._complained.get((rule, who), -inf) >= _COMPLAIN_EVERY and len(self.violations) < _MOST_VIOLATIONS:
            self._complained[rule, who] = now
            self.violations.append(Violation(now, rule, who, what))

    def measure(self, what: str, seconds: float) -> None:
        """Remember the longest of what is measured."""
        if seconds > self.worst.get(what, 0.0):
            self.worst[what] = seconds

    def trace(self, until: float = inf) -> str:
        """Return a hash of everything written before a second. The order in which lines of one microsecond came is left out."""
        last = inf if until == inf else round(until * 1e6)
        lines = sorted(self.lines)
        hashed = blake2b(digest_size=16)
        for line in takewhile(lambda line: line[0] < last, lines):
            hashed.update(repr(line).encode())
        return hashed.hexdigest()

    def history(self, channel: str) -> History | None:
        """Return what a channel's log ever held; ``None`` if nothing yet."""
        return next((history for name, history in self.store.histories.items() if name == channel), None)

    # ---- publishers

    def acked(self, who: str, channel: str, mark: Mark, position: Position, value: Value) -> None:
        """A publisher was told that what it published is in the log: *value*, if that can be told."""
        self._tell(channel, mark, "acked")
        history = self.history(channel)
        past = None if history is None else history.find(position)
        self.write(who, channel, "acked", position, _digest(past))
        if past is None:
            self.broken("I10", who, f"{mark} acked at {position}, which {channel} never held")
        elif not _holds(past, mark) or not (value is None or same(past.value, value)):
            self.broken("I10", who, f"{mark} acked at {position}, where {channel} holds {past.value!r}")

    def not_acked(self, who: str, channel: str, mark: Mark, outcome: str) -> None:
        """A publisher was told that what it published is not in the log, or may be, or was told nothing."""
        self._tell(channel, mark, outcome)
        self.write(who, channel, f"{outcome} {mark[1]}", None, "")

    def _tell(self, channel: str, mark: Mark, outcome: str) -> None:
        self.counts[outcome] += 1
        self._told.setdefault(channel, {})[mark] = outcome

    def check_outcomes(self) -> None:
        """Check at the end that what was promised of each publish still holds."""
        for history in self.store.histories.values():
            for problem in history.problems:
                self.broken(problem[:3].rstrip(":"), history.channel, problem)
            for mark, outcome in self._told.get(history.channel, {}).items():
                times = history.ever.get(mark, 0)
                if outcome == "rejected" and times:
                    self.broken("I10", history.channel, f"{mark} was rejected and is in the log")
                elif outcome == "acked" and mark not in history.marks and not history.losses:
                    self.broken("I10", history.channel, f"{mark} was acked and is not in the log")
                elif times > 1 and not history.losses:
                    self.broken("I10", history.channel, f"{mark} was appended {times} times")


class ViewJournal:
    """
    One subscription as its consumer sees it.

    Attributes:
        held: The position of the last update; before the first, where the subscription was asked to begin.
    """

    def __init__(self, journal: Journal, who: str, channel: str, begin: Position | None) -> None:
        self.journal = journal
        self.who = who
        self.channel = channel
        self.held = begin
        self._value: Document | None = None
        self._history: History | None = None
        self._deltas = 0

    def take(self, update: Update) -> None:
        """Write an update down and check it."""
        if isinstance(update, Change):
            self._take_change(update)
        elif isinstance(update, Event):
            self._take_event(update)
        else:
            self._take_gap(update)
        self.held = update.position

    def take_status(self, status: SourceStatus) -> None:
        """Write down that the channel is shown with another freshness."""
        self.journal.write(self.who, self.channel, f"{status.freshness} {status.reason}", None, "")

    def past(self, position: Position) -> Past | None:
        """Return the entry of the log that *position* names."""
        if self._history is None:
            self._history = self.journal.history(self.channel)
        return None if self._history is None else self._history.find(position)

    # ---- what came

    def _take_change(self, change: Change) -> None:
        position, held = change.position, self.held
        past = self.past(position)
        self.journal.counts[change.kind] += 1
        self.journal.write(self.who, self.channel, change.kind, position, _digest(past))
        if change.kind == "delta":
            if held is None or self._value is None or held.epoch != position.epoch or held.offset >= position.offset:
                self._broken("I4", f"a delta leads from {held} to {position}")
            elif self._deltas % _CHECKED_PATCHES == 0 and not _leads(change, self._value):
                self._broken("I1", f"the patch from {held} to {position} does not lead there")
            self._deltas += 1
        elif change.kind == "status" and held != position:
            self._broken("I4", f"only the freshness changed, but {held} became {position}")
        value, self._value = self._value, change.value
        if past is None:
            if position.link or self._history is not None:
                self._broken("I5", f"{position} names no entry that was ever in the log")
        elif change.kind == "status":
            if change.value is not value:
                self._broken("I2", f"only the freshness changed, but so did the document at {position}")
        elif past.value != change.value or (change.kind == "keyframe" and not same(past.value, change.value)):
            self._broken("I2", f"the document shown at {position} is {change.value!r}; the log holds {past.value!r}")

    def _take_event(self, event: Event) -> None:
        position, held = event.position, self.held
        past = self.past(position)
        self.journal.counts["event"] += 1
        self.journal.write(self.who, self.channel, "event", position, _digest(past))
        if past is None:
            self._broken("I5", f"{position} names no event that was ever in the log")
            return
        if not same(past.value, event.value):
            self._broken("I2", f"the event shown at {position} is {event.value!r}; the log holds {past.value!r}")
        before = past.before
        assert before is not None
        if held is None:
            return
        if held.epoch != position.epoch and (held.epoch or before.offset):
            self._broken("I7", f"{position} follows {held} without a gap")
        elif held.offset >= position.offset:
            self._broken("I7", f"{position} comes after {held}: twice, or out of order")
        elif held.offset < before.offset:
            self._broken("I7", f"{position} follows {held} without a gap: {before} is missing")
        elif held.offset == before.offset and held.link and held.link != before.link:
            self._broken("I7", f"{position} follows {held}, but in the log it follows {before}")

    def _take_gap(self, gap: Gap) -> None:
        held = self.held
        self.journal.counts[f"gap: {gap.reason}"] += 1
        self.journal.write(self.who, self.channel, f"gap {gap.reason}", gap.position, "")
        if held is not None and gap.start != held:
            self._broken("I7", f"a gap begins at {gap.start}; held was {held}")
        if gap.start.epoch == gap.position.epoch and gap.position.offset <= gap.start.offset:
            self._broken("I7", f"a gap leads from {gap.start} back to {gap.position}")
        if self._history is None:
            self._history = self.journal.history(self.channel)
        if self._history is None:
            return
        past = self._history.find(gap.start)
        continues = past is not None and past.lost_at == inf and self._history.is_current(gap.start.epoch)
        if continues and self.journal.store.keeps_after(self._history.channel, gap.start.offset):
            self._broken(
                "I7", f"a gap from {gap.start} to {gap.position} ({gap.reason}), but the log still holds what is missing"
            )

    def _broken(self, rule: str, what: str) -> None:
        self.journal.broken(rule, self.who, f"{self.channel}: {what}")


def _holds(past: Past, mark: Mark) -> bool:
    """Whether what was published as *mark* is in the event, or in the document, as of an entry."""
    if past.mark == mark:
        return True
    marks = past.value.get("marks") if isinstance(past.value, dict) else None
    return isinstance(marks, dict) and marks.get(mark[0]) == mark[1]


def _leads(change: Change, before: Document) -> bool:
    """Whether the patch leads from the document before to the one it came with."""
    return change.patch is None or same(apply(change.patch, before), change.value)


def _digest(past: Past | None) -> str:
    return "" if past is None else past.digest.hex()
