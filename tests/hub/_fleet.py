"""Sessions without clients: their sends are the test's, and their channel is a number that grows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio

from rtsync.backends import Retention
from rtsync.core import LIVE, MSGPACK, FamilyPattern, Limits, Profile, ServerSession, SessionRules, SourceStatus
from rtsync.hub import Family, LiveChannel, Principal, Session
from rtsync.hub._pump import Pump
from rtsync.hub._subscription import Subscription

__all__ = ["Fleet", "Number", "Send", "Ship", "fleet"]

RULES = SessionRules(
    hello_timeout=10.0,
    heartbeat_interval=20.0,
    heartbeat_timeout=10.0,
    ack_timeout=30.0,
    message_rate=50.0,
    message_burst=100,
    limits=Limits(64 << 10, 16, 4096),
    first_window=1 << 40,
    min_window=1 << 40,
    max_window=1 << 40,
)

Send = Callable[["Ship", int], Awaitable[None]]
"""Called with the session and the number that its client would then know."""


class Number:
    """As much of a channel as a pump touches. Its frames are the number in eight bytes."""

    def __init__(self) -> None:
        self.family = Family(
            FamilyPattern("n"), "state", Retention(True, 10), lambda principal, params: True, lambda value: None
        )
        self.status: SourceStatus = LIVE
        self.offset = 0
        self.subscriptions: dict[Subscription, None] = {}
        self.defect: Exception | None = None  # raised when it is read
        self._frames: dict[int, bytes] = {}

    def frames_for(self, profile: Profile) -> dict[int, bytes]:
        return self._frames

    def is_behind(self, subscription: Subscription) -> bool:
        return subscription.cursor != self.offset

    def read(self, subscription: Subscription, profile: Profile, budget: int) -> bytes:
        if self.defect is not None:
            raise self.defect
        subscription.cursor = self.offset
        return self.offset.to_bytes(8, "big")

    def grow(self) -> None:
        self._frames.clear()
        self._frames[self.offset] = (self.offset + 1).to_bytes(8, "big")
        self.offset += 1


class Ship(Session):
    """A session that notes what its client would know, and proves that one send is under way at most."""

    __slots__ = ("ends", "flights", "seen", "send_as", "subscription")

    def __init__(self, number: int, pump: Pump, channel: Number, send_as: Send) -> None:
        super().__init__(
            id=f"s{number}",
            secret="",
            principal=Principal(),
            rules=ServerSession(RULES, 0.0),
            profile=MSGPACK,
            on_end=self._note_end,
            pump=pump,
            flush_bytes=65536,
            wall_ms=lambda: 0,
        )
        self.send_as = send_as
        self.seen = 0
        self.flights = 0
        self.ends = 0
        self.subscription = Subscription(self, cast(LiveChannel, channel), 0, None, None)
        self.subscription.cursor = channel.offset
        self.subscription.shown = channel.status

    def _note_end(self) -> None:
        self.ends += 1
        self.subscription.channel.subscriptions.pop(self.subscription, None)

    async def send(self, message: bytes) -> None:
        assert self.flights == 0, "two sends of one session at a time"
        self.flights += 1
        try:
            number = int.from_bytes(message, "big")
            await self.send_as(self, number)
            self.seen = number
        finally:
            self.flights -= 1


class Fleet:
    """A pump at work, and the ships it serves."""

    def __init__(self, pump: Pump) -> None:
        self.pump = pump
        self.channel = Number()
        self.ships: list[Ship] = []

    def join(self, send: Send, count: int = 1) -> list[Ship]:
        joined = [Ship(len(self.ships) + number, self.pump, self.channel, send) for number in range(count)]
        self.ships += joined
        for ship in joined:
            self.channel.subscriptions[ship.subscription] = None
        return joined

    def publish(self, *ships: Ship) -> None:
        """Let the number grow, and tell some of its readers or all."""
        self.channel.grow()
        readers = [ship.subscription for ship in ships] or list(self.channel.subscriptions)
        self.pump.mark_all(readers, lambda subscription: False)


@asynccontextmanager
async def fleet(**options: Any) -> AsyncIterator[Fleet]:
    """Run a pump for the length of the block."""
    async with anyio.create_task_group() as tasks:
        pump = Pump(**{"now": anyio.current_time, **options})
        tasks.start_soon(pump.run)
        yield Fleet(pump)
        tasks.cancel_scope.cancel()
    assert pump.lanes == len(pump._tasks)
