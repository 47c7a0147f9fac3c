"""
What the terminal client shows: the state of a few channels in, lines out.

Nothing here knows a terminal. How a channel is shown follows from what it holds, not from its name: a document with a bid and
an ask is a price, one with totals and positions a portfolio, one with bids and asks a book, and any other is listed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, TypeAlias

from ._tail_text import leaves, number_text, printable, value_text
from .client import ConnectionState, Event, Gap
from .core import SourceStatus, Value

__all__ = ["ChannelView", "ConnectionView", "Line", "paint", "render"]

Style: TypeAlias = Literal["", "bold", "dim", "good", "bad", "warn"]
Cell: TypeAlias = tuple[str, Style]
Line: TypeAlias = list[Cell]
"""Pieces of text, each with its style, to be written one after the other."""

_CODES: Final[Mapping[Style, str]] = {"bold": "1", "dim": "2", "good": "32", "bad": "31", "warn": "33"}
_STATE_STYLES: Final[Mapping[str, Style]] = {"live": "good", "connecting": "warn", "stalled": "warn"}
_GAP: Final = "  "
_MAX_LEAVES: Final = 12
_MAX_LEVELS: Final = 5
_MAX_EVENTS: Final = 5


@dataclass(slots=True)
class ChannelView:
    """
    One channel, as far as it is shown.

    ``before`` is the value before the last change: what differs from it is coloured. ``changed_at`` is the moment of that
    change. ``ended`` says why nothing more will come, if so.
    """

    channel: str
    value: Value = None
    before: Value = None
    events: deque[Event | Gap] = field(default_factory=lambda: deque(maxlen=_MAX_EVENTS))
    status: SourceStatus = SourceStatus("stale", 0, "waiting for the first answer")
    changed_at: float | None = None
    ended: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """How the client is connected, and how many changes arrive."""

    url: str
    state: ConnectionState
    reason: str
    changes_per_second: float


def render(connection: ConnectionView, views: Sequence[ChannelView], now: float, height: int) -> list[Line]:
    """Return at most *height* lines; the last one tells about the connection. *now* is a moment on the clock of the views."""
    prices = [view for view in views if _is_price(view.value) and not view.ended]
    lines = _prices(prices, now) if prices else []
    for view in views:
        if view not in prices:
            if lines:
                lines.append([])
            lines += _block(view, now)
    room = max(height - 1, 0)
    if len(lines) > room:
        hidden = len(lines) - room + 1
        lines = [*lines[: max(room - 1, 0)], [(f"… {hidden} more lines", "dim")]]
    elif len(lines) < room:
        lines.append([])
    return [*lines, _status_line(connection)][-height:]


def paint(line: Line, width: int, *, colours: bool) -> str:
    """Return *line* as text, cut to *width* columns, free of control characters but its own."""
    text, left = "", width
    for piece, style in line:
        shown = printable(piece)[:left]
        left -= len(shown)
        text += f"\x1b[{_CODES[style]}m{shown}\x1b[0m" if colours and style and shown else shown
    return text


# ---- blocks --------------------------------------------------------------------------------------------------------


def _block(view: ChannelView, now: float) -> list[Line]:
    """Return a heading and what the channel holds."""
    heading: Line = [(view.channel, "bold"), (_GAP, ""), *_freshness(view), (_GAP + _age(view, now), "dim")]
    if view.ended:
        return [[(view.channel, "bold"), (_GAP + view.ended, "bad")]]
    if view.events:
        return [heading, *map(_event, view.events)]
    value = view.value
    if isinstance(value, dict):
        for show in (_portfolio, _book):
            if (lines := show(value, view.before if isinstance(view.before, dict) else {})) is not None:
                return [heading, *lines]
        return [heading, *_listing(value)]
    return [heading]


def _prices(views: Sequence[ChannelView], now: float) -> list[Line]:
    rows = []
    for view in views:
        document, before = _map(view.value), _map(view.before)
        numbers = [_moved(name, document, before, number_text) for name in ("bid", "ask", "last")]
        symbol = view.channel.rpartition(":")[2]
        rows.append([(symbol, ""), *numbers, (_age(view, now), "dim"), *_freshness(view)])
    heads = ("SYMBOL", "BID", "ASK", "LAST", "AGE", "")
    return _table(heads, rows, left=(0, 5))


def _portfolio(document: Mapping[str, Value], before: Mapping[str, Value]) -> list[Line] | None:
    positions, totals = document.get("positions"), document.get("totals")
    if not isinstance(positions, dict) or not isinstance(totals, dict):
        return None
    were = _map(before.get("positions"))
    rows = []
    for symbol, position in positions.items():
        now, then = _map(position), _map(were.get(symbol))
        rows.append(
            [
                (symbol, ""),
                *(_moved(name, now, then, number_text) for name in ("qty", "mark")),
                *(_moved(name, now, then, _money) for name in ("value", "cost")),
                (_money(now.get("pnl")), _sign(now.get("pnl"))),
            ]
        )
    sums: Line = []
    for name, value in [*totals.items(), ("cash", document.get("cash"))]:
        if value is not None:
            style = _sign(value) if name == "pnl" else _moved(name, totals, _map(before.get("totals")), _money)[1]
            sums += [("P&L " if name == "pnl" else f"{name} ", "dim"), (_money(value), style or "bold"), (_GAP, "")]
    return [sums[:-1], *_table(("POSITION", "QTY", "MARK", "VALUE", "COST", "P&L"), rows, left=(0,))]


def _book(document: Mapping[str, Value], before: Mapping[str, Value]) -> list[Line] | None:
    bids, asks = document.get("bids"), document.get("asks")
    if not isinstance(bids, dict) or not isinstance(asks, dict):
        return None
    try:
        buys = sorted(bids, key=Decimal, reverse=True)
        sells = sorted(asks, key=Decimal)
    except InvalidOperation:
        return None
    sides: tuple[tuple[list[str], str, Style], ...] = ((buys, "bids", "good"), (sells, "asks", "bad"))
    rows = []
    for place in range(min(_MAX_LEVELS, max(len(buys), len(sells)))):
        row: list[Cell] = []
        for prices, side, style in sides:
            price = prices[place] if place < len(prices) else ""
            size = _moved(price, _map(document[side]), _map(before.get(side)), number_text)
            row += [size, (price, style)] if side == "bids" else [(price, style), size]
        rows.append(row)
    rows.append([(f"{len(buys)} bids", "dim"), ("", ""), ("", ""), (f"{len(sells)} asks", "dim")])
    return _table(("SIZE", "BID", "ASK", "SIZE"), rows, left=())


def _listing(document: Mapping[str, Value]) -> list[Line]:
    found = list(leaves(document))
    lines: list[Line] = [[(f"  {path} ", "dim"), (value_text(value), "")] for path, value in found[:_MAX_LEAVES]]
    if len(found) > _MAX_LEAVES:
        lines.append([(f"  … {len(found) - _MAX_LEAVES} more", "dim")])
    return lines


def _event(event: Event | Gap) -> Line:
    if isinstance(event, Gap):
        return [(f"  events are missing: {event.reason}", "warn")]
    if not isinstance(event.value, dict):
        return [(f"  {value_text(event.value)}", "")]
    line: Line = []
    time = event.value.get("time")
    if isinstance(time, datetime):
        line.append((f"  {time.astimezone():%H:%M:%S}", "dim"))
    for name, value in event.value.items():
        if value is not time or not line:
            line += [(f"  {name} ", "dim"), (value_text(value), "")]
    return line


def _status_line(connection: ConnectionView) -> Line:
    reason = f" ({connection.reason})" if connection.reason else ""
    return [
        ("● ", _STATE_STYLES.get(connection.state, "bad")),
        (connection.state + reason, "bold"),
        (f"{_GAP}{connection.url}{_GAP}{connection.changes_per_second:.0f} changes/s{_GAP}Ctrl-C ends", "dim"),
    ]


# ---- cells ---------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, left: Iterable[int]) -> list[Line]:
    """Return aligned lines under their heads; columns are flush right but those in *left*."""
    heading: Sequence[Cell] = [(head, "dim") for head in heads]
    widths = [max(len(row[column][0]) for row in (heading, *rows)) for column in range(len(heads))]
    lines: list[Line] = []
    for row in (heading, *rows):
        line: Line = []
        for column, (text, style) in enumerate(row):
            padded = text.ljust(widths[column]) if column in left else text.rjust(widths[column])
            line += [(padded, style), (_GAP, "")]
        lines.append(line[:-1])
    return lines


def _moved(name: str, now: Mapping[str, Value], then: Mapping[str, Value], show: Callable[[Value], str]) -> Cell:
    """Return a value, coloured if it rose or fell with the last change."""
    value, before = now.get(name), then.get(name)
    style: Style = ""
    if isinstance(value, Decimal | int | float) and isinstance(before, Decimal | int | float) and value != before:
        style = "good" if value > before else "bad"
    return (show(value), style)


def _sign(value: Value) -> Style:
    return "" if not isinstance(value, Decimal | int | float) or not value else "good" if value > 0 else "bad"


def _money(value: Value) -> str:
    if isinstance(value, Decimal):
        return f"{value:,.2f}"
    return number_text(value)


def _freshness(view: ChannelView) -> list[Cell]:
    """Return one cell: how fresh the channel is, and why if it is not live."""
    status = view.status
    if status.freshness == "live":
        return [("live", "good")]
    return [(f"{status.freshness}: {status.reason}" if status.reason else status.freshness, "warn")]


def _age(view: ChannelView, now: float) -> str:
    if view.changed_at is None:
        return ""
    age = max(now - view.changed_at, 0.0)
    return f"{age:.1f}s" if age < 10 else f"{age:.0f}s" if age < 120 else f"{age / 60:.0f}m"


def _is_price(value: Value) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), Decimal | int | float) for name in ("bid", "ask"))


def _map(value: Value) -> Mapping[str, Value]:
    return value if isinstance(value, dict) else {}
