"""
What the benchmarks share: a real server, a process of load clients, the bare app beside which rtsync is measured, and the
report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from rtsync import RTSync, Settings
from rtsync.core import MSGPACK


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
        """Send *payload* to every client."""
        for send in self.clients:
            await send({"type": "websocket.send", "bytes": payload})


class SideBySide:
    """One ASGI app with both sides: ``/bare`` and, everywhere else, rtsync."""

    def __init__(self) -> None:
        self.bare = Bare()
        self.rt = RTSync(Settings(heartbeat_interval=600.0, heartbeat_timeout=300.0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.bare if scope["path"] == "/bare" else self.rt
        await app(scope, receive, send)


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    """Serve *app* with uvicorn on this loop; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, lifespan="off", log_level="warning", ws_per_message_deflate=False, ws_ping_interval=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn sets no event
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


class Load:
    """The process of load clients."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._port = port

    async def connect(self, path: str, count: int, channels: Sequence[str] = ()) -> None:
        """Open *count* connections, each subscribed to *channels*."""
        await self._order({"port": self._port, "path": path, "count": count, "channels": list(channels)})

    async def latencies(self) -> list[float]:
        """Return what the sampling clients have measured, in seconds, and begin anew."""
        measured: list[float] = json.loads(await self._order({"report": True}))
        return measured

    async def _order(self, order: Mapping[str, object]) -> bytes:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        answer = await self._process.stdout.readline()
        assert answer, "the load process has ended"
        return answer


@asynccontextmanager
async def load(port: int) -> AsyncIterator[Load]:
    """Run a process of load clients for the server on *port*."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks._load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    try:
        yield Load(process, port)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def options(description: str | None, **numbers: float) -> argparse.Namespace:
    """Parse the command line: the *numbers* with their defaults, and ``--json``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser.parse_args()


def report(figures: dict[str, Any], *, as_json: bool) -> None:
    """Print *figures*, with the versions they were measured with."""
    packages = ("rtsync", "uvicorn", "starlette", "anyio", "msgpack")
    figures["versions"] = {name: version(name) for name in packages} | {"python": platform.python_version()}
    for name, value in figures.items():
        print(f"{name:40} {value}")
    if as_json:
        print(json.dumps(figures))
