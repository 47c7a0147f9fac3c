"""An event channel on one node: a bounded window of events, each of which counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..backends import Cut, Entry
from ..core import (
    Channel,
    EventEntry,
    EventLog,
    Position,
    Profile,
    StatusEntry,
    StoredEvent,
    decode_entry,
    frames,
)
from ._channel import NOWHERE, LiveChannel
from ._families import Family
from ._frame_cache import FrameCache
from ._subscription import Subscription

__all__ = ["EventChannel"]


class EventChannel(LiveChannel):
    """
    Holds a window of events.

    Statuses of the source take an offset of the backend's log but are no events: `head` counts them, the window does not, and
    an event's frame names the event before it.
    """

    def __init__(
        self, name: Channel, family: Family, alias: int, cache: FrameCache, changed: Callable[[LiveChannel], None]
    ) -> None:
        super().__init__(name, family, alias, cache, changed)
        self._begin(NOWHERE)

    @property
    def head(self) -> Position:
        return self._head

    def link_at(self, offset: int) -> int | None:
        return self._head.link if offset == self._head.offset else self._log.link_at(offset)

    # ---- the local log against the backend's

    def _begin(self, tail: Position) -> None:
        self._head = tail
        self._log = EventLog(self.family.retention.window, tail)
        self._cache.clear()

    def _adopt(self, epoch: str) -> None:
        self._begin(Position.start(epoch))
        for subscription in self.subscriptions:  # they stand at the start of the empty log, which has a name now
            subscription.stand_at(self._head)
            subscription.session.restate(subscription, self._head)

    def _put(self, entry: Entry) -> bool:
        body = decode_entry(entry.payload)
        if isinstance(body, EventEntry):
            self._log.put(StoredEvent(entry.offset, self._log.head.offset, entry.link, body.value))
            self._cache.clear()
        elif isinstance(body, StatusEntry):
            self.source_status = body.status
        else:
            return False
        self.writer = body.writer
        self._head = self._head.at(entry.offset, entry.link)
        return True

    def _rebuild(self, cut: Cut) -> None:
        oldest = cut.entries[0].previous if cut.entries else cut.head.offset
        known = cut.head.link if oldest == cut.head.offset else 0
        self._begin(Position(cut.head.epoch, oldest, known))
        self.source_status = self.unsaid
        for entry in cut.entries:
            self._put(entry)
            self.token = entry.token
        for subscription in self.subscriptions:
            self._check(subscription, subscription.position)

    # ---- reading

    def establish(self, subscription: Subscription) -> tuple[Position, bool, Sequence[str]]:
        wanted = subscription.wanted
        if wanted is None:
            subscription.stand_at(self._log.head)
            return self._log.head, False, ()
        subscription.stand_at(wanted)
        recovered = self._check(subscription, wanted)
        return subscription.position, recovered, ()

    def _check(self, subscription: Subscription, position: Position) -> bool:
        """Prove that the window continues *position*; if it does not, a gap is owed."""
        log = self._log
        if position == NOWHERE and log.tail.offset == 0:
            subscription.stand_at(log.tail)  # nothing was ever missed by who has seen nothing
        elif not log.verify(position):
            subscription.owed_gap = position
            return False
        return True

    def is_behind(self, subscription: Subscription) -> bool:
        return subscription.cursor != self._log.head.offset or subscription.owed_gap is not None

    def read(self, subscription: Subscription, profile: Profile, budget: int) -> bytes:
        log = self._log
        if subscription.owed_gap is None and not log.covers(subscription.cursor):
            subscription.owed_gap = subscription.position
        gap = b"" if subscription.owed_gap is None else self._pay_gap(subscription, profile)
        head = log.head
        if subscription.cursor == head.offset:
            return gap
        events = log.after(subscription.cursor)
        if len(events) == 1 and not gap:
            subscription.cursor, subscription.link = head.offset, head.link
            return self._newest(events[0], profile)
        taken = [gap]
        size = len(gap)
        for event in events:
            frame = self._newest(event, profile) if event.offset == head.offset else profile.encode_event(self.alias, event)
            if size and size + len(frame) > budget:
                break
            taken.append(frame)
            size += len(frame)
            subscription.cursor, subscription.link = event.offset, event.link
        return b"".join(taken)

    def _newest(self, event: StoredEvent, profile: Profile) -> bytes:
        """Return the frame of the newest event, built once for everybody."""
        cached = self._cache.get(profile.name, event.previous)
        if cached is None:
            cached = self._cache.put(profile.name, event.previous, (profile.encode_event(self.alias, event),))
        return cached[0]

    def _pay_gap(self, subscription: Subscription, profile: Profile) -> bytes:
        """
        Return the gap frame and stand where delivery continues: at the window's tail if history is the same, else at the head.
        """
        start = subscription.owed_gap
        assert start is not None
        log = self._log
        fell_out = start.epoch in (log.head.epoch, "") and start.offset < log.tail.offset
        subscription.stand_at(log.tail if fell_out else log.head)
        subscription.owed_gap = None
        self.gaps += 1
        return profile.encode(frames.Gap(self.alias, start, subscription.position, "window" if fell_out else "epoch"))
