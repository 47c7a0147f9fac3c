"""A portfolio valued tick by tick equals the one valued once."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import Document, checked_document, same
from rtsync.demo._portfolio import CASH, HOLDINGS, Holding, Portfolio
from rtsync.demo._recording import load_recording

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
PRICES = st.decimals("0.001", 5000, places=3)


def test_a_position_is_quantity_times_mark_against_what_it_cost() -> None:
    portfolio = Portfolio([Holding("ETH-USD", Decimal("2.5"), Decimal("4000")), Holding("EOS-USD", Decimal(-100), Decimal(5))])
    portfolio.mark("ETH-USD", Decimal("4215.55"))
    portfolio.mark("EOS-USD", Decimal("4.4"))
    document = portfolio.document(NOON)
    assert document["positions"] == {
        "EOS-USD": {
            "qty": Decimal(-100),
            "price": Decimal(5),
            "mark": Decimal("4.4"),
            "value": Decimal("-440.0"),
            "cost": Decimal(-500),
            "pnl": Decimal("60.0"),
        },
        "ETH-USD": {
            "qty": Decimal("2.5"),
            "price": Decimal(4000),
            "mark": Decimal("4215.55"),
            "value": Decimal("10538.875"),
            "cost": Decimal(10000),
            "pnl": Decimal("538.875"),
        },
    }
    assert document["totals"] == {
        "value": Decimal("10098.875"),
        "cost": Decimal(9500),
        "pnl": Decimal("598.875"),
        "equity": Decimal("10098.875") + CASH,
    }
    assert (document["cash"], document["time"]) == (CASH, NOON)


def test_totals_wait_until_every_position_has_a_mark() -> None:
    portfolio = Portfolio()
    for count, holding in enumerate(HOLDINGS):
        assert not portfolio.complete, f"{count} of {len(HOLDINGS)} are marked"
        portfolio.mark(holding.symbol, Decimal(1))
    assert portfolio.complete


def test_a_symbol_that_is_not_held_is_refused() -> None:
    with pytest.raises(KeyError):
        Portfolio().mark("DOGE-USD", Decimal(1))


def test_the_portfolio_of_the_demo_holds_eight_recorded_symbols() -> None:
    assert len(HOLDINGS) == 8
    assert Portfolio().symbols <= set(load_recording().symbols)
    assert min(holding.quantity for holding in HOLDINGS) < 0, "one of them is short"


@given(st.lists(st.tuples(st.sampled_from(sorted(Portfolio().symbols)), PRICES), max_size=60))
def test_only_the_latest_marks_count(ticks: list[tuple[str, Decimal]]) -> None:
    """Whatever came before leaves no trace, not even a trailing zero; and totals are the sums of what is listed."""
    first = [(holding.symbol, Decimal(10)) for holding in HOLDINGS]
    ticked, marked_once = Portfolio(), Portfolio()
    for symbol, price in [*first, *ticks]:
        ticked.mark(symbol, price)
    for symbol, price in dict([*first, *ticks]).items():
        marked_once.mark(symbol, price)
    document = checked_document(ticked.document(NOON))
    assert same(document, checked_document(marked_once.document(NOON)))
    positions = cast("dict[str, dict[str, Decimal]]", document["positions"])
    totals = cast("dict[str, Decimal]", document["totals"])
    for name in ("value", "cost", "pnl"):
        assert totals[name] == sum(position[name] for position in positions.values())
    assert totals["pnl"] == totals["value"] - totals["cost"]


def test_documents_do_not_change_afterwards() -> None:
    portfolio = Portfolio()
    for holding in HOLDINGS:
        portfolio.mark(holding.symbol, holding.price)
    before: Document = portfolio.document(NOON)
    kept = checked_document(before)
    portfolio.mark("ETH-USD", Decimal(1))
    assert same(before, kept)
    assert cast("dict[str, Decimal]", before["totals"])["pnl"] == 0
