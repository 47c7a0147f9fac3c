"""
The WebSocket shell: one ASGI connection, read by one task from accept to end.

Reading never waits for anything but the peer, so that closes, pongs and floods are always seen; all writing is the pump's, but
for the last message, which is written when the pump is done with the session.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any, Final

import anyio
from starlette.types import Receive, Scope, Send

from ..core import (
    JSON,
    MSGPACK,
    PROFILES,
    Code,
    InvalidName,
    Message,
    PeerError,
    Profile,
    ServerSession,
    frames,
    parse_channel,
)
from ..hub import Hub, LooseTasks, Principal, Session
from ..security import Authenticator
from ._greeting import Greeting
from ._server_truths import ServerSocket

__all__ = ["WebSocketTransport"]

logger = logging.getLogger("rtsync.websocket")

_TOKEN_BYTES: Final = 16

_EARLY_MESSAGES: Final = 4
"""Messages of full size that may wait for the authenticator."""


class WebSocketTransport:
    """
    Serves WebSocket connections of one hub.

    Args:
        authenticator: Asked at hello; without one everybody is anonymous.
        close_timeout: Seconds for telling a client why it is closed.
        greeting: What a welcome says.
    """

    def __init__(
        self, hub: Hub, greeting: Greeting, authenticator: Authenticator | None = None, close_timeout: float = 5.0
    ) -> None:
        self.hub = hub
        self.greeting = greeting
        self.authenticator = authenticator
        self.close_timeout = close_timeout

    async def serve(self, scope: Scope, receive: Receive, send: Send, subscribe: Sequence[str] = ()) -> None:
        """Serve one connection until it ends. *subscribe* names channel patterns the session is subscribed to at once."""
        socket = ServerSocket(scope, receive, send)
        if not await socket.connected():
            return
        profile = socket.profile
        if profile is None:
            await socket.refuse(Code.BAD_FRAME, f"offer the subprotocol {' or '.join(PROFILES)}", "subprotocol")
        elif await socket.accept():
            await _Connection(self, profile, socket, send, subscribe).run()


class _BinarySession(Session):
    """A session whose messages are bytes."""

    __slots__ = ("_asgi_send",)

    def __init__(self, *, asgi_send: Send, **session: Any) -> None:
        super().__init__(**session)
        self._asgi_send = asgi_send

    def send(self, message: bytes) -> Awaitable[None]:
        return self._asgi_send({"type": "websocket.send", "bytes": message})


class _TextSession(_BinarySession):
    """A session whose messages are text."""

    __slots__ = ()

    def send(self, message: bytes) -> Awaitable[None]:
        return self._asgi_send({"type": "websocket.send", "text": message.decode()})


_SESSIONS: Final = {MSGPACK.name: _BinarySession, JSON.name: _TextSession}


class _Connection:
    """One accepted connection."""

    def __init__(
        self, transport: WebSocketTransport, profile: Profile, socket: ServerSocket, send: Send, subscribe: Sequence[str]
    ) -> None:
        self._transport = transport
        self._hub = hub = transport.hub
        self._profile = profile
        self._socket = socket
        self._subscribe = subscribe
        self._reading = anyio.CancelScope()
        self._session = _SESSIONS[profile.name](
            asgi_send=send,
            id=secrets.token_urlsafe(_TOKEN_BYTES),
            secret=secrets.token_urlsafe(_TOKEN_BYTES),
            principal=Principal(),
            rules=ServerSession(hub.options.session, hub.now()),
            profile=profile,
            on_end=self._end,
            pump=hub.pump,
            flush_bytes=hub.options.flush_bytes,
            wall_ms=lambda: int(hub.options.wall_clock() * 1000),
        )

    async def run(self) -> None:
        session = self._session
        self._hub.attach(session)
        try:
            with self._reading:
                await self._read_until_end()
        except PeerError as error:
            session.end(error.code, error.message, error.field)
        except anyio.get_cancelled_exc_class():
            session.end(Code.DRAIN, "the server is stopping")
            raise
        finally:
            session.end(None if self._socket.gone else Code.INTERNAL)
            await self._close()

    def _end(self) -> None:
        self._hub.detach(self._session)
        self._reading.cancel()

    # ---- reading

    async def _read_until_end(self) -> None:
        opened = self._transport.authenticator is None
        while (message := await self._socket.receive()) is not None:
            due = self._take(message)
            if due and not opened:
                due = await self._open_with_authenticator(due)
                opened = True
            self._act_on(due)
            del message, due  # an idle connection holds nothing of what was said on it

    def _take(self, message: Message) -> list[frames.ClientFrame | frames.Error]:
        session = self._session
        message = message if isinstance(message, str) else bytes(message)  # some servers hand over a view
        due = session.rules.receive(message, self._profile, self._hub.now())
        session.acknowledged()
        return due

    async def _open_with_authenticator(
        self, due: list[frames.ClientFrame | frames.Error]
    ) -> list[frames.ClientFrame | frames.Error]:
        """
        Ask the authenticator while reading goes on; return hello and what has come after it, or nothing if the peer left.

        Raises:
            PeerError: The client is refused, or broke a rule meanwhile.
        """
        authenticator = self._transport.authenticator
        hello = due[0]
        assert authenticator is not None
        assert isinstance(hello, frames.Hello), "the session's rules let nothing pass before it"
        rules = self._hub.options.session
        room = _EARLY_MESSAGES * rules.limits.max_bytes
        refusal: PeerError | None = None  # never raised inside the task group, which would wrap it

        async def authenticate(token: str | None) -> None:
            nonlocal refusal
            try:
                with anyio.fail_after(rules.hello_timeout):
                    self._session.principal = await authenticator(token)
            except PeerError as error:
                refusal = error
            except Exception:  # the app's code: the client learns nothing of what went wrong in it
                logger.exception("the authenticator failed")
                refusal = PeerError(Code.UNAVAILABLE, "authentication is not available")
            reading.cancel()

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as reading:
                tasks.start_soon(authenticate, hello.token)
                try:
                    while (message := await self._socket.receive()) is not None:
                        room -= len(message)
                        if room < 0:
                            raise PeerError(Code.TOO_MANY, "too much before the welcome")
                        due.extend(self._take(message))
                except PeerError as error:
                    refusal = error
                tasks.cancel_scope.cancel()
        if refusal is not None:
            raise refusal
        return [] if self._socket.gone else due

    # ---- acting

    def _act_on(self, due: Sequence[frames.ClientFrame | frames.Error]) -> None:
        for frame in due:
            self._act(frame)

    def _act(self, frame: frames.ClientFrame | frames.Error) -> None:
        session = self._session
        if session.is_owed_too_much:
            raise PeerError(Code.SLOW, "does not read the answers to its requests")
        if isinstance(frame, frames.Subscribe):
            for item in frame.items:
                self._subscribe_to(frame.request, item)
        elif isinstance(frame, frames.Unsubscribe):
            for name in frame.channels:
                self._hub.unsubscribe(session, frame.request, name)
        elif isinstance(frame, frames.Rate):
            self._hub.set_rate(session, frame.request, frame.channel, frame.rate)
        elif isinstance(frame, frames.Hello):
            self._welcome(frame)
        elif isinstance(frame, frames.Error):
            session.push(frame)
        elif isinstance(frame, frames.Bye):
            logger.debug("%s says bye: %.100r", session.id, frame.reason)

    def _welcome(self, hello: frames.Hello) -> None:
        session = self._session
        if hello.session is not None and hello.secret is not None:
            self._hub.take_over(hello.session, hello.secret)
        session.push(self._transport.greeting.welcome(session))
        for name in self._transport.greeting.subscriptions(session.principal, self._subscribe):
            self._subscribe_to(0, frames.SubscribeItem(name))

    def _subscribe_to(self, request: int, item: frames.SubscribeItem) -> None:
        """Authorise and subscribe; what cannot be is answered for this item alone."""
        session = self._session
        try:
            self._authorise(item.channel)
            self._hub.subscribe(session, request, item.channel, item.position, item.rate)
        except InvalidName as error:
            code = Code.BAD_REQUEST
            session.push(frames.Error(request, code.text, error.problem, error.field, item.channel[:200]))
        except PeerError as error:
            code = error.code
            self._hub.drop(session, item.channel)  # what is refused now is not delivered on the strength of an earlier yes
            session.push(frames.Error(request, code.text, error.message, error.field, item.channel, code.retryable))

    def _authorise(self, name: str) -> None:
        """Raise `PeerError` unless the session may read *name*. What does not exist is as forbidden as what is not allowed."""
        channel = parse_channel(name)
        found = self._hub.families.find(channel)
        if found is None:
            raise PeerError(Code.FORBIDDEN, "not allowed")
        family, params = found
        try:
            allowed = family.access(self._session.principal, params)
        except Exception:  # the app's code
            logger.exception("the access policy of %s failed", family.pattern)
            raise PeerError(Code.UNAVAILABLE, "temporarily unavailable") from None
        if not isinstance(allowed, bool):  # such as a coroutine, which would count as true
            logger.error("the access policy of %s gave %r, neither true nor false", family.pattern, allowed)
        if allowed is not True:
            raise PeerError(Code.FORBIDDEN, "not allowed")

    # ---- the end

    async def _close(self) -> None:
        """Tell the client why, if it can still be told, and wait for it to close; not for long, and whatever `send` does."""
        if self._session.end_code is None or not await self._session.land():
            return  # after a cancelled send nothing more may be written
        tasks = LooseTasks()
        tasks.start_soon(self._say_why)
        await tasks.wait(self._transport.close_timeout)
        tasks.cancel()

    async def _say_why(self) -> None:
        session, code = self._session, self._session.end_code
        assert code is not None
        error = frames.Error(None, code.text, session.end_message, session.end_field, retryable=code.retryable)
        if await self._socket.send(self._profile.message(self._profile.encode(error))):
            await self._socket.close(code.close, session.end_message)
