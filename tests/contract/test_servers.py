"""Every framework and every server, over real sockets: what a client may count on, and what a bad one cannot do."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from rtsync.client import Change, Client, Event, ReconnectPolicy, Subscription, connect
from tests.contract.peers import breakable_link, raw_peer
from tests.contract.servers import Combination, Running, serve

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
"""Seconds for what takes a moment; the machine may be busy."""

STALL = {"receive_buffer": 65_536}
FLOOD = {"count": 500, "size": 20_000}
"""More than kernel and server hide: on servers that ever wait, the send does."""

PATIENT = {"RTSYNC_ACK_TIMEOUT": "60", "RTSYNC_HEARTBEAT_INTERVAL": "60"}
"""The stalled client is not to be evicted before the server stops."""

DEFAULT_WINDOW = {"RTSYNC_FLUSH_BYTES": "65536", "RTSYNC_ACK_WINDOW_BYTES": "262144"}

STOP_SECONDS = 10.0
"""The server's grace of 2, and slack for a busy machine."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    async with connect(url, reconnect=ReconnectPolicy(first=0.05, cap=0.2)) as client:
        with anyio.fail_after(PATIENCE):
            await client.connected()
        yield client


async def next_change(subscription: Subscription) -> Change:
    """Return the next change of the document; those of its freshness are not looked at here."""
    with anyio.fail_after(PATIENCE):
        async for change in subscription:
            if isinstance(change, Change) and change.kind != "status":
                return change
    raise AssertionError("the subscription has ended")


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    with anyio.fail_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - another process sets no event here
            await anyio.sleep(0.05)


async def sessions_are(server: Running, count: int) -> None:
    """Wait until the node holds so many sessions, and no subscription without one."""

    async def reached() -> bool:
        statistics = await server.statistics()
        return statistics["sessions"] == count and (count > 0 or statistics["subscriptions"] == 0)

    await until(reached)


async def test_a_client_receives_what_the_app_publishes(server: Running) -> None:
    """The first change is what there is, and then only what changed travels."""
    async with connected(server.websocket_url) as client, client.subscribe("prices:A") as prices:
        first = await next_change(prices)
        assert (first.kind, first.value) == ("keyframe", {})
        await server.publish("A", {"bid": "1", "ask": "2"})
        assert (await next_change(prices)).value == {"bid": "1", "ask": "2"}
        await server.publish("A", {"bid": "1.5", "ask": "2"})
        change = await next_change(prices)
        assert (change.kind, change.patch) == ("delta", {"bid": "1.5"})
        assert change.value == {"bid": "1.5", "ask": "2"}


async def test_a_cut_client_resumes_exactly_where_it_was(server: Running) -> None:
    """After the cut come a delta and the events that were missed, each once: no keyframe, no gap."""
    async with (
        breakable_link(server.port) as link,
        connected(f"ws://127.0.0.1:{link.port}/rt/ws") as client,
        client.subscribe("prices:B") as prices,
        client.subscribe("log:resume") as log,
    ):
        await next_change(prices)
        await server.publish("B", {"bid": "1", "ask": "9"})
        await next_change(prices)
        await server.log("resume", 2)
        with anyio.fail_after(PATIENCE):
            before = [await anext(log) for _ in range(2)]
        link.cut()
        for bid in ("2", "3", "4"):
            await server.publish("B", {"bid": bid, "ask": "9"})
        await server.log("resume", 3)
        link.mend()
        change = await next_change(prices)
        assert (change.kind, change.value) == ("delta", {"bid": "4", "ask": "9"})
        with anyio.fail_after(PATIENCE):
            after = [await anext(log) for _ in range(3)]
        events = [event for event in (*before, *after) if isinstance(event, Event)]
        assert [event.value for event in events] == [{"number": number, "text": ""} for number in (0, 1, 0, 1, 2)]
        assert client.state == "live"


async def test_a_client_that_leaves_is_forgotten(server: Running) -> None:
    await sessions_are(server, 0)
    async with connected(server.websocket_url) as client, client.subscribe("prices:C") as prices:
        await next_change(prices)
        await sessions_are(server, 1)
    await sessions_are(server, 0)


@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_a_client_that_breaks_off_is_forgotten(server: Running, how: str) -> None:
    """Nothing is left of it, and nothing is logged as an error."""
    await sessions_are(server, 0)
    for _ in range(3):
        async with raw_peer(server.port, "prices:D") as peer:
            await sessions_are(server, 1)
            getattr(peer, how)()
            await server.publish("D", {"bid": "1"})
            await sessions_are(server, 0)
    assert "/rtsync/" not in server.output


async def test_a_stalled_reader_is_evicted_while_others_go_on(combination: Combination, server: Running) -> None:
    """Others receive each update as if nothing were, while it blocks, while it is evicted, and afterwards."""
    await sessions_are(server, 0)
    evictions = (await server.statistics())["evictions"]

    async def held_up() -> bool:
        """A send waits: one task stays with the stalled client, another serves the rest. (Or that is over already.)"""
        statistics = await server.statistics()
        return statistics["pump_lanes"] == (2 if combination.send_waits else 1) or statistics["evictions"] > evictions

    async def evicted() -> bool:
        statistics = await server.statistics()
        return statistics["evictions"] == evictions + 1 and statistics["sessions"] == 1

    async with connected(server.websocket_url) as client, client.subscribe("prices:E") as prices:
        await next_change(prices)
        async with raw_peer(server.port, "log:stall", **STALL):
            await server.log("stall", **FLOOD)
            await until(held_up)
            for number in range(5):
                await server.publish("E", {"bid": str(number)})
                assert (await next_change(prices)).value == {"bid": str(number)}
            await until(evicted)
            await server.publish("E", {"bid": "after"})
            assert (await next_change(prices)).value == {"bid": "after"}
            assert client.state == "live"
    await sessions_are(server, 0)
    assert "/rtsync/" not in server.output


async def test_shutdown_ends_connections_and_the_process(combination: Combination) -> None:
    """Connected clients do not keep the server, and learn that it is gone."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(serve(combination))
        client = await stack.enter_async_context(connected(server.websocket_url))
        peers = [await stack.enter_async_context(raw_peer(server.port, "prices:F")) for _ in range(10)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, server.stop, STOP_SECONDS)
            with anyio.fail_after(STOP_SECONDS):
                codes = [await peer.read_to_end() for peer in peers]
        assert set(codes) <= set(combination.close_codes)
        assert client.state != "live"
        assert "/rtsync/" not in server.output


async def test_shutdown_waits_no_longer_than_its_deadline_for_a_stalled_client(combination: Combination) -> None:
    """One that reads nothing, with a send blocked on it unless acknowledgements prevent that, and one that is well."""
    settings = dict(PATIENT if combination.survives_blocked_send else PATIENT | DEFAULT_WINDOW)
    with serve(combination, **settings) as server:
        async with raw_peer(server.port, "log:stall", **STALL), connected(server.websocket_url):
            await server.log("stall", **FLOOD)
            try:
                await anyio.to_thread.run_sync(server.stop, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pytest.fail("the server does not stop")
