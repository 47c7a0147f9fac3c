"""The whole stack over real sockets, on uvicorn (asyncio) and on hypercorn with trio, with the hub within the test's reach."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.routing import Mount

from benchmarks._load import Client as LoadClient
from rtsync import RTSync, Settings, public
from rtsync.client import Change, Client, Event, ReconnectPolicy, Subscription, connect
from rtsync.core import JSON, MSGPACK, Limits, Profile, frames
from rtsync.testing import serve_hypercorn, serve_uvicorn

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
"""Seconds for what takes a moment; the machine may be busy."""

LIMITS = Limits(1 << 24, 200, 1 << 22)

QUICK: dict[str, Any] = {
    "ack_timeout": 1.0,
    "heartbeat_interval": 1.0,
    "heartbeat_timeout": 1.0,
    "close_timeout": 1.0,
    "ack_window_bytes": 16 << 20,
    "flush_bytes": 8 << 20,
}
"""Stalled clients are found out within seconds; windows are larger than what a kernel hides, so that sends do block."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Real time, for what is outside waits for nobody."""
    backend: str = request.param
    return backend


class Served:
    """An app with families ``doc:{name}`` and ``log:{name}``, on a real server."""

    def __init__(self, rt: RTSync, url: str) -> None:
        self.rt = rt
        self.port = int(urlsplit(url).port or 0)
        self.url = f"ws://127.0.0.1:{self.port}/rt/ws"

    async def set(self, name: str, document: object) -> None:
        await self.rt.hub.publisher.set(name, document)  # type: ignore[arg-type]

    async def append(self, name: str, event: object) -> None:
        await self.rt.hub.publisher.append(name, event)  # type: ignore[arg-type]

    async def until(self, **wanted: int) -> None:
        """Wait until the hub's statistics show these numbers."""
        with anyio.fail_after(PATIENCE):
            # Numbers tell nobody that they change.
            while any(getattr(self.rt.statistics(), name) != number for name, number in wanted.items()):  # noqa: ASYNC110
                await anyio.sleep(0.02)


@asynccontextmanager
async def served(backend: str, *, shutdown: float = 4.0, **settings: Any) -> AsyncIterator[Served]:
    rt = RTSync(Settings(**settings))
    rt.state("doc:{name}", access=public)
    rt.events("log:{name}", access=public)
    app = Starlette(routes=[Mount("/rt", rt)], lifespan=rt.lifespan)
    if backend == "asyncio":
        serving = serve_uvicorn(app, thread=False, shutdown=shutdown, ws_ping_interval=None)
    else:
        serving = serve_hypercorn(app, shutdown=shutdown)
    async with serving as url:
        yield Served(rt, url)


# ---- clients


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    async with connect(url, reconnect=ReconnectPolicy(first=0.05, cap=0.2)) as client:
        with anyio.fail_after(PATIENCE):
            await client.connected()
        yield client


async def next_value(view: Subscription, wanted: object) -> Change:
    """Return the change that makes the document equal to *wanted*."""
    with anyio.fail_after(PATIENCE):
        async for change in view:
            assert isinstance(change, Change)
            if change.value == wanted:
                return change
    raise AssertionError("the subscription has ended")


class Foreign:
    """A connection by another library, with frames written by hand."""

    def __init__(self, socket: Any, profile: Profile) -> None:
        self.socket = socket
        self.profile = profile
        self.messages = 0
        self._unread: list[frames.ServerFrame] = []

    async def say(self, *said: frames.ClientFrame) -> None:
        await self.socket.send(self.profile.message(b"".join(map(self.profile.encode, said))))

    async def next(self) -> frames.ServerFrame:
        while not self._unread:
            with anyio.fail_after(PATIENCE):
                message = await self.socket.recv()
            self.messages += 1
            for frame in self.profile.read_server(message, LIMITS):
                if isinstance(frame, frames.Ping):
                    await self.say(frames.Pong(frame.id, self.messages))
                else:
                    self._unread.append(frame)
        return self._unread.pop(0)


@asynccontextmanager
async def foreign(backend: str, url: str, profile: Profile) -> AsyncIterator[Foreign]:
    if backend == "asyncio":
        from websockets.asyncio.client import connect as open_socket
    else:
        from websockets.trio.client import connect as open_socket  # type: ignore[assignment]
    options: Any = {"subprotocols": [profile.name], "ping_interval": None, "close_timeout": 2}
    async with open_socket(url, **options) as opened:
        assert opened.subprotocol == profile.name
        yield Foreign(opened, profile)


@asynccontextmanager
async def deaf(here: Served, *channels: str) -> AsyncIterator[socket.socket]:
    """A client that subscribes and then never reads again. Broken off at the end."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        raw.setblocking(False)
        with anyio.fail_after(PATIENCE):
            try:
                raw.connect(("127.0.0.1", here.port))
            except BlockingIOError:
                await anyio.wait_writable(raw)
            subscribe = frames.Subscribe(1, tuple(frames.SubscribeItem(channel) for channel in channels))
            raw.send(
                b"GET /rt/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Protocol: rtsync.v1.msgpack\r\n\r\n"
            )
            await anyio.wait_readable(raw)
            said = MSGPACK.encode(frames.Hello(None, "deaf")) + MSGPACK.encode(subscribe)
            assert len(said) < 126
            raw.send(bytes([0x82, 0x80 | len(said)]) + bytes(4) + said)
        yield raw
        if raw.fileno() >= 0:
            reset(raw)


def reset(raw: socket.socket) -> None:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


@asynccontextmanager
async def breakable(port: int) -> AsyncIterator[tuple[str, list[SocketStream]]]:
    """Give the URL of a way to the server, and the streams that are in use on it: close them to cut it."""
    streams: list[SocketStream] = []

    async def pump(source: SocketStream, sink: SocketStream) -> None:
        try:
            async for data in source:
                await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        await sink.aclose()

    async def carry(near: SocketStream) -> None:
        async with near, await anyio.connect_tcp("127.0.0.1", port) as far:
            streams.extend((near, far))
            async with anyio.create_task_group() as both:
                both.start_soon(pump, near, far)
                both.start_soon(pump, far, near)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, carry)
        yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/rt/ws", streams
        tasks.cancel_scope.cancel()


# ---- what holds on both


@pytest.mark.parametrize("profile", [MSGPACK, JSON], ids=["msgpack", "json"])
async def test_client_of_another_library_is_served(anyio_backend_name: str, profile: Profile) -> None:
    """Frames as the protocol's page has them, also with the compression that such clients offer."""
    async with served(anyio_backend_name) as here:
        await here.set("doc:a", {"bid": 1})
        async with foreign(anyio_backend_name, here.url, profile) as peer:
            await peer.say(frames.Hello(None, "foreign"), frames.Subscribe(1, (frames.SubscribeItem("doc:a"),)))
            assert isinstance(await peer.next(), frames.Welcome)
            subscribed, keyframe = await peer.next(), await peer.next()
            assert isinstance(subscribed, frames.Subscribed)
            assert isinstance(keyframe, frames.Keyframe)
            await here.set("doc:a", {"bid": 2})
            delta = await peer.next()
            assert isinstance(delta, frames.Delta)
            assert delta.offset - delta.span == keyframe.position.offset
        await here.until(sessions=0, subscriptions=0)


async def test_broken_rule_is_told_and_closed_with_its_code(anyio_backend_name: str) -> None:
    """A real client reads both."""
    from websockets.exceptions import ConnectionClosed

    async with served(anyio_backend_name) as here, foreign(anyio_backend_name, here.url, MSGPACK) as peer:
        await peer.say(frames.Hello(None, "foreign"))
        await peer.next()
        await peer.socket.send(b"\xc1")
        error = await peer.next()
        assert isinstance(error, frames.Error)
        assert (error.request, error.code) == (None, "bad_frame")
        with pytest.raises(ConnectionClosed) as closed:
            await peer.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400
        await here.until(sessions=0)


async def test_cut_client_resumes_exactly(anyio_backend_name: str) -> None:
    """What it missed comes as one delta and as every event, once; the session it left behind is taken over or gone."""
    advice = {"reconnect_delay_min": 0.05, "reconnect_spread": 0.0}
    async with (
        served(anyio_backend_name, **advice) as here,
        breakable(here.port) as (url, streams),
        connected(url) as client,
    ):
        await here.set("doc:a", {"n": 0})
        await here.append("log:a", 0)
        async with client.subscribe("doc:a") as doc, client.subscribe("log:a", since_start=True) as log:
            await next_value(doc, {"n": 0})
            expected = [0]
            for number in range(1, 6):
                for stream in streams:
                    await stream.aclose()
                streams.clear()
                for step in range(3):
                    await here.set("doc:a", {"n": number, "step": step})
                    expected.append(number * 10 + step)
                    await here.append("log:a", expected[-1])
                change = await next_value(doc, {"n": number, "step": 2})
                assert change.kind == "delta"
            with anyio.fail_after(PATIENCE):
                events = [await anext(log) for _ in expected]
            assert [event.value for event in events if isinstance(event, Event)] == expected
        await here.until(sessions=1, subscriptions=0)


@pytest.mark.parametrize("way", ["close", "half-close", "reset"])
async def test_client_that_breaks_off_is_forgotten(anyio_backend_name: str, way: str) -> None:
    """In the middle of data, and however its end of the stream ends."""
    async with served(anyio_backend_name) as here:
        for _ in range(3):
            async with deaf(here, "doc:a", "log:a") as raw:
                await here.until(sessions=1, subscriptions=2)
                await here.set("doc:a", {"x": "y" * 1000})
                if way == "reset":
                    reset(raw)
                elif way == "close":
                    raw.close()
                else:
                    raw.shutdown(socket.SHUT_WR)
                await here.set("doc:a", {"x": "z" * 1000})
                await here.until(sessions=0, subscriptions=0)


async def test_stalled_reader_is_evicted_while_others_go_on(anyio_backend_name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Others get each update at once while its send blocks; then it is gone, and shutting down does not wait for it."""
    async with served(anyio_backend_name, **QUICK) as here, connected(here.url) as client:
        async with client.subscribe("doc:a") as doc, AsyncExitStack() as stack:
            await here.set("doc:a", {"n": 0})
            await next_value(doc, {"n": 0})
            await stack.enter_async_context(deaf(here, "doc:blob"))
            await here.until(sessions=2, subscriptions=2)
            number = 0
            waits = []
            with anyio.fail_after(PATIENCE):
                while here.rt.statistics().evictions == 0:
                    number += 1
                    await here.set("doc:blob", {"blob": number.to_bytes(4, "big") * 100_000})
                    began = anyio.current_time()
                    await here.set("doc:a", {"n": number})
                    await next_value(doc, {"n": number})
                    waits.append(anyio.current_time() - began)
                    await anyio.sleep(0.02)
            assert client.state == "live"
            assert sorted(waits)[len(waits) // 2] < 0.1
            assert here.rt.statistics().evictions == 1
            assert (here.rt.statistics().sessions, here.rt.statistics().subscriptions) == (1, 1)
            await here.set("doc:a", {"n": "after"})
            await next_value(doc, {"n": "after"})
        # Another one is stalled when the server stops.
        async with deaf(here, "doc:blob"):
            await here.until(sessions=2)
            for number in range(12):
                await here.set("doc:blob", {"blob": number.to_bytes(4, "little") * 200_000})
                await anyio.sleep(0.02)
    assert not [record for record in caplog.records if record.name.startswith("rtsync") and record.levelname == "ERROR"]


async def test_server_stops_in_time_with_a_stalled_reader_connected(anyio_backend_name: str) -> None:
    """Whether or not its send can be cancelled, and although nothing of it was ever read."""
    patient = QUICK | {"ack_timeout": 60.0, "heartbeat_interval": 60.0}
    async with AsyncExitStack() as stack:
        async with served(anyio_backend_name, shutdown=3.0, **patient) as here:
            await stack.enter_async_context(deaf(here, "doc:blob"))
            await here.until(subscriptions=1)
            for number in range(20):
                await here.set("doc:blob", {"blob": number.to_bytes(4, "little") * 200_000})
                await anyio.sleep(0.02)
            await here.until(pump_lanes=2)
            began = anyio.current_time()
        assert anyio.current_time() - began < 8.0


# ---- a crowd


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_thousand_subscribers_get_everything_and_leave_nothing(anyio_backend_name: str) -> None:
    """On one uvicorn: each publish is encoded once, every client gets it, and afterwards tasks and memory are as before."""
    publishes, size = 20, 1000
    greeting = MSGPACK.encode(frames.Hello(None, "crowd"))
    greeting += MSGPACK.encode(frames.Subscribe(1, (frames.SubscribeItem("doc:a"),)))
    loop = asyncio.get_running_loop()

    async def visit(here: Served, count: int) -> None:
        crowd: list[LoadClient] = []
        for _ in range(count):
            _, client = await loop.create_connection(partial(LoadClient, "/rt/ws", greeting, None), "127.0.0.1", here.port)
            crowd.append(client)
        await here.until(subscriptions=count)
        await until_all_have(crowd, 1)
        await anyio.sleep(0.1)
        seen = [client.messages for client in crowd]
        built = here.rt.statistics().frames_built
        for number in range(1, publishes + 1):
            await here.set("doc:a", {"n": number, "count": count})
            await until_all_have(crowd, number, seen)
        assert here.rt.statistics().frames_built == built + publishes
        for number, client in enumerate(crowd):
            assert client.transport is not None
            client.transport.abort() if number % 2 else client.transport.close()
        await here.until(sessions=0, subscriptions=0)

    async with served(anyio_backend_name) as here:
        await here.set("doc:a", {"n": 0})
        tasks, blocks = 0, 0
        for _ in range(2):
            await visit(here, size)
            await anyio.sleep(0.2)
            gc.collect()
            grown = sys.getallocatedblocks() - blocks
            tasks, before = len(anyio.get_running_tasks()), tasks
            blocks += grown
        assert tasks == before
        assert grown < 5000, "a thousand clients leave less than five blocks each"


async def until_all_have(crowd: list[LoadClient], more: int, than: list[int] | None = None) -> None:
    """Wait until every client has got so many messages more (pings may make it one more)."""
    seen = than or [0] * len(crowd)
    with anyio.fail_after(PATIENCE):
        while any(client.messages < start + more for client, start in zip(crowd, seen, strict=True)):
            await checkpoint()
