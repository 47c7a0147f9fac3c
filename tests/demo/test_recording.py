"""The recorded market as it comes with the package."""

from __future__ import annotations

from decimal import Decimal

from rtsync.demo._recording import BookStep, Quote, Trade, load_recording

RECORDING = load_recording()
NAMES = ("BCH", "CRV", "EOS", "ETH", "LTC", "MKR", "SUSHI", "UMA", "UNI", "XMR")


def test_every_line_is_read() -> None:
    """The counts are those that the note beside the data states."""
    assert (len(RECORDING.quotes), len(RECORDING.trades), len(RECORDING.books)) == (556, 36, 4661)
    assert len(RECORDING.ticks) == 592
    assert RECORDING.symbols == tuple(f"{name}-USD" for name in NAMES)


def test_records_are_in_order_of_time_and_fit_the_period() -> None:
    for records in (RECORDING.ticks, RECORDING.books):
        times = [record.t for record in records]
        assert times == sorted(times)
        assert times[-1] < RECORDING.period
    assert RECORDING.period == 31.0


def test_numbers_are_those_that_the_exchange_sent() -> None:
    first, trade = RECORDING.quotes[0], RECORDING.trades[0]
    assert first == Quote(0.0878, "ETH-USD", Decimal("4215.5"), Decimal("4215.6"), Decimal("492.968"), Decimal("29.024"))
    assert str(first.mid) == "4215.55"
    assert (trade.symbol, trade.price, trade.size, trade.side) == ("EOS-USD", Decimal("4.412"), Decimal("644"), "buy")


def test_trades_of_the_past_are_told_from_those_just_made() -> None:
    """The exchange began with the last trade of each symbol, some of them minutes old."""
    ages = [trade.age for trade in RECORDING.trades]
    assert min(ages) == 0.0
    assert 1600 < max(ages) < 1700
    assert all(age < 0.2 for age in ages[10:])


def test_each_book_begins_whole_and_only_once() -> None:
    begun = [step for step in RECORDING.books if step.whole]
    assert sorted(step.symbol for step in begun) == list(RECORDING.symbols)
    seen: set[str] = set()
    for step in RECORDING.books:
        assert isinstance(step, BookStep)
        assert step.whole != (step.symbol in seen)
        seen.add(step.symbol)


def test_ticks_are_quotes_and_trades() -> None:
    assert {type(tick) for tick in RECORDING.ticks} == {Quote, Trade}
