"""Clients that misbehave, and a link that breaks."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage

from rtsync.core import JSON, Limits, frames

__all__ = ["Link", "RawPeer", "breakable_link", "raw_peer"]

_LIMITS = Limits(64 << 20, 64, 10_000_000)


class RawPeer:
    """A client by hand, over a socket that nobody reads unless told to."""

    def __init__(self, connection: socket.socket, port: int) -> None:
        self._socket = connection
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._accepted = False
        self._text = ""
        self.close_code: int | None = None
        self.ended = False

    async def open(self, *channels: str) -> None:
        """Say hello, subscribe, and read until everything is answered."""
        await self._loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        request = Request(host="127.0.0.1", target="/rt/ws", subprotocols=["rtsync.v1.json"])
        await self._write(self._protocol.send(request))
        while not self._accepted:
            await self.read()
        items = tuple(frames.SubscribeItem(channel) for channel in channels)
        await self.send(frames.Hello(), frames.Subscribe(1, items))
        answered = 0
        while answered < len(channels):
            answered += sum(isinstance(frame, frames.Subscribed) for frame in await self.read())

    async def send(self, *sent: frames.Frame) -> None:
        """Send frames in one message."""
        text = b"".join(JSON.encode(frame) for frame in sent).decode()
        await self._write(self._protocol.send(TextMessage(text)))

    async def read(self) -> list[frames.ServerFrame]:
        """Read once from the socket, and return the frames that are whole now. Pings are answered."""
        with suppress(ConnectionError):
            data = await self._loop.sock_recv(self._socket, 1 << 20)
            self._protocol.receive_data(data or None)
            self.ended = not data
        found: list[frames.ServerFrame] = []
        for event in self._protocol.events():
            if isinstance(event, TextMessage):
                self._text += event.data
                if event.message_finished:
                    found += JSON.read_server(self._text, _LIMITS)
                    self._text = ""
            elif isinstance(event, CloseConnection):
                if not self.ended:
                    self.close_code = event.code
                self.ended = True
            elif isinstance(event, Ping):
                await self._write(self._protocol.send(event.response()))
            else:
                assert isinstance(event, AcceptConnection), event
                self._accepted = True
        return found

    async def read_to_end(self) -> int | None:
        """Read until the connection ends, and return the code it was closed with."""
        while not self.ended:
            await self.read()
        return self.close_code

    def drop(self) -> None:
        """End the stream without a close frame, as a process does that dies."""
        self._socket.close()

    def reset(self) -> None:
        """Break the connection, as a network does that has forgotten it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def _write(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)


@asynccontextmanager
async def raw_peer(port: int, *channels: str, receive_buffer: int | None = None) -> AsyncIterator[RawPeer]:
    """Connect and subscribe; break the connection at the end of the block. *receive_buffer* is the kernel's share, in bytes."""
    with socket.socket() as connection:
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer = RawPeer(connection, port)
        await peer.open(*channels)
        try:
            yield peer
        finally:
            if connection.fileno() >= 0:
                peer.reset()


class Link:
    """A way to a server that can be cut."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.down = False
        self._target = port
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Break all connections, and let none through until `mend`."""
        self.down = True
        for writer in self._ends:
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self.down = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        if self.down:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, far_writer}
        self._ends |= ends
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._ends -= ends


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def breakable_link(port: int) -> AsyncIterator[Link]:
    """Stand between clients and the server at *port*."""
    link = Link(port)
    server = await asyncio.start_server(link.carry, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        link.cut()
        await server.wait_closed()
