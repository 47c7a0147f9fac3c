"""
The channels of the demo, and what feeds them.

Each source plays its share of the recording by the one clock they have in common, and only while somebody is subscribed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeVar

import anyio

from .. import LIVE, RTSync, SourceStatus, public
from ._market import Ticker, book_update, trade_event
from ._portfolio import Portfolio
from ._recording import Quote, Recording, Trade
from ._replay import Clock, Player, Timed, Timeline

__all__ = ["declare_market"]


class Record(Timed, Protocol):
    """A record of one symbol."""

    @property
    def symbol(self) -> str: ...


R = TypeVar("R", bound=Record)


def declare_market(rt: RTSync, recording: Recording, clock: Clock) -> None:
    """Declare ``prices:{symbol}``, ``book:{symbol}``, ``tape:{symbol}`` and ``portfolio:{user}``, played from *recording*."""
    ticks_of = _timelines(recording.ticks, recording.period)
    steps_of = _timelines(recording.books, recording.period)
    trades_of = _timelines(recording.trades, recording.period)
    quotes_held = Timeline([quote for quote in recording.quotes if quote.symbol in Portfolio().symbols], recording.period)

    @rt.state("prices:{symbol}", access=public).source()
    async def prices(symbol: str) -> AsyncIterator[object]:
        if symbol not in ticks_of:
            yield _nothing("no such symbol in the recording")
            await anyio.sleep_forever()
        ticker = Ticker()
        async for batch in Player[Quote | Trade](ticks_of[symbol], clock):
            for record, due in zip(batch.records, batch.times, strict=True):
                ticker.take(record, due)
            yield ticker.document()

    @rt.state("book:{symbol}", access=public).source()
    async def book(symbol: str) -> AsyncIterator[object]:
        if symbol not in steps_of:
            yield _nothing("no such symbol in the recording")
            await anyio.sleep_forever()
        async for batch in Player(steps_of[symbol], clock):
            yield book_update(batch.records)

    @rt.events("tape:{symbol}", access=public).source()
    async def tape(symbol: str) -> AsyncIterator[object]:
        if symbol not in trades_of:
            yield _nothing("no such symbol in the recording")
            await anyio.sleep_forever()
        yield LIVE  # the first trade may be long in coming
        # Trades played before somebody looked are past: to append them now would report them twice.
        async for batch in Player(trades_of[symbol], clock, history=False):
            for trade, due in zip(batch.records, batch.times, strict=True):
                yield trade_event(trade, due)

    @rt.state("portfolio:{user}", access=public).source()
    async def portfolio(user: str) -> AsyncIterator[object]:
        if user != "demo":
            yield _nothing("the demo has one portfolio: portfolio:demo")
            await anyio.sleep_forever()
        valued = Portfolio()
        async for batch in Player(quotes_held, clock):
            for quote in batch.records:
                valued.mark(quote.symbol, quote.mid)
            if valued.complete:
                yield valued.document(batch.times[-1])


def _timelines(records: Sequence[R], period: float) -> dict[str, Timeline[R]]:
    by_symbol: dict[str, list[R]] = {}
    for record in records:
        by_symbol.setdefault(record.symbol, []).append(record)
    return {symbol: Timeline(of_symbol, period) for symbol, of_symbol in by_symbol.items()}


def _nothing(reason: str) -> SourceStatus:
    return SourceStatus("closed", int(time.time() * 1000), reason)
