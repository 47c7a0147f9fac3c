"""One direction of a connection in memory: order kept, with latency and stalls that follow the loop's clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

import anyio

__all__ = ["Latency", "Pipe", "Signal"]

T = TypeVar("T")

Latency = float | Callable[[], float]
"""Seconds each way: a number, or what draws one for each message."""


class Signal:
    """Wakes whoever waits now. Whoever wakes looks again at what it waits for: it may be woken for nothing."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None  # None while nobody waits

    def set(self) -> None:
        event, self._event = self._event, None
        if event is not None:
            event.set()

    def set_at(self, time: float) -> None:
        """Wake whoever waits now at a time, or earlier."""
        if self._event is not None:
            loop = asyncio._get_running_loop()
            if loop is None:
                self.set()
            else:
                loop.call_at(time, self.set)

    async def wait(self, until: float = inf) -> None:
        """Wait for the signal, or for a time on the loop's clock."""
        event = self._event
        if event is None:
            event = self._event = anyio.Event()
        if until == inf:
            await event.wait()
        elif (loop := asyncio._get_running_loop()) is None:
            with anyio.CancelScope(deadline=until):
                await event.wait()
        else:  # a timer costs a fifth of a scope that is cancelled
            timer = loop.call_at(until, self.set)
            try:
                await event.wait()
            finally:
                timer.cancel()


class Pipe(Generic[T]):
    """
    Items on their way. Each arrives after the latency, but never before an earlier one nor during a stall.

    It needs no task of its own: an item carries its time of arrival, and whoever takes it waits for that.
    """

    def __init__(self, latency: Latency) -> None:
        self.changed = Signal()
        self._latency = latency
        self._items: deque[tuple[float, T]] = deque()  # (time of arrival, item)
        self._last = -inf
        self._stalled_until = -inf

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> float:
        """Send an item off and return when it arrives if nothing stalls."""
        now = anyio.current_time()
        seconds = self._latency() if callable(self._latency) else self._latency
        self._last = max(self._last, now + seconds)
        if not self._items:
            if self._last > now:
                self.changed.set_at(self._last)
            else:
                self.changed.set()
        self._items.append((self._last, item))
        return self._last

    def hold(self, until: float) -> None:
        """Let nothing arrive before a time; ``inf`` for ever, ``-inf`` to go on."""
        self._stalled_until = until
        self.changed.set()

    def delayed(self, time: float) -> float:
        """Return when something due at a time arrives, given the stall."""
        return max(time, self._stalled_until)

    @property
    def arrived(self) -> bool:
        """Whether there is an item to take."""
        return bool(self._items) and self.delayed(self._items[0][0]) <= anyio.current_time()

    def take(self) -> T | None:
        """Return the next item if it has arrived."""
        return self._items.popleft()[1] if self.arrived else None

    async def wait(self) -> None:
        """Wait until the next item arrives, or until something changed."""
        await self.changed.wait(self.delayed(self._items[0][0]) if self._items else inf)

    def drop_under_way(self) -> None:
        """Lose what has not arrived."""
        now = anyio.current_time()
        self._items = deque((time, item) for time, item in self._items if self.delayed(time) <= now)
