"""
Load clients: a process of many WebSocket connections that read as cheaply as Python can.

It speaks just enough WebSocket to open connections, count messages, and answer the pings of protocol v1, so that nearly all of
the processor's time is left to the server under measurement.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from functools import partial
from typing import Any

from rtsync.core import MSGPACK, Limits, frames

_LIMITS = Limits(1 << 24, 64, 1 << 22)
_PING_HEAD = bytes([0x93, frames.Ping.TYPE])


def masked(payload: bytes, opcode: int = 2) -> bytes:
    """Return *payload* as one client message, masked with zeros."""
    size = len(payload)
    head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big")
    return head + bytes(4) + payload


_SAMPLED = 50
"""Every so many clients decode what they receive."""


class Client(asyncio.Protocol):
    """One connection. *latencies*, if given, collects the age of every ``published_ns`` that arrives, in seconds."""

    def __init__(self, path: str, greeting: bytes, latencies: list[float] | None) -> None:
        self._latencies = latencies
        self._path = path
        self._greeting = greeting
        self._buffer = b""
        self._open = False
        self.messages = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {MSGPACK.name}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        if not self._open:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = data
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._open, data = True, rest
            assert self.transport is not None
            if self._greeting:
                self.transport.write(masked(self._greeting))
        self._buffer = self._take(data)

    def _take(self, data: bytes) -> bytes:
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif size == 127:
                size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if start + size > end:
                break
            self.messages += 1
            if self._latencies is not None:
                self._sample(data[start : start + size])
            if data.find(_PING_HEAD, start, start + size) >= 0:
                self._pong(data[start : start + size])
            at = start + size
        return data[at:]

    def _sample(self, message: bytes) -> None:
        assert self._latencies is not None
        now = time.monotonic_ns()
        for frame in MSGPACK.read_server(message, _LIMITS):
            if isinstance(frame, frames.Delta) and isinstance(frame.patch, list):
                published = frame.patch[0].get(0)  # the document's first key
                self._latencies.append((now - published) / 1e9)

    def _pong(self, message: bytes) -> None:
        assert self.transport is not None
        for frame in MSGPACK.read_server(message, _LIMITS):
            if isinstance(frame, frames.Ping):
                self.transport.write(masked(MSGPACK.encode(frames.Pong(frame.id, self.messages))))


async def main() -> None:
    """Take orders, a line of JSON each, from stdin: connections to open, or a report of latencies. Ends with stdin."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    latencies: list[float] = []
    while line := await reader.readline():
        order = json.loads(line)
        if "report" in order:
            print(json.dumps(latencies), flush=True)
            latencies.clear()
            continue
        await connect(loop, order, latencies)
        print("open", flush=True)


async def connect(loop: asyncio.AbstractEventLoop, order: dict[str, Any], latencies: list[float]) -> None:
    """Open the connections of one order."""
    greeting = b""
    if order["channels"]:
        items = tuple(frames.SubscribeItem(name) for name in order["channels"])
        greeting = MSGPACK.encode(frames.Hello(None, "load")) + MSGPACK.encode(frames.Subscribe(1, items))
    for number in range(order["count"]):
        sampled = latencies if greeting and number % _SAMPLED == 0 else None
        await loop.create_connection(partial(Client, order["path"], greeting, sampled), "127.0.0.1", order["port"])


if __name__ == "__main__":
    asyncio.run(main())
