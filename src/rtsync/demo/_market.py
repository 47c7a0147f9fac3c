"""From what was recorded to what the market's channels hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from .. import REMOVED, Changes
from ..core import Document, Patch, Value
from ._recording import BookStep, Quote, Trade

__all__ = ["Ticker", "book_document", "book_patch", "book_update", "trade_event"]


class Ticker:
    """The top of one book and the price of the last trade."""

    def __init__(self) -> None:
        self._fields: dict[str, Value] = {}

    def take(self, record: Quote | Trade, time: datetime) -> None:
        """Move on to what *record* says."""
        if isinstance(record, Trade):
            self._fields["last"] = record.price
        else:
            self._fields |= {
                "bid": record.bid,
                "ask": record.ask,
                "bid_size": record.bid_size,
                "ask_size": record.ask_size,
            }
        self._fields["time"] = time

    def document(self) -> Document:
        """Return ``bid, ask, bid_size, ask_size, last, time`` as far as known; ``time`` is that of the latest of them."""
        return dict(self._fields)


def trade_event(trade: Trade, reported: datetime) -> Document:
    """Return ``price, size, side, time`` of a trade reported at a time of day; it happened at ``time``, some moments before."""
    happened = reported - timedelta(seconds=trade.age)
    return {"price": trade.price, "size": trade.size, "side": trade.side, "time": happened}


def book_update(steps: Sequence[BookStep]) -> Document | Changes:
    """Return what *steps* do to a book: the whole of it if they begin with that, else what changes."""
    return book_document(steps) if steps[0].whole else Changes(book_patch(steps))


def book_document(steps: Sequence[BookStep]) -> Document:
    """
    Return the book after *steps*, the first of which is whole.

    Prices are keys, as text just as the exchange writes it, so that each level changes on its own: ``{"bids": {"4215.5":
    Decimal("492.968"), …}, "asks": {…}}``.
    """
    bids: dict[str, Value] = {}
    asks: dict[str, Value] = {}
    for step in steps:
        for levels, sizes in ((bids, step.bids), (asks, step.asks)):
            for price, size in sizes.items():
                if size:
                    levels[price] = size
                else:
                    levels.pop(price, None)
    return {"bids": bids, "asks": asks}


def book_patch(steps: Sequence[BookStep]) -> Patch:
    """Return the patch of a book that *steps* amount to, none of which is whole."""
    patch: Patch = {}
    for side in ("bids", "asks"):
        levels: Patch = {}
        for step in steps:
            for price, size in (step.bids if side == "bids" else step.asks).items():
                levels[price] = size if size else REMOVED
        if levels:
            patch[side] = levels
    return patch
