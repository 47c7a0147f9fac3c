"""An event channel on one node: a bounded window of events, each of which counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..backends import Cut, Entry
from ..core import (
    LIVE,
    Channel,
    Code,
    DecodeError,
    EventEntry,
    EventLog,
    PatchEntry,
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
        # The link of the place before the window is 0 when it is not known.
        return self._head.link if offset == self._head.offset else self._log.link_at(offset) or None

    # ---- the local log against the backend's

    def _begin(self, tail: Position) -> None:
        self._head = tail
        self._log = EventLog(self.family.retention.window, tail)
        self.offset = tail.offset
        self._cache.clear()

    def _adopt(self, epoch: str) -> None:
        self._replace(Position.start(epoch), ())

    def _put(self, entry: Entry) -> None:
        self._apply(entry, self._body_of(entry))

    def _body_of(self, entry: Entry) -> EventEntry | StatusEntry:
        """Return what *entry* holds. Raises `DecodeError`."""
        body = decode_entry(entry.payload)
        if isinstance(body, PatchEntry):
            raise DecodeError(Code.INTERNAL, f"entry {entry.offset} of {self.name} is a patch, in an event channel")
        return body

    def _apply(self, entry: Entry, body: EventEntry | StatusEntry) -> None:
        self._head = self._head.at(entry.offset, entry.link)
        if isinstance(body, EventEntry):
            self._log.put(StoredEvent(entry.offset, self._log.head.offset, entry.link, body.value))
            self.offset = entry.offset
            self._cache.clear()
        self.writer = body.writer
        if isinstance(body, StatusEntry):
            self.source_status = body.status

    def _rebuild(self, cut: Cut) -> None:
        entries = [(entry, self._body_of(entry)) for entry in cut.entries]
        oldest = cut.entries[0].previous if entries else cut.head.offset
        known = cut.head.link if oldest == cut.head.offset else 0
        self._replace(Position(cut.head.epoch, oldest, known), entries)

    def _replace(self, tail: Position, entries: Sequence[tuple[Entry, EventEntry | StatusEntry]]) -> None:
        """Begin the log anew with *entries* after *tail*; every subscription goes on where it stood, or learns of a gap."""
        standing = [(subscription, self._position_of(subscription)) for subscription in self.subscriptions]
        before = self._log
        self._begin(tail)
        # The status before an event is always live; it may have left the window.
        self.source_status = LIVE if entries else self.unsaid
        for entry, body in entries:
            self._apply(entry, body)
        self._judge()
        log = self._log
        kept = reversed(log.after(log.tail.offset))
        shared = next((event for event in kept if before.link_at(event.offset) == event.link), None)
        for subscription, position in standing:
            # Whatever follows the newest entry that both logs have is new to everybody who stood behind that entry.
            known = shared is not None and shared.offset <= position.offset
            self._move(subscription, position, log.head.at(shared.offset, shared.link) if shared and known else log.tail)

    # ---- reading

    def establish(self, subscription: Subscription) -> tuple[Position, bool, Sequence[str]]:
        wanted = subscription.wanted
        if wanted is None:
            subscription.cursor = self.offset
            return self._log.head, False, ()
        known = self._find(wanted)
        if known is not None:
            subscription.cursor = known.offset
            return known, True, ()
        self._owe_gap(subscription, wanted, *self._go_on(wanted, self._log.head))
        return wanted, False, ()

    def _find(self, position: Position) -> Position | None:
        """Return *position* by the name it has in this log, if everything that follows it is here."""
        log = self._log
        if position == NOWHERE and log.tail.offset == 0:
            return log.tail  # nothing was ever missed by who has seen nothing
        return position if log.verify(position) else None

    def _move(self, subscription: Subscription, position: Position, otherwise: Position) -> None:
        """Let a subscription that stood at *position* go on in a log that was replaced; behind a gap if that is not certain."""
        known, owed = self._find(position), subscription.owed_gap
        if owed is not None:
            end, _ = self._go_on(position, otherwise)
            self._owe_gap(subscription, owed.start, end, owed.reason)
        elif known is None:
            self._owe_gap(subscription, position, *self._go_on(position, otherwise))
        else:
            subscription.cursor = known.offset
            if known.epoch != position.epoch:
                subscription.session.restate(subscription, known)

    def _go_on(self, position: Position, otherwise: Position) -> tuple[Position, str]:
        """
        Return where delivery goes on for who stood at *position*, and why there is a gap before it.

        That is the window's tail if *position* has fallen out. In another history it is the very same entry, if it is here
        under another epoch, else *otherwise*.
        """
        log = self._log
        tail = log.tail
        unproven = position.offset == tail.offset and not tail.link
        fell_out = position.epoch == log.head.epoch and (position.offset < tail.offset or unproven)
        if fell_out or position == NOWHERE:
            return tail, "window"
        if position.link and log.link_at(position.offset) == position.link:
            return log.head.at(position.offset, position.link), "epoch"
        return otherwise, "epoch"

    def _owe_gap(self, subscription: Subscription, start: Position, end: Position, reason: str) -> None:
        subscription.owed_gap = frames.Gap(self.alias, start, end, reason)
        subscription.cursor = NOTHING

    def _position_of(self, subscription: Subscription) -> Position:
        """Return where delivery goes on; the link of an event that has left the window is unknown, and 0."""
        if subscription.owed_gap is not None:
            return subscription.owed_gap.position
        cursor = subscription.cursor
        return self._log.head.at(cursor, self._log.link_at(cursor) or 0)

    def is_behind(self, subscription: Subscription) -> bool:
        return subscription.cursor != self.offset

    def read(self, subscription: Subscription, profile: Profile, budget: int) -> bytes:
        if subscription.owed_gap is None and not self._log.covers(subscription.cursor):
            self._owe_gap(subscription, self._position_of(subscription), self._log.tail, "window")
        gap = b"" if subscription.owed_gap is None else self._pay_gap(subscription, subscription.owed_gap, profile)
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

    def _pay_gap(self, subscription: Subscription, owed: frames.Gap, profile: Profile) -> bytes:
        """Return the gap frame, which reaches further by now if the window has moved on, and stand behind the gap."""
        log = self._log
        end = owed.position if log.covers(owed.position.offset) else log.tail
        subscription.owed_gap = None
        subscription.cursor = end.offset
        self.gaps += 1
        return profile.encode(frames.Gap(self.alias, owed.start, end, owed.reason))
