"""
The local copy of a channel's log, as one node holds it: what every cursor is read against.

Both logs keep the links of a window of entries, which is what a returning cursor is verified with, and answer the same
questions: `verify` (is this position ours?), `covers` (can a cursor at this offset be led to the head?) and what it missed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from ._document import VersionedDocument
from ._patch import Patch, apply
from ._position import Position
from ._values import Document

__all__ = ["EventLog", "StateLog", "StoredEvent"]


class StateLog:
    """
    The log of a state channel as a versioned document.

    Args:
        window: Entries whose positions can be resumed from, at least 1.

    Attributes:
        head: Position of the newest entry.
        tail: Offset of the oldest entry that can be resumed from.
        document: The document at the head. Never changed in place, so that it may be kept.
    """

    __slots__ = ("_links", "_offsets", "_tree", "_window", "document", "head", "tail")

    def __init__(self, window: int, head: Position, document: Document) -> None:
        self._window = window
        self.reset(head, document)

    def reset(self, head: Position, document: Document) -> None:
        """Begin again at a keyframe: only its own position can be resumed from."""
        self.head = head
        self.tail = head.offset
        self.document = document
        self._tree = VersionedDocument(document, head.offset)
        self._links = {head.offset: head.link}  # {offset: link}
        self._offsets = deque([head.offset])  # the same offsets, oldest first

    def put(self, offset: int, link: int, patch: Patch) -> None:
        """Append the entry at *offset*, which must be greater than the head's."""
        self.document = apply(patch, self.document)
        self._tree.put(patch, offset)
        self._links[offset] = link
        self._offsets.append(offset)
        self.head = self.head.at(offset, link)
        if len(self._offsets) > self._window:
            del self._links[self._offsets.popleft()]
            self.tail = self._offsets[0]
            self._tree.forget(self.tail)

    def link_at(self, offset: int) -> int | None:
        """Return the link of the entry at *offset*, or ``None`` if that is not in the window."""
        return self._links.get(offset)

    def verify(self, position: Position) -> bool:
        """Return whether *position* is an entry of this very history, still in the window."""
        return position.epoch == self.head.epoch and self._links.get(position.offset) == position.link

    def covers(self, offset: int) -> bool:
        """Return whether `since` can lead from *offset* to the head."""
        return self.tail <= offset <= self.head.offset

    def since(self, offset: int) -> Patch:
        """Return the patch from the state at *offset* to the head. Only for offsets that `covers` grants."""
        return self._tree.since(offset)


class StoredEvent(NamedTuple):
    """One event of the window: its place and its value as msgpack bytes."""

    offset: int
    previous: int
    link: int
    value: bytes


_OFFSET: Final = attrgetter("offset")


class EventLog:
    """
    The log of an event channel: a bounded window of events.

    Args:
        window: Most events kept, at least 1.
        tail: The position before the first event that will be put; older ones cannot be delivered.

    Attributes:
        head: Position of the newest event.
        tail: Position after which every event is still here.
    """

    __slots__ = ("_events", "_window", "head", "tail")

    def __init__(self, window: int, tail: Position) -> None:
        self._window = window
        self.reset(tail)

    def reset(self, tail: Position) -> None:
        """Begin again after *tail*, with an empty window."""
        self.head = self.tail = tail
        self._events: deque[StoredEvent] = deque()

    def put(self, event: StoredEvent) -> None:
        """Append *event*, whose offset must be greater than the head's."""
        self._events.append(event)
        self.head = self.head.at(event.offset, event.link)
        if len(self._events) > self._window:
            oldest = self._events.popleft()
            self.tail = self.head.at(oldest.offset, oldest.link)

    def link_at(self, offset: int) -> int | None:
        """Return the link of the event at *offset* (or of the tail), or ``None`` if that is not in the window."""
        if offset == self.tail.offset:
            return self.tail.link
        events = self._events
        place = bisect_left(events, offset, key=_OFFSET)
        return events[place].link if place < len(events) and events[place].offset == offset else None

    def verify(self, position: Position) -> bool:
        """Return whether *position* is an event of this very history from which the head can be reached."""
        return position.epoch == self.head.epoch and self.link_at(position.offset) == position.link

    def covers(self, offset: int) -> bool:
        """Return whether `after` can lead from *offset* to the head."""
        return self.tail.offset <= offset <= self.head.offset

    def after(self, offset: int) -> Sequence[StoredEvent]:
        """Return the events after *offset*, in order. Only for offsets that `covers` grants."""
        missed: list[StoredEvent] = []
        for event in reversed(self._events):
            if event.offset <= offset:
                break
            missed.append(event)
        missed.reverse()
        return missed
