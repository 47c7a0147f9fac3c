"""What a session is told and given when it opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..core import FamilyPattern, InvalidName, Value, frames
from ..hub import Principal, Session

__all__ = ["Greeting"]


@dataclass(frozen=True, slots=True)
class Greeting:
    """
    The settings a welcome carries.

    Attributes:
        heartbeat_interval: Seconds between signs of life the client may expect.
        heartbeat_timeout: Seconds on top after which either side gives the other up.
        limits: Bounds on what the client may send.
        reconnect: How the client should space its attempts.
        default_subscriptions: Channels every session is subscribed to, as patterns.
    """

    heartbeat_interval: float
    heartbeat_timeout: float
    limits: Mapping[str, Value]
    reconnect: Mapping[str, Value]
    default_subscriptions: Sequence[str]

    def welcome(self, session: Session) -> frames.Welcome:
        """Return the frame that opens *session*."""
        return frames.Welcome(
            session=session.id,
            secret=session.secret,
            user=session.principal.user,
            heartbeat=self.heartbeat_interval,
            timeout=self.heartbeat_timeout,
            time=session.wall_ms(),
            limits=dict(self.limits),
            reconnect=dict(self.reconnect),
        )

    def subscriptions(self, principal: Principal, patterns: Sequence[str]) -> Iterator[str]:
        """Yield the channels to subscribe at once; ``{user}`` stands for the session's user, and is left out without one."""
        for text in (*self.default_subscriptions, *patterns):
            pattern = FamilyPattern(text)
            if not pattern.parameters:
                yield pattern.channel()
            elif principal.user is not None and set(pattern.parameters) == {"user"}:
                try:
                    yield pattern.channel(user=principal.user)
                except InvalidName:
                    continue
