"""Positions: places that two histories never share."""

from __future__ import annotations

from rtsync.core import LINK_BITS, MAX_OFFSET, Position


def test_start_is_before_every_entry_of_its_epoch() -> None:
    """No entry has offset 0."""
    assert Position.start("e1") == Position("e1", 0, 0)


def test_another_place_of_the_same_epoch() -> None:
    """A log names its entries by offset and link."""
    assert Position("e1", 5, 6).at(7, 8) == Position("e1", 7, 8)


def test_two_histories_never_share_a_position() -> None:
    """Not even where epoch and offset, or offset and link, meet."""
    assert len({Position("e1", 5, 6), Position("e1", 5, 7), Position("e2", 5, 6), Position("e1", 6, 6)}) == 4


def test_numbers_are_exact_in_javascript() -> None:
    """Offsets and links fit the integers of a double."""
    assert MAX_OFFSET == 2**53 - 1
    assert LINK_BITS < 53


def test_text_for_logs_is_short_and_cannot_forge_a_line() -> None:
    """An epoch may be a peer's invention."""
    assert str(Position("abcdefghij", 12, 0xAB)) == "abcdef:12:0000000000ab"
    assert str(Position("a\nb\x1b\ud800🚀", 1, 0)) == r"a\nb\x1b\ud800\U0001f680:1:000000000000"
