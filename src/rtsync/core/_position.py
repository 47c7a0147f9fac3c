"""Where an entry stands in a log, in a form that two different histories never share."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["LINK_BITS", "MAX_OFFSET", "Position"]

LINK_BITS: Final = 48
"""Random bits of a link: an integer that JSON and JavaScript carry exactly."""

MAX_OFFSET: Final = 2**53 - 1
"""Largest offset: exact in JavaScript."""


class Position(NamedTuple):
    """
    The place of one entry in the history of one channel.

    ``epoch`` names the history: random text, new whenever it cannot be proven that the log continues. ``offset`` orders the
    entries of an epoch: strictly increasing, assigned by the log, with holes allowed. ``link`` is random for every entry, so
    that a log that was rolled back and grew again under the same epoch and offsets is told apart from the one before.

    Offset 0 with link 0 is the start of an epoch: no entry yet.
    """

    epoch: str
    offset: int
    link: int

    @classmethod
    def start(cls, epoch: str) -> Position:
        """Return the position before the first entry of *epoch*."""
        return cls(epoch, 0, 0)

    def at(self, offset: int, link: int) -> Position:
        """Return another position of the same epoch."""
        return Position(self.epoch, offset, link)

    def __str__(self) -> str:
        # An epoch may be a peer's invention, and this ends up in logs.
        return f"{ascii(self.epoch[:6])[1:-1]}:{self.offset}:{self.link:012x}"
