"""One adapter comes out right on every server, whatever its habits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from rtsync.client import WireClosed
from rtsync.core import JSON, MSGPACK, Code, Limits, frames
from rtsync.testing import (
    DAPHNE,
    SERVER_MODELS,
    STRICT,
    ASGIWebSocket,
    HandshakeRefused,
    ServerModel,
    asgi_websocket,
)
from rtsync.transports import GONE, ServerSocket, close_reason

pytestmark = pytest.mark.anyio

Body = Callable[[ServerSocket], Coroutine[Any, Any, None]]

LIMITS = Limits(1 << 20, 16, 1000)


@pytest.fixture(params=[STRICT, *SERVER_MODELS], ids=lambda model: model.name)
def server(request: pytest.FixtureRequest) -> ServerModel:
    model: ServerModel = request.param
    return model


def app_of(body: Body) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        socket = ServerSocket(scope, receive, send)
        if await socket.connected():
            await body(socket)

    return app


@asynccontextmanager
async def peer_of(body: Body, server: ServerModel, *subprotocols: str, wait: bool = True) -> AsyncIterator[ASGIWebSocket]:
    """The peer of a WebSocket that *body* serves. Whatever happens, the app keeps the rules that are the same everywhere."""
    async with asgi_websocket(app_of(body), server=server, subprotocols=subprotocols, wait=wait) as peer:
        yield peer
    assert peer.error is None
    assert (peer.receives_after_disconnect, peer.sends_after_disconnect, peer.sends_after_cancel) == (0, 0, 0)
    assert peer.closes <= 1
    assert peer.max_concurrent_receives <= 1


async def echo(socket: ServerSocket) -> None:
    await socket.accept()
    while (message := await socket.receive()) is not None:
        await socket.send(message)


# ---- the handshake -------------------------------------------------------------------------------------------------


async def test_the_first_profile_offered_is_echoed(server: ServerModel) -> None:
    async with peer_of(echo, server, "chat", "rtsync.v1.json", "rtsync.v1.msgpack") as peer:
        assert peer.accepted_subprotocol == "rtsync.v1.json"


async def test_nothing_is_echoed_that_was_not_offered(server: ServerModel) -> None:
    async with peer_of(echo, server, "chat") as peer:
        assert peer.accepted_subprotocol is None


async def test_a_denial_says_why_where_the_server_can(server: ServerModel) -> None:
    async def deny(socket: ServerSocket) -> None:
        await socket.deny(404, "not_found", "nothing is here")

    with pytest.raises(HandshakeRefused) as caught:
        async with peer_of(deny, server):
            pytest.fail("accepted")
    if server.denial:
        assert caught.value.status == 404
        assert caught.value.body == b'{"error": "not_found", "message": "nothing is here"}'
        assert ("content-type", "application/json") in caught.value.headers
    else:
        assert caught.value.status == 403


@pytest.mark.parametrize("profile", [MSGPACK, JSON, None], ids=["msgpack", "json", "none"])
async def test_a_refusal_is_readable_in_the_profile_offered(server: ServerModel, profile: Any) -> None:
    """A browser sees the code of a close after accept, and nothing of one before."""

    async def refuse(socket: ServerSocket) -> None:
        await socket.refuse(Code.UNAVAILABLE, "not running", retry_after=2.0)

    async with peer_of(refuse, server, *([profile.name] if profile else [])) as peer:
        found = (profile or JSON).read_server(await peer.receive(), LIMITS)
        assert found == [frames.Error(None, "unavailable", "not running", retryable=True, retry_after=2.0)]
        with pytest.raises(WireClosed) as closed:
            await peer.receive()
        assert closed.value.code == Code.UNAVAILABLE.close


async def test_a_peer_that_left_before_the_handshake_is_found_gone() -> None:
    found: list[bool] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(message: object) -> None:
        raise AssertionError("nobody is there")

    socket = ServerSocket({"type": "websocket"}, receive, send)
    found += [await socket.connected(), await socket.accept(), await socket.send("x")]
    await socket.deny(403, "forbidden", "no")
    await socket.close(1000)
    assert found == [False, False, False]
    assert socket.gone


async def test_a_peer_that_leaves_during_the_handshake_ends_it_quietly(server: ServerModel) -> None:
    arrived, left = anyio.Event(), anyio.Event()

    async def slow(socket: ServerSocket) -> None:
        arrived.set()
        await left.wait()
        await socket.accept()
        await socket.refuse(Code.UNAVAILABLE, "too late")

    async with peer_of(slow, server, wait=False) as peer:
        await arrived.wait()
        peer.reset()
        left.set()
        await peer.finished()


# ---- messages ------------------------------------------------------------------------------------------------------


async def test_text_and_bytes_arrive_as_they_were_sent(server: ServerModel) -> None:
    """Whether or not the server hands out both keys; empty ones too."""
    async with peer_of(echo, server) as peer:
        for message in ("text", b"bytes", "", b""):
            await peer.send(message)
            assert await peer.receive() == message


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_the_end_is_received_once_and_nothing_is_sent_after_it(server: ServerModel, how: str) -> None:
    sent: list[bool] = []
    done = anyio.Event()

    async def persistent(socket: ServerSocket) -> None:
        await socket.accept()
        while await socket.receive() is not None:
            pass
        assert await socket.receive() is None
        sent.append(await socket.send("after the end"))
        await socket.close(1000)
        done.set()

    async with peer_of(persistent, server) as peer:
        if how == "close":
            await peer.close(4009, "bye")
        else:
            peer.reset()
        await done.wait()
    assert sent == [False]


async def test_sending_to_a_peer_that_is_gone_never_raises(server: ServerModel) -> None:
    """Some servers raise, some pretend: it makes no difference before the disconnect has been received."""
    gone, done = anyio.Event(), anyio.Event()

    async def talkative(socket: ServerSocket) -> None:
        await socket.accept()
        await gone.wait()
        for _ in range(3):
            await socket.send("is anybody there?")
        done.set()

    async with peer_of(talkative, server) as peer:
        peer.reset()
        gone.set()
        await done.wait()


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("gone"), WebSocketDisconnect(1006)], ids=repr)
async def test_every_way_to_say_gone_is_understood(error: Exception) -> None:
    assert isinstance(error, GONE)

    async def fails(*message: object) -> Any:
        raise error

    socket = ServerSocket({"type": "websocket"}, fails, fails)
    assert not await socket.send("x")
    assert socket.gone
    assert await ServerSocket({"type": "websocket"}, fails, fails).receive() is None
    assert not await ServerSocket({"type": "websocket"}, fails, fails).connected()


async def test_nothing_follows_a_cancelled_send(server: ServerModel) -> None:
    """Not even a close: the message before it may have been cut in the middle."""
    if server.buffer is None or server.shielded:
        pytest.skip("a send never waits there, or cannot be cancelled")
    tried: list[bool] = []

    async def flood(socket: ServerSocket) -> None:
        await socket.accept()
        with anyio.move_on_after(0.01):
            while True:
                await socket.send(bytes(65_536))
        assert socket.cut
        tried.append(await socket.send("more"))
        await socket.close(1000)

    async with peer_of(flood, server) as peer:
        await peer.finished()
        assert peer.close_code is None
    assert tried == [False]


# ---- the end -------------------------------------------------------------------------------------------------------


async def test_a_close_happens_once_and_reads_on_until_the_peer_has_closed(server: ServerModel) -> None:
    """What the peer still sends is read and dropped: a server whose app stops reading loses what was sent last."""

    async def close_twice(socket: ServerSocket) -> None:
        await socket.accept()
        await socket.send("last words")
        await socket.close(4512, "the server is stopping")
        await socket.close(1000)
        assert not await socket.send("too late")
        assert socket.gone

    async with peer_of(close_twice, server) as peer:
        await peer.send("meanwhile")
        assert await peer.receive() == "last words"
        with pytest.raises(WireClosed) as closed:
            await peer.receive()
        assert (closed.value.code, closed.value.reason) == (4512, "the server is stopping")
        await peer.finished()
    assert peer.closes == 1


async def test_a_refusal_does_not_wait_for_ever() -> None:
    """For a peer that does not close in turn."""

    async def refuse(socket: ServerSocket) -> None:
        await socket.refuse(Code.UNAVAILABLE, "not running")

    async with peer_of(refuse, DAPHNE) as peer:
        peer.stall(way="to_app")
        await peer.finished()


def test_a_close_reason_fits_its_frame() -> None:
    """At most 123 bytes, and no character cut in two."""
    assert close_reason("short") == "short"
    assert close_reason("é" * 100) == "é" * 61
    assert len(close_reason("x" * 1000)) == 123
