"""An app with rtsync in it, served in memory, and peers that speak the protocol frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.routing import Mount

from rtsync import Authenticator, Position, Principal, Refused, RTSync, Settings, authenticated, public
from rtsync.backends import Backend
from rtsync.client import Client, ReconnectPolicy, WireClosed, connect
from rtsync.core import MSGPACK, Channel, Limits, Profile, frames
from rtsync.testing import STRICT, ASGIConnector, ASGIWebSocket, ServerModel, asgi_connector

__all__ = ["Peer", "Site", "site", "users"]

F = TypeVar("F", bound=frames.Frame)
LIMITS = Limits(1 << 24, 200, 1 << 22)


async def users(token: str | None) -> Principal:
    """An authenticator: a token is a user's name, but for ``wrong``."""
    if token is None or token == "wrong":
        raise Refused
    return Principal(token)


class Peer:
    """One connection, and what has arrived on it. Pings are answered as they are read, unless `silent`."""

    def __init__(self, socket: ASGIWebSocket, profile: Profile) -> None:
        self.socket = socket
        self.profile = profile
        self.requests = count(1)
        self.silent = False
        self.messages = 0
        self.pings = 0
        self.seen: list[frames.ServerFrame] = []  # everything but pings
        self._unread: deque[frames.ServerFrame] = deque()

    # ---- saying

    async def say(self, *said: frames.ClientFrame) -> None:
        """Send frames as one message."""
        await self.socket.send(self.profile.message(b"".join(self.profile.encode(frame) for frame in said)))

    async def hello(self, token: str | None = None, *, resume: frames.Welcome | None = None) -> frames.Welcome:
        """Say hello, as the client of an earlier welcome if one is given; return the welcome."""
        session, secret = (None, None) if resume is None else (resume.session, resume.secret)
        await self.say(frames.Hello(token, "test", session, secret))
        return await self.next(frames.Welcome)

    async def ask(self, *channels: str, position: Position | None = None, rate: float | None = None) -> int:
        """Ask for channels and do not wait."""
        request = next(self.requests)
        items = tuple(frames.SubscribeItem(channel, position, rate) for channel in channels)
        await self.say(frames.Subscribe(request, items))
        return request

    async def subscribe(self, channel: str, position: Position | None = None) -> frames.Subscribed:
        """Subscribe to one channel; return the answer, and ignore what was in transit before it."""
        request = await self.ask(channel, position=position)
        while not isinstance(frame := await self.any(), frames.Subscribed) or frame.request != request:
            assert not isinstance(frame, frames.Error), frame
        assert frame.channel == channel
        return frame

    async def unsubscribe(self, channel: str) -> None:
        request = next(self.requests)
        await self.say(frames.Unsubscribe(request, (channel,)))
        while not isinstance(frame := await self.any(), frames.Unsubscribed):
            assert not isinstance(frame, frames.Error), frame
        assert (frame.request, frame.channel, frame.code) == (request, channel, "")

    # ---- hearing

    async def read(self) -> None:
        """Read one message. Raises `WireClosed`."""
        message = await self.socket.receive()
        self.messages += 1
        for frame in self.profile.read_server(message, LIMITS):
            if not isinstance(frame, frames.Ping):
                self.seen.append(frame)
                self._unread.append(frame)
                continue
            self.pings += 1
            if not self.silent:
                await self.say(frames.Pong(frame.id, self.messages))

    async def any(self) -> frames.ServerFrame:
        """Return the next frame that is no ping."""
        while not self._unread:
            await self.read()
        return self._unread.popleft()

    async def next(self, kind: type[F]) -> F:
        """Return the next frame, which has to be of this kind."""
        frame = await self.any()
        assert isinstance(frame, kind), frame
        return frame

    async def begun(self, number: int) -> dict[str, frames.Subscribed]:
        """Read until so many subscriptions have begun, in whatever order; return their answers by channel."""
        answers: dict[str, frames.Subscribed] = {}
        while len(answers) < number:
            frame = await self.any()
            if isinstance(frame, frames.Subscribed):
                answers[frame.channel] = frame
            else:
                assert isinstance(frame, frames.Keyframe), frame
        return answers

    async def keep_reading(self) -> None:
        """Read until the connection ends."""
        try:
            while True:
                await self.read()
        except WireClosed:
            pass

    async def end(self) -> tuple[str | None, int | None]:
        """Wait for the end; return the code that the last error named, and the close code."""
        error = None
        try:
            while True:
                frame = await self.any()
                error = frame.code if isinstance(frame, frames.Error) and frame.request is None else None
        except WireClosed as closed:
            return error, closed.code

    @property
    def unread(self) -> list[frames.ServerFrame]:
        """Frames that were read and not asked for yet."""
        return list(self._unread)


class Site:
    """
    The app: rtsync with families ``doc:{name}`` and ``log:{name}`` for everybody, ``mine:{user}`` for its user, and ``private``
    for whoever authenticated.
    """

    def __init__(self, rt: RTSync, connector: ASGIConnector) -> None:
        self.rt = rt
        self.connector = connector
        self.served: list[ASGIWebSocket] = []

    @asynccontextmanager
    async def open(
        self, profile: Profile = MSGPACK, path: str = "/rt/ws", *, offer: Sequence[str] | None = None, **options: Any
    ) -> AsyncIterator[Peer]:
        """Connect, and say nothing yet."""
        subprotocols = [profile.name] if offer is None else offer
        async with self.connector.open(path, subprotocols=subprotocols, **options) as socket:
            self.served.append(socket)
            yield Peer(socket, profile)

    @asynccontextmanager
    async def peer(self, profile: Profile = MSGPACK, path: str = "/rt/ws", token: str | None = None) -> AsyncIterator[Peer]:
        """Connect and be welcomed."""
        async with self.open(profile, path) as peer:
            await peer.hello(token)
            yield peer

    def client(self, **options: Any) -> Client:
        """Return the Python client, connected here."""
        options = {"reconnect": ReconnectPolicy(first=0.1, cap=1.0, jitter=0.0, spread=0.0), "random": Random(1), **options}
        return connect("ws://test/rt/ws", connector=self.connector, **options)

    @property
    def sessions(self) -> int:
        return self.rt.statistics().sessions

    def holds(self, name: str) -> bool:
        """Whether the node holds a channel."""
        return self.rt.hub.channels.get(Channel(name)) is not None

    def head(self, name: str) -> Position:
        """Return the newest position of a channel that the node holds."""
        channel = self.rt.hub.channels.get(Channel(name))
        assert channel is not None
        return channel.head

    async def set(self, name: str, document: object) -> Position:
        return await self.rt.hub.publisher.set(Channel(name), document)

    async def append(self, name: str, event: object) -> Position:
        return await self.rt.hub.publisher.append(Channel(name), event)

    def check(self) -> None:
        """Prove that every connection was treated as servers need it."""
        for socket in self.served:
            assert socket.max_concurrent_sends <= 1, socket
            assert socket.max_concurrent_receives <= 1, socket
            assert socket.sends_after_cancel == 0, socket
            assert socket.sends_after_disconnect == 0, socket
            assert socket.receives_after_disconnect == 0, socket
            assert socket.closes <= 1, socket
            assert socket.error is None, socket


def make_rt(authenticator: Authenticator | None, backend: Backend | None, settings: dict[str, Any]) -> RTSync:
    rt = RTSync(Settings(**settings), authenticator=authenticator, backend=backend)
    rt.state("doc:{name}", access=public)
    rt.events("log:{name}", access=public, window=100)
    rt.state("mine:{user}", access=lambda principal, params: principal.user == params["user"])
    rt.state("private", access=authenticated)
    rt.state("default")
    return rt


@asynccontextmanager
async def site(
    *,
    server: ServerModel = STRICT,
    authenticator: Authenticator | None = None,
    backend: Backend | None = None,
    declare: Callable[[RTSync], None] = lambda rt: None,
    grace: float = 60.0,
    **settings: Any,
) -> AsyncIterator[Site]:
    """Serve the app for the length of the block. ``doc:a`` holds a document already, other channels were never written."""
    rt = make_rt(authenticator, backend, settings)
    declare(rt)
    app = Starlette(routes=[Mount("/rt", rt)])
    async with rt.lifespan(), asgi_connector(app, server=server, grace=grace) as connector:
        here = Site(rt, connector)
        await here.set("doc:a", {"first": True})
        yield here
        for socket in connector.connections:
            assert socket.error is None
        here.check()
