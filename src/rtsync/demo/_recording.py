"""The recorded market, read into values."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files
from math import ceil
from typing import Any, Literal

__all__ = ["BookStep", "Quote", "Recording", "Trade", "load_recording"]


@dataclass(frozen=True, slots=True)
class Quote:
    """The top of a book, ``t`` seconds into the recording."""

    t: float
    symbol: str
    bid: Decimal
    ask: Decimal
    bid_size: Decimal
    ask_size: Decimal

    @property
    def mid(self) -> Decimal:
        """The price halfway between bid and ask, exactly."""
        return (self.bid + self.ask) / 2


@dataclass(frozen=True, slots=True)
class Trade:
    """A trade, reported ``age`` seconds after it happened: a moment, or minutes for those from before the recording."""

    t: float
    symbol: str
    price: Decimal
    size: Decimal
    side: Literal["buy", "sell"]
    age: float


@dataclass(frozen=True, slots=True)
class BookStep:
    """The sizes at some prices of a book, zero where nothing is left; ``whole`` if these are all there are."""

    t: float
    symbol: str
    bids: Mapping[str, Decimal]
    asks: Mapping[str, Decimal]
    whole: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """
    Everything that was recorded, in order of time.

    Attributes:
        period: Seconds after which a replay begins again; whole, so that laps add up exactly.
    """

    ticks: Sequence[Quote | Trade]
    books: Sequence[BookStep]
    period: float

    @property
    def quotes(self) -> list[Quote]:
        """The quotes among the ticks."""
        return [tick for tick in self.ticks if isinstance(tick, Quote)]

    @property
    def trades(self) -> list[Trade]:
        """The trades among the ticks."""
        return [tick for tick in self.ticks if isinstance(tick, Trade)]

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols, in order of the alphabet."""
        return tuple(sorted({step.symbol for step in self.books}))


@cache
def load_recording() -> Recording:
    """Return the recording that comes with the package."""
    market = list(_lines("market.jsonl.gz"))
    # The recording does not tell at what time of day it began. The trade that was reported soonest says it best.
    began = max(_seconds(line["time"]) - line["t"] for line in market if line["type"] == "trade")
    ticks = [_trade(line, began) if line["type"] == "trade" else _quote(line) for line in market]
    books = [_book_step(line) for line in _lines("books.jsonl.gz")]
    return Recording(ticks, books, float(ceil(max(ticks[-1].t, books[-1].t))))


def _lines(name: str) -> Iterator[dict[str, Any]]:
    with files(__package__).joinpath("data", name).open("rb") as packed, gzip.open(packed, "rt") as lines:
        yield from map(json.loads, lines)


def _quote(line: dict[str, Any]) -> Quote:
    bid, ask, bid_size, ask_size = (Decimal(line[name]) for name in ("bid", "ask", "bid_size", "ask_size"))
    return Quote(line["t"], line["symbol"], bid, ask, bid_size, ask_size)


def _trade(line: dict[str, Any], began: float) -> Trade:
    age = began + line["t"] - _seconds(line["time"])
    return Trade(line["t"], line["symbol"], Decimal(line["price"]), Decimal(line["size"]), line["side"], age)


def _book_step(line: dict[str, Any]) -> BookStep:
    bids, asks = ({price: Decimal(size) for price, size in line.get(side, {}).items()} for side in ("bids", "asks"))
    return BookStep(line["t"], line["symbol"], bids, asks, line["type"] == "snapshot")


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
