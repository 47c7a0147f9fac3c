"""The demo's channels, watched by a client in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, cast

import anyio
import pytest

from rtsync.client import Client, Event, Subscription, connect
from rtsync.core import Document, checked_document, same
from rtsync.demo import build_app, demo_channels
from rtsync.demo._market import book_document
from rtsync.demo._portfolio import HOLDINGS
from rtsync.demo._recording import load_recording
from rtsync.testing._connector import asgi_connector
from rtsync.testing._lifespan import asgi_lifespan
from rtsync.testing._virtual import VIRTUAL_BACKENDS, settle

pytestmark = pytest.mark.anyio

RECORDING = load_recording()
PERIOD = RECORDING.period


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def market() -> AsyncIterator[Client]:
    """Serve the demo and connect a client."""
    app = build_app()
    async with asgi_lifespan(app), asgi_connector(app) as server, connect("ws://demo/rt/ws", connector=server) as client:
        await client.connected()
        yield client


def document_of(subscription: Subscription) -> Document:
    assert isinstance(subscription.value, dict)
    return subscription.value


def book_at(symbol: str, t: float) -> Document:
    """Compute the book *t* seconds into the recording."""
    return checked_document(book_document([step for step in RECORDING.books if step.symbol == symbol and step.t <= t]))


async def test_portfolio_is_valued_at_the_prices_that_the_price_channels_show() -> None:
    """Also for who comes to one of them later: all play by one clock."""
    async with market() as client, client.subscribe("portfolio:demo") as portfolio:
        for pause in (0.5, 7.31, 11.9, 23.7):  # the last of them, after a lap
            await anyio.sleep(pause)
            positions = cast("dict[str, dict[str, Decimal]]", document_of(portfolio)["positions"])
            assert len(positions) == len(HOLDINGS)
            async with anyio.create_task_group() as tasks:
                for symbol, position in positions.items():
                    tasks.start_soon(_check_mark, client, symbol, position["mark"])


async def _check_mark(client: Client, symbol: str, mark: Decimal) -> None:
    async with client.subscribe(f"prices:{symbol}") as price:
        async for change in price:
            if price.status.freshness == "live":
                assert not isinstance(change, Event)
                break
        quote = cast("dict[str, Decimal]", price.value)
        assert (quote["bid"] + quote["ask"]) / 2 == mark


async def test_book_equals_the_file_at_every_moment_and_begins_again_with_each_lap() -> None:
    symbol = "UNI-USD"
    async with market() as client, client.subscribe(f"book:{symbol}") as book:
        # The clock starts with whoever looks first, which was a moment ago at most.
        for lap in range(2):
            for t in (0.09, 3.0, 17.77, 30.0, 30.95):
                await anyio.sleep_until(lap * PERIOD + t + 0.02)
                await settle()
                assert same(document_of(book), book_at(symbol, t)) or same(document_of(book), book_at(symbol, t + 0.02))
                assert book.status.freshness == "live"


async def test_latecomers_find_the_book_of_that_moment() -> None:
    async with market() as client, client.subscribe("prices:UNI-USD"):  # starts the clock
        await anyio.sleep(20)
        async with client.subscribe("book:UNI-USD") as book:
            async for _ in book:
                if book.status.freshness == "live":
                    break
            assert same(document_of(book), book_at("UNI-USD", 20.0))


async def test_trades_of_the_next_lap_are_new_events() -> None:
    """Two laps: every trade comes twice, under positions of its own; when it happened moves on by a lap."""
    recorded = [trade for trade in RECORDING.trades if trade.symbol == "ETH-USD"]
    async with market() as client, client.subscribe("tape:ETH-USD") as tape:
        events = []
        async for event in tape:
            assert isinstance(event, Event)
            events.append(event)
            if len(events) == 2 * len(recorded):
                break
    trades = [cast("dict[str, Any]", event.value) for event in events]
    assert [(trade["price"], trade["size"], trade["side"]) for trade in trades] == 2 * [
        (trade.price, trade.size, trade.side) for trade in recorded
    ]
    assert len({event.position for event in events}) == len(events)
    for first, second in zip(trades, trades[len(recorded) :], strict=False):
        assert (second["time"] - first["time"]).total_seconds() == pytest.approx(PERIOD)


async def test_a_tape_is_live_before_its_first_trade() -> None:
    async with market() as client, client.subscribe("prices:ETH-USD"):
        await anyio.sleep(1)
        async with client.subscribe("tape:BCH-USD") as tape:
            await anyio.sleep(1)
            assert (tape.status.freshness, tape.value) == ("live", None)


@pytest.mark.parametrize("channel", ["prices:DOGE-USD", "book:DOGE-USD", "tape:DOGE-USD", "portfolio:somebody"])
async def test_what_was_not_recorded_is_closed_and_says_so(channel: str) -> None:
    async with market() as client, client.subscribe(channel) as nothing:
        await anyio.sleep(1)
        assert nothing.status.freshness == "closed"
        assert nothing.status.reason


async def test_the_channels_for_a_terminal_are_all_prices_and_the_portfolio() -> None:
    async with market() as client:
        for channel in demo_channels():
            async with client.subscribe(channel) as subscription:
                await anyio.sleep(1)
                assert subscription.status.freshness == "live"
    assert len(demo_channels()) == 11
