"""
The WebSocket shell: one ASGI connection, read by one task from accept to end.

Reading never waits for anything but the peer, so that closes, pongs and floods are always seen; all writing is the pump's.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any, Final

import anyio
from starlette.types import Message as ASGIMessage
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
from ..hub import Hub, Principal, Session
from ..security import Authenticator
from ._greeting import Greeting

__all__ = ["WebSocketTransport"]

logger = logging.getLogger("rtsync.websocket")

_TOKEN_BYTES: Final = 16


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
        if (await receive())["type"] != "websocket.connect":
            return
        profile = next((PROFILES[name] for name in scope.get("subprotocols", ()) if name in PROFILES), None)
        try:
            if profile is None:
                await _refuse_profile(receive, send, self.close_timeout)
                return
            await send({"type": "websocket.accept", "subprotocol": profile.name})
        except (OSError, RuntimeError):
            return  # the client left before it was accepted
        await _Connection(self, profile, receive, send, subscribe).run()


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
        self, transport: WebSocketTransport, profile: Profile, receive: Receive, send: Send, subscribe: Sequence[str]
    ) -> None:
        self._transport = transport
        self._hub = hub = transport.hub
        self._profile = profile
        self._receive = receive
        self._send = send
        self._subscribe = subscribe
        self._peer_gone = False
        self._reading = anyio.CancelScope()
        self._session = _SESSIONS[profile.name](
            asgi_send=send,
            id=secrets.token_urlsafe(_TOKEN_BYTES),
            secret=secrets.token_urlsafe(_TOKEN_BYTES),
            principal=Principal(),
            rules=ServerSession(hub.options.session, hub.now()),
            profile=profile,
            on_end=self._reading.cancel,
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
            session.end(error.code, error.message)
        except anyio.get_cancelled_exc_class():
            session.end(Code.DRAIN, "the server is stopping")
            raise
        finally:
            session.end(None if self._peer_gone else Code.INTERNAL)
            self._hub.detach(session)
            with anyio.move_on_after(self._transport.close_timeout, shield=True):
                await self._close()

    # ---- reading

    async def _read_until_end(self) -> None:
        opened = self._transport.authenticator is None
        while True:
            message = await self._next_message()
            if message is None:
                return
            due = self._take(message)
            if not opened and due:
                due = await self._open_with_authenticator(due)
                opened = True
            for frame in due:
                self._act(frame)

    async def _next_message(self) -> Message | None:
        """Return the peer's next message, ``None`` once it is gone."""
        received: ASGIMessage = await self._receive()
        if received["type"] != "websocket.receive":
            self._peer_gone = True
            return None
        data: Message | None = received.get("bytes")
        return received.get("text") or "" if data is None else data

    def _take(self, message: Message) -> list[frames.ClientFrame | frames.Error]:
        session = self._session
        due = session.rules.receive(message, self._profile, self._hub.now())
        session.acknowledged()
        return due

    async def _open_with_authenticator(
        self, due: list[frames.ClientFrame | frames.Error]
    ) -> list[frames.ClientFrame | frames.Error]:
        """Ask the authenticator while reading goes on; return what has come after hello. Raises `PeerError`."""
        authenticator = self._transport.authenticator
        assert authenticator is not None
        hello, *rest = due
        if not isinstance(hello, frames.Hello):
            return due
        refusal: PeerError | None = None

        async def authenticate(token: str | None, reading: anyio.CancelScope) -> None:
            nonlocal refusal
            try:
                self._session.principal = await authenticator(token)
            except PeerError as error:
                refusal = error
            except Exception:  # the app's code: the client learns nothing of what went wrong in it
                logger.exception("the authenticator failed")
                refusal = PeerError(Code.UNAVAILABLE, "authentication is not available")
            reading.cancel()

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as reading:
                tasks.start_soon(authenticate, hello.token, reading)
                while (message := await self._next_message()) is not None:
                    rest.extend(self._take(message))
                tasks.cancel_scope.cancel()
        if refusal is not None:
            raise refusal
        return [hello, *rest]

    # ---- acting

    def _act(self, frame: frames.ClientFrame | frames.Error) -> None:
        session = self._session
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
            session.push(frames.Error(request, code.text, error.message, error.field, item.channel, code.retryable))

    def _authorise(self, name: str) -> None:
        """Raise `PeerError` unless the session may read *name*. What does not exist is as forbidden as what is not allowed."""
        channel = parse_channel(name)
        found = self._hub.families.find(channel)
        if found is None or not found[0].access(self._session.principal, found[1]):
            raise PeerError(Code.FORBIDDEN, "not allowed")

    # ---- the end

    async def _close(self) -> None:
        """Tell the client why, if it can still be told, and wait for it to close."""
        session = self._session
        if self._peer_gone or session.send_cancelled or session.end_code is None:
            return  # after a cancelled send nothing more may be written
        code, reason = session.end_code, session.end_message
        try:
            error = frames.Error(None, code.text, reason, retryable=code.retryable)
            await session.send(self._profile.encode(error))
            await self._send({"type": "websocket.close", "code": code.close, "reason": reason[:100]})
            while (await self._receive())["type"] != "websocket.disconnect":
                pass
        except Exception as error:  # servers say "gone" in several ways
            logger.debug("%s: closing: %r", session.id, error)


async def _refuse_profile(receive: Receive, send: Send, timeout: float) -> None:
    """Accept, say what is wrong where a browser can read it, and close."""
    offered = " or ".join(PROFILES)
    error = frames.Error(None, Code.BAD_FRAME.text, f"offer the subprotocol {offered}", "subprotocol")
    with anyio.move_on_after(timeout):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": JSON.encode(error).decode()})
        await send({"type": "websocket.close", "code": Code.BAD_FRAME.close, "reason": "no common subprotocol"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
