"""
Fan-out: process CPU for one frame to one client, rtsync beside a bare ASGI loop, in the same server process.

One uvicorn serves two plain ASGI apps, without any framework between. The bare one keeps its connections in a list and sends
the same bytes to each; rtsync's has as many clients subscribed to a channel. Publishes come at a pace, as they do in life, and
rounds alternate, so that both meet the same machine. CPU is that of the server's whole process (user and system) less what the
same time costs idle, divided by the messages that went out. Clients live in another process.

    python -m benchmarks.fanout [--clients 1000] [--publishes 40] [--pace 20] [--rounds 7] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks._rig import Load, SideBySide, load, options, report, serving
from rtsync import StateFamily, public

_CHANNELS = 20
_FRAME_BYTES = 46
"""Size of rtsync's message for one channel, so that the bare loop sends as much."""


class Subject(SideBySide):
    """Both sides, and what a publish on each costs."""

    def __init__(self, pace: float) -> None:
        super().__init__()
        self._pause = 1.0 / pace
        self._idle_cost = 0.0
        self._tick = 0
        self.one = self.rt.state("one:{name}", access=public)
        self.many = self.rt.state("many:{name}", access=public)

    async def measure_idle(self, seconds: float) -> None:
        """Find out what a second costs while nothing is published."""
        cpu = time.process_time()
        await asyncio.sleep(seconds)
        self._idle_cost = (time.process_time() - cpu) / seconds

    async def bare_round(self, publishes: int) -> float:
        """Return CPU seconds per message."""
        payload = bytes(_FRAME_BYTES)
        return await self._cost(publishes, lambda: self.bare.publish(payload)) / (publishes * len(self.bare.clients))

    async def rtsync_round(self, family: StateFamily, names: list[str], publishes: int, clients: int) -> tuple[float, float]:
        """Return CPU seconds per message and per update."""

        async def publish() -> None:
            self._tick += 1
            for name in names:
                await family.channel(name).set(quote(self._tick))

        before = self.rt.hub.pump.flushes
        spent = await self._cost(publishes, publish)
        messages = self.rt.hub.pump.flushes - before
        assert messages >= publishes * clients, f"{messages} messages for {publishes * clients}"
        return spent / messages, spent / (publishes * len(names) * clients)

    async def _cost(self, publishes: int, publish: Callable[[], Awaitable[None]]) -> float:
        began, cpu = time.monotonic(), time.process_time()
        for number in range(publishes):
            await publish()
            await asyncio.sleep(max(began + (number + 1) * self._pause - time.monotonic(), 0))
        return time.process_time() - cpu - self._idle_cost * (time.monotonic() - began)


def quote(tick: int) -> dict[str, object]:
    """Return a document of which two prices move."""
    return {"bid": 4215.5 + tick, "ask": 4215.75 + tick, "bid_size": 1.5, "ask_size": 2.5, "symbol": "ETH-USD"}


async def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    subject = Subject(chosen.pace)
    async with subject.rt.lifespan(), serving(subject) as port, load(port) as clients:
        names = [f"c{number}" for number in range(_CHANNELS)]
        await connect(subject, clients, chosen.clients, names)
        await subject.measure_idle(3.0)
        rows: list[tuple[float, float, float, float]] = []
        for _ in range(chosen.rounds + 1):
            bare = await subject.bare_round(chosen.publishes)
            one, _ = await subject.rtsync_round(subject.one, ["c"], chosen.publishes, chosen.clients)
            many = await subject.rtsync_round(subject.many, names, max(chosen.publishes // 4, 1), chosen.clients)
            rows.append((bare, one, *many))
        return figures(chosen.clients, rows[1:])  # the first round warms up


async def connect(subject: Subject, clients: Load, count: int, names: list[str]) -> None:
    """Connect *count* clients to the bare app, to one channel and to all of *names*."""
    await subject.one.channel("c").set(quote(0))
    for name in names:
        await subject.many.channel(name).set(quote(0))
    await clients.connect("/bare", count)
    await clients.connect("/ws", count, ["one:c"])
    await clients.connect("/ws", count, [f"many:{name}" for name in names])
    while subject.rt.statistics().subscriptions < count * (1 + len(names)):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.05)


def figures(clients: int, rows: list[tuple[float, float, float, float]]) -> dict[str, Any]:
    """Return medians in microseconds, and ratios to the bare loop of the same round."""
    bare, one, many, update = (round(statistics.median(column) * 1e6, 3) for column in zip(*rows, strict=True))
    ratio, ratio_message, ratio_update = (
        round(statistics.median(row[column] / row[0] for row in rows), 3) for column in (1, 2, 3)
    )
    return {
        "clients": clients,
        "bare_us_per_frame": bare,
        "rtsync_us_per_frame": one,
        "rtsync_20_channels_us_per_message": many,
        "rtsync_20_channels_us_per_update": update,
        "ratio": ratio,
        "ratio_20_channels_per_message": ratio_message,
        "ratio_20_channels_per_update": ratio_update,
    }


if __name__ == "__main__":
    chosen = options(__doc__, clients=1000, publishes=40, pace=20.0, rounds=7)
    report(asyncio.run(measure(chosen)), as_json=chosen.json)
