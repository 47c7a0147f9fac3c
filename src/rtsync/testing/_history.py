"""
A memory store that never forgets: what every log held at any time, to judge by what others say that it held.

It sees each append in the store itself, behind all faults, and what was lost. For each entry it keeps the document as of it (or
the event), so that what a client shows at a position can be compared with what the log held there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from math import inf
from typing import cast

from ..backends import TTL, Appended, Entry, MemoryStore, Retention
from ..core import (
    Channel,
    Document,
    EventEntry,
    PatchEntry,
    Position,
    Replace,
    StatusEntry,
    Value,
    apply,
    decode_entry,
)
from ..core._msgpack import unpack

__all__ = ["History", "Line", "Mark", "Past", "RecordingStore"]

Mark = tuple[str, int]
"""Who published what, as it stands in documents and events: the publisher's name and its count."""


class Past:
    """
    One entry that was in a log, or the place before the first.

    Attributes:
        value: The document as of this entry, or the event; ``None`` for a status in an event channel.
        mark: What was published with it.
        before: The entry before it; of events, the event before it.
        digest: Of everything up to this entry: two runs that agree on it agree on all that went before.
        passed_at: When the log moved on, by an entry (of events: an event) or a loss. Infinity for what a reader has to hold.
        lost_at: When it ceased to be part of the log's history.
    """

    __slots__ = ("appended_at", "before", "digest", "line", "link", "lost_at", "mark", "offset", "passed_at", "token", "value")

    def __init__(self, line: Line, offset: int, link: int, token: int, at: float) -> None:
        self.line = line
        self.offset = offset
        self.link = link
        self.token = token
        self.appended_at = at
        self.passed_at = self.lost_at = inf
        self.value: Document | Value = None
        self.mark: Mark | None = None
        self.before: Past | None = None
        self.digest = b""

    def __repr__(self) -> str:
        return f"<Past {self.offset}:{self.link:012x} {self.mark}>"


class Line:
    """One history of a log, from its first entry until it is lost, by whatever epochs it was called."""

    def __init__(self) -> None:
        self.start = Past(self, 0, 0, 0, 0.0)
        self.start.value = {}
        self.entries: list[Past] = []
        self.newest_event = self.start

    @property
    def newest(self) -> Past:
        return self.entries[-1] if self.entries else self.start


class History:
    """
    Everything one channel's log ever held.

    Attributes:
        entries: By link; what was lost stays.
        marks: What is in the log, or was and has been trimmed.
        ever: How often something was appended, lost or not.
        problems: What must not have happened to the log itself.
    """

    def __init__(self, channel: Channel, *, events: bool) -> None:
        self.channel = channel
        self.events = events
        self.entries: dict[int, Past] = {}
        self.marks: dict[Mark, Past] = {}
        self.ever: dict[Mark, int] = {}
        self.problems: list[str] = []
        self.losses = 0
        self._line = Line()
        self._epochs = {"": (self._line, inf)}  # {epoch: (its line, when it got another name)}
        self._writers: dict[int, str] = {}  # {token: node}
        self._retired: set[tuple[int, str]] = set()
        self._tokens_again = False
        self._split_until = 0.0

    def find(self, position: Position) -> Past | None:
        """Return the entry that *position* names, if the log ever held it by that name."""
        line, renamed_at = self._epochs.get(position.epoch, (None, -inf))
        if line is None:
            return None
        if position.offset == position.link == 0:
            return line.start
        past = self.entries.get(position.link)
        if past is None or past.line is not line or past.offset != position.offset or past.appended_at >= renamed_at:
            return None
        return past

    @property
    def head(self) -> Past:
        """What a reader holds that has everything."""
        return self._line.newest_event if self.events else self._line.newest

    def is_current(self, epoch: str) -> bool:
        """Whether the log goes by the name of *epoch* now."""
        line, renamed_at = self._epochs.get(epoch, (None, 0.0))
        return line is self._line and renamed_at == inf

    # ---- what happens to the log

    def begin(self, epoch: str, now: float) -> None:
        """The log is made by its first append."""
        self._line.start.passed_at = now
        self._line = Line()
        self._epochs[epoch] = (self._line, inf)

    def rename(self, before: str, after: str, now: float) -> None:
        """The history gets another name."""
        self._epochs[before] = (self._line, now)
        self._epochs[after] = (self._line, inf)

    def put(self, entry: Entry, now: float) -> None:
        """An entry is appended."""
        line = self._line
        past = Past(line, entry.offset, entry.link, entry.token, now)
        newest = line.newest
        body = decode_entry(entry.payload)
        before = line.newest_event if self.events else newest
        past.before = before
        past.digest = blake2b(newest.digest + entry.link.to_bytes(6, "big") + entry.payload, digest_size=8).digest()
        if isinstance(body, EventEntry):
            past.value = value = cast(Value, unpack(body.value))
            past.mark = _mark_of_event(value)
            line.newest_event = past
        elif isinstance(body, PatchEntry):
            past.value = apply(body.patch, cast(Document, before.value))
            past.mark = _mark_of_patch(body.patch.get("marks"))
        elif not self.events:
            past.value = before.value
        if not (self.events and isinstance(body, StatusEntry)):
            before.passed_at = now
        self._check(past, newest, body.writer)
        line.entries.append(past)
        self.entries[past.link] = past
        if past.mark is not None:
            self.marks[past.mark] = past
            self.ever[past.mark] = self.ever.get(past.mark, 0) + 1

    def _check(self, past: Past, newest: Past, writer: str) -> None:
        known = self.entries.get(past.link)
        if known is not None and known.lost_at == inf:
            self.problems.append(f"I10: the link of {past} was appended before")
        if past.mark is not None and past.mark in self.marks:
            self.problems.append(f"I10: {past} was appended before as {self.marks[past.mark]}")
        if past.token < newest.token:
            self.problems.append(f"I11: {past} has token {past.token}, the entry before it {newest.token}")
        if past.token and (owner := self._writers.setdefault(past.token, writer)) != writer:
            if past.appended_at < self._split_until or (self._tokens_again and (past.token, writer) not in self._retired):
                self._retired.add((past.token, owner))
                self._writers[past.token] = writer
            else:
                self.problems.append(f"I11: {past} of {writer} has token {past.token}, which {owner} had")

    def forget_newest(self, number: int, now: float) -> None:
        """The log is rolled back under the same epoch."""
        line = self._line
        for _ in range(number):
            self._lose(line.entries.pop(), now)
        self.losses += 1
        events = (past for past in reversed(line.entries) if past.mark is not None)
        line.newest_event = next(events, line.start)
        self.head.passed_at = inf

    def lose(self, now: float) -> None:
        """The log is gone."""
        for past in self._line.entries:
            self._lose(past, now)
        self._line.start.passed_at = min(self._line.start.passed_at, now)
        self.losses += 1
        self._line = Line()
        self._epochs[""] = (self._line, inf)

    def forget_tokens(self, until: float) -> None:
        """
        Leases begin anew, so that two nodes may have the same token until the old lease is over. Later a token may come again
        for another node, but never go back to the one that had it.
        """
        self._tokens_again = True
        self._split_until = until

    def _lose(self, past: Past, now: float) -> None:
        past.lost_at = now
        past.passed_at = min(past.passed_at, now)
        if past.mark is not None and self.marks.get(past.mark) is past:
            del self.marks[past.mark]


def _mark_of_event(value: Value) -> Mark | None:
    if isinstance(value, dict) and isinstance(mark := value.get("mark"), list):
        return cast(str, mark[0]), cast(int, mark[1])
    return None


def _mark_of_patch(marks: object) -> Mark | None:
    found = marks.value if isinstance(marks, Replace) else marks
    if isinstance(found, dict):
        return next(((name, number) for name, number in found.items() if type(number) is int), None)
    return None


class RecordingStore(MemoryStore):
    """
    A memory store that keeps the history of every channel except those of the nodes themselves. It suffers a broker's faults.

    Args:
        clock: Seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        shared_offsets: bool = False,
        lifetimes: Mapping[TTL, float] | None = None,
    ) -> None:
        super().__init__(shared_offsets=shared_offsets, lifetimes=lifetimes)
        self.histories: dict[Channel, History] = {}
        self._clock = clock

    def append(
        self,
        channel: Channel,
        payload: bytes,
        link: int,
        retention: Retention,
        expect: Position | None,
        token: int,
        *,
        now: float,
        mint: Callable[[], str],
    ) -> Appended:
        log = self.logs.get(channel)
        before = None if log is None else log.head
        appended = super().append(channel, payload, link, retention, expect, token, now=now, mint=mint)
        log = self.logs[channel]
        if not channel.startswith("$") and log.head != before:
            history = self.histories.get(channel)
            if history is None:
                history = self.histories[channel] = History(channel, events=not retention.keyframed)
            if before is None:
                history.begin(log.head.epoch, self._clock())
            history.put(log.entries[-1], self._clock())
        return appended

    def new_epoch(self, channel: Channel, expect: str, *, now: float, mint: Callable[[], str]) -> str:
        epoch = super().new_epoch(channel, expect, now=now, mint=mint)
        history = self.histories.get(channel)
        if history is not None and epoch and history.is_current(expect):
            history.rename(expect, epoch, self._clock())
        return epoch

    def keeps_after(self, channel: Channel, offset: int) -> bool:
        """Whether the log still holds every entry after *offset*."""
        log = self.logs.get(channel)
        return log is not None and (not log.entries or log.entries[0].previous <= offset)

    # ---- faults

    def roll_back(self, channel: Channel, entries: int) -> int:
        """Forget the newest entries of a log under the same epoch; return how many."""
        log = self.logs.get(channel)
        dropped = 0 if log is None else log.drop_newest(entries)
        if dropped and channel in self.histories:
            self.histories[channel].forget_newest(dropped, self._clock())
        return dropped

    def lose_log(self, channel: Channel) -> None:
        if channel in self.logs and channel in self.histories:
            self.histories[channel].lose(self._clock())
        super().lose_log(channel)

    def lose(self, *, revisions: bool = True) -> None:
        for channel, history in self.histories.items():
            if channel in self.logs:
                history.lose(self._clock())
            if revisions:
                history.forget_tokens(self._clock() + TTL.LEASE.value)
        super().lose(revisions=revisions)
