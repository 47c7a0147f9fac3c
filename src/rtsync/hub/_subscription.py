"""A subscription: one session's cursor into one channel."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..core import Position

if TYPE_CHECKING:
    from ..core import SourceStatus
    from ..core import frames as core_frames
    from ._channel import LiveChannel
    from ._session import Session

__all__ = ["NOTHING", "Subscription"]

NOTHING: Final = -1
"""The cursor of a client that holds no document: it needs a keyframe."""


class Subscription:
    """
    One session's cursor into one channel.

    Attributes:
        cursor: Offset the client will hold once everything handed to its link has arrived; `NOTHING` while it is owed a
            keyframe or a gap.
        frames: Frames by base, shared by all who read the channel's head: what a cursor at such a base is owed.
        answer: The frame that begins it, until that is sent.
        shown: The freshness it was last told.
        owed_gap: What the client has to be told before the next event.
        dirty: Whether its session knows that it may be behind.
        next_dirty: The session's next one: a chain through the subscriptions, for a list would allocate for each frame.
        parts: The rest of a keyframe in parts, pinned to the cursor's position.
        turn: Whose turn it is within a flush: 0 if the one before had no room left for it, then events, then state.
        ended: Set for good when it ends. The object is the generation: whoever still holds an old one sees it.
    """

    __slots__ = (
        "answer",
        "channel",
        "cursor",
        "dirty",
        "ended",
        "frames",
        "next_dirty",
        "open_at",
        "owed_gap",
        "parts",
        "rate",
        "request",
        "session",
        "shown",
        "turn",
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
        self.frames: Mapping[int, bytes] = channel.frames_for(session.profile)
        self.answer: core_frames.Subscribed | None = None
        self.shown: SourceStatus | None = None
        self.owed_gap: core_frames.Gap | None = None
        self.parts: deque[bytes] | None = None
        self.dirty = False
        self.next_dirty: Subscription | None = None
        self.ended = False
        self.served()

    def passed_over(self) -> None:
        """Let it be the first next time."""
        self.turn = 0

    def served(self) -> None:
        """Let it wait its turn."""
        self.turn = 1 if self.channel.family.kind == "events" else 2

    def send_in_parts(self, parts: tuple[bytes, ...]) -> None:
        """Owe the client *parts* one after the other, and nothing else of this channel before they are through."""
        self.parts = deque(parts)
        self.frames = _NO_FRAMES

    def parts_sent(self) -> None:
        """Read the channel's head again."""
        self.parts = None
        self.frames = self.channel.frames_for(self.session.profile)


_NO_FRAMES: Final[Mapping[int, bytes]] = {}
