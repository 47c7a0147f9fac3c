"""The hub: the channels of one node at work, and the sessions that read them."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import anyio

from ..backends import Announcement, Backend
from ..core import (
    JSON,
    Channel,
    Code,
    PeerError,
    Position,
    RTSyncError,
    frames,
    parse_channel,
)
from ._channel import LiveChannel, Phase
from ._channels import Channels
from ._families import Families
from ._options import HubOptions
from ._publisher import Publisher
from ._pump import Pump
from ._rates import RateTicker, step_down
from ._session import DEAD, Session
from ._source import Sources
from ._subscription import Subscription
from ._vigil import Vigil

__all__ = ["Hub", "HubStatistics"]

logger = logging.getLogger("rtsync.hub")

_HOUSEKEEPING: Final = 0.5
"""Seconds between two looks at every session's deadlines and at idle channels."""

_LISTEN_RETRY: Final = 0.5


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A snapshot of one node: gauges first, then counters since the start."""

    sessions: int
    channels: int
    subscriptions: int
    sources: int
    pump_lanes: int
    published: int
    conflicts: int
    frames_built: int
    gaps: int
    evictions: int
    rereads: int
    rewrites: int
    source_restarts: int


class Hub:
    """
    One node. Used as ``async with hub:``; everything it starts has ended when the block is left.

    Args:
        backend: Already open.
        families: May grow while the hub runs.
        now: Monotonic seconds of the event loop.
    """

    def __init__(
        self, backend: Backend, families: Families, options: HubOptions, now: Callable[[], float] = anyio.current_time
    ) -> None:
        self.families = families
        self.options = options
        self.now = now
        self._backend = backend
        self._sessions: dict[str, Session] = {}
        self._stopping = False
        self._postponed: list[tuple[float, Subscription]] = []  # (when to begin it after all, a subscription nobody asked for)
        self._evictions = 0
        self.channels = Channels(backend, families, options, now, self._changed, self._settled)
        self.publisher = Publisher(backend, self.channels, options)
        self.sources = Sources(backend, self.publisher, options, now)
        self.pump = Pump(now, options.close_timeout)
        self._ticker = RateTicker(now, self._wake)
        self._vigil = Vigil(backend, self.channels, options)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the hub's tasks for the length of the block; on return it listens to the backend."""
        try:
            async with anyio.create_task_group() as tasks:
                for part in (self.channels, self.publisher, self.sources):
                    part.start(tasks)
                listening = anyio.Event()
                tasks.start_soon(self._listen, listening)
                for task in (self.pump.run, self._ticker.run, self._vigil.run, self._keep_house):
                    tasks.start_soon(task)
                await listening.wait()
                try:
                    yield
                finally:
                    self._stopping = True
                    self.end_all(Code.DRAIN, _STOPPING)
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from group.exceptions[0].__cause__  # what the block raised, as it was raised

    def statistics(self) -> HubStatistics:
        """Return a snapshot of gauges and counters."""
        return HubStatistics(
            sessions=len(self._sessions),
            channels=len(self.channels),
            subscriptions=sum(len(channel.subscriptions) for channel in self.channels),
            sources=len(self.sources),
            pump_lanes=self.pump.lanes,
            published=self.publisher.published,
            conflicts=self.publisher.conflicts,
            frames_built=self.channels.frames.built,
            gaps=self.channels.gaps,
            evictions=self._evictions,
            rereads=self.channels.rereads,
            rewrites=self.channels.rewrites,
            source_restarts=self.sources.restarts,
        )

    # ---- sessions

    def attach(self, session: Session) -> None:
        """Take *session* in, or end it if the hub stops."""
        if self._stopping:
            session.end(Code.DRAIN, _STOPPING)
        else:
            self._sessions[session.id] = session

    def detach(self, session: Session) -> None:
        """Forget *session*, which has ended, and its subscriptions. Harmless if already done."""
        if self._sessions.pop(session.id, None) is None:
            return
        for subscription in list(session.subscriptions.values()):
            self._drop(subscription)
        if session.end_code in (Code.SLOW, Code.NO_PONG):
            self._evictions += 1
            logger.info("%s evicted: %s (%s)", session.id, session.end_code.text, session.end_message)

    def take_over(self, session_id: str, secret: str) -> bool:
        """End the session that a returning client names, if the secret proves it is its own."""
        zombie = self._sessions.get(session_id)
        if zombie is None or not hmac.compare_digest(zombie.secret.encode(), secret.encode()):
            return False
        zombie.end(Code.TAKEN_OVER, "the client has connected again")
        return True

    def end_all(self, code: Code, message: str) -> None:
        """End every session."""
        for session in list(self._sessions.values()):
            session.end(code, message)

    # ---- subscriptions

    def subscribe(
        self, session: Session, request: int, name: str, position: Position | None = None, rate: float | None = None
    ) -> None:
        """
        Begin, or begin anew, a subscription; the answer is owed to the session, now or once the channel is ready.

        The caller has authorised it. Raises `PeerError` if the session has too many. Nothing begins for one that has ended.
        """
        if session.state is DEAD:
            return
        channel_name = parse_channel(name)
        before = session.subscriptions.get(channel_name)
        if before is None and len(session.subscriptions) >= self.options.max_subscriptions:
            raise PeerError(Code.TOO_MANY, f"at most {self.options.max_subscriptions} subscriptions", field="channel")
        channel = self.channels.open(channel_name)
        wanted_rate = step_down(self.options.default_rate if rate is None else rate)
        subscription = Subscription(session, channel, request, position, wanted_rate)
        session.subscriptions[channel.name] = subscription  # by the one text that all sessions share
        if channel.phase is Phase.READY:
            self._establish(subscription)
        else:
            channel.waiting[subscription] = None
        if before is not None:
            self._drop(before)

    def unsubscribe(self, session: Session, request: int, name: str) -> None:
        """End a subscription and owe the session the answer."""
        subscription = session.subscriptions.get(Channel(name))
        if subscription is None:
            error = frames.Error(request, Code.NOT_SUBSCRIBED.text, "not subscribed", channel=name[:200])
            session.push(error)
            return
        self._drop(subscription)
        session.push(frames.Unsubscribed(request, name))

    def drop(self, session: Session, name: str) -> None:
        """End a subscription of *session*, if it has one, without a word: its request is answered otherwise."""
        subscription = session.subscriptions.get(Channel(name))
        if subscription is not None:
            self._drop(subscription)

    def end_subscription(self, subscription: Subscription, code: Code, message: str) -> None:
        """End one subscription from this side, and say why."""
        if not subscription.ended:
            self._drop(subscription)
            subscription.session.push(frames.Unsubscribed(0, subscription.channel.name, code.text, message))

    def set_rate(self, session: Session, request: int, name: str, rate: float | None) -> None:
        """Change the rate of one subscription; what was held back goes out if the new rate lets it."""
        subscription = session.subscriptions.get(Channel(name))
        if subscription is None:
            session.push(frames.Error(request, Code.NOT_SUBSCRIBED.text, "not subscribed", channel=name[:200]))
            return
        self._ticker.forget(subscription)
        subscription.rate = step_down(rate)
        subscription.open_at = 0.0
        channel = subscription.channel
        if subscription.rate == 0.0:
            session.unmark(subscription)
        elif subscription in channel.subscriptions and (
            subscription.shown is not channel.status or channel.is_behind(subscription)
        ):
            self._offer(subscription)

    def _establish(self, subscription: Subscription) -> None:
        channel, session = subscription.channel, subscription.session
        channel.subscriptions[subscription] = None
        position, recovered, keys = channel.establish(subscription)
        if session.profile is JSON:
            keys = ()
        session.begin(subscription, position, recovered, tuple(keys))
        if subscription.rate != 0.0 and channel.is_behind(subscription):
            self._mark(subscription)
        if channel.doubt is not None and not self.channels.is_down:
            self.channels.doubt(channel)
        self.sources.wanted(channel)

    def _settled(self, channel: LiveChannel, error: RTSyncError | None) -> None:
        """Answer everybody who has waited for *channel*."""
        waiting, channel.waiting = channel.waiting, {}
        for subscription in waiting:
            if error is None:
                self._establish(subscription)
                continue
            self._drop(subscription)
            retry_after = 1.0 + self.options.jitter()
            if subscription.request == 0:  # who never asked for it will not ask again
                self._postponed.append((self.now() + retry_after, subscription))
            else:
                code = Code.UNAVAILABLE
                subscription.session.push(
                    frames.Error(
                        subscription.request,
                        code.text,
                        "temporarily unavailable",
                        channel=channel.name,
                        retryable=code.retryable,
                        retry_after=retry_after,
                    )
                )

    def _begin_postponed(self, now: float) -> None:
        due = [subscription for time, subscription in self._postponed if time <= now]
        self._postponed = [(time, subscription) for time, subscription in self._postponed if time > now]
        for before in due:
            session, name = before.session, before.channel.name
            if name not in session.subscriptions:
                with suppress(PeerError):
                    self.subscribe(session, 0, name, rate=before.rate)

    def _drop(self, subscription: Subscription) -> None:
        """Take a subscription out of every table. It is the generation: who still holds it sees that it ended."""
        if subscription.ended:
            return
        subscription.ended = True
        channel, session = subscription.channel, subscription.session
        self._ticker.forget(subscription)
        channel.waiting.pop(subscription, None)
        was_reading = channel.subscriptions.pop(subscription, _ABSENT) is not _ABSENT
        if session.subscriptions.get(channel.name) is subscription:
            del session.subscriptions[channel.name]
        session.unmark(subscription)
        subscription.answer = None
        channel.used_at = self.now()
        if was_reading and not channel.subscriptions:
            self.sources.unwanted(channel)

    # ---- changes

    def _changed(self, channel: LiveChannel) -> None:
        """Mark everybody who reads *channel*; nothing here waits for a client."""
        status = channel.status
        self.pump.mark_all(
            channel.subscriptions,
            lambda subscription: subscription.shown is status and not self._ticker.offer(subscription),
        )

    def _offer(self, subscription: Subscription) -> None:
        if self._ticker.offer(subscription):
            self._mark(subscription)

    def _wake(self, subscription: Subscription) -> None:
        if not subscription.ended and subscription.channel.is_behind(subscription):
            self._mark(subscription)

    def _mark(self, subscription: Subscription) -> None:
        session = subscription.session
        session.mark(subscription)
        self.pump.queue(session)

    # ---- tasks

    async def _listen(self, listening: anyio.Event) -> None:
        """Take the backend's notices for as long as the hub runs."""
        while True:
            try:
                async with self._backend.listen() as notices:
                    self.channels.listens()
                    listening.set()
                    async for notice in notices:
                        if not (isinstance(notice, Announcement) and self._vigil.take(notice)):
                            self.channels.take(notice)
            except RTSyncError as error:
                logger.warning("the backend cannot be listened to: %s", error)
            except Exception:  # a backend's bug must not end the node
                logger.exception("the backend cannot be listened to")
            self.channels.down("the backend cannot be listened to")
            listening.set()
            await anyio.sleep(_LISTEN_RETRY)

    async def _keep_house(self) -> None:
        """Look at deadlines: one task for all sessions, instead of a timer each."""
        while True:
            await anyio.sleep(_HOUSEKEEPING)
            now = self.now()
            self._look_after_sessions(now)
            self._begin_postponed(now)
            self.channels.retire_idle()

    def _look_after_sessions(self, now: float) -> None:
        for session in list(self._sessions.values()):
            try:
                session.tick(now)
            except PeerError as error:
                session.end(error.code, error.message, error.field)


_ABSENT: Final = object()
_STOPPING: Final = "the server is stopping"
