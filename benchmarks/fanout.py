"""
Fan-out: process CPU for one frame to one client, rtsync beside a bare ASGI loop, in the same server process.

One uvicorn serves two plain ASGI apps, without any framework between. The bare one keeps its connections in a list and sends the same
bytes to each; rtsync's has as many clients subscribed to a channel. Publishes come at a pace, as they do in life, and rounds alternate,
so that both meet the same machine. CPU is that of the server's whole process (user and system) less what the same time costs idle,
divided by the messages that went out. Clients live in another process.

    python -m benchmarks.fanout [--clients 1000] [--publishes 40] [--pace 20] [--rounds 7] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from rtsync import RTSync, Settings, StateFamily, public
from rtsync.core import MSGPACK

_CHANNELS = 20


class Bare:
    """The least an ASGI app can do: a list of connections, and a loop that sends to each."""

    def __init__(self) -> None:
        self.clients: list[Send] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": MSGPACK.name})
        self.clients.append(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def publish(self, payload: bytes) -> None:
        for send in self.clients:
            await send({"type": "websocket.send", "bytes": payload})


class Subject:
    """Both sides, in one server."""

    def __init__(self, pace: float) -> None:
        self.pause = 1.0 / pace
        self.idle_cost = 0.0
        self.bare = Bare()
        self.rt = RTSync(Settings(heartbeat_interval=600.0, heartbeat_timeout=300.0))
        self.one = self.rt.state("one:{name}", access=public)
        self.many = self.rt.state("many:{name}", access=public)
        self.tick = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.bare if scope["path"] == "/bare" else self.rt
        await app(scope, receive, send)

    async def cost(self, publishes: int, publish: Callable[[], Awaitable[None]]) -> float:
        """Return the CPU seconds of *publishes* at the pace, idle cost taken off."""
        began, cpu = time.monotonic(), time.process_time()
        for number in range(publishes):
            await publish()
            await asyncio.sleep(max(began + (number + 1) * self.pause - time.monotonic(), 0))
        return time.process_time() - cpu - self.idle_cost * (time.monotonic() - began)

    async def measure_idle(self, seconds: float) -> None:
        cpu = time.process_time()
        await asyncio.sleep(seconds)
        self.idle_cost = (time.process_time() - cpu) / seconds

    async def round_bare(self, publishes: int, size: int) -> float:
        """Return CPU seconds per message."""
        payload = bytes(size)
        return await self.cost(publishes, lambda: self.bare.publish(payload)) / (publishes * len(self.bare.clients))

    async def round_rtsync(self, family: StateFamily, names: list[str], publishes: int, clients: int) -> tuple[float, float]:
        """Return CPU seconds per message and per update."""

        async def publish() -> None:
            self.tick += 1
            for name in names:
                await family.channel(name).set(quote(self.tick))

        before = self.rt.hub.pump.flushes
        spent = await self.cost(publishes, publish)
        messages = self.rt.hub.pump.flushes - before
        assert messages >= publishes * clients, f"{messages} messages for {publishes * clients}"
        return spent / messages, spent / (publishes * len(names) * clients)


def quote(tick: int) -> dict[str, object]:
    """Return a document of which two prices move."""
    return {"bid": 4215.5 + tick, "ask": 4215.75 + tick, "bid_size": 1.5, "ask_size": 2.5, "symbol": "ETH-USD"}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    subject = Subject(options.pace)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(subject, lifespan="off", log_level="warning", ws_per_message_deflate=False, ws_ping_interval=None)
    server = uvicorn.Server(config)
    async with subject.rt.lifespan():
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            return await run(subject, listener.getsockname()[1], options)
        finally:
            server.should_exit = True
            await serving


async def run(subject: Subject, port: int, options: argparse.Namespace) -> dict[str, Any]:
    """Connect the load and alternate rounds."""
    load = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks._load", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert load.stdin is not None and load.stdout is not None
    many = [f"c{number}" for number in range(_CHANNELS)]
    await subject.one.channel("c").set(quote(0))
    for name in many:
        await subject.many.channel(name).set(quote(0))
    orders: list[tuple[str, list[str]]] = [("/bare", []), ("/ws", ["one:c"]), ("/ws", [f"many:{name}" for name in many])]
    for path, channels in orders:
        order = {"port": port, "path": path, "count": options.clients, "channels": channels}
        load.stdin.write(json.dumps(order).encode() + b"\n")
        await load.stdout.readline()
    while subject.rt.statistics().subscriptions < options.clients * (1 + _CHANNELS):
        await asyncio.sleep(0.05)
    await subject.measure_idle(3.0)
    rows: list[tuple[float, float, float, float]] = []
    for _ in range(options.rounds + 1):
        bare = await subject.round_bare(options.publishes, 46)
        one, _ = await subject.round_rtsync(subject.one, ["c"], options.publishes, options.clients)
        twenty, update = await subject.round_rtsync(subject.many, many, max(options.publishes // 4, 1), options.clients)
        rows.append((bare, one, twenty, update))
    load.stdin.close()
    await load.wait()
    rows = rows[1:]  # the first round warms up
    bare, one, twenty, update = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "clients": options.clients,
        "bare_us_per_frame": round(bare * 1e6, 3),
        "rtsync_us_per_frame": round(one * 1e6, 3),
        "rtsync_20_channels_us_per_message": round(twenty * 1e6, 3),
        "rtsync_20_channels_us_per_update": round(update * 1e6, 3),
        "ratio": round(statistics.median(row[1] / row[0] for row in rows), 3),
        "ratio_20_channels_per_message": round(statistics.median(row[2] / row[0] for row in rows), 3),
        "ratio_20_channels_per_update": round(statistics.median(row[3] / row[0] for row in rows), 3),
        "versions": {name: version(name) for name in ("rtsync", "uvicorn", "starlette", "anyio", "msgpack")}
        | {"python": platform.python_version()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--publishes", type=int, default=40, help="a round and side")
    parser.add_argument("--pace", type=float, default=20.0, help="publishes a second")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    figures = asyncio.run(measure(options))
    for name, value in figures.items():
        print(f"{name:36} {value}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
