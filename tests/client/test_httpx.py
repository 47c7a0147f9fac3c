"""The WebSocket of httpx2 as a wire, against real servers: what goes through, and how every end looks."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import SocketStream
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from rtsync.client import WireClosed, connect, httpx_connector
from rtsync.testing._servers import serve_uvicorn

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Does what the path says."""
    if scope["type"] != "websocket":
        return
    socket = WebSocket(scope, receive, send)
    if scope["path"] == "/refuse":
        await receive()
        await socket.close(4403)
        return
    await socket.accept(subprotocol=scope["subprotocols"][0] if scope["subprotocols"] else None)
    if scope["path"] == "/close":
        await socket.close(4401, "not you")
    elif scope["path"] == "/subprotocols":
        await socket.send_text(",".join(scope["subprotocols"]))
        await receive()
    elif scope["path"] == "/header":
        await socket.send_text(socket.headers.get("x-test", "none"))
        await receive()
    elif scope["path"] == "/large":
        await socket.send_bytes(bytes(3 << 20))
        await receive()
    elif scope["path"] == "/echo":
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})


@asynccontextmanager
async def url_of(app: ASGIApp, path: str) -> AsyncIterator[str]:
    async with serve_uvicorn(app) as base:
        yield base.replace("http", "ws", 1) + path


@asynccontextmanager
async def raw_server(handle: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve bytes, for what no WebSocket server would do."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:

        async def serve(stream: SocketStream) -> None:
            async with stream:
                await stream.receive()
                await handle(stream)

        tasks.start_soon(listener.serve, serve)
        yield f"ws://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
        tasks.cancel_scope.cancel()


async def test_binary_and_text_come_through_whole() -> None:
    async with url_of(app, "/echo") as url, httpx_connector()(url, ["rtsync.v1.json"]) as wire:
        for message in ("text ä", b"\x00\xff", "", b"", b"x" * 300_000):
            await wire.send(message)
            assert await wire.receive() == message


async def test_subprotocols_are_offered_in_order() -> None:
    async with url_of(app, "/subprotocols") as url, httpx_connector()(url, ["b", "a"]) as wire:
        assert await wire.receive() == "b,a"


async def test_message_larger_than_the_librarys_default_comes_through() -> None:
    async with url_of(app, "/large") as url, httpx_connector()(url, []) as wire:
        assert len(await wire.receive()) == 3 << 20


async def test_close_of_the_server_tells_code_and_reason() -> None:
    async with url_of(app, "/close") as url, httpx_connector()(url, []) as wire:
        with pytest.raises(WireClosed) as caught:
            await wire.receive()
        assert (caught.value.code, caught.value.reason) == (4401, "not you")
        with pytest.raises(WireClosed):
            await wire.send("too late")
        await wire.close(1000)


async def test_own_client_brings_its_headers() -> None:
    async with httpx2.AsyncClient(headers={"x-test": "mine"}) as client, url_of(app, "/header") as url:
        async with httpx_connector(client)(url, []) as wire:
            assert await wire.receive() == "mine"
        async with httpx_connector()(url, []) as wire:
            assert await wire.receive() == "none"


async def test_closing_twice_and_sending_after_it_is_harmless_or_told() -> None:
    async with url_of(app, "/echo") as url, httpx_connector()(url, []) as wire:
        await wire.close(1000)
        await wire.close(1000)
        with pytest.raises(WireClosed):
            await wire.send("x")


async def test_refused_handshake_tells_the_status() -> None:
    async with url_of(app, "/refuse") as url:
        with pytest.raises(WireClosed, match="the server answered HTTP 403"):
            async with httpx_connector()(url, []):
                pass


async def test_nobody_listening_is_told_plainly() -> None:
    with pytest.raises(WireClosed) as caught:
        async with httpx_connector()("ws://127.0.0.1:1/", []):
            pass
    assert caught.value.code is None


@pytest.mark.parametrize("answer", [b"", b"hello, this is no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"])
async def test_peer_that_is_no_websocket_server_is_told_plainly(answer: bytes) -> None:
    async def handle(stream: SocketStream) -> None:
        if answer:
            await stream.send(answer)

    async with raw_server(handle) as url:
        with pytest.raises(WireClosed):
            async with httpx_connector()(url, []):
                pass


UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"


@pytest.mark.parametrize(
    "rest", [b"", b"\x82\x05abc", b"\xff\xff\xff\xff", b"\x81\x02\xff\xff"], ids=["cut", "torn", "nonsense", "bad utf-8"]
)
async def test_link_that_breaks_is_told_plainly(rest: bytes) -> None:
    async def handle(stream: SocketStream) -> None:
        await stream.send(UPGRADE + rest)

    async with raw_server(handle) as url:
        with pytest.raises(WireClosed):
            async with httpx_connector()(url, []) as wire:
                await wire.receive()


async def test_peer_that_never_answers_the_close_does_not_hold_up_leaving() -> None:
    async def handle(stream: SocketStream) -> None:
        await stream.send(UPGRADE)
        await anyio.sleep_forever()

    async with raw_server(handle) as url:
        with anyio.fail_after(5):
            async with httpx_connector()(url, []):
                pass


async def test_peer_that_reads_nothing_does_not_hold_up_leaving() -> None:
    """A close waits behind all that is unsent; it gets a second."""

    async def handle(stream: SocketStream) -> None:
        await stream.send(UPGRADE)
        await anyio.sleep_forever()

    async with raw_server(handle) as url:
        with anyio.fail_after(10):
            async with httpx_connector()(url, []) as wire:
                with anyio.move_on_after(1):
                    while True:
                        await wire.send(bytes(1 << 20))


async def test_error_of_the_block_stays_what_it_is() -> None:
    async with url_of(app, "/echo") as url:
        with pytest.raises(ZeroDivisionError):
            async with httpx_connector()(url, []):
                raise ZeroDivisionError
        with pytest.raises(WireClosed, match="mine"):
            async with httpx_connector()(url, []):
                raise WireClosed(None, "mine")


async def test_missing_library_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_httpx2(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("httpx2"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_httpx2)
    with pytest.raises(ImportError, match=r'pip install "rtsync\[client\]"'):
        connect("ws://test/")
