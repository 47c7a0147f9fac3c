"""The memory backend: one process, any number of nodes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..core import Channel, Position, SettingsError, UsageError
from ._memory_store import MemoryStore
from ._notices import NoticeQueue
from ._protocol import TTL, Appended, Cut, Notice, Record, Retention

__all__ = ["MemoryBackend"]

_EPOCH_BITS: Final = 128

_TURN: Final = 16
"""Appends between two yields to the event loop: far fewer than a listener's queue holds."""


class MemoryBackend:
    """
    One node's connection to a `MemoryStore`.

    Nodes that are to see each other are given the same *store*. Everything is gone when the process ends. A call that is
    cancelled has changed nothing.

    Args:
        store: What to connect to; a new store if ``None``.
        clock: Monotonic seconds; the event loop's clock by default. Nodes of one store must agree on it.
        randbits: Source of epochs; a test injects a seeded one.
        max_notices: Most announcements that wait for this node's listener before they become a gap.
        max_bytes: Most payload bytes that wait, likewise.
    """

    def __init__(
        self,
        store: MemoryStore | None = None,
        *,
        clock: Callable[[], float] = anyio.current_time,
        randbits: Callable[[int], int] = secrets.randbits,
        max_notices: int = 1024,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self.store = MemoryStore() if store is None else store
        self._clock = clock
        self._randbits = randbits
        self._max_notices = max_notices
        self._max_bytes = max_bytes
        self._open = False
        self._queue: NoticeQueue | None = None
        self._watched: set[Channel] = set()
        self._turn = 0

    @classmethod
    def from_url(cls, url: str) -> MemoryBackend:
        """Return a backend with a store of its own for ``memory://``."""
        if url.lower() != "memory://":
            raise SettingsError("settings.backend", "memory:// stands alone, without host, path or options")
        return cls()

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<MemoryBackend {state} watched={len(self._watched)} listener={self._queue!r} store={self.store!r}>"

    async def __aenter__(self) -> MemoryBackend:
        if self._open:
            raise UsageError("backend", "is open already")
        self._open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open = False
        if self._queue is not None:
            self._close_listener(self._queue)

    # ---- the log

    async def append(
        self,
        channel: Channel,
        payload: bytes,
        *,
        link: int,
        retention: Retention,
        expect: Position | None = None,
        token: int = 0,
    ) -> Appended:
        # Waiting comes before deciding: cancelled here, nothing has happened; afterwards nothing can be cancelled. A task
        # switch would be most of an append's cost, so only every so often does one happen without need.
        self._turn = (self._turn + 1) % _TURN
        await (checkpoint_if_cancelled() if self._turn else checkpoint())
        now = 0.0 if retention.max_age is None else self._clock()
        return self._opened().append(channel, payload, link, retention, expect, token, now=now, mint=self._mint)

    async def read(self, channel: Channel) -> Cut:
        await checkpoint()
        return self._opened().read(channel, self._clock())

    async def heads(self, channels: Sequence[Channel]) -> Sequence[Position]:
        await checkpoint()
        store, now = self._opened(), self._clock()
        return [store.head(channel, now) for channel in channels]

    async def save_keyframe(self, channel: Channel, position: Position, payload: bytes) -> bool:
        await checkpoint()
        return self._opened().save_keyframe(channel, position, payload, self._clock())

    async def new_epoch(self, channel: Channel, expect: str) -> str:
        await checkpoint()
        return self._opened().new_epoch(channel, expect, now=self._clock(), mint=self._mint)

    # ---- announcements

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Notice]]:
        self._opened()
        if self._queue is not None:
            raise UsageError("backend.listen", "this node's listener is open already")
        queue = self._queue = NoticeQueue(max_notices=self._max_notices, max_bytes=self._max_bytes)
        try:
            yield queue
        finally:
            self._close_listener(queue)

    async def watch(self, channel: Channel) -> None:
        await checkpoint()
        store = self._opened()
        if self._queue is None:
            raise UsageError("backend.watch", "needs an open listener")
        if channel not in self._watched:
            self._watched.add(channel)
            store.watch(channel, self._queue)

    async def unwatch(self, channel: Channel) -> None:
        await checkpoint()
        store = self._opened()
        if self._queue is not None and channel in self._watched:
            self._watched.discard(channel)
            store.unwatch(channel, self._queue)

    def _close_listener(self, queue: NoticeQueue) -> None:
        queue.close()
        if queue is self._queue:
            for channel in self._watched:
                self.store.unwatch(channel, queue)
            self._watched.clear()
            self._queue = None

    # ---- the key-value store

    async def get(self, ttl: TTL, key: str) -> Record | None:
        await checkpoint()
        return self._opened().get(ttl, key, self._clock())

    async def put(self, ttl: TTL, key: str, value: bytes, *, expect: int | None = None) -> int:
        await checkpoint()
        return self._opened().put(ttl, key, value, expect, self._clock())

    async def delete(self, ttl: TTL, key: str, *, expect: int | None = None) -> None:
        await checkpoint()
        self._opened().delete(ttl, key, expect, self._clock())

    async def list(self, ttl: TTL, prefix: str) -> Sequence[Record]:
        await checkpoint()
        return self._opened().list(ttl, prefix, self._clock())

    # ---- inside

    def _opened(self) -> MemoryStore:
        if not self._open:
            raise UsageError("backend", "is not open: use it inside `async with backend:`")
        return self.store

    def _mint(self) -> str:
        return f"{self._randbits(_EPOCH_BITS):032x}"
