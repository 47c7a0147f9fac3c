"""A bounded queue of notices between whoever learns of appends and the one task that listens."""

from __future__ import annotations

from collections import deque
from typing import Final

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..core import Channel
from ._protocol import Announcement, GapNotice, Health, Notice

__all__ = ["NoticeQueue"]

_TURN: Final = 16
"""Notices handed out between two yields to the event loop."""


class NoticeQueue:
    """
    The listening end of a backend, and an async iterator over its notices.

    Putting never waits and never grows the queue beyond its limits: an announcement that does not fit is replaced by one
    `GapNotice` for its channel, which covers everything that channel loses until the notice is taken; when many channels lose
    announcements, by one `GapNotice` for all. Iteration ends when the queue is closed.

    Args:
        max_notices: Most announcements waiting.
        max_bytes: Most payload bytes waiting; a single larger payload passes an empty queue.
        max_gaps: Most channels with a gap notice of their own waiting.
    """

    __slots__ = (
        "_all_lost",
        "_bytes",
        "_closed",
        "_items",
        "_lost",
        "_max_bytes",
        "_max_gaps",
        "_max_notices",
        "_turn",
        "_wake",
    )

    def __init__(self, *, max_notices: int = 1024, max_bytes: int = 16 * 1024 * 1024, max_gaps: int = 64) -> None:
        self._items: deque[Notice] = deque()
        self._bytes = 0  # of the payloads in _items
        self._lost: set[Channel] = set()  # channels whose gap notice is in _items
        self._all_lost = False  # a gap notice for every channel is in _items
        self._closed = False
        self._wake: anyio.Event | None = None
        self._turn = 0
        self._max_notices = max_notices
        self._max_bytes = max_bytes
        self._max_gaps = max_gaps

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<NoticeQueue waiting={len(self._items)} bytes={self._bytes} gaps={len(self._lost)}{state}>"

    def __len__(self) -> int:
        return len(self._items)

    # ---- putting: never waits

    def announce(self, announcement: Announcement) -> None:
        """Queue *announcement*, or note a gap of its channel when the queue is full."""
        if self._closed or self._all_lost or announcement.channel in self._lost:
            return  # nobody listens, or the gap notice that waits covers it
        size = len(announcement.entry.payload)
        items = self._items
        if items and (len(items) >= self._max_notices or self._bytes + size > self._max_bytes):
            self.put(GapNotice(announcement.channel, "the listener fell behind"))
            return
        items.append(announcement)
        self._bytes += size
        if self._wake is not None:
            self._rouse()

    def put(self, notice: GapNotice | Health) -> None:
        """Queue a gap or a change of health; one that merely repeats what waits is left out."""
        if self._closed:
            return
        if isinstance(notice, Health):
            self._put_health(notice)
        else:
            self._put_gap(notice)
        self._rouse()

    def close(self) -> None:
        """End the iteration, whatever still waits."""
        self._closed = True
        self._items.clear()
        self._bytes = 0
        self._rouse()

    def _put_health(self, notice: Health) -> None:
        if self._items and self._items[-1] == notice:
            return
        if len(self._items) > self._max_notices + self._max_gaps:
            # A backend that flaps faster than its listener reads must not fill the memory: only the newest change counts.
            self._items = deque(item for item in self._items if not isinstance(item, Health))
        self._items.append(notice)

    def _put_gap(self, notice: GapNotice) -> None:
        channel = notice.channel
        if self._all_lost or channel in self._lost:
            return
        if channel is not None and len(self._lost) < self._max_gaps:
            self._lost.add(channel)
            self._items.append(notice)
        else:
            self._all_lost = True
            self._items.append(notice if channel is None else GapNotice(None, notice.reason))

    def _rouse(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake.set()

    # ---- taking

    def __aiter__(self) -> NoticeQueue:
        return self

    async def __anext__(self) -> Notice:
        # A task switch for each notice would cost more than the notice; none at all would let a burst hold the loop.
        self._turn = (self._turn + 1) % _TURN
        await (checkpoint_if_cancelled() if self._turn else checkpoint())
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            if self._wake is None:
                self._wake = anyio.Event()
            await self._wake.wait()
        notice = self._items.popleft()
        if isinstance(notice, Announcement):
            self._bytes -= len(notice.entry.payload)
        elif isinstance(notice, GapNotice):
            if notice.channel is None:
                self._all_lost = False
                self._lost.clear()
            else:
                self._lost.discard(notice.channel)
        return notice
