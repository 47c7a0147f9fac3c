"""The walks of the protocol page happen as they are written: each is walked by the client's rules and a real server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from rtsync import Principal, public
from rtsync.backends import MemoryStore
from rtsync.core import REMOVED, Channel, Position
from rtsync.testing import StoreFaults
from tests.docs.pages import Page
from tests.docs.walks import Walker, server, serving, shown_lines, tell_apart

pytestmark = pytest.mark.anyio

QUOTES = "prices:ETH-USD"


async def first_subscribe(walker: Walker) -> None:
    rt = server()
    prices = rt.state("prices:{symbol}", access=public)
    async with serving(rt) as connector:
        quote = prices.channel("ETH-USD")
        await quote.set({"bid": "4100.5", "ask": "4101.0", "venue": {"name": "dydx", "open": True}})
        async with walker.connect(connector) as connection:
            walker.session.subscribe(QUOTES, 0.0)
            await connection.speak()
            await connection.hear(3)
            await quote.set({"bid": "4100.0", "ask": "4101.0", "venue": {"name": "dydx", "open": False}, "halted": True})
            await connection.hear(1)
            await quote.patch({"halted": REMOVED})
            await connection.hear(1)
            walker.session.unsubscribe(QUOTES)
            await connection.speak()
            await connection.hear(1)
            await connection.say_bye()


async def resume_within_the_window(walker: Walker) -> None:
    rt = server()
    prices = rt.state("prices:{symbol}", access=public)
    async with serving(rt) as connector:
        quote = prices.channel("ETH-USD")
        await quote.set({"bid": "4100.5", "ask": "4101.0"})
        async with walker.connect(connector) as connection:
            walker.session.subscribe(QUOTES, 0.0)
            await connection.speak()
            await connection.hear(3)
            connection.socket.reset()
        await quote.patch({"bid": "4100.0"})
        await quote.patch({"halted": True})
        await quote.patch({"bid": "4099.5"})
        async with walker.connect(connector) as connection:
            await connection.speak()
            await connection.hear(3)


async def resume_that_cannot_be_proven(walker: Walker) -> None:
    store = MemoryStore()
    before = server(store)
    prices = before.state("prices:{symbol}", access=public)
    async with serving(before) as connector:
        quote = prices.channel("ETH-USD")
        await quote.set({"bid": "4102", "ask": "4103"})
        async with walker.connect(connector) as connection:
            walker.session.subscribe(QUOTES, 0.0)
            await connection.speak()
            await connection.hear(3)
            await quote.patch({"ask": "4092"})
            await connection.hear(1)
            connection.socket.reset()
    StoreFaults(store).roll_back(Channel(QUOTES), 1)
    after = server(store)
    prices = after.state("prices:{symbol}", access=public)
    async with serving(after) as connector:
        quote = prices.channel("ETH-USD")
        await quote.patch({"bid": "4104"})
        await quote.patch({"bid": "4105"})
        async with walker.connect(connector) as connection:
            await connection.speak()
            await connection.hear(3)


async def events_with_a_gap(walker: Walker) -> None:
    rt = server()
    trades = rt.events("trades:{user}", access=public, window=3)
    async with serving(rt) as connector:
        mine = trades.channel("ann")
        async with walker.connect(connector) as connection:
            walker.session.subscribe("trades:ann", 0.0, position=Position("", 0, 0))
            await connection.speak()
            await connection.hear(2)
            await mine.append({"id": 1, "qty": "0.5"})
            await connection.hear(2)
            connection.socket.reset()
        for number in range(2, 7):
            await mine.append({"id": number, "qty": "0.5"})
        async with walker.connect(connector) as connection:
            await connection.speak()
            await connection.hear(6)


async def takeover(walker: Walker) -> None:
    rt = server()
    rt.state("prices:{symbol}", access=public)
    async with serving(rt) as connector, walker.connect(connector, "A") as old:
        await old.speak()
        await old.hear(1)
        async with walker.connect(connector, "B") as new:
            await new.speak()
            await new.hear(1)
            await old.hear_the_end()


async def slow_client(walker: Walker) -> None:
    rt = server(window=525)
    prices = rt.state("prices:{symbol}", access=public)
    async with serving(rt) as connector:
        quote = prices.channel("ETH-USD")
        await quote.set({"bid": "4100", "ask": "4110"})
        async with walker.connect(connector) as connection:
            walker.session.subscribe(QUOTES, 0.0)
            await connection.speak()
            await connection.hear(4)
            for bid in ("4101", "4102", "4103"):
                await quote.patch({"bid": bid})
                await connection.hear(1)
            for bid in ("4104", "4105", "4106"):
                await quote.patch({"bid": bid})
            await connection.speak()
            await connection.hear(1)


async def subscribed_by_the_server(walker: Walker) -> None:
    async def authenticate(token: str | None) -> Principal:
        return Principal(user=token)

    rt = server(authenticator=authenticate)
    portfolios = rt.state("portfolio:{user}")
    rt.endpoint("/ws/portfolio", subscribe=["portfolio:{user}"])
    async with serving(rt) as connector:
        await portfolios.channel("ann").set({"cash": "1000.00"})
        async with walker.connect(connector, path="/ws/portfolio", token="ann") as connection:
            await connection.speak()
            await connection.hear(3)


WALKS: dict[str, Callable[[Walker], Awaitable[None]]] = {
    "First subscribe": first_subscribe,
    "Resume within the window": resume_within_the_window,
    "Resume that cannot be proven": resume_that_cannot_be_proven,
    "Events with a gap": events_with_a_gap,
    "Takeover": takeover,
    "A slow client": slow_client,
    "Subscribed by the server": subscribed_by_the_server,
}


@pytest.mark.parametrize("title", WALKS)
async def test_walk_happens_as_it_is_written(title: str) -> None:
    """Client and server exchange what the page shows, frame by frame."""
    walker = Walker()
    await WALKS[title](walker)
    shown = shown_lines(Page("docs/reference/protocol.md").blocks(title, "walk"))
    assert shown, "the page shows nothing"
    assert tell_apart(shown, walker.lines) is None
