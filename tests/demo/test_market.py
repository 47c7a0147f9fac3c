"""What records do to the documents and events of the market."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from rtsync import REMOVED, Changes
from rtsync.core import Patch, apply, checked_document, same
from rtsync.demo._market import Ticker, book_document, book_patch, book_update, trade_event
from rtsync.demo._recording import BookStep, Quote, Trade, load_recording

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def quote(bid: str, ask: str) -> Quote:
    return Quote(0.0, "ETH-USD", Decimal(bid), Decimal(ask), Decimal(1), Decimal(2))


def trade(price: str, age: float = 0.0) -> Trade:
    return Trade(0.0, "ETH-USD", Decimal(price), Decimal("0.1"), "sell", age)


def step(*, whole: bool = False, bids: dict[str, int] | None = None, asks: dict[str, int] | None = None) -> BookStep:
    buys, sells = ({price: Decimal(size) for price, size in (side or {}).items()} for side in (bids, asks))
    return BookStep(0.0, "ETH-USD", buys, sells, whole)


# ---- prices


def test_price_holds_the_latest_of_quotes_and_trades() -> None:
    ticker = Ticker()
    ticker.take(quote("10", "11"), NOON)
    assert "last" not in ticker.document()
    ticker.take(trade("10.5"), NOON)
    ticker.take(quote("10.1", "11"), NOON + timedelta(seconds=1))
    assert ticker.document() == {
        "bid": Decimal("10.1"),
        "ask": Decimal("11"),
        "bid_size": Decimal(1),
        "ask_size": Decimal(2),
        "last": Decimal("10.5"),
        "time": NOON + timedelta(seconds=1),
    }


def test_price_documents_do_not_change_afterwards() -> None:
    ticker = Ticker()
    ticker.take(quote("10", "11"), NOON)
    document = ticker.document()
    ticker.take(quote("12", "13"), NOON)
    assert document["bid"] == Decimal(10)


def test_trades_tell_when_they_happened_not_when_they_were_reported() -> None:
    assert trade_event(trade("10.5", age=1.5), NOON) == {
        "price": Decimal("10.5"),
        "size": Decimal("0.1"),
        "side": "sell",
        "time": NOON - timedelta(seconds=1.5),
    }


# ---- books


def test_a_book_begins_whole() -> None:
    """Levels of size zero are none, also in what is whole."""
    steps = [step(whole=True, bids={"9": 1, "8": 2, "7": 0}, asks={"10": 3}), step(bids={"9": 0, "8.5": 4})]
    assert book_update(steps) == {"bids": {"8": Decimal(2), "8.5": Decimal(4)}, "asks": {"10": Decimal(3)}}


def test_a_step_of_size_zero_removes_the_level() -> None:
    bids: Patch = {"9": REMOVED}
    asks: Patch = {"10": Decimal(5), "11": REMOVED}
    assert book_update([step(bids={"9": 0}), step(asks={"10": 5, "11": 0})]) == Changes({"bids": bids, "asks": asks})


def test_a_side_that_did_not_change_is_not_in_the_patch() -> None:
    assert book_patch([step(asks={"10": 5})]) == {"asks": {"10": Decimal(5)}}


def test_the_last_of_several_steps_counts() -> None:
    assert book_patch([step(bids={"9": 0}), step(bids={"9": 2})]) == {"bids": {"9": Decimal(2)}}
    assert book_patch([step(bids={"9": 2}), step(bids={"9": 0})]) == {"bids": {"9": REMOVED}}


@given(st.data())
def test_patches_in_any_portions_lead_to_the_same_book(data: st.DataObject) -> None:
    """Over the recorded book of one symbol."""
    steps = [one for one in load_recording().books if one.symbol == "BCH-USD"][:200]
    cuts = data.draw(st.lists(st.integers(1, len(steps)), max_size=20).map(lambda found: sorted({1, *found, len(steps)})))
    book = book_document(steps[: cuts[0]])
    for start, end in pairwise(cuts):
        book = apply(book_patch(steps[start:end]), book)
    assert same(book, book_document(steps))


def test_every_recorded_book_can_be_carried() -> None:
    for symbol in load_recording().symbols:
        checked_document(book_document([one for one in load_recording().books if one.symbol == symbol]))


def test_recorded_quotes_are_the_tops_of_recorded_books() -> None:
    """The two files agree: the last quote of each symbol is the best level of its last book, size for size."""
    recording = load_recording()
    agreed = 0
    for symbol in recording.symbols:
        last = [one for one in recording.quotes if one.symbol == symbol][-1]
        steps = [one for one in recording.books if one.symbol == symbol]
        book = cast("dict[str, dict[str, Decimal]]", book_document(steps))
        bid, ask = max(book["bids"], key=Decimal), min(book["asks"], key=Decimal)
        agreed += (Decimal(bid), Decimal(ask), book["bids"][bid], book["asks"][ask]) == (
            last.bid,
            last.ask,
            last.bid_size,
            last.ask_size,
        )
    assert agreed == len(recording.symbols)
