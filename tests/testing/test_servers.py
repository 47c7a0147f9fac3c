from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from rtsync.testing._servers import serve_hypercorn, serve_uvicorn

pytestmark = pytest.mark.anyio

Serve = Callable[..., AbstractAsyncContextManager[str]]

SERVERS: dict[str, Serve] = {
    "uvicorn": partial(serve_uvicorn),
    "hypercorn": partial(serve_hypercorn),
    "hypercorn-asyncio-thread": partial(serve_hypercorn, backend="asyncio", thread=True),
    "hypercorn-trio-thread": partial(serve_hypercorn, backend="trio", thread=True),
}


@pytest.fixture(params=list(SERVERS))
def serve(request: pytest.FixtureRequest) -> Serve:
    return SERVERS[request.param]


class App(Starlette):
    """Says which thread serves it, echoes, and notes its lifespan."""

    def __init__(self, *, startup: Exception | None = None) -> None:
        super().__init__(
            routes=[Route("/", self.index), WebSocketRoute("/echo", self.echo), WebSocketRoute("/flood", self.flood)],
            lifespan=self.run,
        )
        self.journal: list[str] = []
        self._failure = startup

    @asynccontextmanager
    async def run(self, app: Starlette) -> AsyncIterator[None]:
        if self._failure is not None:
            raise self._failure
        self.journal.append("up")
        yield
        self.journal.append("down")

    async def index(self, request: Request) -> JSONResponse:
        return JSONResponse({"thread": threading.get_ident()})

    async def echo(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    async def flood(self, websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_bytes(bytes(65_536))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before and thread.name.startswith("serving")]
    assert left == []


async def get(url: str) -> Any:
    async with httpx2.AsyncClient(verify=False) as client:
        response = await client.get(url)
        return response.raise_for_status().json()


async def hear_an_echo(url: str) -> None:
    async with httpx2.AsyncClient() as client, client.websocket(url.replace("http", "ws") + "/echo") as ws:
        await ws.send_text("hello")
        assert await ws.receive_text() == "hello"


def nobody_listens(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(url).port)) != 0


async def test_an_app_is_served_from_startup_to_shutdown(serve: Serve) -> None:
    app = App()
    async with serve(app) as url:
        assert url.startswith("http://127.0.0.1:")
        assert app.journal == ["up"]
        await get(url + "/")
    assert app.journal == ["up", "down"]
    assert nobody_listens(url)


async def test_websockets_work(serve: Serve) -> None:
    async with serve(App()) as url:
        await hear_an_echo(url)


async def test_the_server_runs_where_it_was_told_to(serve: Serve) -> None:
    here = threading.get_ident()
    async with serve(App()) as url:
        assert ((await get(url + "/"))["thread"] == here) == (serve is SERVERS["hypercorn"])


async def test_several_servers_run_side_by_side() -> None:
    async with serve_uvicorn(App()) as one, serve_hypercorn(App()) as two, serve_uvicorn(App()) as three:
        assert len({one, two, three}) == 3
        for url in (one, two, three):
            await get(url + "/")


async def test_a_failing_startup_is_an_error_and_leaves_nothing(serve: Serve) -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        async with serve(App(startup=LookupError("lost"))):
            pytest.fail("started")


async def test_an_app_without_lifespan_is_served(serve: Serve) -> None:
    inner = App()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan"
        await inner(scope, receive, send)

    async with serve(app) as url:
        await get(url + "/")


async def test_errors_of_the_block_come_out_bare_and_the_server_ends_in_good_order(serve: Serve) -> None:
    app = App()
    with pytest.raises(ZeroDivisionError):
        async with serve(app):
            raise ZeroDivisionError
    assert app.journal == ["up", "down"]


async def test_a_cancelled_block_ends_the_server_in_good_order(serve: Serve) -> None:
    app = App()
    urls = []
    with anyio.CancelScope() as scope:
        async with serve(app) as url:
            urls.append(url)
            scope.cancel()
            await anyio.sleep_forever()
    assert app.journal == ["up", "down"]
    assert nobody_listens(urls[0])


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(serve: Serve) -> None:
    """Its socket stays open beyond the server's end, and the handler is stuck in a send."""
    with socket.socket() as client:
        started = anyio.current_time()
        async with serve(App(), shutdown=0.5) as url:
            client.connect(("127.0.0.1", urlsplit(url).port))
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
            client.sendall(
                f"GET /flood HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n".encode()
            )
            await anyio.wait_readable(client)
            assert client.recv(12) == b"HTTP/1.1 101"
    assert anyio.current_time() - started < 10


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_uvicorn_runs_on_the_loop_of_an_asyncio_caller_if_told_to() -> None:
    app = App()
    async with serve_uvicorn(app, thread=False) as url:
        assert (await get(url + "/"))["thread"] == threading.get_ident()
    assert app.journal == ["up", "down"]
    with pytest.raises(RuntimeError, match="did not start"):
        async with serve_uvicorn(App(startup=LookupError("lost")), thread=False):
            pytest.fail("started")


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_uvicorn_needs_a_thread_under_trio() -> None:
    with pytest.raises(ValueError, match="thread=True"):
        async with serve_uvicorn(App(), thread=False):
            pytest.fail("started")


async def test_settings_are_passed_on() -> None:
    async with serve_uvicorn(App(), ws="wsproto", server_header=False) as url:
        await hear_an_echo(url)
        async with httpx2.AsyncClient() as client:
            assert "server" not in (await client.get(url + "/")).headers
    async with serve_hypercorn(App(), include_server_header=False) as url, httpx2.AsyncClient() as client:
        assert "server" not in (await client.get(url + "/")).headers
