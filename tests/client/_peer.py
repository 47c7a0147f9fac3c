"""A server whose every frame is written by the test."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Any, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from rtsync.client import Client, ReconnectPolicy, Wire, WireClosed, connect
from rtsync.core import PROFILES, Kind, Limits, Message, Position, Profile, frames, patch_to_wire

__all__ = ["NOWHERE", "Peer", "Server", "at", "delta", "event"]

LIMITS = Limits(1 << 24, 200, 1 << 20)
SERVER_TIME = 1_700_000_000_000
NOWHERE = Position.start("")

F = TypeVar("F", bound=frames.Frame)


def at(offset: int, epoch: str = "E") -> Position:
    return Position(epoch, offset, offset * 11)


def delta(offset: int, patch: Any, span: int = 1, alias: int = 1) -> frames.Delta:
    return frames.Delta(alias, offset, span, offset * 11, patch_to_wire(patch))


def event(offset: int, value: str, span: int = 1, alias: int = 1) -> frames.Event:
    return frames.Event(alias, offset, span, offset * 11, value)


class Server:
    """
    Where the client connects to. Each connection is a `Peer` for the test to play.

    Attributes:
        refusals: Raised by the next attempts, instead of opening a link.
        offered: The subprotocols of the newest attempt.
        attempts: When each attempt was made.
        hang: Whether attempts go on for ever.
    """

    def __init__(self) -> None:
        self.refusals: deque[Exception] = deque()
        self.offered: list[str] = []
        self.attempts: list[float] = []
        self.hang = False
        self._waiting, self._arrived = anyio.create_memory_object_stream[Peer](100)
        self._streams: list[Any] = [self._waiting, self._arrived]

    def connect(self, **options: Any) -> Client:
        """Return a client of this server, with exact delays unless the options say otherwise."""
        options = {"reconnect": ReconnectPolicy(jitter=0), "random": Random(1), **options}
        return connect("ws://test/rt/ws", connector=self, **options)

    def __call__(self, url: str, subprotocols: Sequence[str]) -> AbstractAsyncContextManager[Wire]:
        return self._open(subprotocols)

    @asynccontextmanager
    async def _open(self, subprotocols: Sequence[str]) -> AsyncIterator[Wire]:
        self.attempts.append(anyio.current_time())
        self.offered = list(subprotocols)
        await anyio.lowlevel.checkpoint()
        if self.hang:
            await anyio.sleep_forever()
        if self.refusals:
            raise self.refusals.popleft()
        to_client, from_server = anyio.create_memory_object_stream[Message | Exception](0)
        to_server, from_client = anyio.create_memory_object_stream[Message](1000)
        self._streams += [to_client, from_server, to_server, from_client]
        peer = Peer(PROFILES[subprotocols[0]], to_client, from_client)
        await self._waiting.send(peer)
        try:
            yield _MemoryWire(from_server, to_server, peer)
        finally:
            peer.left = True
            from_server.close()
            to_server.close()

    async def accept(self) -> Peer:
        """Return the next connection."""
        return await self._arrived.receive()

    async def welcome(self, **changes: Any) -> Peer:
        """Return the next connection, welcomed; its hello is `Peer.hello`."""
        peer = await self.accept()
        await peer.welcome(**changes)
        return peer

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        for stream in self._streams:
            stream.close()


class Peer:
    """The server's end of one connection. What is sent has been read by the client when `send` returns."""

    def __init__(
        self,
        profile: Profile,
        outgoing: MemoryObjectSendStream[Message | Exception],
        incoming: MemoryObjectReceiveStream[Message],
    ) -> None:
        self.profile = profile
        self.hello: frames.Hello | None = None
        self.closed_with: int | None = None  # by the client
        self.left = False
        self.send_fails = False
        self._outgoing = outgoing
        self._incoming = incoming
        self._frames: deque[frames.ClientFrame] = deque()

    async def next(self, kind: type[F]) -> F:
        """Return the client's next frame, which must be of *kind*."""
        while not self._frames:
            self._frames.extend(self.profile.read_client(await self._incoming.receive(), LIMITS))
        frame = self._frames.popleft()
        assert isinstance(frame, kind), frame
        return frame

    def unread(self) -> list[frames.ClientFrame]:
        """Return all that the client has sent and nobody looked at."""
        while True:
            try:
                self._frames.extend(self.profile.read_client(self._incoming.receive_nowait(), LIMITS))
            except (anyio.WouldBlock, anyio.EndOfStream):
                left, self._frames = list(self._frames), deque()
                return left

    async def welcome(self, **changes: Any) -> None:
        self.hello = await self.next(frames.Hello)
        fields = {
            "session": "s1",
            "secret": "x1",
            "user": "ann",
            "heartbeat": 20.0,
            "timeout": 10.0,
            "time": SERVER_TIME + round(anyio.current_time() * 1000),
            "limits": {"max_frame_bytes": 65536},
            "reconnect": {},
        }
        await self.send(frames.Welcome(**{**fields, **changes}))

    async def subscribed(
        self, kind: Kind, position: Position = NOWHERE, recovered: bool = False, alias: int = 1, *more: frames.Frame
    ) -> frames.SubscribeItem:
        """Answer the next subscribe, which must ask for one channel; send *more* with the answer."""
        asked = await self.next(frames.Subscribe)
        (item,) = asked.items
        answer = frames.Subscribed(asked.request, item.channel, alias, kind, position, recovered, item.rate, "live", 0)
        await self.send(answer, *more)
        return item

    async def state(self, offset: int, document: Any, alias: int = 1, epoch: str = "E") -> frames.SubscribeItem:
        """Answer the next subscribe with a document."""
        return await self.subscribed("state", NOWHERE, False, alias, frames.Keyframe(alias, at(offset, epoch), 0, 1, document))

    async def send(self, *sent: frames.Frame) -> None:
        await self.send_bytes(b"".join(self.profile.encode(frame) for frame in sent))

    async def send_bytes(self, encoded: bytes) -> None:
        await self._outgoing.send(self.profile.message(encoded))

    async def close(self, code: int | None = 1006, reason: str = "") -> None:
        await self.fail(WireClosed(code, reason))

    async def fail(self, error: Exception) -> None:
        """Have the client's wire raise *error*."""
        await self._outgoing.send(error)


class _MemoryWire:
    def __init__(
        self, incoming: MemoryObjectReceiveStream[Message | Exception], outgoing: MemoryObjectSendStream[Message], peer: Peer
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._peer = peer

    async def send(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        if self._peer.send_fails:
            raise WireClosed(None, "broken pipe")
        assert self._peer.closed_with is None, "sent after close"
        await self._outgoing.send(message)

    async def receive(self) -> Message:
        message = await self._incoming.receive()
        if isinstance(message, Exception):
            raise message
        return message

    async def close(self, code: int) -> None:
        await anyio.lowlevel.checkpoint()
        if self._peer.closed_with is None:
            self._peer.closed_with = code
