"""
A WebSocket between an ASGI app and a peer, in memory.

Time is the loop's, so that latency and stalls cost nothing when time is virtual. The server's habits are a `ServerModel` that
may be exchanged while the connection runs; the faults of the network are methods of the connection.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

import anyio
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp, Message

from ..client._errors import WireClosed
from ._link import Latency, Pipe, Signal
from ._server_models import ServerModel

__all__ = ["ASGIWebSocket", "HandshakeRefused"]


class HandshakeRefused(WireClosed):
    """
    The server did not accept the WebSocket.

    Attributes:
        status: The HTTP status of its answer; 0 if nobody listens.
        headers: Of a denial response, else empty.
        body: Likewise.
    """

    def __init__(self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> None:
        super().__init__(None, f"the server answered HTTP {status}" if status else "nobody listens")
        self.status = status
        self.headers = list(headers)
        self.body = body


@dataclass(frozen=True, slots=True)
class _Close:
    code: int
    reason: str = ""

    def error(self) -> WireClosed:
        # 1006 stands for the lack of a code, and never travels.
        return WireClosed(None, "the connection broke") if self.code == 1006 else WireClosed(self.code, self.reason)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The server's answer to the handshake; status 101 accepts."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


class ASGIWebSocket:
    """
    One WebSocket between an app and a peer, held from the peer's end.

    Messages from the app pass a buffer of ``server.buffer`` bytes, which empties as `receive` takes them: a peer that does not
    read makes the app's `send` wait. The counts below show how the app behaved.

    Attributes:
        server: The server's habits. May be replaced at any time; sends that wait look at the new ones at once.
        scope: What the app was called with.
        accepted_subprotocol: As the app accepted, or ``None``.
        accept_headers: Likewise.
        close_code: The code the app closed with, or ``None``.
        error: What the app raised, or ``None``.
        sends: Messages the app got written. With `bytes_sent`, their payload.
        max_concurrent_sends: Most calls of `send` under way at one time. 1 is right.
        max_concurrent_receives: Likewise of `receive`.
        sends_after_cancel: Messages the app tried to send after a send of its was cancelled. 0 is right. (A close is allowed.)
        sends_after_disconnect: Messages the app tried to send after it had received the disconnect. 0 is right.
        receives_after_disconnect: Calls of `receive` after the one that returned the disconnect. 0 is right.
        closes: How often the app closed.
    """

    def __init__(self, app: ASGIApp, scope: MutableMapping[str, Any], server: ServerModel, latency: Latency) -> None:
        self.scope = scope
        self.accepted_subprotocol: str | None = None
        self.accept_headers: list[tuple[str, str]] = []
        self.close_code: int | None = None
        self.error: Exception | None = None
        self.sends = 0
        self.bytes_sent = 0
        self.max_concurrent_sends = 0
        self.max_concurrent_receives = 0
        self.sends_after_cancel = 0
        self.sends_after_disconnect = 0
        self.receives_after_disconnect = 0
        self.closes = 0

        self._app = app
        self._server = server
        self._state: Literal["connecting", "denying", "open", "closed"] = "connecting"
        self._to_app: Pipe[Message] = Pipe(latency)
        self._to_peer: Pipe[bytes | str | _Answer | _Close] = Pipe(latency)
        self._denial = _Answer(500)
        self._answered = False
        self._life = anyio.CancelScope(shield=True)  # A server outlives whatever ends its clients.
        self._finished = anyio.Event()
        self._buffered = 0
        self._room = Signal()

        # The handshake and the end, as the peer and the app know of them.
        self._answer: _Answer | None = None
        self._peer_end: _Close | None = None
        self._connect: Message | None = {"type": "websocket.connect"}
        self._connect_at = anyio.current_time() + (latency() if callable(latency) else latency)
        self._own_disconnect: Message | None = None
        self._disconnect: Message | None = None
        # And the server.
        self._gone_at = inf
        self._vanished = False
        self._torn = False

        self._sending = 0
        self._receiving = 0
        self._send_cancelled = False
        self._blocked_since: list[float] = []
        self._blocked_before = 0.0

    def __repr__(self) -> str:
        return f"<ASGIWebSocket {self.scope['path']} {self._state} on {self.server.name}, {self._buffered} bytes buffered>"

    # ---- the peer: messages ----------------------------------------------------------------------------------------

    async def accepted(self) -> None:
        """
        Wait until the app has accepted.

        Raises:
            HandshakeRefused: If it closed, answered by HTTP, returned or raised instead.
            WireClosed: If this end closed meanwhile.
        """
        while self._answer is None and self._peer_end is None:
            item = self._to_peer.take()
            if isinstance(item, _Answer):
                self._answer = item
            else:
                await self._to_peer.wait()
        if self._peer_end is not None:
            raise self._peer_end.error()
        if self._answer is not None and self._answer.status != 101:
            raise HandshakeRefused(self._answer.status, self._answer.headers, self._answer.body)

    async def send(self, message: bytes | str) -> None:
        """
        Send a message to the app. Never waits for it to be read.

        Raises:
            WireClosed: If the connection has ended, as far as this end knows.
        """
        await checkpoint()
        if self._peer_end is not None:
            raise self._peer_end.error()
        if self._answer is None:
            raise RuntimeError("wait until the app has accepted")
        key, other = ("bytes", "text") if isinstance(message, bytes) else ("text", "bytes")
        event: Message = {"type": "websocket.receive", key: message}
        if self.server.both_keys:
            event[other] = None
        self._to_app.put(event)

    async def receive(self) -> bytes | str:
        """
        Return the next message of the app, in order.

        Raises:
            WireClosed: If the app closed, and all messages before that have been received; at once, if this end closed or the
                connection broke.
        """
        await self.accepted()
        if self._peer_end is not None or self._to_peer.arrived:
            await checkpoint()
        while self._peer_end is None:
            item = self._to_peer.take()
            if isinstance(item, bytes | str):
                self._buffered -= _size(item)
                self._room.set()
                return item
            if isinstance(item, _Close):
                self._end_peer(item, anyio.current_time())
            else:
                await self._to_peer.wait()
        raise self._peer_end.error()

    def deliver(self, event: Message) -> None:
        """Have the server hand the app this very event, however odd. A ``websocket.disconnect`` also ends the connection."""
        arrival = self._to_app.put(event)
        if event["type"] == "websocket.disconnect":
            self._end_peer(_Close(event.get("code") or 1005), arrival)

    # ---- the peer: ways to end -------------------------------------------------------------------------------------

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close from the peer's side. What the app sent and nobody has received is lost. Closing again does nothing."""
        self._hang_up(code, reason)
        await checkpoint()

    def reset(self) -> None:
        """Break the connection: what is under way is lost in both directions, and both ends learn of it."""
        self._to_app.drop_under_way()
        self._hang_up(None, "")

    def vanish(self) -> None:
        """Leave without a trace, as behind a pulled cable: nothing arrives any more at either end, also no disconnect."""
        self.stall()
        self._vanished = True

    def stall(self, seconds: float = inf, *, way: Literal["both", "to_app", "to_peer"] = "both") -> None:
        """
        Let nothing arrive for a while. Afterwards everything does, in order.

        Args:
            seconds: ``inf`` until `resume`.
            way: ``"to_peer"`` is a peer that does not read.
        """
        if self._vanished:
            return
        until = anyio.current_time() + seconds
        if way != "to_peer":
            self._to_app.hold(until)
        if way != "to_app":
            self._to_peer.hold(until)
        self._room.set()

    def resume(self) -> None:
        """End a stall now."""
        if not self._vanished:
            self._to_app.hold(-inf)
            self._to_peer.hold(-inf)
            self._room.set()

    # ---- the app as others see it ----------------------------------------------------------------------------------

    @property
    def server(self) -> ServerModel:
        return self._server

    @server.setter
    def server(self, server: ServerModel) -> None:
        self._server = server
        self._room.set()

    @property
    def buffered(self) -> int:
        """Bytes that the app has sent and the peer has not received."""
        return self._buffered

    @property
    def unread(self) -> int:
        """Events for the app that it has not received, including those still under way."""
        return len(self._to_app)

    @property
    def blocked(self) -> bool:
        """Whether a send of the app waits for room now."""
        return bool(self._blocked_since)

    @property
    def blocked_seconds(self) -> float:
        """How long sends of the app have waited for room so far."""
        now = anyio.current_time()
        return self._blocked_before + sum(now - since for since in self._blocked_since)

    async def finished(self) -> None:
        """Wait until the app has returned or raised."""
        await self._finished.wait()

    # ---- the server: called by the connector -----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            with self._life:
                await self._app(self.scope, self._app_receive, self._app_send)
        except Exception as error:
            if not self._torn:
                self.error = error
            self._end_app(self.server.raise_code)
        else:
            self._end_app(self.server.return_code)
        finally:
            self._finished.set()

    def _end_app(self, code: int | None) -> None:
        if self._state in ("connecting", "denying"):
            self._reply(self._denial)
        elif self._state == "open" and code is not None:
            self._to_peer.put(_Close(code))

    def _reply(self, answer: _Answer) -> None:
        if not self._answered:
            self._answered = True
            self._state = "open" if answer.status == 101 else "denying"
            self._to_peer.put(answer)

    def _hang_up(self, code: int | None, reason: str) -> None:
        """End the connection from the peer's side, with a code, or without a word."""
        if self._peer_end is not None:
            return
        event: Message = {"type": "websocket.disconnect", "code": self.server.reset_code}
        if code is not None:
            event["code"] = code if self.server.peer_close_code is None else self.server.peer_close_code
            if self.server.reports_reason:
                event["reason"] = reason
        self._end_peer(_Close(1006 if code is None else code, reason), self._to_app.put(event))

    def _end_peer(self, end: _Close, gone_at: float) -> None:
        self._peer_end = end
        self._gone_at = min(self._gone_at, gone_at)
        self._to_peer.changed.set()
        self._room.set()

    def _tear(self) -> None:
        """End the app, whatever it waits for: the machine is switched off."""
        self._torn = True
        self._life.cancel()
        self._room.set()

    # ---- the server: called by the app -----------------------------------------------------------------------------

    async def _app_receive(self) -> Message:
        self._receiving += 1
        self.max_concurrent_receives = max(self.max_concurrent_receives, self._receiving)
        try:
            if self.server.yields:
                await checkpoint()
            if self._connect is not None:
                if self._connect_at > anyio.current_time():
                    await anyio.sleep_until(self._connect_at)
                connect, self._connect = self._connect, None
                return connect
            if self._disconnect is not None:
                self.receives_after_disconnect += 1
                if not self.server.repeats_disconnect:
                    await anyio.sleep_forever()
                return dict(self._disconnect)
            while (event := self._own_disconnect or self._to_app.take()) is None:
                await self._to_app.wait()
            if event["type"] == "websocket.disconnect":
                self._disconnect = event
            return event
        finally:
            self._receiving -= 1

    async def _app_send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            self.sends_after_cancel += self._send_cancelled
            self.sends_after_disconnect += self._disconnect is not None
        self._sending += 1
        self.max_concurrent_sends = max(self.max_concurrent_sends, self._sending)
        try:
            if self.server.yields:
                await checkpoint()
            if self._state == "closed":
                if self.server.after_close == "raise":
                    raise RuntimeError(f"unexpected ASGI message {kind!r} after the app closed")
            elif self._is_gone():
                self._send_to_nobody()
            elif kind not in _LEGAL[self._state] or (kind == "websocket.http.response.start" and not self.server.denial):
                raise RuntimeError(f"unexpected ASGI message {kind!r} while {self._state}")
            elif kind == "websocket.accept":
                self._accept(message)
            elif kind == "websocket.send":
                await self._write(_payload(message))
            elif kind == "websocket.close":
                await self._close(message)
            else:
                self._deny(message)
        except anyio.get_cancelled_exc_class():
            self._send_cancelled = True
            raise
        finally:
            self._sending -= 1

    def _accept(self, message: Message) -> None:
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and not self.server.any_subprotocol and subprotocol not in self.scope["subprotocols"]:
            raise RuntimeError(f"subprotocol {subprotocol!r} was not offered")
        self.accepted_subprotocol = subprotocol
        self.accept_headers = _decoded(message.get("headers", ()))
        self._reply(_Answer(101))

    def _deny(self, message: Message) -> None:
        if message["type"] == "websocket.http.response.start":
            self._denial = _Answer(message["status"], _decoded(message.get("headers", ())))
            self._state = "denying"
        else:
            self._denial = replace(self._denial, body=self._denial.body + message.get("body", b""))
            if not message.get("more_body", False):
                self._reply(self._denial)

    async def _write(self, payload: bytes | str) -> None:
        if not self.server.write_first:
            await self._wait_for_room()
            if self._is_gone():
                return self._send_to_nobody()
        self._buffered += _size(payload)
        self._to_peer.put(payload)
        self.sends += 1
        self.bytes_sent += _size(payload)
        if self.server.write_first:
            await self._wait_for_room()

    async def _close(self, message: Message) -> None:
        self.closes += 1
        code: int = message.get("code", 1000)
        self.close_code = code
        if self._state == "connecting":
            return self._reply(_Answer(403))
        if not self.server.write_first:
            await self._wait_for_room()  # If cancelled here, the peer never learns of the close.
            if self._is_gone():
                return self._send_to_nobody()
        self._state = "closed"
        self._to_peer.put(_Close(code, message.get("reason") or ""))
        self._own_disconnect = {"type": "websocket.disconnect", "code": self.server.own_close_code or code, "reason": ""}
        self._to_app.changed.set()
        if self.server.write_first:
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        if not self._is_full():
            return
        since = anyio.current_time()
        self._blocked_since.append(since)
        try:
            with anyio.CancelScope(shield=self.server.shielded):
                while self._is_full() and not self._is_gone():
                    await self._room.wait(self._to_app.delayed(self._gone_at))
        finally:
            self._blocked_since.remove(since)
            self._blocked_before += anyio.current_time() - since

    def _is_full(self) -> bool:
        return self.server.buffer is not None and self._buffered >= self.server.buffer

    def _is_gone(self) -> bool:
        """Whether the server knows that the peer is gone."""
        return self._torn or self._to_app.delayed(self._gone_at) <= anyio.current_time()

    def _send_to_nobody(self) -> None:
        habit = "silent" if self._torn else self.server.after_gone
        if habit == "disconnect":
            from starlette.websockets import WebSocketDisconnect

            raise WebSocketDisconnect(1006)
        if habit == "runtime" or (habit == "legacy" and self._disconnect is not None):
            raise RuntimeError("unexpected ASGI message after the connection has closed")
        if habit != "silent":
            raise OSError("the client is disconnected")


# {state: messages the app may send}
_LEGAL = {
    "connecting": {"websocket.accept", "websocket.close", "websocket.http.response.start"},
    "denying": {"websocket.http.response.body"},
    "open": {"websocket.send", "websocket.close"},
}


def _size(payload: bytes | str) -> int:
    return len(payload) if isinstance(payload, bytes) else len(payload.encode())


def _payload(message: Message) -> bytes | str:
    data, text = message.get("bytes"), message.get("text")
    if isinstance(data, bytes) and text is None:
        return data
    if isinstance(text, str) and data is None:
        return text
    raise TypeError("websocket.send needs either bytes or text")


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
