"""The client against the server itself, in memory and in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from random import Random
from typing import Any

import anyio
import pytest

from rtsync import RTSync, Settings, public
from rtsync.client import Change, Client, Event, Gap, ReconnectPolicy, SubscriptionRefused, connect
from rtsync.core import Position, parse_channel
from rtsync.testing._connector import ASGIConnector, asgi_connector
from rtsync.testing._virtual import settle

pytestmark = pytest.mark.anyio

BOOK, TRADES = parse_channel("book:A"), parse_channel("trades:A")
EXACT = Settings(reconnect_jitter=0.0, reconnect_spread=0.0)


class World:
    """One node, its families, and the way to it."""

    def __init__(self, rt: RTSync, server: ASGIConnector) -> None:
        self.server = server
        self.rt = rt

    def connect(self, **options: Any) -> Client:
        defaults = {"connector": self.server, "reconnect": ReconnectPolicy(jitter=0), "random": Random(1)}
        return connect("ws://node/rt/ws", **{**defaults, **options})


@asynccontextmanager
async def world(settings: Settings = EXACT) -> AsyncIterator[World]:
    rt = RTSync(settings)
    rt.state("book:{symbol}", access=public)
    rt.events("trades:{symbol}", access=public, window=10)
    rt.state("secret:{user}")
    async with rt.lifespan(), asgi_connector(rt, root_path="/rt") as server:
        yield World(rt, server)


async def set_book(there: World, document: object) -> Position:
    return await there.rt.hub.publisher.set(BOOK, document)


@pytest.mark.parametrize("profile", ["msgpack", "json"])
async def test_document_and_events_arrive_and_survive_cuts(profile: str) -> None:
    rng = Random(5)
    async with (
        world() as there,
        there.connect(profile=profile) as client,
        client.subscribe("book:A") as book,
        client.subscribe("trades:A") as trades,
    ):
        await client.connected()
        await settle()
        document: dict[str, Any] = {}
        seen: list[Change | Event | Gap] = []
        for number in range(200):
            document = {**document, f"level{rng.randrange(30)}": {"px": Decimal(number), "n": number}}
            document.pop(f"level{rng.randrange(30)}", None)
            await set_book(there, document)
            await there.rt.hub.publisher.append(TRADES, {"n": number})
            if number % 7 == 0:
                there.server.cut()
            if number % 5 == 0:
                await anyio.sleep(rng.random() * 3)
        await anyio.sleep(60)
        assert book.value == document
        with anyio.move_on_after(1):
            async for update in trades:
                seen.append(update)
        following = 0
        for update in seen:
            if isinstance(update, Gap):
                following = update.position.offset
            else:
                assert isinstance(update, Event)
                assert update.position.offset == following + 1
                following = update.position.offset
        assert following == 200
        assert any(isinstance(update, Event) for update in seen)


async def test_first_change_is_the_whole_document_then_come_patches() -> None:
    async with world() as there, there.connect() as client, client.subscribe("book:A") as book:
        first = await anext(book)
        assert isinstance(first, Change)
        assert (first.kind, first.value) == ("keyframe", {})
        at = await set_book(there, {"a": 1})
        second = await anext(book)
        assert isinstance(second, Change)
        assert (second.value, second.position) == ({"a": 1}, at)
        await set_book(there, {"a": 1, "b": 2})
        third = await anext(book)
        assert isinstance(third, Change)
        assert (third.kind, third.patch, third.status.freshness) == ("delta", {"b": 2}, "live")


async def test_resume_from_a_position_brings_exactly_what_was_missed() -> None:
    async with world() as there, there.connect() as client:
        publisher = there.rt.hub.publisher
        async with client.subscribe("trades:A", since_start=True) as sub:
            for number in range(3):
                await publisher.append(TRADES, number)
            assert [(await anext(sub)).value for _ in range(2)] == [0, 1]  # type: ignore[union-attr]
        for number in range(3, 6):
            await publisher.append(TRADES, number)
        async with client.subscribe("trades:A", position=sub.position) as again:
            assert [(await anext(again)).value for _ in range(4)] == [2, 3, 4, 5]  # type: ignore[union-attr]
        for number in range(6, 30):
            await publisher.append(TRADES, number)
        async with client.subscribe("trades:A", position=again.position) as late:
            gap = await anext(late)
            assert isinstance(gap, Gap)
            assert gap.start == again.position
            assert [(await anext(late)).value for _ in range(10)] == list(range(20, 30))  # type: ignore[union-attr]


async def test_forbidden_channel_is_refused_and_the_others_live() -> None:
    async with (
        world() as there,
        there.connect() as client,
        client.subscribe("secret:ann") as secret,
        client.subscribe("book:A") as book,
    ):
        with pytest.raises(SubscriptionRefused):
            await anext(secret)
        assert (await anext(book)).value == {}  # type: ignore[union-attr]


async def test_paused_subscription_gets_nothing_until_it_resumes() -> None:
    async with world() as there, there.connect() as client, client.subscribe("book:A") as book:
        await anext(book)
        await book.pause()
        await settle()
        await set_book(there, {"a": 1})
        await set_book(there, {"a": 2})
        await anyio.sleep(5)
        assert book.value == {}
        await book.resume()
        change = await anext(book)
        assert isinstance(change, Change)
        assert change.value == {"a": 2}


async def test_connection_stays_live_through_ten_silent_minutes() -> None:
    async with world() as there, there.connect() as client, client.subscribe("book:A") as book:
        await anext(book)
        await anyio.sleep(600)
        assert (client.state, book.status.freshness) == ("live", "live")
        assert there.server.opened == 1


async def test_new_connection_takes_over_from_the_zombie() -> None:
    """A link that died on the client's side only is ended by the server as soon as the client is back."""
    async with world() as there, there.connect() as client, client.subscribe("book:A") as book:
        await anext(book)
        await set_book(there, {"a": 1})
        await anext(book)
        there.server.connections[0].stall()
        await anyio.sleep(60)
        assert (client.state, there.server.opened, len(there.server.connections)) == ("live", 2, 1)
        await set_book(there, {"a": 2})
        await settle()
        assert book.value == {"a": 2}
