"""The client: keeps one connection to a server, and subscriptions that outlive it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..core import (
    JSON,
    MSGPACK,
    Channel,
    ClientSession,
    ConnectionState,
    Position,
    Profile,
    ReconnectPolicy,
    UsageError,
    client_events,
    parse_channel,
)
from ._errors import ConnectionFailed, SubscriptionRefused, WireClosed, sole
from ._httpx import httpx_connector
from ._signal import Signal
from ._subscription import Subscription, checked_rate
from ._wire import Connector, Wire

__all__ = ["Client", "Token", "connect"]

logger = logging.getLogger("rtsync.client")

Token: TypeAlias = str | Callable[[], Awaitable[str | None]] | None
"""An access token, or an async function that is asked for one at each attempt to connect."""

_PROFILES: Final[dict[str, Profile]] = {"msgpack": MSGPACK, "json": JSON}

_FAREWELL: Final = 1.0
"""Seconds that saying goodbye may take."""

_REMEMBERED_STATES: Final = 32
"""States that a reader of `Client.states` may be behind before it misses some."""


def connect(
    url: str,
    *,
    token: Token = None,
    profile: Literal["msgpack", "json"] = "msgpack",
    connector: Connector | None = None,
    reconnect: ReconnectPolicy | None = None,
    name: str = "",
    open_timeout: float = 10.0,
    random: Random | None = None,
) -> Client:
    """
    Return a client that keeps a connection for the length of an ``async with`` block::

        async with connect("wss://example.com/rt/ws", token=fetch_token) as client:
            async with client.subscribe("portfolio:demo") as portfolio:
                async for change in portfolio: ...

    Entering does not wait for the connection, so a screen can start with what it has; `Client.connected` waits.

    Args:
        url: ``ws://`` or ``wss://``, the mount point and ``/ws``.
        token: Access token, or an async function that returns one and is called at each attempt. If it raises, the attempt
            counts as failed.
        profile: How frames are written: ``msgpack`` is compact, ``json`` can be read.
        connector: Opens the link. Default: httpx2.
        reconnect: When to come back after a lost connection; advice of the server wins.
        name: What the client calls itself, for the server's logs.
        open_timeout: Seconds for one attempt, from the token to the server's welcome.
        random: Where chance in delays comes from.

    Raises:
        UsageError: If an argument makes no sense.
        ImportError: If httpx2 is needed and missing.
    """
    if not url.startswith(("ws://", "wss://")):
        raise UsageError("url", f"must begin with ws:// or wss://, is {url!r}")
    if profile not in _PROFILES:
        raise UsageError("profile", f"must be one of {', '.join(_PROFILES)}, is {profile!r}")
    if not open_timeout > 0:
        raise UsageError("open_timeout", f"must be a positive number of seconds, is {open_timeout!r}")
    session = ClientSession(
        name,
        policy=reconnect or ReconnectPolicy(),
        random=(random or Random()).random,
        open_timeout=open_timeout,
    )
    return Client(url, session, token=token, profile=_PROFILES[profile], connector=connector or httpx_connector())


class _End(NamedTuple):
    """How a connection ended."""

    code: int | None
    reason: str


class Client:
    """
    A connection to a server that comes back by itself, and the subscriptions on it. Made by `connect`.

    Everything belongs to the ``async with`` block: when it is left, nothing keeps running, and what is still being iterated
    over raises `ConnectionFailed`.
    """

    def __init__(self, url: str, session: ClientSession, *, token: Token, profile: Profile, connector: Connector) -> None:
        self._url = url
        self._session = session
        self._token = token
        self._profile = profile
        self._connector = connector
        self._user: str | None = None
        self._subscriptions: dict[Channel, list[Subscription]] = {}
        self._crowded: set[Subscription] = set()  # whose events wait in too great a number
        self._room = Signal()
        self._outgoing = Signal()
        self._sending = False
        self._sooner = Signal()  # the next deadline is before the one waited for
        self._waiting_for = 0.0  # that deadline
        self._state_changed = Signal()
        self._states: deque[ConnectionState] = deque([session.state], maxlen=_REMEMBERED_STATES)
        self._states_seen = 1  # number of the newest state
        self._tasks: TaskGroup | None = None
        self._entered = False

    def __repr__(self) -> str:
        return f"<Client {self._url} {self.state}>"

    # ---- the connection

    @property
    def state(self) -> ConnectionState:
        """``connecting``, ``live``, ``stalled``, ``disconnected`` (for the moment, or taken over) or ``failed``."""
        return self._session.state

    @property
    def reason(self) -> str:
        """Why the connection is not live, empty if it is."""
        return self._session.reason

    @property
    def user(self) -> str | None:
        """Who the server takes us for; ``None`` for nobody in particular or before the first welcome."""
        return self._user

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels held, those included that the server subscribed on its own."""
        return tuple(self._session.subscriptions)

    async def connected(self) -> None:
        """
        Wait until the connection is live.

        Raises:
            ConnectionFailed: If the client has given up. An unreachable server is no reason to: bound the wait with
                ``anyio.fail_after`` if you must.
        """
        await checkpoint()
        while self.state != "live":
            if self._session.over:
                raise self._failure()
            await self._state_changed.wait()

    def states(self) -> States:
        """Iterate over the states of the connection: the present one at once, then each as it comes, until the last."""
        return States(self)

    def _failure(self) -> ConnectionFailed:
        return ConnectionFailed(self._session.code, self._session.reason)

    # ---- subscriptions

    def subscribe(
        self,
        channel: str,
        *,
        rate: float | None = None,
        position: Position | None = None,
        since_start: bool = False,
        max_queued: int = 1000,
    ) -> Subscription:
        """
        Return a subscription, to be entered with ``async with``.

        Several subscriptions to one channel share what travels; the last to leave unsubscribes.

        Args:
            channel: Canonical name, such as ``prices:ETH-USD``.
            rate: Most updates per second; ``None`` for all.
            position: Event channels: bring the events after this position. State channels need none, their first change is
                the whole document.
            since_start: Event channels: bring every event that is still kept. Otherwise, and without *position*, only those
                to come.
            max_queued: Event channels: most events that wait for the consumer before the client stops reading.

        Raises:
            InvalidName: If *channel* is not a canonical name.
            UsageError: If another argument makes no sense.
        """
        if position is not None and since_start:
            raise UsageError("since_start", "is a position itself: give one or the other")
        if max_queued < 1:
            raise UsageError("max_queued", f"must be at least 1, is {max_queued!r}")
        return Subscription(
            self,
            parse_channel(channel),
            position=Position.start("") if since_start else position,
            rate=checked_rate(rate),
            max_queued=max_queued,
        )

    def _join(self, subscription: Subscription) -> None:
        if self._tasks is None:
            raise UsageError("subscribe", "the client is not entered: use it inside its `async with` block")
        channel = subscription.channel
        sharing = self._subscriptions.setdefault(channel, [])
        sharing.append(subscription)
        held = self._session.subscribe(channel, anyio.current_time(), position=subscription._start, rate=subscription._rate)
        subscription._attach(held)
        if len(sharing) > 1:
            self._rates_changed(channel)
        if self._session.over:
            subscription._fail(self._failure())
        self._after()

    def _leave(self, subscription: Subscription) -> None:
        channel = subscription.channel
        sharing = self._subscriptions.get(channel, [])
        if subscription not in sharing:
            return  # refused or ended, with all that shared it
        sharing.remove(subscription)
        self._made_room(subscription)
        if sharing:
            self._rates_changed(channel)
        else:
            del self._subscriptions[channel]
            self._session.unsubscribe(channel)
            self._after()

    def _rates_changed(self, channel: Channel) -> None:
        """Ask for the highest rate that any subscription to *channel* wants."""
        wanted = [subscription._wanted_rate for subscription in self._subscriptions.get(channel, [])]
        if wanted:
            numbers = [rate for rate in wanted if rate is not None]
            self._session.set_rate(channel, max(numbers) if len(numbers) == len(wanted) else None)
            self._after()

    def _resumed(self, subscription: Subscription) -> None:
        held = self._session.subscriptions.get(subscription.channel)
        if held is not None and subscription in self._subscriptions.get(subscription.channel, []):
            if (missed_from := subscription._missed_from()) is not None:
                self._session.subscribe(subscription.channel, anyio.current_time(), position=missed_from)
            else:
                subscription._attach(held)
            self._rates_changed(subscription.channel)

    def _made_room(self, subscription: Subscription) -> None:
        if subscription in self._crowded:
            self._crowded.discard(subscription)
            self._room.notify()

    # ---- its life

    async def __aenter__(self) -> Self:
        if self._entered:
            raise UsageError("client", "can be entered once; connect again")
        self._entered = True
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run, name=f"rtsync client {self._url}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        tasks, self._tasks = self._tasks, None
        assert tasks is not None
        tasks.cancel_scope.cancel()
        try:
            return await tasks.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            cause = sole(group)
            if cause is error:
                return False
            if cause is group:
                raise
            raise cause from cause.__cause__
        finally:
            self._handle(self._session.close(anyio.current_time()))

    async def _run(self) -> None:
        session = self._session
        while not session.over:
            self._handle(session.connecting(anyio.current_time()))
            end = await self._attempt()
            self._handle(session.disconnected(end.code, end.reason, anyio.current_time()))
            if session.reconnect_at is not None:
                await anyio.sleep_until(session.reconnect_at)

    async def _attempt(self) -> _End:
        """Connect, and keep the connection until it ends or is given up."""
        ends: list[_End] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, tasks.cancel_scope, ends)
                ends.append(await self._connection())
                tasks.cancel_scope.cancel()
        except ExceptionGroup as group:
            cause = sole(group)
            raise cause from cause.__cause__
        return ends[0]

    async def _connection(self) -> _End:
        end: _End | None = None
        try:
            token = await self._fetch_token()
            async with self._connector(self._url, [self._profile.name]) as wire:
                self._session.connected(self._profile, token)
                end = await self._exchange(wire)
        except Exception as error:
            cause = sole(error)
            if isinstance(cause, WireClosed):
                return end or _End(cause.code, cause.reason)
            if isinstance(cause, OSError):
                return end or _End(None, str(cause) or type(cause).__name__)
            raise
        return end

    async def _fetch_token(self) -> str | None:
        if not callable(self._token):
            return self._token
        try:
            return await self._token()
        except Exception as error:
            logger.warning("no token for %s", self._url, exc_info=True)
            raise WireClosed(None, f"no token: {type(error).__name__}") from error

    async def _exchange(self, wire: Wire) -> _End:
        """Send and receive until the connection ends."""
        self._sending = False
        leaving = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send, wire)
                end = await self._receive(wire)
                leaving = False
                tasks.cancel_scope.cancel()
            return end
        finally:
            # A dead link may not even take a goodbye; a link in the middle of a message must not get another.
            with anyio.move_on_after(_FAREWELL, shield=True):
                await self._say_goodbye(wire, leaving and self.state == "live" and not self._sending)

    async def _say_goodbye(self, wire: Wire, politely: bool) -> None:
        try:
            if politely and (bye := self._session.bye("leaving")) is not None:
                await wire.send(bye)
            await wire.close(1000)
        except (WireClosed, OSError):
            pass

    async def _receive(self, wire: Wire) -> _End:
        session = self._session
        try:
            while True:
                message = await wire.receive()
                if (lost := self._handle(session.receive(message, anyio.current_time()))) is not None:
                    return _End(None, lost)
                if self._crowded:
                    await self._wait_for_room()
        except WireClosed as closed:
            return _End(closed.code, closed.reason)
        except OSError as error:
            return _End(None, str(error) or type(error).__name__)

    async def _wait_for_room(self) -> None:
        """Read no further until the consumers of events have caught up: the server keeps what we do not take."""
        self._session.hold()
        try:
            while self._crowded:
                await self._room.wait()
        finally:
            self._session.release(anyio.current_time())
            self._after()

    async def _send(self, wire: Wire) -> None:
        try:
            while True:
                await checkpoint_if_cancelled()  # before a message is taken: one whose sending fails leaves the link unusable
                while (message := self._session.outgoing()) is not None:
                    self._sending = True
                    await wire.send(message)
                    self._sending = False
                await self._outgoing.wait()
        except (WireClosed, OSError):
            pass  # the receiver learns why

    async def _watch(self, connection: anyio.CancelScope, ends: list[_End]) -> None:
        """Wait for deadlines; cut the connection when the rules give it up."""
        while True:
            self._waiting_for = self._session.next_deadline()
            with anyio.CancelScope(deadline=self._waiting_for):
                await self._sooner.wait()
            if (lost := self._handle(self._session.tick(anyio.current_time()))) is not None:
                ends.append(_End(None, lost))
                connection.cancel()

    # ---- what happened

    def _handle(self, happened: Iterable[client_events.ClientEvent]) -> str | None:
        """Pass on what happened. Returns why the connection is to be cut, if it is."""
        lost: str | None = None
        for event in happened:
            match event:
                case client_events.Changed(channel, update):
                    for subscription in self._sharing(channel):
                        if subscription._put(update):
                            self._crowded.add(subscription)
                case client_events.StatusChanged(channel, status):
                    for subscription in self._sharing(channel):
                        subscription._put_status(status)
                case client_events.Began(channel, kind, position):
                    for subscription in self._sharing(channel):
                        subscription._begin(kind, position)
                case client_events.StateChanged(state, reason):
                    self._on_state(state, reason)
                case client_events.Welcomed(_, user):
                    self._user = user
                case client_events.Refused(channel, code, message, field):
                    for subscription in self._gone(channel):
                        subscription._fail(SubscriptionRefused(channel, code, message, field))
                case client_events.Ended(channel, code, message):
                    for subscription in self._gone(channel):
                        subscription._fail(SubscriptionRefused(channel, code, message) if code else StopAsyncIteration())
                case client_events.Resynchronising(channel, why):
                    logger.warning("%s: fetched anew, because of %s", channel, why)
                case client_events.RequestRefused(channel, code, message):
                    logger.warning("%s: request refused, %s: %s", channel, code, message)
                case client_events.Draining(reason):
                    logger.info("%s will close: %s", self._url, reason)
                case client_events.Lost(reason):
                    lost = reason
        self._after()
        return lost

    def _sharing(self, channel: str) -> list[Subscription]:
        return self._subscriptions.get(Channel(channel), [])

    def _gone(self, channel: str) -> list[Subscription]:
        gone = self._subscriptions.pop(Channel(channel), [])
        for subscription in gone:
            self._made_room(subscription)
        return gone

    def _on_state(self, state: ConnectionState, reason: str) -> None:
        logger.info("%s: %s%s", self._url, state, f" ({reason})" if reason else "")
        if self._states[-1] != state:
            self._states.append(state)
            self._states_seen += 1
        self._state_changed.notify()
        if self._session.over:
            for channel in list(self._subscriptions):
                for subscription in self._gone(channel):
                    subscription._fail(self._failure())

    def _after(self) -> None:
        """Wake whoever has something to do now."""
        if self._session.has_outgoing:
            self._outgoing.notify()
        if self._session.next_deadline() < self._waiting_for:
            self._sooner.notify()


class States:
    """The states of a client's connection; see `Client.states`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen = client._states_seen - 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConnectionState:
        client = self._client
        await checkpoint()
        while self._seen == client._states_seen:
            if client._session.over:
                raise StopAsyncIteration
            await client._state_changed.wait()
        behind = min(client._states_seen - self._seen, len(client._states))
        self._seen = client._states_seen - behind + 1
        return client._states[-behind]
