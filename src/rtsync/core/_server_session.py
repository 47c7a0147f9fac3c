"""
The rules of one connection, as the server keeps them: bytes in, frames out, time as an argument.

It decides what may happen when: hello first and in time, request ids that only grow, a bounded rate of frames, one ping outstanding,
how many bytes may be on the way unacknowledged, and when a silent or slow peer is given up. What frames mean for channels is the
hub's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ._buckets import TokenBucket
from ._errors import Code, ProtocolError
from ._frames import ClientFrame, Error, Hello, Ping, Pong, Rate, Subscribe, Unsubscribe
from ._limits import Limits
from ._profiles import Message, Profile

__all__ = ["ServerSession", "SessionRules"]

_STALL_GRACE: Final = 1.0
"""Seconds by which a tick may be late before the delay is blamed on our own event loop, not on the peer."""

_QUICK_ACK: Final = 0.25
"""Seconds within which an acknowledgement lets the window grow."""

_SLOW_ACK: Final = 1.0
"""Seconds beyond which an acknowledgement shrinks the window to what the link carried in one second."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """The numbers of a session; seconds and bytes. See `Settings` for defaults and reasons."""

    hello_timeout: float
    heartbeat_interval: float
    heartbeat_timeout: float
    ack_timeout: float
    message_rate: float
    message_burst: float
    limits: Limits
    first_window: int
    min_window: int
    max_window: int


@dataclass(slots=True)
class _Outstanding:
    """The ping that waits for its pong."""

    id: int
    message: int  # number of the message that carried it
    bytes_sent: int  # total up to and including that message
    bytes_waiting: int  # unacknowledged then
    sent_at: float


class ServerSession:
    """
    The state of one connection.

    Phases: waiting for hello, then open. The shell ends it after any `PeerError`.

    Attributes:
        window: Bytes that may be on the way unacknowledged.
    """

    __slots__ = (
        "_acked_bytes",
        "_bucket",
        "_heard_at",
        "_hello_by",
        "_last_ping",
        "_last_request",
        "_outstanding",
        "_refused_since",
        "_rules",
        "_seen_messages",
        "_sent_at",
        "_sent_bytes",
        "_sent_messages",
        "_ticked_at",
        "window",
    )

    def __init__(self, rules: SessionRules, now: float) -> None:
        self._rules = rules
        self._bucket = TokenBucket(rules.message_rate, rules.message_burst, now)
        self._hello_by: float | None = now + rules.hello_timeout
        self._heard_at = self._sent_at = self._ticked_at = now
        self._last_request = 0
        self._last_ping = 0
        self._outstanding: _Outstanding | None = None
        self._refused_since: float | None = None
        self._seen_messages = self._sent_messages = self._sent_bytes = self._acked_bytes = 0
        self.window = rules.first_window

    # ---- receive

    def receive(self, message: Message, profile: Profile, now: float) -> list[ClientFrame | Error]:
        """
        Take one message and return what is to be done about it, in order.

        Frames that break a rule which only concerns themselves come back as the `Error` to send instead. Pongs are used up here.

        Raises:
            DecodeError: The message is not protocol v1 or over a limit; the connection ends.
            ProtocolError: A rule that concerns the connection was broken; the connection ends.
        """
        self._heard_at = now
        due: list[ClientFrame | Error] = []
        for frame in profile.read_client(message, self._rules.limits):
            if wait := self._bucket.take(now):
                due.append(self._refuse(frame, wait, now))
                continue
            self._refused_since = None
            self._check_order(frame)
            if type(frame) is Pong:
                self._acknowledge(frame, now)
            elif isinstance(frame, Subscribe | Unsubscribe | Rate) and frame.request <= self._last_request:
                due.append(Error(frame.request, Code.BAD_REQUEST.text, "request ids only grow", field="request"))
            else:
                if isinstance(frame, Subscribe | Unsubscribe | Rate):
                    self._last_request = frame.request
                due.append(frame)
        return due

    def _check_order(self, frame: ClientFrame) -> None:
        if self._hello_by is not None:
            if type(frame) is not Hello:
                raise ProtocolError(Code.BAD_REQUEST, "hello comes first")
            self._hello_by = None
        elif type(frame) is Hello:
            raise ProtocolError(Code.BAD_REQUEST, "hello comes once")

    def _refuse(self, frame: ClientFrame, wait: float, now: float) -> Error:
        """Answer a frame over the rate; give up on a peer that has been over it for a whole heartbeat timeout."""
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since > self._rules.heartbeat_timeout / 2:
            raise ProtocolError(Code.TOO_MANY, f"more than {self._rules.message_rate:g} frames a second")
        request = frame.request if isinstance(frame, Subscribe | Unsubscribe | Rate) else None
        code = Code.TOO_MANY
        return Error(request, code.text, "too many frames", retryable=code.retryable, retry_after=wait)

    def _acknowledge(self, pong: Pong, now: float) -> None:
        asked = self._outstanding
        if asked is None or pong.id != asked.id:
            raise ProtocolError(Code.BAD_REQUEST, "a pong that was not asked for", field="id")
        if pong.messages != asked.message:
            raise ProtocolError(Code.BAD_REQUEST, f"{pong.messages} messages received of {asked.message}", field="messages")
        self._outstanding = None
        self._acked_bytes = asked.bytes_sent
        self._adapt_window(asked.bytes_waiting, now - asked.sent_at)

    def _adapt_window(self, waiting: int, seconds: float) -> None:
        """Let the window follow the link: one second's worth on a slow one, so that data waits where it still conflates."""
        if waiting * 2 < self.window:
            return  # too little was on the way to tell the link's pace from its delay
        if seconds > _SLOW_ACK:
            self.window = max(self._rules.min_window, int(waiting / seconds))
        elif seconds < _QUICK_ACK:
            self.window = min(self._rules.max_window, self.window * 2)

    # ---- send

    @property
    def unacked(self) -> int:
        """Bytes sent and not known to have arrived."""
        return self._sent_bytes - self._acked_bytes

    @property
    def may_send(self) -> bool:
        """Whether the window has room: else data waits in the log, where it still conflates."""
        return self.unacked < self.window

    @property
    def must_ask(self) -> bool:
        """Whether the window is filling and no ping is outstanding that would empty it."""
        return self._outstanding is None and self.unacked * 2 >= self.window

    @property
    def credit(self) -> int:
        """Bytes that may be sent before a message has to carry a ping; 0 or less while none may."""
        return self.window // 2 - self.unacked

    def sent(self, size: int, messages: int = 1) -> None:
        """Count *messages* of *size* bytes together that have been or are being sent."""
        self._sent_messages += messages
        self._sent_bytes += size

    def ping_before(self, size: int, now: float, server_time: int) -> Ping | None:
        """Return the ping that the next message, of *size* bytes so far, has to carry; ``None`` while none is due."""
        if self._outstanding is not None or (self.unacked + size) * 2 < self.window:
            return None
        return self._ping(size, now, server_time)

    def _ping(self, size: int, now: float, server_time: int) -> Ping:
        self._last_ping += 1
        self._outstanding = _Outstanding(
            id=self._last_ping,
            message=self._sent_messages + 1,
            bytes_sent=self._sent_bytes + size,
            bytes_waiting=self.unacked + size,
            sent_at=now,
        )
        return Ping(self._last_ping, server_time)

    # ---- time

    def heartbeat_due(self, now: float) -> bool:
        """
        Return whether a heartbeat ping must go out now. To be called about every second.

        Raises:
            ProtocolError: The peer said no hello in time, has been silent for too long, or does not acknowledge.
        """
        self._forgive_stall(now)
        rules = self._rules
        if self._hello_by is not None:
            if now >= self._hello_by:
                raise ProtocolError(Code.HELLO_TIMEOUT, f"no hello within {rules.hello_timeout:g} s")
            return False
        silence = now - self._heard_at
        if silence >= rules.heartbeat_interval + rules.heartbeat_timeout:
            raise ProtocolError(Code.NO_PONG, f"silent for {silence:.0f} s")
        asked = self._outstanding
        if asked is not None:
            if now - asked.sent_at >= rules.ack_timeout:
                raise ProtocolError(Code.SLOW, f"{self.unacked} bytes not acknowledged within {rules.ack_timeout:g} s")
            return False
        if self._seen_messages != self._sent_messages:
            self._seen_messages = self._sent_messages
            self._sent_at = now
        return min(self._heard_at, self._sent_at) + rules.heartbeat_interval <= now

    def heartbeat(self, now: float, server_time: int) -> Ping:
        """Return the heartbeat ping; it must travel alone or last in the next message."""
        return self._ping(0, now, server_time)

    def _forgive_stall(self, now: float) -> None:
        """If we ourselves did not run for a while, the peer may have spoken unheard: it gets that time on top."""
        late = now - self._ticked_at - _STALL_GRACE
        self._ticked_at = now
        if late > _STALL_GRACE:
            self._heard_at += late
            if self._hello_by is not None:
                self._hello_by += late
            if self._outstanding is not None:
                self._outstanding.sent_at += late
