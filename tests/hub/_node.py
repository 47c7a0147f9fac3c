"""A hub of its own for a test, and sessions whose links the test holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import anyio

from rtsync import RTSync, Settings, public
from rtsync._app import hub_options
from rtsync.backends import Backend, MemoryBackend
from rtsync.core import MSGPACK, Channel, Limits, Position, Profile, ServerSession, frames
from rtsync.hub import Hub, HubOptions, LiveChannel, Principal, Session
from rtsync.testing import settle

__all__ = ["Node", "Reader", "node", "only"]

F = TypeVar("F", bound=frames.Frame)
LIMITS = Limits(1 << 24, 200, 1 << 22)


class Reader(Session):
    """A session whose messages stay with the test. While it is `closed`, its link takes nothing."""

    __slots__ = ("_open", "_ping", "hub", "inbox", "read", "requests", "shielded")

    def __init__(self, hub: Hub, number: int, profile: Profile, secret: str) -> None:
        super().__init__(
            id=f"r{number}",
            secret=secret,
            principal=Principal(),
            rules=ServerSession(hub.options.session, hub.now()),
            profile=profile,
            on_end=lambda: hub.detach(self),
            pump=hub.pump,
            flush_bytes=hub.options.flush_bytes,
            wall_ms=lambda: 1234,
        )
        self.hub = hub
        self.inbox: list[bytes] = []
        self.read = 0  # messages that the test has taken
        self.shielded = False  # whether a blocked send cannot be cancelled
        self.requests = count(1)
        self._ping: tuple[int, int] | None = None  # the last ping taken, and the number of its message
        self._open = anyio.Event()
        self._open.set()
        self.rules.receive(profile.message(profile.encode(frames.Hello(None, "test"))), profile, hub.now())

    async def send(self, message: bytes) -> None:
        with anyio.CancelScope(shield=self.shielded):
            await self._open.wait()
        self.inbox.append(message)

    # ---- the link

    def close(self) -> None:
        """From now on a send blocks."""
        if self._open.is_set():
            self._open = anyio.Event()

    def open(self) -> None:
        """Let everything through."""
        self._open.set()

    # ---- the client

    def subscribe(self, name: str, position: Position | None = None, rate: float | None = None) -> int:
        request = next(self.requests)
        self.hub.subscribe(self, request, name, position, rate)
        return request

    def unsubscribe(self, name: str) -> None:
        self.hub.unsubscribe(self, next(self.requests), name)

    def set_rate(self, name: str, rate: float | None) -> None:
        self.hub.set_rate(self, next(self.requests), name, rate)

    def hear(self, frame: frames.ClientFrame) -> None:
        """Take in what the client says."""
        self.rules.receive(self.profile.message(self.profile.encode(frame)), self.profile, self.hub.now())
        self.acknowledged()

    def take(self) -> list[frames.ServerFrame]:
        """Return the frames that have arrived since the last time."""
        return [frame for message in self.take_messages() for frame in message]

    def take_messages(self) -> list[list[frames.ServerFrame]]:
        inbox, self.inbox = self.inbox, []
        taken = []
        for message in inbox:
            self.read += 1
            taken.append(self.profile.read_server(self.profile.message(message), LIMITS))
            for ping in only(frames.Ping, taken[-1]):
                self._ping = (ping.id, self.read)
        return taken

    async def take_all(self) -> list[frames.ServerFrame]:
        """Read and acknowledge until nothing more comes."""
        return [frame for message in await self.take_all_messages() for frame in message]

    async def take_all_messages(self) -> list[list[frames.ServerFrame]]:
        messages: list[list[frames.ServerFrame]] = []
        await settle()
        while self.inbox:
            messages += self.take_messages()
            self.pong()
            await settle()
        return messages

    def pong(self) -> bool:
        """Answer the ping that was taken, if there is one."""
        if self._ping is None:
            return False
        ping, self._ping = self._ping, None
        self.hear(frames.Pong(*ping))
        return True


class Node:
    """A hub with the families ``doc:{name}`` (state) and ``log:{name}`` (events, a window of 100)."""

    def __init__(self, hub: Hub, rt: RTSync) -> None:
        self.hub = hub
        self.rt = rt
        self._numbers = count()

    def reader(self, profile: Profile = MSGPACK, secret: str = "") -> Reader:
        reader = Reader(self.hub, next(self._numbers), profile, secret)
        self.hub.attach(reader)
        return reader

    def channel(self, name: str) -> LiveChannel:
        channel = self.hub.channels.get(Channel(name))
        assert channel is not None
        return channel

    async def set(self, name: str, document: object) -> Position:
        return await self.hub.publisher.set(Channel(name), document)

    async def append(self, name: str, event: object) -> Position:
        return await self.hub.publisher.append(Channel(name), event)


@asynccontextmanager
async def node(backend: Backend | None = None, *, window: int | None = None, **settings: Any) -> AsyncIterator[Node]:
    """Run a hub for the length of the block. *window*: bytes that may be unacknowledged."""
    rt = RTSync(Settings(**settings))
    rt.state("doc:{name}", access=public)
    rt.events("log:{name}", access=public, window=100)
    options: HubOptions = replace(hub_options(rt.settings), jitter=lambda: 0.5)
    if window is not None:
        rules = replace(options.session, first_window=window, min_window=window, max_window=window)
        options = replace(options, session=rules)
    async with backend or MemoryBackend() as opened:
        hub = Hub(opened, rt._families, options)
        async with hub.running():
            yield Node(hub, rt)


def only(kind: type[F], taken: Sequence[frames.ServerFrame]) -> Iterator[F]:
    """Return the frames of one kind."""
    return (frame for frame in taken if isinstance(frame, kind))
