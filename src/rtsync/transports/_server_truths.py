"""
What ASGI servers and frameworks really do with a WebSocket, and calls that come out right on all of them.

Gone
    A send to a peer that is gone raises `OSError`, `RuntimeError` or `WebSocketDisconnect`, or succeeds in silence. So all of
    `GONE` count as the end, and success counts for nothing: only what is received proves life. After the disconnect, `receive`
    returns it again on some servers and waits for ever on others. So one place receives, and never again after it.

Sends
    A cancelled one was written, was not (uvicorn), or was cut in the middle (granian). So nothing more is sent after it. On
    hypercorn with trio it cannot be cancelled, and on daphne it never waits. So nothing else ever waits for one, and what is on
    the way is counted by the client's acknowledgements.

Reads
    Servers stop reading while nobody receives, and then see neither pongs nor closes; uvicorn even ends such a connection as
    dead. So somebody receives from accept to end, after our own close as well: what was sent last may be lost otherwise. A
    message has the key ``bytes``, or ``text``, or both with one of them ``None``.

Handshake
    A close before accept is HTTP 403 everywhere, its code and reason lost. So where a program has to read why, we accept, say
    it, and close; where a person has to, we answer by HTTP: if the extension is there, which daphne lacks, and in one part, as
    granian takes no more. A subprotocol that was not offered raises on hypercorn. Headers of an accept are lost on granian and
    daphne.

Closes
    Returning without one is a bare end on uvicorn, 1011 on hypercorn, and on daphne nothing at all. So there always is one.
    The peer's own code arrives as 1006 on hypercorn, and its reason on uvicorn alone. So neither means anything.

Shutdown
    uvicorn closes with 1012, tells the app and waits, without a deadline unless it is given one; hypercorn says nothing, and
    cancels after its grace; daphne cancels at once; granian just leaves. Most run the lifespan's shutdown only when the
    connections are over. So sessions end on a disconnect, on cancellation and with the lifespan alike, whichever comes first.
"""

from __future__ import annotations

import json
from typing import Final

import anyio
from starlette.types import Message as ASGIMessage
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from ..core import JSON, PROFILES, Code, Message, Profile, frames

__all__ = ["GONE", "ServerSocket", "close_reason"]

GONE: Final = (OSError, RuntimeError, WebSocketDisconnect)
"""How servers and frameworks say that the peer is no longer there."""

_REASON_BYTES: Final = 123
"""What fits into a close frame."""

_REFUSAL_SECONDS: Final = 5.0
"""For telling a client why it is not served, and for it to close."""


def close_reason(message: str) -> str:
    """Return as much of *message* as a close frame holds."""
    return message.encode()[:_REASON_BYTES].decode(errors="ignore")


class ServerSocket:
    """
    One WebSocket, as the server hands it over, with the habits of servers evened out.

    Nothing here raises because the peer is gone. One task receives; sends never overlap: both are the caller's to see to.

    Attributes:
        profile: The first that the client offered, if it offered one.
        gone: Whether the peer is known to have left. Then nothing is received or sent any more.
        cut: Whether a send was cancelled, or is under way. Then nothing more is sent, a close included.
    """

    __slots__ = ("_can_deny", "_closed", "_receive", "_send", "cut", "gone", "profile")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        offered = scope.get("subprotocols") or ()
        self.profile: Profile | None = next((PROFILES[name] for name in offered if name in PROFILES), None)
        self.gone = False
        self.cut = False
        self._receive = receive
        self._send = send
        self._closed = False
        self._can_deny = "websocket.http.response" in (scope.get("extensions") or {})

    # ---- the handshake

    async def connected(self) -> bool:
        """Take the handshake; it waits for `accept`, `deny` or `refuse`. Return whether the peer is still there."""
        return (await self._next())["type"] == "websocket.connect" or self._leave()

    async def accept(self) -> bool:
        """Accept with the profile's subprotocol, if there is one. Return whether the peer is still there."""
        profile = self.profile
        return await self._write({"type": "websocket.accept", "subprotocol": profile.name if profile else None})

    async def deny(self, status: int, code: str, message: str) -> None:
        """Answer the handshake by HTTP with *status* and the reason as JSON; where the server cannot, it says 403."""
        if not self._can_deny:
            await self._write({"type": "websocket.close", "code": 1008, "reason": close_reason(message)})
            return
        body = json.dumps({"error": code, "message": message}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if await self._write({"type": "websocket.http.response.start", "status": status, "headers": headers}):
            await self._write({"type": "websocket.http.response.body", "body": body})

    async def refuse(self, code: Code, message: str, field: str = "", retry_after: float | None = None) -> None:
        """Accept, say what is wrong where a browser can read it, and close."""
        profile = self.profile or JSON
        error = frames.Error(None, code.text, message, field, retryable=code.retryable, retry_after=retry_after)
        with anyio.move_on_after(_REFUSAL_SECONDS):
            if await self.accept() and await self.send(profile.message(profile.encode(error))):
                await self.close(code.close, message)

    # ---- messages

    async def receive(self) -> Message | None:
        """Return the peer's next message, ``None`` once it is gone."""
        if self.gone:
            return None
        received = await self._next()
        if received["type"] != "websocket.receive":
            self.gone = True
            return None
        data = received.get("bytes")
        return received.get("text") or "" if data is None else bytes(data)

    async def send(self, message: Message) -> bool:
        """Send *message*. Return whether the peer was still there, as far as the server knows."""
        key = "text" if isinstance(message, str) else "bytes"
        return not self._closed and await self._write({"type": "websocket.send", key: message})

    async def close(self, code: int, reason: str = "") -> None:
        """
        Close, and read on until the peer has, too: what was sent last is lost otherwise. Bounded by whoever calls.

        Does nothing a second time, nor after a cancelled send, nor when the peer is gone.
        """
        if self._closed:
            return
        self._closed = True
        if await self._write({"type": "websocket.close", "code": code, "reason": close_reason(reason)}):
            while await self.receive() is not None:
                pass

    # ---- as the server has it

    async def _next(self) -> ASGIMessage:
        try:
            return await self._receive()
        except GONE:
            return {"type": "websocket.disconnect"}

    async def _write(self, message: ASGIMessage) -> bool:
        if self.gone or self.cut:
            return False
        self.cut = True  # and so it stays if this is cancelled
        try:
            await self._send(message)
        except GONE:
            self.gone = True
        self.cut = False
        return not self.gone

    def _leave(self) -> bool:
        self.gone = True
        return False
