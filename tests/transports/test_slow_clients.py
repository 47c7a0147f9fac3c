"""Clients that read slowly, not at all, or leave in odd ways: nobody else pays, and nothing is left of them."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from rtsync.client import Change, Event, Gap, WireClosed
from rtsync.core import JSON, MSGPACK, Code, frames
from rtsync.testing import (
    DAPHNE,
    HYPERCORN_TRIO,
    SERVER_MODELS,
    STRICT,
    UVICORN,
    ServerModel,
    asgi_connector,
    settle,
)
from tests.transports._site import Peer, Site, make_rt, site, users

pytestmark = pytest.mark.anyio

SERVERS = pytest.mark.parametrize("server", SERVER_MODELS, ids=lambda server: server.name)
BLOCKING = pytest.mark.parametrize(
    "server",
    [replace(server, buffer=8192) for server in SERVER_MODELS if server.buffer is not None],
    ids=lambda server: server.name,
)
"""Servers that make a send wait, with so small a buffer that it soon does."""


def filler(number: int, size: int = 2000) -> dict[str, object]:
    return {"n": number, "x": f"{number:{size}}"}


async def subscribed(peer: Peer, *names: str) -> None:
    """Subscribe to channels and read until their data has come."""
    for name in names:
        await peer.subscribe(name)
        await settle()
        while peer.unread or peer.socket.buffered:
            await peer.any()


@asynccontextmanager
async def crowd(here: Site, number: int) -> AsyncIterator[list[Peer]]:
    """Some clients of ``doc:a`` that read whatever comes."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(here.peer()) for _ in range(number)]
        for peer in peers:
            await subscribed(peer, "doc:a")
        async with anyio.create_task_group() as tasks:
            for peer in peers:
                tasks.start_soon(peer.keep_reading)
            yield peers
            tasks.cancel_scope.cancel()


# ---- a client that does not read


@BLOCKING
async def test_client_that_does_not_read_delays_nobody(server: ServerModel) -> None:
    """A publish never waits; everybody else gets each update in the instant it happens, but for 20 ms once."""
    async with site(server=server) as here, here.peer() as stuck, crowd(here, 99) as others:
        await subscribed(stuck, "doc:a")
        stuck.socket.stall(way="to_peer")
        for number in range(1, 60):
            began = anyio.current_time()
            await here.set("doc:a", filler(number))
            assert anyio.current_time() == began
            for _ in range(3):
                await anyio.sleep(0.01)
            assert {len(peer.seen) for peer in others} == {len(others[0].seen)}, number
            await settle()
        for peer in others:
            deltas = [frame for frame in peer.seen if isinstance(frame, frames.Delta)]
            assert len(deltas) == 59
        assert stuck.socket.blocked
        assert stuck.socket.bytes_sent < 32_768


@BLOCKING
async def test_client_that_does_not_read_is_evicted_once_and_loses_its_place_at_once(
    server: ServerModel, caplog: pytest.LogCaptureFixture
) -> None:
    """When its time is up: one log line, one count, and no entry of it in the hub, whether or not its send can be cancelled."""
    caplog.set_level(logging.INFO, "rtsync.hub")
    async with site(server=server) as here, here.peer() as stuck, crowd(here, 5) as others:
        await subscribed(stuck, "doc:a", "doc:b")
        stuck.socket.stall(way="to_peer")
        number = 0
        while here.rt.statistics().evictions == 0:
            number += 1
            await here.set("doc:a", filler(number))
            await anyio.sleep(0.25)
            assert anyio.current_time() < 60
        statistics = here.rt.statistics()
        assert 29 <= anyio.current_time() <= 32
        assert (statistics.sessions, statistics.subscriptions) == (5, 5)
        for number in range(20):
            await here.set("doc:a", filler(number))
            await anyio.sleep(0.25)
        assert here.rt.statistics().evictions == 1
        assert len([record for record in caplog.records if "evicted" in record.getMessage()]) == 1
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        if not server.shielded:
            assert here.rt.statistics().pump_lanes == 1
            assert here.connector.serving == 5, "its handler has returned"
        assert {len(peer.seen) for peer in others} == {len(others[0].seen)}


async def test_send_that_cannot_be_cancelled_ends_with_the_link() -> None:
    """Its task stays until then, and nothing else of the session does."""
    async with site(server=replace(HYPERCORN_TRIO, buffer=8192)) as here, here.peer() as stuck:
        await subscribed(stuck, "doc:a")
        stuck.socket.stall(way="to_peer")
        for number in range(150):
            await here.set("doc:a", filler(number))
            await anyio.sleep(0.25)
        await anyio.sleep(10)
        assert (here.sessions, here.connector.serving, here.rt.statistics().pump_lanes) == (0, 0, 2)
        stuck.socket.reset()
        await settle()
        assert here.rt.statistics().pump_lanes == 1


async def test_server_that_never_blocks_hides_no_more_than_the_window() -> None:
    """Where nothing slows a sender, unacknowledged bytes do; then the client is told and evicted."""
    async with site(server=DAPHNE) as here, here.peer() as peer:
        peer.silent = True
        await subscribed(peer, "doc:a")
        peer.socket.stall(way="to_peer")
        for number in range(1, 100):
            await here.set("doc:a", filler(number, 10_000))
            await anyio.sleep(0.1)
        window = 65_536
        assert window <= peer.socket.buffered < window + 2 * 10_100
        sent = peer.socket.bytes_sent
        while here.sessions:
            await here.set("doc:a", filler(number, 10_000))
            await anyio.sleep(1)
        assert peer.socket.bytes_sent - sent < 1000, "an error and a close"
        peer.socket.resume()
        assert await peer.end() in (("slow", 4509), ("no_pong", 4508))


async def test_slow_client_that_acknowledges_in_time_is_never_evicted() -> None:
    """However long its acks take, as long as each comes before the deadline; what it gets is never older than that."""
    async with site(server=UVICORN, heartbeat_timeout=20.0) as here, here.peer() as peer:
        await subscribed(peer, "doc:a")
        peer.socket.stall(way="to_peer")
        number = 0
        for _ in range(20):
            for _ in range(250):
                number += 1
                await here.set("doc:a", filler(number))
                await anyio.sleep(0.1)
            peer.socket.resume()
            await settle()
            while peer.socket.buffered:
                await peer.any()
                await settle()
            peer.socket.stall(way="to_peer")
        assert here.rt.statistics().evictions == 0
        assert here.sessions == 1
        assert number == 5000
        received = sum(isinstance(frame, frames.Delta) for frame in peer.seen)
        assert received < 1000, "conflated"
        last = peer.seen[-1]
        assert isinstance(last, frames.Delta)
        assert last.offset == 5001


async def test_client_that_asks_and_does_not_read_is_ended_at_once() -> None:
    """Answers are bounded; later updates to it are no more than a look at its state."""
    generous: dict[str, Any] = {"message_rate": 10_000.0, "message_burst": 10_000}
    async with site(server=replace(UVICORN, buffer=8192), **generous) as here, here.peer() as peer:
        await subscribed(peer, "doc:a")
        peer.socket.stall(way="to_peer")
        asked = 0
        while here.sessions and asked < 2000:
            asked += 1
            await peer.say(frames.Unsubscribe(asked + 10, tuple(f"x{number}" * 10 for number in range(10))))
            await settle()
        assert 100 < asked < 1000
        assert here.rt.statistics().evictions == 1
        for number in range(10):
            await here.set("doc:a", filler(number))
        await settle()


async def test_evicted_client_comes_back_and_resumes_exactly() -> None:
    """The Python client: its document is the publisher's, and of the events none is missing or repeated without a gap."""
    quick: dict[str, Any] = {"ack_timeout": 10.0, "flush_bytes": 8192, "ack_window_bytes": 16_384, "min_ack_window_bytes": 8192}
    async with site(server=replace(UVICORN, buffer=8192), **quick) as here, here.client() as client:
        await here.append("log:a", -1)
        events: list[object] = []
        gaps = 0
        document: object = None

        async def follow() -> None:
            nonlocal gaps
            async with client.subscribe("log:a") as log:
                async for update in log:
                    if isinstance(update, Event):
                        events.append(update.value)
                    elif isinstance(update, Gap):
                        gaps += 1

        async def watch() -> None:
            nonlocal document
            async with client.subscribe("doc:a") as doc:
                async for change in doc:
                    assert isinstance(change, Change)
                    document = change.value

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            tasks.start_soon(watch)
            await client.connected()
            await anyio.sleep(1)
            number = 0
            for _ in range(3):
                (link,) = here.connector.connections
                link.stall(way="to_peer")
                evictions = here.rt.statistics().evictions
                while here.rt.statistics().evictions == evictions:
                    await here.set("doc:a", filler(number))
                    if number % 20 == 0:
                        await here.append("log:a", number)
                    number += 1
                    await anyio.sleep(0.1)
                link.resume()
                link.reset()
                await anyio.sleep(5)
                assert client.state == "live"
                assert document == filler(number - 1)
            assert (events, gaps) == ([at for at in range(number) if at % 20 == 0], 0)
            tasks.cancel_scope.cancel()


# ---- a client that leaves


@SERVERS
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_client_that_leaves_while_data_flows_ends_once_and_silently(
    server: ServerModel, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the server makes of the send that comes too late."""
    caplog.set_level(logging.INFO, "rtsync")
    async with site(server=server) as here, crowd(here, 3) as others:
        for number in range(20):
            async with here.peer() as peer:
                await subscribed(peer, "doc:a")
                await here.set("doc:a", filler(number))
                if way == "reset":
                    peer.socket.reset()
                    await here.set("doc:a", filler(-number))
            await here.set("doc:a", filler(number, 10))
            await settle()
            assert here.sessions == 3
        assert not caplog.records
        assert {getattr(peer.seen[-1], "offset", None) for peer in others} == {here.head("doc:a").offset}


@pytest.mark.parametrize("habit", [OSError, RuntimeError, WebSocketDisconnect, ConnectionResetError, "silent"])
async def test_send_that_fails_before_any_disconnect_ends_the_session(habit: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Errors of every kind that servers and frameworks use mean "gone"; silence means nothing, until nobody is heard."""
    rt = make_rt(None, None, {})
    broken = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def failing(message: Message) -> None:
            if not broken:
                await send(message)
            elif habit != "silent":
                raise habit(1000) if habit is WebSocketDisconnect else habit()

        await rt(scope, receive, failing)

    async with rt.lifespan(), asgi_connector(app) as connector, Site(rt, connector).open(path="/ws") as peer:
        await peer.hello()
        await peer.subscribe("doc:a")
        await settle()
        broken = True
        await Site(rt, connector).set("doc:a", {"x": 1})
        await settle()
        gone_at_once = habit != "silent"
        assert (rt.statistics().sessions, connector.serving) == ((0, 0) if gone_at_once else (1, 1))
        await anyio.sleep(40)
        assert (rt.statistics().sessions, connector.serving) == (0, 0)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("error", [OSError, RuntimeError])
async def test_receive_that_fails_ends_the_session(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """It is another way to say that nobody is there."""
    rt = make_rt(None, None, {})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def failing() -> Message:
            message = await receive()
            if message.get("bytes") == b"boom":
                raise error
            return message

        await rt(scope, failing, send)

    async with rt.lifespan(), asgi_connector(app) as connector, Site(rt, connector).open(path="/ws") as peer:
        await peer.hello()
        await peer.socket.send(b"boom")
        await settle()
        assert (rt.statistics().sessions, connector.serving) == (0, 0)
        assert not caplog.records


@SERVERS
@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1012, 4009, None, "missing"])
async def test_every_disconnect_is_the_same_end(server: ServerModel, code: Any) -> None:
    """The code of a disconnect means nothing, for servers make it up."""
    async with site(server=server) as here, here.peer() as peer:
        await subscribed(peer, "doc:a")
        event: dict[str, Any] = {"type": "websocket.disconnect"}
        if code != "missing":
            event["code"] = code
        peer.socket.deliver(event)
        await settle()
        assert (here.sessions, here.connector.serving) == (0, 0)


@SERVERS
async def test_client_that_vanishes_is_gone_after_interval_and_grace(server: ServerModel) -> None:
    """Without any outbound data but a heartbeat, and without a disconnect ever."""
    async with site(server=server) as here, here.peer() as peer:
        peer.socket.vanish()
        await anyio.sleep(29)
        assert here.sessions == 1
        await anyio.sleep(2)
        assert here.sessions == 0
        await anyio.sleep(6)
        assert here.connector.serving == 0


async def test_any_frame_keeps_a_client_alive() -> None:
    """Not only pongs."""
    async with site(ack_timeout=3600.0) as here, here.peer() as peer:
        for number in range(1, 20):
            await anyio.sleep(25)
            await peer.say(frames.Rate(number, "doc:a", None))
        assert here.sessions == 1


async def test_client_that_reads_nothing_but_talks_does_not_starve_what_keeps_it_alive() -> None:
    """Its messages are taken as they come, those over the rate are refused, and its pong is seen at once."""
    async with site(server=UVICORN) as here, here.peer() as peer:
        for _ in range(150):
            await peer.ask("nothing")
        await settle()
        assert peer.socket.unread == 0
        answers = [(await peer.next(frames.Error)).code for _ in range(150)]
        assert answers == ["forbidden"] * 100 + ["too_many"] * 50
        await anyio.sleep(25)
        await peer.read()
        assert peer.pings == 1
        await anyio.sleep(25)
        assert here.sessions == 1


async def test_flood_is_cut_off_with_a_typed_error() -> None:
    """Ten thousand messages a second are not read for long."""
    async with site(server=UVICORN) as here, here.peer() as peer:
        asked = 0
        while here.sessions and asked < 10_000:
            asked += 1
            await peer.ask("nothing")
            await anyio.sleep(0.0001)
        assert asked < 250
        assert await peer.end() == ("too_many", 4429)


# ---- the shape of what is received


@pytest.mark.parametrize(
    ("event", "accepted"),
    [
        ({"bytes": b"", "text": None}, True),
        ({"bytes": b""}, True),
        ({"bytes": bytearray(MSGPACK.encode(frames.Bye("x"))), "text": None}, True),
        ({"bytes": memoryview(MSGPACK.encode(frames.Bye("x")))}, True),
        ({"bytes": None, "text": "[8]\n"}, False),
        ({"text": "[8]\n"}, False),
        ({"text": ""}, False),
        ({}, False),
    ],
    ids=range(8),
)
async def test_odd_shapes_of_messages_are_read_or_refused(event: dict[str, Any], accepted: bool) -> None:
    """Servers leave keys out or fill them with nothing; text where bytes were agreed on is no message of ours."""
    async with site() as here, here.peer() as peer:
        peer.socket.deliver({"type": "websocket.receive", **event})
        await settle()
        assert (here.sessions == 1) == accepted
        if not accepted:
            assert await peer.end() == ("bad_frame", 4400)


async def test_empty_text_is_an_empty_message_in_json() -> None:
    """Nothing was said."""
    async with site() as here, here.peer(JSON) as peer:
        peer.socket.deliver({"type": "websocket.receive", "text": "", "bytes": None})
        await settle()
        assert here.sessions == 1


# ---- handshakes and closes that cross


async def test_client_that_leaves_before_it_is_accepted_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """No session, no error: the server merely tells us too late."""
    async with site() as here:
        for server in SERVER_MODELS:
            here.connector.server = server
            here.connector.latency = 0.1
            async with here.open(wait=False) as peer:
                await anyio.sleep(0.05)
                peer.socket.reset()
            async with here.open(offer=["other"], wait=False) as peer:
                await anyio.sleep(0.05)
                await peer.socket.close()
        await anyio.sleep(1)
        assert (here.sessions, here.connector.serving) == (0, 0)
    assert not caplog.records


@SERVERS
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
async def test_closes_that_cross_are_no_error(server: ServerModel, delay: float, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever closes first, and while the other's close is under way."""
    async with site(server=server) as here:
        here.connector.latency = 0.1
        for way in ("close", "reset"):
            async with here.open() as peer:
                await peer.hello()
                await peer.socket.send(b"\xc1")
                await anyio.sleep(delay)
                if way == "close":
                    await peer.socket.close(1001)
                else:
                    peer.socket.reset()
                here.rt.hub.end_all(Code.DRAIN, "twice")
        await anyio.sleep(1)
        assert (here.sessions, here.connector.serving) == (0, 0)
    assert not caplog.records


async def test_client_that_never_answers_our_close_is_not_waited_for() -> None:
    """Its handler returns after the close timeout."""
    async with site(close_timeout=3.0) as here, here.open() as peer:
        await peer.hello()
        await peer.socket.send(b"\xc1")
        await settle()
        peer.socket.server = replace(STRICT, own_close_code=None)
        await anyio.sleep(3)
        await settle()
        assert (here.sessions, here.connector.serving) == (0, 0)


async def test_last_word_does_not_wait_for_a_full_link() -> None:
    """A client that breaks a rule while it reads nothing cannot be told; nothing waits for it longer than the close timeout."""
    for server in (STRICT, HYPERCORN_TRIO):
        async with site(server=server, close_timeout=2.0) as here, here.open() as peer:
            await peer.hello()
            peer.socket.stall(way="to_peer")
            await peer.ask("doc:a")
            await settle()
            peer.socket.server = replace(server, buffer=peer.socket.buffered)
            assert not peer.socket.blocked, "nothing is under way, but the next message will wait"
            await peer.socket.send(b"\xc1")
            await anyio.sleep(2.3)
            assert (here.sessions, here.connector.serving) == (0, 0)


# ---- nothing is left


async def test_thousand_connections_come_and_go_without_a_trace() -> None:
    """Closed, broken, vanished, cut off in the middle of whatever: tasks, entries and memory are as before."""
    random = Random(11)

    async def visit(here: Site, number: int) -> None:
        await anyio.sleep(random.random() * 20)
        try:
            async with here.open(random.choice((MSGPACK, JSON)), offer=None) as peer:
                await peer.say(frames.Hello(random.choice(("ann", "wrong", "ann-slow")), "test"))
                await peer.ask("doc:a", "log:a", f"doc:{number % 10}", "mine:ann")
                for _ in range(random.randrange(4)):
                    await peer.any()
                await anyio.sleep(random.random())
                match random.randrange(4):
                    case 0:
                        peer.socket.reset()
                    case 1:
                        peer.socket.vanish()
                    case 2:
                        await peer.say(frames.Bye("x"))
                    case 3:
                        await peer.socket.send(b"\xc1" if peer.profile is MSGPACK else "[")
                        await peer.end()
        except WireClosed:
            pass

    async def slow_users(token: str | None) -> Any:
        if token == "ann-slow":
            await anyio.sleep(0.5)
        return await users(token)

    async def round_of(here: Site, number: int) -> int:
        async with anyio.create_task_group() as tasks:
            for visitor in range(number):
                tasks.start_soon(visit, here, visitor)
            for step in range(100):
                await here.set("doc:a", filler(step))
                await here.append("log:a", step)
                await anyio.sleep(0.2)
        await anyio.sleep(60)
        statistics = here.rt.statistics()
        assert (statistics.sessions, statistics.subscriptions, statistics.pump_lanes) == (0, 0, 1)
        assert here.connector.serving == 0
        here.served.clear()
        gc.collect()
        return len(anyio.get_running_tasks())

    async with site(server=HYPERCORN_TRIO, authenticator=slow_users, channel_linger=1.0) as here:
        await round_of(here, 100)
        before, blocks = await round_of(here, 100), sys.getallocatedblocks()
        after = await round_of(here, 1000)
        assert sys.getallocatedblocks() - blocks < 2000
        assert after == before
        assert here.rt.statistics().channels == 0


# ---- shutdown


@SERVERS
async def test_stopping_tells_everybody_and_waits_for_nobody(server: ServerModel) -> None:
    """Idle, busy and silent clients: each is told to come back, and the app's shutdown takes no time."""
    rt = make_rt(None, None, {})
    async with asgi_connector(Starlette(routes=[Mount("/rt", rt)]), server=server) as connector, AsyncExitStack() as stack:
        here = Site(rt, connector)
        async with rt.lifespan():
            await here.set("doc:a", {"x": 1})
            peers = [await stack.enter_async_context(here.peer()) for _ in range(20)]
            for peer in peers[:10]:
                await subscribed(peer, "doc:a")
        assert anyio.current_time() == 0.0
        for peer in peers:
            assert await peer.end() == ("drain", 4512)
        await settle()
        assert connector.serving == 0
        here.check()


@BLOCKING
async def test_stopping_with_a_blocked_client_stays_within_its_deadline(server: ServerModel) -> None:
    """Also where the blocked send cannot be cancelled: the shutdown takes the close timeout at most, and others are told."""
    rt = make_rt(None, None, {"close_timeout": 2.0})
    async with asgi_connector(Starlette(routes=[Mount("/rt", rt)]), server=server) as connector, AsyncExitStack() as stack:
        here = Site(rt, connector)
        async with rt.lifespan():
            await here.set("doc:a", {"x": 1})
            peers = [await stack.enter_async_context(here.peer()) for _ in range(5)]
            for peer in peers:
                await subscribed(peer, "doc:a")
            stuck, *others = peers
            stuck.socket.stall(way="to_peer")
            for number in range(20):
                await here.set("doc:a", filler(number))
                for peer in others:
                    await peer.next(frames.Delta)
                await anyio.sleep(0.1)
            assert stuck.socket.blocked
            began = anyio.current_time()
        assert anyio.current_time() - began <= (2.0 if server.shielded else 0.0)
        for peer in others:
            assert await peer.end() == ("drain", 4512)
        await anyio.sleep(3)
        assert connector.serving == 0, "every handler has returned, the blocked client's too"
        stuck.socket.reset()
        await settle()
        here.check()


async def test_one_client_that_cannot_be_told_keeps_nobody_from_being_told() -> None:
    """Whatever goes wrong while a session is ended concerns that session."""
    rt = make_rt(None, None, {})
    broken: set[int] = set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        number = scope["client"][1]

        async def failing(message: Message) -> None:
            if number in broken:
                raise ValueError("a bug in some middleware")
            await send(message)

        await rt(scope, receive, failing)

    async with asgi_connector(app, raise_app_errors=False) as connector, AsyncExitStack() as stack:
        here = Site(rt, connector)
        async with rt.lifespan():
            peers = []
            for number in range(10):
                peer = await stack.enter_async_context(here.open(path="/ws", client=("127.0.0.1", number)))
                await peer.hello()
                peers.append(peer)
            broken.update((0, 3, 4))
        for number in (1, 2, 5, 6, 7, 8, 9):
            assert await peers[number].end() == ("drain", 4512)
        await settle()
        assert connector.serving == 0


async def test_stopped_app_can_be_started_again() -> None:
    """The same object, with new connections; nothing of the first run is left."""
    rt = make_rt(None, None, {})
    async with asgi_connector(Starlette(routes=[Mount("/rt", rt)])) as connector:
        here = Site(rt, connector)
        for _ in range(3):
            async with rt.lifespan():
                assert here.sessions == 0
                async with here.peer() as peer:
                    await peer.subscribe("doc:a")
                    await peer.next(frames.Keyframe)
