from __future__ import annotations

import random
from contextlib import suppress
from typing import Any, Literal

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from rtsync.client._errors import WireClosed
from rtsync.client._wire import Connector
from rtsync.testing._asgi import HandshakeRefused
from rtsync.testing._connector import asgi_connector
from rtsync.testing._virtual import VIRTUAL_BACKENDS, run_virtual, settle

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Ticker:
    """Sends a number every second until the peer is gone; notes when each call begins and ends, and why."""

    def __init__(self) -> None:
        self.journal: list[tuple[float, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(OSError):  # Its peer may leave before it has accepted, or without waiting for the next number.
            await self.serve(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.journal.append((anyio.current_time(), f"open {scope['path']}"))
        async with anyio.create_task_group() as tasks:

            async def tick() -> None:
                with suppress(OSError):
                    for number in range(1_000_000):
                        await send({"type": "websocket.send", "text": str(number)})
                        await anyio.sleep(1)

            tasks.start_soon(tick)
            while (event := await receive())["type"] != "websocket.disconnect":
                pass
            self.journal.append((anyio.current_time(), f"{event['code']}"))
            tasks.cancel_scope.cancel()


async def test_it_is_what_the_client_connects_by() -> None:
    async with asgi_connector(Ticker()) as server:
        connect: Connector = server
        async with connect("ws://node-1:8000/rt/ws?x=1", ["rtsync.v1.json"]) as wire:
            assert [await wire.receive(), await wire.receive()] == ["0", "1"]
            scope = server.connections[0].scope
            assert (scope["path"], scope["query_string"], scope["server"]) == ("/rt/ws", b"x=1", ("node-1", 8000))
            assert scope["subprotocols"] == ["rtsync.v1.json"]
            await wire.send(b"hello")
            await wire.close(1000)
            with pytest.raises(WireClosed):
                await wire.receive()


async def test_a_cut_reaches_both_ends_of_every_connection() -> None:
    app = Ticker()
    async with asgi_connector(app) as server:
        async with server.open("/a") as one, server.open("/b") as two:
            await anyio.sleep(2.5)
            server.cut()
            for wire in (one, two):
                with pytest.raises(WireClosed) as closed:
                    await wire.receive()
                assert closed.value.code is None
            await settle()
            assert server.serving == 0
        assert (server.connections, server.opened) == ([], 2)
    assert app.journal == [(0.0, "open /a"), (0.0, "open /b"), (2.5, "1006"), (2.5, "1006")]


async def test_nobody_listens_while_it_refuses() -> None:
    async with asgi_connector(Ticker()) as server:
        server.refusing = True
        with pytest.raises(HandshakeRefused, match="nobody listens"):
            async with server.open():
                pytest.fail("connected")
        server.refusing = False
        async with server.open() as wire:
            assert await wire.receive() == "0"
        assert server.opened == 1


async def test_a_client_that_is_cancelled_leaves_the_app_to_end_by_itself() -> None:
    app = Ticker()
    async with asgi_connector(app, latency=0.1) as server:
        with anyio.move_on_after(3):
            async with server.open("/a") as wire:
                while True:
                    await wire.receive()
        assert (server.connections, server.serving) == ([], 1)
        await anyio.sleep(0.2)
        assert server.serving == 0
    assert [what for _, what in app.journal] == ["open /a", "1006"]


async def test_leaving_the_block_closes_with_1000() -> None:
    app = Ticker()
    async with asgi_connector(app) as server, server.open("/a"):
        pass
    assert app.journal == [(0.0, "open /a"), (0.0, "1000")]


async def test_the_server_ends_connections_that_are_still_open() -> None:
    app = Ticker()
    ended: list[float] = []

    async with anyio.create_task_group() as tasks, asgi_connector(app) as server:

        async def client() -> None:
            with pytest.raises(WireClosed):
                async with server.open("/a") as wire:
                    while True:
                        await wire.receive()
            ended.append(anyio.current_time())

        tasks.start_soon(client)
        await anyio.sleep(2.5)
    assert ended == [2.5]
    assert app.journal == [(0.0, "open /a"), (2.5, "1006")]


async def test_errors_of_several_apps_come_as_a_group() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError(scope["path"])

    with pytest.raises(ExceptionGroup) as caught:
        async with asgi_connector(broken) as server:
            for path in ("/a", "/b"):
                with pytest.raises(HandshakeRefused):
                    async with server.open(path):
                        pytest.fail("accepted")
    assert [str(error) for error in caught.value.exceptions] == ["/a", "/b"]


async def test_connections_come_and_go_without_a_trace() -> None:
    async with asgi_connector(Ticker()) as server:
        for number in range(300):
            async with server.open() as wire:
                await wire.receive()
                if number % 3 == 1:
                    wire.reset()
                elif number % 3 == 2:
                    await wire.close(4000 + number)
            await settle()
            assert (server.serving, server.connections) == (0, [])


async def faulty_network(seed: int) -> list[tuple[float, str]]:
    """Clients of two nodes reconnect for ever over slow links, while a nemesis cuts, stalls, vanishes and refuses."""
    trace: list[tuple[float, str]] = []
    chance = random.Random(seed)
    latency = random.Random(seed + 1)

    def lag() -> float:
        return 0.02 + latency.random() / 10

    async with asgi_connector(Ticker(), latency=lag) as one, asgi_connector(Ticker(), latency=lag) as two:
        nodes = [one, two]

        async def client(number: int) -> None:
            mine = random.Random(seed * 100 + number)
            while True:
                node = mine.randrange(2)
                try:
                    with anyio.move_on_after(5 + mine.random()):
                        async with nodes[node](f"ws://node-{node}/{number}", []) as wire:
                            while True:
                                text = await wire.receive()
                                trace.append((anyio.current_time(), f"{number}@{node}: {text!r}"))
                except WireClosed as closed:
                    trace.append((anyio.current_time(), f"{number}@{node}: {closed}"))
                await anyio.sleep(mine.random())

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(client, number)
            for _ in range(60):
                await anyio.sleep(chance.random())
                node = chance.choice(nodes)
                node.refusing = chance.random() < 0.2
                for wire in node.connections:
                    match chance.randrange(8):
                        case 0:
                            wire.reset()
                        case 1:
                            wire.stall(3 * chance.random())
                        case 2:
                            wire.vanish()
                        case 3:
                            wire.stall(chance.random(), way="to_peer")
            tasks.cancel_scope.cancel()
    return trace


@pytest.mark.parametrize("seed", range(5))
def test_a_faulty_network_leaves_the_same_trace_on_both_loops(seed: int) -> None:
    backends: tuple[Literal["asyncio", "trio"], ...] = ("asyncio", "trio", "asyncio")
    traces = [run_virtual(faulty_network, seed, backend=backend, limit=1000) for backend in backends]
    assert len(traces[0]) > 100
    assert traces[0] == traces[1] == traces[2]
