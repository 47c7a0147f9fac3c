"""
A session: one connected client as the hub sees it, and what it is owed.

There is no queue of updates. A session keeps the set of subscriptions that moved; a flush reads each from where its cursor
stands. Only answers to requests are stored, and they are bounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import IntEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import anyio

from ..core import Channel, Code, Position, Profile, ServerSession, frames
from ._families import Principal
from ._subscription import Subscription

if TYPE_CHECKING:
    from ._pump import Pump

__all__ = ["DEAD", "FLUSHING", "IDLE", "QUEUED", "WAITING", "Session", "State"]

_MAX_ANSWERS: Final = 512 * 1024
"""Most bytes of answers that may wait for a client that keeps asking and does not read."""

_LANDING: Final = 0.25
"""Seconds for a send to return when its session ends for a reason that the client has to know."""

_NOT_READING: Final = (None, Code.SLOW, Code.NO_PONG)
"""How sessions end that cannot be told."""

_SUBSCRIBED_BYTES: Final = 64
"""What an answer that its subscription holds counts for: there is one of each, and the number of subscriptions is bounded."""


class State(IntEnum):
    """Where a session is between two flushes. Only whoever flushes it puts it back in the queue."""

    IDLE = 0
    QUEUED = 1
    FLUSHING = 2
    WAITING = 3
    """Its window is full: an acknowledgement queues it again."""
    DEAD = 4


IDLE, QUEUED, FLUSHING, WAITING, DEAD = State
"""The same as module names: looking a member up in its class costs as much as the comparison it is for."""


class Session(ABC):
    """
    One connected client.

    Args:
        id: Public identifier, unique in the cluster.
        secret: Proves a later connection to be the same client.
        rules: The connection's rules and counters.
        profile: How frames are written.
        on_end: Called once, at once, when the session ends: takes it out of the hub and stops its reader.
    """

    __slots__ = (
        "_credit",
        "_granted",
        "_messages",
        "_on_end",
        "_pump",
        "_size",
        "answers",
        "bell",
        "dirty",
        "end_code",
        "end_field",
        "end_message",
        "flush_bytes",
        "id",
        "landed",
        "principal",
        "profile",
        "rules",
        "secret",
        "send_cancelled",
        "state",
        "subscriptions",
        "wall_ms",
        "writer",
    )

    def __init__(
        self,
        *,
        id: str,
        secret: str,
        principal: Principal,
        rules: ServerSession,
        profile: Profile,
        on_end: Callable[[], None],
        pump: Pump,
        flush_bytes: int,
        wall_ms: Callable[[], int],
    ) -> None:
        self.id = id
        self.secret = secret
        self.principal = principal
        self.rules = rules
        self.profile = profile
        self.subscriptions: dict[Channel, Subscription] = {}
        self.dirty: Subscription | None = None  # the one marked last; the others follow in its chain
        self.state: State = IDLE
        self.send_cancelled = False
        self.landed: anyio.Event | None = None  # a send that outlived the session has returned
        self.writer: anyio.CancelScope | None = None  # of the task that is this session's own writer
        self.bell: anyio.Event | None = None  # wakes that task
        self.end_code: Code | None = None
        self.end_message = ""
        self.end_field = ""
        self.flush_bytes = flush_bytes
        self.answers: list[bytes | Subscription] = []  # encoded, or who holds the frame
        self._granted = self._credit = rules.credit  # bytes that may be sent before a ping, at the last balance and now
        self._messages = 0  # sent since the last balance
        self._size = 0
        self._on_end = on_end
        self._pump = pump
        self.wall_ms = wall_ms

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.state.name.lower()} {len(self.subscriptions)} subscriptions>"

    @abstractmethod
    def send(self, message: bytes) -> Awaitable[None]:
        """Hand joined frames to the server. Awaited by whoever flushes, one at a time."""

    # ---- what it is owed

    def push(self, frame: frames.Frame) -> None:
        """Owe the client *frame*, before any update."""
        if self.state is not DEAD:
            encoded = self.profile.encode(frame)
            self.answers.append(encoded)
            self._size += len(encoded)
            self._pump.queue(self)

    def begin(self, subscription: Subscription, position: Position, recovered: bool, keys: tuple[str, ...]) -> None:
        """Owe the client the answer that begins *subscription*. It is encoded when sent, and left out if that ended before."""
        self._owe(subscription, self._subscribed(subscription, subscription.request, position, recovered, keys))

    def _owe(self, subscription: Subscription, frame: frames.Subscribed) -> None:
        if self.state is not DEAD:
            subscription.answer = frame
            self.answers.append(subscription)
            self._size += _SUBSCRIBED_BYTES
            self._pump.queue(self)

    @property
    def is_owed_too_much(self) -> bool:
        """Whether so many answers wait that the client must not ask for more."""
        return self._size > _MAX_ANSWERS

    def restate(self, subscription: Subscription, position: Position) -> None:
        """Tell the client that its subscription now stands at *position*, which continues what it holds."""
        frame = self._subscribed(subscription, 0, position, True, ())
        if subscription.answer is None:
            self._owe(subscription, frame)
        else:
            self.push(frame)  # behind the one that begins it

    def _subscribed(
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

    def collect(self, now: float) -> bytes:
        """
        Return the next message: answers first, then statuses that got worse, events, and state; cursors move past it.

        At most about `flush_bytes` beyond the first frame; what is left stays dirty. Empty when nothing is owed, or when the
        window is full.
        """
        subscription = self.dirty
        if subscription is not None and subscription.next_dirty is None and not self.answers:
            # By far the most frequent: one channel moved, and its frame is built.
            channel = subscription.channel
            frame = subscription.frames.get(subscription.cursor)
            if frame is not None and subscription.shown is channel.status:
                credit = self._credit - len(frame)
                if credit > 0:  # else a ping has to go with it
                    self._credit = credit
                    self._messages += 1
                    subscription.cursor = channel.offset
                    subscription.dirty = False
                    self.dirty = None
                    return frame
        self._balance()
        if self.rules.may_send:
            return self._collect_all(now)
        return self._finish(b"", now) if self.rules.must_ask else b""

    def _collect_all(self, now: float) -> bytes:
        parts, size = self._take_answers() if self.answers else ([], 0)
        # A subscription's answer comes before its data.
        for subscription in () if self.answers else self._take_dirty():
            channel = subscription.channel
            status = channel.status
            if subscription.shown is not status and status.freshness != "live":
                size += self._show(subscription, parts)
            if subscription.rate == 0.0:
                continue
            if channel.is_behind(subscription):
                if size < self.flush_bytes:
                    chunk = channel.read(subscription, self.profile, self.flush_bytes - size)
                    size += len(chunk)
                    parts.append(chunk)
                    subscription.served()
                else:
                    subscription.passed_over()
            if channel.is_behind(subscription):
                self.mark(subscription)
            elif subscription.shown is not status:
                size += self._show(subscription, parts)
        return self._finish(b"".join(parts), now) if size or self.rules.must_ask else b""

    def _take_answers(self) -> tuple[list[bytes], int]:
        """Return answers to send now, about `flush_bytes` of them, and their size."""
        parts: list[bytes] = []
        size = taken = 0
        for answer in self.answers:
            if size >= self.flush_bytes:
                break
            taken += 1
            if isinstance(answer, bytes):
                self._size -= len(answer)
            else:
                self._size -= _SUBSCRIBED_BYTES
                frame, answer.answer = answer.answer, None
                if frame is None:
                    continue  # it ended before
                answer = self.profile.encode(frame)
            parts.append(answer)
            size += len(answer)
        del self.answers[:taken]
        return parts, size

    def _show(self, subscription: Subscription, parts: list[bytes]) -> int:
        """Tell the client the freshness of a channel. ``live`` is said only once it holds the head."""
        channel = subscription.channel
        status = subscription.shown = channel.status
        frame = frames.Status(channel.alias, status.freshness, status.since, status.reason)
        parts.append(self.profile.encode(frame))
        return len(parts[-1])

    def _balance(self) -> None:
        """
        Tell the rules what was sent on credit, and take new credit.

        The frequent path counts on this object alone: a thousand sessions are a thousand times the memory that a step touches.
        """
        self.rules.sent(self._granted - self._credit, self._messages)
        self._messages = 0
        self._granted = self._credit = self.rules.credit

    def acknowledged(self) -> None:
        """Take note that the client has been heard: if it acknowledged something, it may be sent more."""
        self._balance()
        self._pump.acknowledged(self)

    def _finish(self, message: bytes, now: float) -> bytes:
        """Add the ping that is due, if one is, and count the message."""
        if self.rules.must_carry_ping(len(message)):
            message += self.profile.encode(self.rules.ping(len(message), now, self.wall_ms()))
        self.rules.sent(len(message))
        self._granted = self._credit = self.rules.credit
        return message

    @property
    def messages(self) -> int:
        """How many messages were collected so far."""
        return self.rules.messages + self._messages

    def mark(self, subscription: Subscription) -> None:
        """Take note that *subscription* may be behind."""
        if not subscription.dirty:
            subscription.dirty = True
            subscription.next_dirty, self.dirty = self.dirty, subscription

    def unmark(self, subscription: Subscription) -> None:
        """Forget that *subscription* may be behind: it ended."""
        if subscription.dirty:
            for other in self._take_dirty():
                if other is not subscription:
                    self.mark(other)

    def _take_dirty(self) -> list[Subscription]:
        """Return what is marked and unmark it: by turns, else in order of marking."""
        taken: list[Subscription] = []
        subscription, self.dirty = self.dirty, None
        while subscription is not None:
            taken.append(subscription)
            following, subscription.next_dirty = subscription.next_dirty, None
            subscription.dirty = False
            subscription = following
        taken.reverse()
        taken.sort(key=_TURN)
        return taken

    def settle(self) -> None:
        """Take up the state that follows a flush."""
        if self.state is DEAD:
            if self.landed is not None:
                self.landed.set()
        elif self.dirty is None and not self.answers:
            self.state = IDLE
        elif self.rules.may_send or self.rules.must_ask:
            self.state = QUEUED
        else:
            self.state = WAITING

    # ---- its end

    def end(self, code: Code | None, message: str = "", field: str = "") -> None:
        """
        End the session at once: from now on it is owed nothing. Later calls do nothing.

        *code* is what the client is told, if it can be told anything; ``None`` when the link is gone. A send under way is
        cancelled, unless it may be about to return so that the client can be told: see `land`.
        """
        if self.state is DEAD:
            return
        if self.state is FLUSHING:
            if code in _NOT_READING:
                self._cancel_send()
            else:
                self.landed = anyio.Event()
        self.state = DEAD
        self.end_code = code
        self.end_message = message
        self.end_field = field
        self.answers.clear()
        self._size = 0
        if self.bell is not None:
            self.bell.set()
        on_end, self._on_end = self._on_end, _nothing  # which leads back here: no circle is left
        on_end()

    async def land(self) -> bool:
        """
        Return whether an ended session can still be written to: no send is under way, and none was cancelled.

        A send that some servers let yield returns at once; one that blocks is cancelled now.
        """
        if self.landed is not None and not self.landed.is_set():
            with anyio.move_on_after(_LANDING, shield=True):
                await self.landed.wait()
            if not self.landed.is_set():
                self._cancel_send()
        return not self.send_cancelled

    def _cancel_send(self) -> None:
        self.send_cancelled = True
        self._pump.interrupt(self)

    def lost(self, error: BaseException) -> None:
        """End the session after a failed send. Servers say "gone" in several ways; the reader finds out the details."""
        if self.landed is not None:
            self.send_cancelled = True
            self.landed.set()
        if self.state is FLUSHING:
            self.state = IDLE  # nothing is under way that could be cancelled
        self.end(None, f"send failed: {type(error).__name__}")

    def tick(self, now: float) -> None:
        """Send the heartbeat that is due, if one is. Raises `ProtocolError` when the peer is to be given up."""
        self._balance()
        if self.rules.tick(now):
            self._granted = self._credit = self.rules.credit
            self._pump.queue(self)


_TURN: Final = attrgetter("turn")


def _nothing() -> None:
    pass
