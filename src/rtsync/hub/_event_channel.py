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
from ._subscription import NOTHING, Subscription

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
        self.offset = tail.offset
        self._cache.clear()

    def _adopt(self, epoch: str) -> None:
        self._begin(Position.start(epoch))
        for subscription in self.subscriptions:  # they stand at the start of the empty log, which has a name now
            subscription.cursor = 0
            subscription.session.restate(subscription, self._head)

    def _put(self, entry: Entry) -> bool:
        body = decode_entry(entry.payload)
        if isinstance(body, EventEntry):
            self._log.put(StoredEvent(entry.offset, self._log.head.offset, entry.link, body.value))
            self.offset = entry.offset
            self._cache.clear()
        elif isinstance(body, StatusEntry):
            self._say(body.status)
        else:
            return False
        self.writer = body.writer
        self._head = self._head.at(entry.offset, entry.link)
        return True

    def _rebuild(self, cut: Cut) -> None:
        held = {subscription: self._position_of(subscription) for subscription in self.subscriptions}
        oldest = cut.entries[0].previous if cut.entries else cut.head.offset
        known = cut.head.link if oldest == cut.head.offset else 0
        self._begin(Position(cut.head.epoch, oldest, known))
        self._say(self.unsaid)
        for entry in cut.entries:
            self._put(entry)
            self.token = entry.token
        for subscription, position in held.items():
            self._stand(subscription, position)

    # ---- reading

    def establish(self, subscription: Subscription) -> tuple[Position, bool, Sequence[str]]:
        wanted = subscription.wanted
        if wanted is None:
            subscription.cursor = self.offset
            return self._log.head, False, ()
        recovered = self._stand(subscription, wanted)
        return (self._position_of(subscription) if recovered else wanted), recovered, ()

    def _stand(self, subscription: Subscription, position: Position) -> bool:
        """Put the cursor on *position* if the window continues it; if it does not, a gap is owed."""
        log = self._log
        if position == NOWHERE and log.tail.offset == 0:
            position = log.tail  # nothing was ever missed by who has seen nothing
        if log.verify(position):
            subscription.cursor = position.offset
            return True
        self._owe_gap(subscription, position)
        return False

    @staticmethod
    def _owe_gap(subscription: Subscription, position: Position) -> None:
        subscription.owed_gap = position
        subscription.cursor = NOTHING

    def _position_of(self, subscription: Subscription) -> Position:
        """Return what the client holds; the link of an event that has left the window is unknown, and 0."""
        if subscription.owed_gap is not None:
            return subscription.owed_gap
        cursor = subscription.cursor
        return self._log.head.at(cursor, self._log.link_at(cursor) or 0)

    def is_behind(self, subscription: Subscription) -> bool:
        return subscription.cursor != self.offset

    def read(self, subscription: Subscription, profile: Profile, budget: int) -> bytes:
        if subscription.owed_gap is None and not self._log.covers(subscription.cursor):
            self._owe_gap(subscription, self._position_of(subscription))
        gap = b"" if subscription.owed_gap is None else self._pay_gap(subscription, profile)
        taken, size = [gap], len(gap)
        for event in self._log.after(subscription.cursor):
            frame = self._newest(event, profile) if event.offset == self.offset else profile.encode_event(self.alias, event)
            if size and size + len(frame) > budget:
                break
            taken.append(frame)
            size += len(frame)
            subscription.cursor = event.offset
        return b"".join(taken)

    def _newest(self, event: StoredEvent, profile: Profile) -> bytes:
        """Return the frame of the newest event, built once for everybody."""
        frame = self._cache.of(profile).get(event.previous)
        return frame or self._cache.put(profile, event.previous, profile.encode_event(self.alias, event))

    def _pay_gap(self, subscription: Subscription, profile: Profile) -> bytes:
        """
        Return the gap frame and stand where delivery continues: at the window's tail if history is the same, else at the head.
        """
        start = subscription.owed_gap
        assert start is not None
        log = self._log
        fell_out = start.epoch in (log.head.epoch, "") and start.offset < log.tail.offset
        continues = log.tail if fell_out else log.head
        subscription.owed_gap = None
        subscription.cursor = continues.offset
        self.gaps += 1
        return profile.encode(frames.Gap(self.alias, start, continues, "window" if fell_out else "epoch"))
