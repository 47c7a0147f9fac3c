"""
The rules of one connection, as the server keeps them: bytes in, frames out, time as an argument.

It decides what may happen when: hello first and in time, request ids that only grow, a bounded rate of frames, one ping
outstanding, how many bytes may be on the way unacknowledged, and when a silent or slow peer is given up. What frames mean for
channels is the hub's business.
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

_STALL: Final = 2.0
"""Seconds between two ticks beyond which our own event loop did not run: they should be one apart at most."""

_QUICK_ACK: Final = 0.25
"""Seconds within which an acknowledgement lets the window grow."""

_SLOW_ACK: Final = 1.0
"""Seconds beyond which an acknowledgement shrinks the window to what the link carried in one second."""

_REQUESTS: Final = (Subscribe, Unsubscribe, Rate)


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
        "_patience",
        "_rules",
        "_seen_messages",
        "_sent_at",
        "_sent_bytes",
        "_sent_messages",
        "_ticked_at",
        "_wanted_at",
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
        self._wanted_at: float | None = None  # since when a heartbeat has waited for a message to travel in
        self._patience: TokenBucket | None = None  # with a peer that is over the rate
        self._seen_messages = self._sent_messages = self._sent_bytes = self._acked_bytes = 0
        self.window = rules.first_window

    # ---- receive

    def receive(self, message: Message, profile: Profile, now: float) -> list[ClientFrame | Error]:
        """
        Take one message and return what is to be done about it, in order.

        Frames that break a rule which only concerns themselves come back as the `Error` to send instead. Pongs end here.

        Raises:
            DecodeError: The message is not protocol v1 or over a limit; the connection ends.
            ProtocolError: A rule that concerns the connection was broken; the connection ends.
        """
        self._heard_at = now
        due: list[ClientFrame | Error] = []
        received = profile.read_client(message, self._rules.limits)
        if not received:
            self._charge(now)  # nothing that a peer sends is free
        for frame in received:
            self._check_order(frame)
            if type(frame) is Pong:  # one for each ping of ours; the rate must not stand between the two
                self._acknowledge(frame, now)
            elif type(frame) is Hello:
                due.append(frame)
            elif wait := self._charge(now):
                if isinstance(frame, _REQUESTS):
                    code = Code.TOO_MANY
                    due.append(Error(frame.request, code.text, "too many frames", retryable=True, retry_after=wait))
            elif isinstance(frame, _REQUESTS):
                due.append(self._in_order(frame))
            else:
                due.append(frame)
        return due

    def _check_order(self, frame: ClientFrame) -> None:
        if self._hello_by is not None:
            if type(frame) is not Hello:
                raise ProtocolError(Code.BAD_REQUEST, "hello comes first")
            self._hello_by = None
        elif type(frame) is Hello:
            raise ProtocolError(Code.BAD_REQUEST, "hello comes once")

    def _charge(self, now: float) -> float:
        """
        Charge the peer for one frame. Returns 0.0, or the seconds until the frame would not be over the rate.

        Refusals come from a budget of the same size: a peer that goes on as before is given up.
        """
        wait = self._bucket.take(now)
        if wait:
            rules = self._rules
            if self._patience is None:
                self._patience = TokenBucket(rules.message_rate, rules.message_burst, now)
            if self._patience.take(now):
                raise ProtocolError(Code.TOO_MANY, f"more than {rules.message_rate:g} frames a second")
        return wait

    def _in_order(self, frame: Subscribe | Unsubscribe | Rate) -> ClientFrame | Error:
        if frame.request <= self._last_request:
            return Error(frame.request, Code.BAD_REQUEST.text, "request ids only grow", field="request")
        self._last_request = frame.request
        return frame

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
        """Whether a ping must go out: a heartbeat is due, or the window fills and no ping is out that would empty it."""
        return self.must_carry_ping(0)

    @property
    def credit(self) -> int:
        """Bytes that may be sent before a message has to carry a ping; 0 or less while none may."""
        return 0 if self._wanted_at is not None else self.window // 2 - self.unacked

    @property
    def messages(self) -> int:
        """Messages sent so far."""
        return self._sent_messages

    def sent(self, size: int, messages: int = 1) -> None:
        """Count *messages* of *size* bytes together that have been or are being sent."""
        self._sent_messages += messages
        self._sent_bytes += size

    def must_carry_ping(self, size: int) -> bool:
        """Return whether the next message, of *size* bytes without it, has to carry a `ping`."""
        return self._outstanding is None and (self._wanted_at is not None or (self.unacked + size) * 2 >= self.window)

    def ping(self, size: int, now: float, server_time: int) -> Ping:
        """Return a ping, to travel last in the next message, which has *size* bytes without it."""
        self._wanted_at = None
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

    def tick(self, now: float) -> bool:
        """
        Return whether a heartbeat is due: the next message then has to carry a `ping`, and must not wait for data.

        To be called at least every second.

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
        if self._seen_messages != self._sent_messages:
            self._seen_messages = self._sent_messages
            self._sent_at = now
        if self._outstanding is not None:
            if now - self._outstanding.sent_at >= rules.ack_timeout:
                raise ProtocolError(Code.SLOW, f"{self.unacked} bytes not acknowledged within {rules.ack_timeout:g} s")
            return False
        if self._wanted_at is not None:
            if now - self._wanted_at >= rules.ack_timeout:  # the message before it has been stuck for as long
                raise ProtocolError(Code.SLOW, f"nothing could be sent within {rules.ack_timeout:g} s")
        elif min(self._heard_at, self._sent_at) + rules.heartbeat_interval <= now:
            self._wanted_at = now
        return self._wanted_at is not None

    def _forgive_stall(self, now: float) -> None:
        """If we ourselves did not run for a while, the peer may have spoken unheard: it gets that time on top."""
        elapsed = now - self._ticked_at
        self._ticked_at = now
        if elapsed <= _STALL:
            return
        # Nothing is moved into the future: who was heard since gets no more than others.
        self._heard_at = min(self._heard_at + elapsed, now)
        if self._hello_by is not None:
            self._hello_by += elapsed
        if self._wanted_at is not None:
            self._wanted_at = min(self._wanted_at + elapsed, now)
        if self._outstanding is not None:
            self._outstanding.sent_at = min(self._outstanding.sent_at + elapsed, now)
