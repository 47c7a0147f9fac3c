"""
The rules of a client: messages and `now` in, messages and events out.

A client is one connection at a time plus the subscriptions that outlive connections. The rules decide what is sent when, what
may be applied to what, when the silence of the server means something, and when to come back. The program around them moves
bytes, waits for deadlines and hands updates on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final

from . import _frames as frames
from ._client_events import (
    Began,
    Changed,
    ClientEvent,
    ConnectionState,
    Draining,
    Ended,
    Lost,
    Refused,
    RequestRefused,
    Resynchronising,
    StateChanged,
    StatusChanged,
    Welcomed,
)
from ._client_subscription import ClientSubscription, OutOfStep, earlier
from ._entries import SourceStatus
from ._errors import Code, DecodeError
from ._limits import Limits
from ._position import Position
from ._profiles import JSON, Message, Profile
from ._reconnect import ReconnectPolicy, outlook

__all__ = ["ClientSession"]

_LIMITS: Final = Limits(max_bytes=16 << 20, max_depth=128, max_nodes=4_000_000)
"""What a client decodes: generous, since a server is trusted more than a stranger, but never without bound."""

_FIRST_MESSAGE: Final = 16 << 10
"""Most bytes of a message before the server has told its limit."""

_BATCH: Final = 64
"""Most channels in one subscribe frame; with the longest names it still stays far below the smallest sensible frame limit."""


class ClientSession:
    """
    The state of one client.

    The program around it calls, in this order and again for each connection: `connecting`, `connected`, then `receive` and
    `tick` as things happen, then `disconnected`; and sends whatever `outgoing` returns after any of them.

    Args:
        name: What the client calls itself in its hello.
        policy: When to come back after a lost connection, and to try again what was refused for the time being.
        random: Gives a number from 0 up to 1.
        open_timeout: Seconds from the beginning of an attempt until the server must have welcomed the client.
    """

    # Of the connection under way:
    _profile: Profile | None
    _outbox: deque[bytes]  # encoded frames
    _due: dict[str, ClientSubscription]  # to subscribe with the next message
    _waiting: dict[str, ClientSubscription]  # to subscribe at their `retry_at`
    _by_alias: dict[int, ClientSubscription]
    _request: int  # id of the last one
    _messages: int  # received
    _message_limit: int  # bytes
    _error: frames.Error | None  # about the connection, in the newest message
    _drain: float | None  # seconds to stay away
    _deadline: float  # of the attempt, or of a stalled connection's last chance
    _held: bool  # whether we ourselves do not read

    def __init__(self, name: str, *, policy: ReconnectPolicy, random: Callable[[], float], open_timeout: float = 10.0) -> None:
        self._name = name
        self._own_policy = self._policy = policy
        self._random = random
        self._open_timeout = open_timeout
        self.state: ConnectionState = "connecting"
        self.reason = ""
        self.code = ""  # of what ended the connection, if the server named one
        self.reconnect_at: float | None = None  # None while connected, and when there is nothing to wait for any more
        self._session: str | None = None
        self._secret: str | None = None
        self._clock: float | None = None  # server time in ms at second 0 of `now`
        self._attempt = 0  # attempts in a row that did not work
        self._subscriptions: dict[str, ClientSubscription] = {}
        self._happened: list[ClientEvent] = []
        self._heartbeat = self._timeout = inf
        self._heard_at = 0.0
        self._disconnect()

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"<ClientSession {self.state}{reason}, {len(self._subscriptions)} subscriptions>"

    @property
    def over(self) -> bool:
        """Whether there will be no further attempt: see `reason` and `code`."""
        return self.state in ("disconnected", "failed") and self.reconnect_at is None

    @property
    def subscriptions(self) -> Mapping[str, ClientSubscription]:
        """Every channel, as it is held; those that the server gave unasked included."""
        return self._subscriptions

    # ---- the connection

    def connecting(self, now: float) -> Sequence[ClientEvent]:
        """Begin an attempt."""
        self.reconnect_at = None
        self._deadline = now + self._open_timeout
        self._become("connecting", self.reason)
        return self._what_happened()

    def connected(self, profile: Profile, token: str | None) -> None:
        """Say hello on a new link, take over from the connection before, and subscribe to everything from where it stands."""
        self._profile = profile
        self._post(frames.Hello(token, self._name, self._session, self._secret))
        for subscription in self._subscriptions.values():
            self._ask(subscription)

    def disconnected(self, close: int | None, reason: str, now: float) -> Sequence[ClientEvent]:
        """
        Take note that the connection ended, or that an attempt failed, and decide when to come back: see `reconnect_at`.

        Args:
            close: The WebSocket close code, if there was one.
            reason: What the link says about it; what the server said counts more.
            now: Seconds.
        """
        error = self._error
        what = outlook(close, error.code, error.retryable) if error is not None else outlook(close)
        known = Code.from_close(close) if error is None and close is not None else None
        self.code = error.code if error is not None else known.text if known is not None else ""
        reason = (error.message or error.code) if error is not None else reason or self.code or "connection lost"
        delay = self._next_delay() if what == "reconnect" else None
        self._attempt += 1
        self._disconnect()
        self._doubt_all("disconnected", now)
        if delay is not None:
            self.reconnect_at = now + delay
            self._become("disconnected", reason)
        elif what == "stop":
            self._become("disconnected", reason)
        else:
            self._become("failed", reason)
        return self._what_happened()

    def close(self, now: float) -> Sequence[ClientEvent]:
        """Leave for good."""
        if not self.over:
            self._disconnect()
            self._doubt_all("closed", now)
            self.reconnect_at = None
            self._become("disconnected", "closed")
        return self._what_happened()

    def _next_delay(self) -> float | None:
        """Seconds until the next attempt; what the server told on its way out wins over the table."""
        delay = self._policy.next_delay(self._attempt, self._random)
        told = self._error.retry_after if self._error is not None else None
        told = self._drain if told is None else told
        if delay is None or told is None:
            return delay
        # A server that keeps on sending everybody away at once must not be answered in a tight loop.
        return told if self._attempt == 0 else max(told, self._policy.first)

    def _disconnect(self) -> None:
        """Forget everything that belonged to a connection."""
        self._profile = None
        self._outbox = deque()
        self._due = {}
        self._waiting = {}
        self._by_alias = {}
        self._request = self._messages = 0
        self._message_limit = _FIRST_MESSAGE
        self._error = None
        self._drain = None
        self._deadline = inf
        self._held = False

    def _doubt_all(self, reason: str, now: float) -> None:
        doubt = self._stale(reason, now)
        for subscription in list(self._subscriptions.values()):
            subscription.lose(doubt)
            subscription.given = False
            if subscription.wanted:
                self._show(subscription)
            else:  # the server will give it again, or not
                del self._subscriptions[subscription.channel]

    # ---- receive

    def receive(self, message: Message, now: float) -> Sequence[ClientEvent]:
        """Take one message from the server and return what came of it, in order."""
        self._messages += 1
        self._heard_at = now
        self._error = None
        if self.state == "stalled":
            self._revive()
        try:
            for frame in self._read(message):
                self._HANDLERS[type(frame)](self, frame, now)
        except DecodeError as error:
            self._happened.append(Lost(f"cannot be decoded: {error}"))
        return self._what_happened()

    def _read(self, message: Message) -> Sequence[frames.ServerFrame]:
        profile = self._profile
        assert profile is not None, "no connection"
        if type(message) is str and profile is not JSON:
            # A server that does not know the profile says so in JSON, before any agreement.
            return [frame for frame in JSON.read_server(message, _LIMITS) if type(frame) is frames.Error]
        return profile.read_server(message, _LIMITS)

    def _on_welcome(self, frame: frames.Welcome, now: float) -> None:
        self._session, self._secret = frame.session, frame.secret
        self._clock = frame.time - now * 1000
        self._heartbeat = frame.heartbeat or inf
        self._timeout = frame.timeout
        limit = frame.limits.get("max_frame_bytes")
        if type(limit) is int and limit > 0:
            self._message_limit = limit
        self._policy = self._own_policy.advised(frame.reconnect)
        self._attempt = 0
        self._deadline = inf
        self.code = ""
        self._happened.append(Welcomed(frame.session, frame.user))
        self._become("live", "")

    def _on_subscribed(self, frame: frames.Subscribed, now: float) -> None:
        subscription = self._subscriptions.get(frame.channel)
        if frame.request == 0:
            if subscription is None:
                subscription = ClientSubscription(frame.channel, position=None, rate=frame.rate, doubt=None)
                subscription.given = True
                self._subscriptions[frame.channel] = subscription
            elif subscription.request is not None or frame.channel in self._due:
                return  # our own subscribe is on its way and will be answered
        elif subscription is None or subscription.request != frame.request:
            return  # the answer to a subscribe that was overtaken by a later one, or by an unsubscribe
        if subscription.kind not in (None, frame.kind):
            self._drop(subscription)
            self._happened.append(Ended(frame.channel, Code.BAD_REQUEST.text, f"is now of kind {frame.kind}"))
            return
        if subscription.alias is not None:
            self._by_alias.pop(subscription.alias, None)
        self._by_alias[frame.alias] = subscription
        self._waiting.pop(frame.channel, None)
        held = subscription.position is not None
        try:
            subscription.begin(frame)
        except OutOfStep as why:
            self._resynchronise(subscription, str(why), now)
            return
        known = frame.recovered or (frame.kind == "events" and not held)
        self._happened.append(Began(frame.channel, frame.kind, subscription.position if known else None))
        self._show(subscription)

    def _on_keyframe(self, frame: frames.Keyframe, now: float) -> None:
        assert self._profile is not None
        profile = self._profile
        self._apply(frame.alias, lambda subscription: subscription.take_keyframe(frame, profile), now)

    def _on_delta(self, frame: frames.Delta, now: float) -> None:
        self._apply(frame.alias, lambda subscription: subscription.take_delta(frame), now)

    def _on_event(self, frame: frames.Event, now: float) -> None:
        self._apply(frame.alias, lambda subscription: subscription.take_event(frame), now)

    def _on_gap(self, frame: frames.Gap, now: float) -> None:
        self._apply(frame.alias, lambda subscription: subscription.take_gap(frame), now)

    def _on_status(self, frame: frames.Status, now: float) -> None:
        self._apply(frame.alias, lambda subscription: subscription.take_status(frame), now)

    def _apply(self, alias: int, take: Callable[[ClientSubscription], Any], now: float) -> None:
        subscription = self._by_alias.get(alias)
        if subscription is None:
            return  # in transit when its instance ended
        try:
            update = take(subscription)
        except OutOfStep as why:
            self._resynchronise(subscription, str(why), now)
            return
        if update is not None:
            self._happened.append(Changed(subscription.channel, update))
        self._show(subscription)

    def _on_unsubscribed(self, frame: frames.Unsubscribed, now: float) -> None:
        subscription = self._subscriptions.get(frame.channel)
        if frame.request != 0 or subscription is None or subscription.request is not None:
            return  # the answer to our own wish, or about an instance that we have asked to replace
        code = Code.from_text(frame.code)
        if code is not None and code.retryable:
            self._try_later(subscription, frame.code, None, now)
            return
        self._drop(subscription)
        self._happened.append(Ended(frame.channel, frame.code, frame.message))

    def _on_error(self, frame: frames.Error, now: float) -> None:
        if frame.request is None:
            self._error = frame
            return
        asked = [
            subscription
            for subscription in self._subscriptions.values()
            if subscription.request == frame.request and frame.channel in ("", subscription.channel)
        ]
        for subscription in asked:
            if frame.retryable:
                self._try_later(subscription, frame.code, frame.retry_after, now)
            else:
                self._drop(subscription)
                self._happened.append(Refused(subscription.channel, frame.code, frame.message, frame.field))
        if not asked:
            self._on_other_error(frame, now)

    def _on_other_error(self, frame: frames.Error, now: float) -> None:
        subscription = self._subscriptions.get(frame.channel)
        if subscription is None or subscription.request is not None:
            return  # about something that is no longer wanted, or was asked for anew since
        if frame.retryable:
            self._try_later(subscription, frame.code, frame.retry_after, now)
        else:
            self._happened.append(RequestRefused(frame.channel, frame.code, frame.message))

    def _on_ping(self, frame: frames.Ping, now: float) -> None:
        if frame.time:
            self._clock = frame.time - now * 1000
        self._post(frames.Pong(frame.id, self._messages))

    def _on_drain(self, frame: frames.Drain, now: float) -> None:
        self._drain = frame.retry_after + frame.spread * self._random()
        self._happened.append(Draining(frame.reason))

    _HANDLERS: Final[dict[type, Callable[[ClientSession, Any, float], None]]] = {
        frames.Welcome: _on_welcome,
        frames.Subscribed: _on_subscribed,
        frames.Keyframe: _on_keyframe,
        frames.Delta: _on_delta,
        frames.Event: _on_event,
        frames.Gap: _on_gap,
        frames.Status: _on_status,
        frames.Unsubscribed: _on_unsubscribed,
        frames.Error: _on_error,
        frames.Ping: _on_ping,
        frames.Drain: _on_drain,
    }

    # ---- send

    @property
    def has_outgoing(self) -> bool:
        """Whether `outgoing` would return a message."""
        return bool(self._outbox or self._due)

    def outgoing(self) -> Message | None:
        """Return the next message to send, ``None`` when there is none. No larger than the server accepts."""
        self._subscribe_due()
        if not self._outbox:
            return None
        assert self._profile is not None
        message = self._outbox.popleft()
        while self._outbox and len(message) + len(self._outbox[0]) <= self._message_limit:
            message += self._outbox.popleft()
        return self._profile.message(message)

    def bye(self, reason: str) -> Message | None:
        """Return the last message before the client closes the link; ``None`` when there is no link."""
        return None if self._profile is None else self._profile.message(self._profile.encode(frames.Bye(reason)))

    def subscribe(
        self, channel: str, now: float, *, position: Position | None = None, rate: float | None = None
    ) -> ClientSubscription:
        """
        Want a channel; the subscribe goes out with the next message.

        A channel that is subscribed already, by us or by the server, is only asked for again when it has to begin earlier.

        Args:
            channel: Canonical name.
            now: Seconds.
            position: For an event channel, the position after which events are wanted. ``None``: those to come.
            rate: Most updates per second, ``None`` for all, 0 for none at present.
        """
        subscription = self._subscriptions.get(channel)
        if subscription is None:
            reason = "subscribing" if self.state == "live" else self.state
            subscription = ClientSubscription(channel, position=position, rate=rate, doubt=self._stale(reason, now))
            self._subscriptions[channel] = subscription
            self._ask(subscription)
        elif position is not None and subscription.kind != "state":
            begin = earlier(subscription.position, position)
            if begin != subscription.position:
                subscription.position = begin
                self._ask(subscription)
        subscription.wanted = True
        if rate is not None:
            self.set_rate(channel, rate)
        return subscription

    def unsubscribe(self, channel: str) -> None:
        """No longer want a channel. What is still in transit for it is ignored. One that the server gave unasked stays."""
        subscription = self._subscriptions.get(channel)
        if subscription is None:
            return
        subscription.wanted = False
        if not subscription.given:
            at_server = subscription.at_server
            self._drop(subscription)
            if at_server and self._profile is not None:
                self._post(frames.Unsubscribe(self._next_request(), (channel,)))

    def set_rate(self, channel: str, rate: float | None) -> None:
        """Want at most *rate* updates per second of a channel; ``None`` for all, 0 for none at present."""
        subscription = self._subscriptions.get(channel)
        if subscription is None or subscription.rate == rate:
            return
        subscription.rate = rate
        if subscription.at_server and channel not in self._due and self._profile is not None:
            self._post(frames.Rate(self._next_request(), channel, rate))

    def _ask(self, subscription: ClientSubscription) -> None:
        """Have *subscription* subscribed, or resynchronised, with the next message."""
        if subscription.alias is not None:
            self._by_alias.pop(subscription.alias, None)
        subscription.pause(subscription.doubt)
        subscription.request = subscription.retry_at = None
        self._waiting.pop(subscription.channel, None)
        if self._profile is not None:
            self._due[subscription.channel] = subscription

    def _subscribe_due(self) -> None:
        while self._due:
            batch = [self._due.pop(channel) for channel in list(self._due)[:_BATCH]]
            request = self._next_request()
            for subscription in batch:
                subscription.request = request
                subscription.at_server = True
            items = [frames.SubscribeItem(item.channel, item.resume_position, item.rate) for item in batch]
            self._post(frames.Subscribe(request, tuple(items)))

    def _resynchronise(self, subscription: ClientSubscription, why: str, now: float) -> None:
        """Ask for one channel anew: at once the first time, then ever later, so that a server in error is not hammered."""
        subscription.stumbles += 1
        self._happened.append(Resynchronising(subscription.channel, why))
        self._ask(subscription)
        if subscription.stumbles > 1:
            self._wait(subscription, "out of step", subscription.stumbles - 2, None, now)

    def _try_later(self, subscription: ClientSubscription, code: str, retry_after: float | None, now: float) -> None:
        """Ask again for what was refused for the time being."""
        subscription.refusals += 1
        self._ask(subscription)
        subscription.at_server = False
        self._wait(subscription, code, subscription.refusals - 1, retry_after, now)

    def _wait(self, subscription: ClientSubscription, why: str, attempt: int, told: float | None, now: float) -> None:
        patient = replace(self._policy, max_attempts=None, spread=0.0)
        delay = told if told is not None else patient.next_delay(attempt, self._random)
        assert delay is not None
        self._due.pop(subscription.channel, None)
        self._waiting[subscription.channel] = subscription
        subscription.retry_at = now + delay
        subscription.doubt = subscription.doubt or self._stale(why, now)
        self._show(subscription)

    def _drop(self, subscription: ClientSubscription) -> None:
        self._subscriptions.pop(subscription.channel, None)
        self._due.pop(subscription.channel, None)
        self._waiting.pop(subscription.channel, None)
        if subscription.alias is not None:
            self._by_alias.pop(subscription.alias, None)

    def _post(self, frame: frames.ClientFrame) -> None:
        assert self._profile is not None
        self._outbox.append(self._profile.encode(frame))

    def _next_request(self) -> int:
        self._request += 1
        return self._request

    # ---- time

    def next_deadline(self) -> float:
        """Return when `tick` has something to do; infinity while nothing is awaited."""
        return min(self._silence_deadline(), min((item.retry_at or 0.0 for item in self._waiting.values()), default=inf))

    def _silence_deadline(self) -> float:
        if self.state == "live":
            return self._heard_at + self._heartbeat + self._timeout / 2
        return inf if self._held else self._deadline

    def tick(self, now: float) -> Sequence[ClientEvent]:
        """Do what is due at *now*: give up an attempt, suspect or give up a silent server, ask again for what was refused."""
        if now >= self._silence_deadline():
            if self.state == "live":
                # The last chance counts from now: if it was we who did not run, the server may have spoken unheard.
                self._deadline = now + self._timeout / 2
                self._stall()
            else:
                self._deadline = inf
                self._happened.append(Lost("no welcome in time" if self.state == "connecting" else "no sign of life"))
        for subscription in list(self._waiting.values()):
            if subscription.retry_at is not None and now >= subscription.retry_at:
                self._ask(subscription)
        return self._what_happened()

    def hold(self) -> None:
        """Note that we ourselves have stopped reading: the connection may stall, but is not given up for its silence."""
        self._held = True

    def release(self, now: float) -> None:
        """Note that we read again: the server gets the time of a heartbeat's grace to be heard."""
        self._held = False
        if self.state == "stalled":
            self._deadline = now + self._timeout / 2

    def server_time(self, now: float) -> int:
        """Return the server's time in ms since 1970, 0 before it was first told. No clock of our own is asked."""
        return 0 if self._clock is None else round(self._clock + now * 1000)

    def _stall(self) -> None:
        doubt = self._stale("stalled", self._heard_at)
        for subscription in self._subscriptions.values():
            subscription.doubt = subscription.doubt or doubt
            self._show(subscription)
        self._become("stalled", "no sign of life")

    def _revive(self) -> None:
        self._deadline = inf
        self._become("live", "")
        for subscription in self._subscriptions.values():
            if subscription.in_step:
                subscription.doubt = None
                self._show(subscription)

    # ---- telling

    def _stale(self, reason: str, now: float) -> SourceStatus:
        return SourceStatus("stale", self.server_time(now), reason)

    def _become(self, state: ConnectionState, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._happened.append(StateChanged(state, reason))

    def _show(self, subscription: ClientSubscription) -> None:
        if subscription.status != subscription.shown:
            subscription.shown = subscription.status
            self._happened.append(StatusChanged(subscription.channel, subscription.shown))

    def _what_happened(self) -> Sequence[ClientEvent]:
        happened, self._happened = self._happened, []
        return happened
