"""What the terminal client shows, line by line."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from rtsync._tail_view import ChannelView, ConnectionView, Line, paint, render
from rtsync.client import Event, Gap
from rtsync.core import LIVE, Document, Position, SourceStatus, Value

LIVE_CONNECTION = ConnectionView("http://127.0.0.1:8000/rt", "live", "", 12.4)
START = Position.start("e")


def view(channel: str, value: Value = None, *, before: Value = None, changed_at: float | None = 99.0) -> ChannelView:
    return ChannelView(channel, value=value, before=before, status=LIVE, changed_at=changed_at)


def price(bid: str, ask: str, **more: Value) -> Document:
    return {"bid": Decimal(bid), "ask": Decimal(ask), **more}


def texts(lines: list[Line], width: int = 80) -> list[str]:
    return [paint(line, width, colours=False).rstrip() for line in lines]


def shown(*views: ChannelView, height: int = 24) -> list[str]:
    """Return the lines at moment 100, without the status line and the empty one before it."""
    return texts(render(LIVE_CONNECTION, views, 100.0, height))[:-2]


def styles(lines: list[Line]) -> dict[str, str]:
    """Return {text: style} of everything that has one."""
    return {text.strip(): style for line in lines for text, style in line if style}


PORTFOLIO: Document = {
    "totals": {"value": Decimal("10098.875"), "pnl": Decimal("-98.875")},
    "cash": Decimal("1250000"),
    "positions": {
        "ETH-USD": {
            "qty": Decimal("2.5"),
            "mark": Decimal("4215.55"),
            "value": Decimal("10538.875"),
            "cost": Decimal("10000"),
            "pnl": Decimal("538.875"),
        }
    },
}


# ---- prices


def test_prices_stand_in_one_table_in_the_order_asked_for() -> None:
    lines = shown(
        view("prices:ETH-USD", price("4215.5", "4215.6", last=Decimal("4215.6")), changed_at=99.8),
        view("prices:BCH-USD", price("574.7", "574.8"), changed_at=88.0),
    )
    assert lines == [
        "SYMBOL      BID     ASK    LAST   AGE",
        "ETH-USD  4215.5  4215.6  4215.6  0.2s  live",
        "BCH-USD   574.7   574.8           12s  live",
    ]


def test_what_rose_is_green_and_what_fell_red() -> None:
    moved = view("prices:X", price("10", "12"), before=price("9", "13"))
    found = styles(render(LIVE_CONNECTION, [moved], 100.0, 24))
    assert (found["10"], found["12"]) == ("good", "bad")


def test_what_did_not_move_has_no_colour() -> None:
    same = view("prices:X", price("10", "12"), before=price("10.0", "12"))
    found = styles(render(LIVE_CONNECTION, [same], 100.0, 24))
    assert not {"10", "12"} & set(found)


def test_stale_prices_say_since_what() -> None:
    stale = view("prices:X", price("10", "12"))
    stale.status = SourceStatus("stale", 0, "no data for 5 s")
    assert shown(stale)[1].endswith("stale: no data for 5 s")


def test_large_and_small_numbers_are_shown_without_exponent() -> None:
    lines = shown(view("prices:X", price("1E+3", "0.00000001")))
    assert lines[1].split()[:3] == ["X", "1000", "0.00000001"]


# ---- portfolios and books


def test_portfolio_shows_totals_then_positions() -> None:
    assert shown(view("portfolio:demo", PORTFOLIO)) == [
        "portfolio:demo  live  1.0s",
        "value 10,098.88  P&L -98.88  cash 1,250,000.00",
        "POSITION  QTY     MARK      VALUE       COST     P&L",
        "ETH-USD   2.5  4215.55  10,538.88  10,000.00  538.88",
    ]


def test_profits_are_green_and_losses_red() -> None:
    found = styles(render(LIVE_CONNECTION, [view("portfolio:demo", PORTFOLIO)], 100.0, 24))
    assert (found["538.88"], found["-98.88"]) == ("good", "bad")


def test_book_shows_the_best_levels_of_both_sides() -> None:
    bids: Document = {str(10 - level): Decimal(level) for level in range(7)}
    asks: Document = {"10.5": Decimal(3), "9.99": Decimal(4)}
    assert shown(view("book:X", {"bids": bids, "asks": asks})) == [
        "book:X  live  1.0s",
        "  SIZE  BID   ASK    SIZE",
        "     0   10  9.99       4",
        "     1    9  10.5       3",
        "     2    8",
        "     3    7",
        "     4    6",
        "7 bids             2 asks",
    ]


def test_book_whose_prices_are_no_numbers_is_listed_like_any_document() -> None:
    assert shown(view("book:X", {"bids": {"best": 1}, "asks": {}}))[1:] == ["  bids.best 1", "  asks {}"]


# ---- anything else


def test_other_documents_are_listed_by_path() -> None:
    assert shown(view("stats", {"a": {"b": 1, "c": None}, "d": [1, "x"], "e": True})) == [
        "stats  live  1.0s",
        "  a.b 1",
        "  a.c",
        "  d [1, 'x']",
        "  e True",
    ]


def test_long_documents_are_cut_short() -> None:
    lines = shown(view("stats", {f"key{index}": index for index in range(20)}))
    assert len(lines) == 14
    assert lines[-1] == "  … 8 more"


def test_the_latest_events_are_shown_with_gaps_between_them() -> None:
    tape = view("tape:X")
    time = datetime(2026, 1, 2, 12, 0, 1, tzinfo=UTC)
    for count in range(8):
        tape.events.append(Event({"price": Decimal(count), "side": "buy", "time": time}, START))
    tape.events.append(Gap(START, START, "the window has moved on"))
    tape.events.append(Event("just text", START))
    clock = f"{time.astimezone():%H:%M:%S}"
    assert shown(tape)[1:] == [
        f"  {clock}  price 5  side buy",
        f"  {clock}  price 6  side buy",
        f"  {clock}  price 7  side buy",
        "  events are missing: the window has moved on",
        "  just text",
    ]


def test_channels_without_a_value_wait() -> None:
    assert shown(ChannelView("prices:X")) == ["prices:X  stale: waiting for the first answer"]


def test_ended_channels_say_why() -> None:
    ended = view("prices:X", price("1", "2"))
    ended.ended = "forbidden: not allowed"
    assert shown(ended) == ["prices:X  forbidden: not allowed"]


# ---- the whole picture


def test_the_last_line_tells_about_the_connection() -> None:
    lines = texts(render(LIVE_CONNECTION, [], 100.0, 24))
    assert lines == ["", "● live  http://127.0.0.1:8000/rt  12 changes/s  Ctrl-C ends"]
    cut = ConnectionView("ws://x", "disconnected", "no route to host", 0.0)
    assert texts(render(cut, [], 100.0, 24))[-1].startswith("● disconnected (no route to host)  ws://x")
    assert styles(render(cut, [], 100.0, 24))["●"] == "bad"


def test_a_picture_never_exceeds_the_height() -> None:
    """What does not fit is counted; the connection stays in view."""
    views = [view(f"prices:{index}", price("1", "2")) for index in range(30)]
    for height in (1, 2, 3, 10, 31, 32, 33, 50):
        lines = texts(render(LIVE_CONNECTION, views, 100.0, height))
        assert len(lines) <= height
        assert lines[-1].startswith("● live")
    assert texts(render(LIVE_CONNECTION, views, 100.0, 10))[-2] == "… 23 more lines"


def test_ten_prices_and_eight_positions_fit_an_ordinary_terminal() -> None:
    position = {"qty": Decimal(1)}
    portfolio: Document = {"totals": {"value": Decimal(1)}, "positions": {str(index): dict(position) for index in range(8)}}
    views = [*(view(f"prices:{index}", price("1", "2")) for index in range(10)), view("portfolio:demo", portfolio)]
    lines = texts(render(LIVE_CONNECTION, views, 100.0, 24))
    assert len(lines) == 24
    assert not any("more lines" in line for line in lines)


# ---- painting


def test_lines_are_cut_at_the_width_of_the_terminal() -> None:
    assert paint([("abc", "good"), ("def", ""), ("ghi", "bad")], 5, colours=False) == "abcde"
    assert paint([("abc", "good"), ("def", ""), ("ghi", "bad")], 5, colours=True) == "\x1b[32mabc\x1b[0mde"


def test_a_publisher_cannot_command_the_terminal() -> None:
    """Escape sequences, line ends and invisible direction marks in names, values and reasons are shown as dots."""
    evil = "\x1b[2J\r\n\u202e\x9b"
    line = paint([(f"a{evil}b", "bold")], 80, colours=False)
    assert line == "a·[2J····b"
    hostile = view(f"stats{evil}", {f"k{evil}": f"v{evil}"})
    hostile.status = SourceStatus("stale", 0, evil)
    assert all(text.isprintable() for text in texts(render(LIVE_CONNECTION, [hostile], 100.0, 24)))


def test_numbers_of_any_size_can_be_shown() -> None:
    huge = Decimal("9" * 64).scaleb(60)
    portfolio: Document = {
        "totals": {"value": huge, "pnl": -huge},
        "positions": {"X": {"qty": huge, "value": huge, "pnl": 1.5}},
    }
    for line in texts(render(LIVE_CONNECTION, [view("p", portfolio), view("q", price(str(huge), "1E-100"))], 100.0, 24)):
        assert len(line) <= 80
