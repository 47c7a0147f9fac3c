"""A subscription: one session's cursor into one channel."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from ..core import Position

if TYPE_CHECKING:
    from ..core import SourceStatus
    from ._channel import LiveChannel
    from ._session import Session

__all__ = ["NOTHING", "Subscription"]

NOTHING: Final = -1
"""The cursor of a client that holds no document: it needs a keyframe."""


class Subscription:
    """
    One session's cursor into one channel.

    ``cursor`` is the offset the client will hold once everything handed to its link has arrived; for events ``link`` and
    ``epoch`` name that entry, and ``owed_gap`` is the position behind which events are known to be missing. ``shown`` is the
    freshness it was last told. ``parts`` are the rest of a keyframe in parts, pinned to the cursor's position. The object
    itself is the generation: whoever still holds an ended one finds ``ended`` set.
    """

    __slots__ = (
        "channel",
        "cursor",
        "dirty",
        "ended",
        "epoch",
        "link",
        "open_at",
        "owed_gap",
        "parts",
        "rate",
        "request",
        "session",
        "shown",
        "wanted",
    )

    def __init__(
        self, session: Session, channel: LiveChannel, request: int, wanted: Position | None, rate: float | None
    ) -> None:
        self.session = session
        self.channel = channel
        self.request = request
        self.wanted = wanted
        self.rate = rate
        self.open_at = 0.0
        self.cursor = NOTHING
        self.epoch = ""
        self.link = 0
        self.shown: SourceStatus | None = None
        self.parts: deque[bytes] | None = None
        self.owed_gap: Position | None = None
        self.dirty = False
        self.ended = False

    def stand_at(self, position: Position) -> None:
        """Put the cursor on *position*."""
        self.epoch, self.cursor, self.link = position

    @property
    def position(self) -> Position:
        """Where the cursor of an event subscription stands."""
        return Position(self.epoch, self.cursor, self.link)
