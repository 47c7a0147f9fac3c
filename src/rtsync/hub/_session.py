"""
A session: one connected client as the hub sees it, and what it is owed.

There is no queue of updates. A session keeps the set of subscriptions that moved; a flush reads each from where its cursor
stands. Only answers to requests are stored as bytes, and they are bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

import anyio

from ..core import Channel, Code, Position, Profile, ServerSession, frames
from ._families import Principal
from ._subscription import Subscription

if TYPE_CHECKING:
    from ._pump import Pump

__all__ = ["Session", "State"]

_MAX_ANSWERS: Final = 512 * 1024
"""Most bytes of answers to requests that may wait for a client; one that asks and does not read is ended."""


class State(Enum):
    """Where a session is between two flushes. Only whoever flushes it puts it back in the queue."""

    IDLE = 0
    QUEUED = 1
    FLUSHING = 2
    WAITING = 3
    """Its window is full: an acknowledgement queues it again."""
    DEAD = 4


class Session:
    """
    One connected client.

    Args:
        id: Public identifier, unique in the cluster.
        secret: Proves a later connection to be the same client.
        rules: The connection's rules and counters.
        profile: How frames are written.
        send: Hands one message to the server; awaited by whoever flushes.
        on_end: Called once, at once, when the session ends.
    """

    __slots__ = (
        "_answers",
        "_answers_size",
        "_now",
        "_on_end",
        "_pump",
        "again",
        "bell",
        "dirty",
        "end_code",
        "end_message",
        "flight",
        "flush_bytes",
        "id",
        "principal",
        "profile",
        "rules",
        "secret",
        "send",
        "send_cancelled",
        "state",
        "subscriptions",
        "wall_ms",
    )

    def __init__(
        self,
        *,
        id: str,
        secret: str,
        principal: Principal,
        rules: ServerSession,
        profile: Profile,
        send: Callable[[bytes], Awaitable[None]],
        on_end: Callable[[], None],
        pump: Pump,
        flush_bytes: int,
        now: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self.id = id
        self.secret = secret
        self.principal = principal
        self.rules = rules
        self.profile = profile
        self.send = send
        self.subscriptions: dict[Channel, Subscription] = {}
        self.dirty: list[Subscription] = []
        self.state = State.IDLE
        self.again = False
        self.flight: anyio.CancelScope | None = None  # around a send under way
        self.send_cancelled = False
        self.bell: anyio.Event | None = None  # of the task that is this session's own writer
        self.end_code: Code | None = None
        self.end_message = ""
        self.flush_bytes = flush_bytes
        self._answers: list[bytes] = []
        self._answers_size = 0
        self._on_end = on_end
        self._pump = pump
        self._now = now
        self.wall_ms = wall_ms

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.state.name.lower()} {len(self.subscriptions)} subscriptions>"

    # ---- what it is owed

    def push(self, frame: frames.Frame) -> None:
        """Owe the client *frame*, before any update."""
        if self.state is State.DEAD:
            return
        encoded = self.profile.encode(frame)
        self._answers.append(encoded)
        self._answers_size += len(encoded)
        if self._answers_size > _MAX_ANSWERS:
            self.end(Code.SLOW, "does not read the answers to its requests")
        else:
            self._pump.queue(self)

    def restate(self, subscription: Subscription, position: Position) -> None:
        """Tell the client that its subscription now stands at *position*, which continues what it holds."""
        self.push(self.subscribed(subscription, 0, position, True, ()))

    def subscribed(
        self, subscription: Subscription, request: int, position: Position, recovered: bool, keys: tuple[str, ...]
    ) -> frames.Subscribed:
        """Return the frame that begins an instance of *subscription*, with the freshness it shows from now on."""
        channel = subscription.channel
        status = channel.status
        subscription.shown = status
        return frames.Subscribed(
            request=request,
            channel=channel.name,
            alias=channel.alias,
            kind=channel.family.kind,
            position=position,
            recovered=recovered,
            rate=subscription.rate,
            freshness=status.freshness,
            since=status.since,
            reason=status.reason,
            keys=keys,
        )

    def collect(self) -> bytes:
        """
        Return the next message: answers first, then statuses that got worse, events, and state; cursors move past it.

        At most about `flush_bytes` beyond the first frame; what is left stays dirty. Empty when nothing is owed.
        """
        now = self._now()
        dirty = self.dirty
        if len(dirty) == 1 and not self._answers:  # by far the most frequent: one channel moved, nothing else is owed
            subscription = dirty[0]
            channel = subscription.channel
            if subscription.shown is channel.status:
                message = channel.read(subscription, self.profile, self.flush_bytes)
                if not channel.is_behind(subscription):
                    dirty.clear()
                    subscription.dirty = False
                return self._finish(message, now) if message else b""
        return self._collect_all(now)

    def _collect_all(self, now: float) -> bytes:
        parts = self._answers
        size = self._answers_size
        self._answers, self._answers_size = [], 0
        dirty, self.dirty = self.dirty, []
        dirty.sort(key=_events_first)
        for subscription in dirty:
            subscription.dirty = False
            channel = subscription.channel
            status = channel.status
            if subscription.shown is not status and status.freshness != "live":
                size += self._show(subscription, parts)
            if subscription.rate == 0.0:
                continue
            if size < self.flush_bytes and channel.is_behind(subscription):
                chunk = channel.read(subscription, self.profile, self.flush_bytes - size)
                size += len(chunk)
                parts.append(chunk)
            if channel.is_behind(subscription):
                self._mark(subscription)
            elif subscription.shown is not status:
                size += self._show(subscription, parts)
        return self._finish(b"".join(parts), now) if size else b""

    def _show(self, subscription: Subscription, parts: list[bytes]) -> int:
        """Tell the client the freshness of a channel. ``live`` is said only once it holds the head."""
        channel = subscription.channel
        status = subscription.shown = channel.status
        frame = frames.Status(channel.alias, status.freshness, status.since, status.reason)
        parts.append(self.profile.encode(frame))
        return len(parts[-1])

    def _finish(self, message: bytes, now: float) -> bytes:
        """Add the ping that is due, if one is, and count the message."""
        ping = self.rules.ping_before(len(message), now, 0)
        if ping is not None:
            message += self.profile.encode(ping)
        self.rules.sent(len(message), now)
        return message

    def _mark(self, subscription: Subscription) -> None:
        if not subscription.dirty:
            subscription.dirty = True
            self.dirty.append(subscription)

    @property
    def owes(self) -> bool:
        """Whether anything waits to be flushed."""
        return bool(self.dirty or self._answers)

    # ---- its end

    def end(self, code: Code | None, message: str = "") -> None:
        """
        End the session at once: from now on it is owed nothing and a send under way is cancelled. Later calls do nothing.

        *code* is what the client is told, if it can be told anything; ``None`` when the link is gone.
        """
        if self.state is State.DEAD:
            return
        self.state = State.DEAD
        self.end_code = code
        self.end_message = message
        self._answers.clear()
        if self.flight is not None:
            self.send_cancelled = True
            self.flight.cancel()
        if self.bell is not None:
            self.bell.set()
        self._on_end()

    def heartbeat(self, now: float) -> None:
        """Send the ping that is due. Raises `ProtocolError` when the peer is to be given up."""
        if self.rules.heartbeat_due(now) and self.state is not State.DEAD:
            self.push(self.rules.heartbeat(now, self.wall_ms()))


def _events_first(subscription: Subscription) -> bool:
    return subscription.channel.family.kind != "events"
