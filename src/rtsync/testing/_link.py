"""One direction of a connection in memory: order kept, with latency and stalls that follow the loop's clock."""

from __future__ import annotations

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
    """Wakes whoever waits now."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()
        self._event = anyio.Event()

    async def wait(self, until: float = inf) -> None:
        """Wait for the signal, or for a time on the loop's clock."""
        if until == inf:
            await self._event.wait()
        else:
            with anyio.CancelScope(deadline=until):
                await self._event.wait()


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
        seconds = self._latency() if callable(self._latency) else self._latency
        self._last = max(self._last, anyio.current_time() + seconds)
        self._items.append((self._last, item))
        self.changed.set()
        return self._last

    def hold(self, until: float) -> None:
        """Let nothing arrive before a time; ``inf`` for ever, ``-inf`` to go on."""
        self._stalled_until = until
        self.changed.set()

    def delayed(self, time: float) -> float:
        """Return when something due at a time arrives, given the stall."""
        return max(time, self._stalled_until)

    def take(self) -> T | None:
        """Return the next item if it has arrived."""
        if self._items and self.delayed(self._items[0][0]) <= anyio.current_time():
            return self._items.popleft()[1]
        return None

    async def wait(self) -> None:
        """Wait until the next item arrives, or until something changed."""
        await self.changed.wait(self.delayed(self._items[0][0]) if self._items else inf)

    def drop_under_way(self) -> None:
        """Lose what has not arrived."""
        now = anyio.current_time()
        self._items = deque((time, item) for time, item in self._items if self.delayed(time) <= now)
