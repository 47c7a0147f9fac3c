"""The logs and records of the memory backend: synchronous, so that nothing can come between checking and changing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count, islice
from typing import Final

from ..core import Channel, Conflict, Fenced, KeyframeNeeded, Position, UsageError
from ._notices import NoticeQueue
from ._protocol import TTL, Announcement, Appended, Cut, Entry, Keyframe, Record, Retention

__all__ = ["ABSENT", "MemoryLog", "MemoryStore"]

ABSENT: Final = Position("", 0, 0)
"""The head of a log that does not exist."""

Mint = Callable[[], str]

_SWEEP: Final = 32
"""Most expired logs dropped in one append: more than it can add, few enough not to be felt."""


class MemoryLog:
    """
    One channel's log.

    A state log holds between one and two keyframe intervals: a new keyframe lets go of what lies before its predecessor's
    entry, so that a reader always finds a keyframe whose entry is still there, and what came after it.
    """

    __slots__ = ("entries", "head", "keyframes", "links", "retention", "touched")

    def __init__(self, epoch: str, retention: Retention) -> None:
        self.head = Position.start(epoch)
        self.entries: deque[Entry] = deque()
        self.links: dict[int, Entry] = {}  # {link: retained entry}
        self.keyframes: list[tuple[Entry, bytes]] = []  # at most two, older first
        self.retention = retention
        self.touched = 0.0  # when the last append came, if the log may expire

    def __repr__(self) -> str:
        keyframes = [entry.offset for entry, _ in self.keyframes]
        return f"<MemoryLog head={self.head} entries={len(self.entries)} keyframes={keyframes}>"

    def expired(self, now: float) -> bool:
        return self.retention.max_age is not None and now - self.touched >= self.retention.max_age

    def full(self) -> bool:
        return len(self.entries) >= self.retention.window

    def read(self) -> Cut:
        for entry, payload in self._kept_keyframes():
            # Offsets may have holes, so the place of the keyframe's entry is looked for; reads are rare.
            skip = next(index for index, other in enumerate(self.entries) if other is entry)
            keyframe = Keyframe(self.head.at(entry.offset, entry.link), payload)
            return Cut(self.head, keyframe, tuple(islice(self.entries, skip, None)))
        return Cut(self.head, None, tuple(self.entries))

    def save_keyframe(self, position: Position, payload: bytes) -> bool:
        entry = self.links.get(position.link)
        if not self.retention.keyframed or entry is None or self.head.at(entry.offset, entry.link) != position:
            return False
        kept = list(self._kept_keyframes())
        newest = kept[-1][0] if kept else None
        if newest is not None and entry.offset < newest.offset:
            return True  # another node saved a newer one meanwhile: it serves every reader that this one would
        if newest is entry:
            kept[-1] = (entry, payload)
        else:
            kept = [*kept[-1:], (entry, payload)]
            if newest is not None:
                self._trim(newest.offset)
        if self.full():
            # Keeping the interval before would leave no room to append, and nothing else ever trims a state log.
            kept = kept[-1:]
            self._trim(entry.offset)
        self.keyframes = kept
        return True

    def drop_oldest(self) -> None:
        del self.links[self.entries.popleft().link]

    def drop_newest(self, wanted: int) -> int:
        """
        Forget the newest entries as a store does that restarts from an old snapshot: same epoch, lower head.

        The oldest entry of a trimmed log stays, because what was before it is gone.

        Returns:
            How many entries were dropped.
        """
        untrimmed = not self.entries or self.entries[0].previous == 0
        dropped = min(wanted, len(self.entries) - (0 if untrimmed else 1))
        for _ in range(dropped):
            del self.links[self.entries.pop().link]
        last = self.entries[-1] if self.entries else None
        self.head = self.head.at(last.offset, last.link) if last else Position.start(self.head.epoch)
        return dropped

    def _trim(self, offset: int) -> None:
        while self.entries[0].offset < offset:
            self.drop_oldest()

    def _kept_keyframes(self) -> Iterator[tuple[Entry, bytes]]:
        """The keyframes whose own entry is retained; after a rollback the newest may not be."""
        return (pair for pair in self.keyframes if self.links.get(pair[0].link) is pair[0])


class _Shelf:
    """The records of one lifetime class, the next to expire first."""

    __slots__ = ("lifetime", "records", "revision")

    def __init__(self, lifetime: float) -> None:
        self.lifetime = lifetime
        self.records: dict[str, tuple[float, Record]] = {}  # {key: (when it expires, record)}
        self.revision = 0

    def expire(self, now: float) -> None:
        # Every put moves its key to the end and all live equally long: the order of the dict is the order of expiry.
        while self.records:
            key = next(iter(self.records))
            if self.records[key][0] > now:
                return
            del self.records[key]


class MemoryStore:
    """
    What several `MemoryBackend` nodes of one process share, as they would share a broker.

    Args:
        shared_offsets: Number the entries of all channels in one sequence, as JetStream does, so that each channel's offsets
            have holes; otherwise each channel counts for itself, as Redis does.
        lifetimes: Seconds by lifetime class, where they are not to be the class's default.
    """

    def __init__(self, *, shared_offsets: bool = False, lifetimes: Mapping[TTL, float] | None = None) -> None:
        self.logs: dict[Channel, MemoryLog] = {}
        self._shared_offsets = shared_offsets
        self._last_offset = 0  # over all channels, if they share a sequence
        self._watchers: dict[Channel, tuple[NoticeQueue, ...]] = {}
        self._expiries: list[tuple[float, int, Channel, MemoryLog]] = []  # heap; each log that may expire, never too late
        self._ties = count()  # so that the heap never compares logs
        self._shelves = {ttl: _Shelf(ttl.value if lifetimes is None else lifetimes.get(ttl, ttl.value)) for ttl in TTL}

    def __repr__(self) -> str:
        records = sum(len(shelf.records) for shelf in self._shelves.values())
        return f"<MemoryStore logs={len(self.logs)} watched={len(self._watchers)} records={records}>"

    # ---- the log

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
        mint: Mint,
    ) -> Appended:
        log = self._find(channel, now)
        if log is None:
            if expect is not None and expect.offset:
                raise Conflict(ABSENT)
            log = self._create(channel, retention, now, mint)
        head = log.head
        entries = log.entries
        known = log.links.get(link)
        if known is not None:
            return Appended(head.at(known.offset, link), known.previous)
        if entries and entries[-1].token > token:
            raise Fenced(entries[-1].token)
        if expect is not None and expect != head and (expect.offset or head.offset):
            raise Conflict(head)
        if len(entries) >= retention.window:
            if retention.keyframed:
                raise KeyframeNeeded(retention.window)
            log.drop_oldest()
        if self._shared_offsets:
            offset = self._last_offset = self._last_offset + 1
        else:
            offset = head.offset + 1
        entry = Entry(offset, head.offset, link, token, payload)
        entries.append(entry)
        log.links[link] = entry
        log.head = position = Position(head.epoch, offset, link)
        if retention.max_age is not None:
            log.touched = now
            self._expire(now)
        watchers = self._watchers.get(channel)
        if watchers:
            announcement = Announcement(channel, head.epoch, entry)
            for queue in watchers:
                queue.announce(announcement)
        return Appended(position, head.offset)

    def read(self, channel: Channel, now: float) -> Cut:
        log = self._find(channel, now)
        return Cut(ABSENT, None, ()) if log is None else log.read()

    def head(self, channel: Channel, now: float) -> Position:
        log = self._find(channel, now)
        return ABSENT if log is None else log.head

    def save_keyframe(self, channel: Channel, position: Position, payload: bytes, now: float) -> bool:
        log = self._find(channel, now)
        return log is not None and log.save_keyframe(position, payload)

    def new_epoch(self, channel: Channel, expect: str, *, now: float, mint: Mint) -> str:
        log = self._find(channel, now)
        if log is None:
            return ""
        if log.head.epoch == expect:
            log.head = log.head._replace(epoch=mint())
        return log.head.epoch

    def _find(self, channel: Channel, now: float) -> MemoryLog | None:
        log = self.logs.get(channel)
        if log is not None and log.expired(now):
            del self.logs[channel]
            return None
        return log

    def _create(self, channel: Channel, retention: Retention, now: float, mint: Mint) -> MemoryLog:
        least = 2 if retention.keyframed else 1  # a keyframe keeps its own entry, and the next one needs room
        if retention.window < least:
            raise UsageError("retention.window", f"is {retention.window}, must be at least {least}")
        log = MemoryLog(mint(), retention)
        if retention.max_age is not None:
            log.touched = now
            self._expire_at(now + retention.max_age, channel, log)
        self.logs[channel] = log
        return log

    def _expire(self, now: float) -> None:
        """Drop logs that are over, a few at a time."""
        for _ in range(_SWEEP):
            if not self._expiries or self._expiries[0][0] > now:
                return
            *_, channel, log = heappop(self._expiries)
            if self.logs.get(channel) is not log or log.retention.max_age is None:
                continue  # it is gone already; another log may have its name
            if log.expired(now):
                del self.logs[channel]
            else:
                # Appends do not move their log in the heap: it moves when it comes up.
                self._expire_at(log.touched + log.retention.max_age, channel, log)

    def _expire_at(self, deadline: float, channel: Channel, log: MemoryLog) -> None:
        heappush(self._expiries, (deadline, next(self._ties), channel, log))

    # ---- announcements

    def watch(self, channel: Channel, queue: NoticeQueue) -> None:
        self._watchers[channel] = (*self._watchers.get(channel, ()), queue)

    def unwatch(self, channel: Channel, queue: NoticeQueue) -> None:
        others = tuple(other for other in self._watchers.get(channel, ()) if other is not queue)
        if others:
            self._watchers[channel] = others
        else:
            self._watchers.pop(channel, None)

    # ---- the key-value store

    def get(self, ttl: TTL, key: str, now: float) -> Record | None:
        expires, record = self._shelves[ttl].records.get(key, (now, None))
        return record if expires > now else None

    def put(self, ttl: TTL, key: str, value: bytes, expect: int | None, now: float) -> int:
        shelf = self._shelves[ttl]
        shelf.expire(now)
        self._check(shelf, key, expect)
        shelf.records.pop(key, None)  # so that it moves to the end
        shelf.revision += 1
        shelf.records[key] = (now + shelf.lifetime, Record(key, value, shelf.revision))
        return shelf.revision

    def delete(self, ttl: TTL, key: str, expect: int | None, now: float) -> None:
        shelf = self._shelves[ttl]
        shelf.expire(now)
        self._check(shelf, key, expect)
        shelf.records.pop(key, None)

    def list(self, ttl: TTL, prefix: str, now: float) -> Sequence[Record]:
        shelf = self._shelves[ttl]
        shelf.expire(now)
        return [shelf.records[key][1] for key in sorted(shelf.records) if key.startswith(prefix)]

    @staticmethod
    def _check(shelf: _Shelf, key: str, expect: int | None) -> None:
        if expect is not None:
            found = shelf.records.get(key)
            if expect != (found[1].revision if found else 0):
                raise Conflict(None)

    # ---- what a broker suffers (see rtsync.testing)

    def lose_log(self, channel: Channel) -> None:
        """Forget one log, as if it had never been."""
        self.logs.pop(channel, None)

    def lose_records(self, *, revisions: bool = False) -> None:
        """Forget all records; with *revisions* their counters too."""
        for shelf in self._shelves.values():
            shelf.records.clear()
            if revisions:
                shelf.revision = 0

    def lose(self, *, revisions: bool = True) -> None:
        """Forget everything but who watches."""
        self.logs.clear()
        self._expiries.clear()
        self._last_offset = 0
        self.lose_records(revisions=revisions)
