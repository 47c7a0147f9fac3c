"""A portfolio, valued anew at every tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from ..core import Document

__all__ = ["CASH", "HOLDINGS", "Holding", "Portfolio"]


@dataclass(frozen=True, slots=True)
class Holding:
    """A position: ``quantity`` is negative when short, ``price`` is what one was bought (or sold) at."""

    symbol: str
    quantity: Decimal
    price: Decimal


HOLDINGS = tuple(
    Holding(symbol, Decimal(quantity), Decimal(price))
    for symbol, quantity, price in (
        ("BCH-USD", "150", "561.25"),
        ("CRV-USD", "24000", "4.7325"),
        ("EOS-USD", "-18500", "4.455"),
        ("ETH-USD", "42.5", "4127.35"),
        ("LTC-USD", "640", "190.4"),
        ("MKR-USD", "31.75", "2405.5"),
        ("UNI-USD", "3600", "24.782"),
        ("XMR-USD", "-210", "262.9"),
    )
)

CASH = Decimal("125000.00")


class Portfolio:
    """
    Holdings, and what they are worth at the latest marks.

    Every number is an exact Decimal: nothing is rounded before it is shown.
    """

    def __init__(self, holdings: Sequence[Holding] = HOLDINGS, cash: Decimal = CASH) -> None:
        self._holdings = {holding.symbol: holding for holding in holdings}
        self._cash = cash
        self._positions: dict[str, dict[str, Decimal]] = {}

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols held."""
        return frozenset(self._holdings)

    @property
    def complete(self) -> bool:
        """Whether every position has been marked. Until then, totals would be wrong."""
        return len(self._positions) == len(self._holdings)

    def mark(self, symbol: str, price: Decimal) -> None:
        """Value the position in *symbol* at *price*; the others stay as they are."""
        holding = self._holdings[symbol]
        value = holding.quantity * price
        cost = holding.quantity * holding.price
        self._positions[symbol] = {
            "qty": holding.quantity,
            "price": holding.price,
            "mark": price,
            "value": value,
            "cost": cost,
            "pnl": value - cost,
        }

    def document(self, time: datetime) -> Document:
        """
        Return the portfolio as its channel holds it; *time* is that of the latest mark.

        ``{"totals": {"value", "cost", "pnl", "equity"}, "cash", "positions": {symbol: {"qty", "price", "mark", "value", "cost",
        "pnl"}}, "time"}``, with equity the sum of value and cash.
        """
        value, cost, pnl = (self._total(name) for name in ("value", "cost", "pnl"))
        return {
            "totals": {"value": value, "cost": cost, "pnl": pnl, "equity": value + self._cash},
            "cash": self._cash,
            "positions": {symbol: dict(self._positions[symbol]) for symbol in sorted(self._positions)},
            "time": time,
        }

    def _total(self, name: str) -> Decimal:
        return sum((position[name] for position in self._positions.values()), Decimal(0))
