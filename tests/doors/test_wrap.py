"""The wrapper dispatches by path, and passes everything else on untouched."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from rtsync import RTSync, UsageError, public
from rtsync.client import connect
from rtsync.testing import DAPHNE, STRICT, HandshakeRefused, ServerModel, asgi_connector, asgi_lifespan, asgi_websocket

pytestmark = pytest.mark.anyio


def realtime() -> RTSync:
    rt = RTSync()
    rt.state("prices:{symbol}", access=public)
    return rt


async def where(request: Request) -> JSONResponse:
    return JSONResponse([request.scope["root_path"], request.scope["path"]])


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())


def inner() -> Starlette:
    return Starlette(routes=[Route("/{path:path}", where), WebSocketRoute("/echo", echo)])


async def http_only(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise ValueError(f"only HTTP, not {scope['type']}")
    await inner()(scope, receive, send)


async def get(app: Any, path: str, root_path: str = "") -> httpx2.Response:
    transport = httpx2.ASGITransport(app, root_path=root_path)
    async with httpx2.AsyncClient(transport=transport, base_url="http://host") as http:
        return await http.get(path)


@pytest.mark.parametrize("path", ["/", "/rtx", "/rtx/ws", "/quotes/rt/ws"])
async def test_other_paths_are_the_apps_own(path: str) -> None:
    assert (await get(realtime().wrap(inner()), path)).json() == ["", path]


@pytest.mark.parametrize(("path", "url"), [(None, "/rt/ws"), (None, "/rt/ws/"), ("/api/live", "/api/live/ws")])
@pytest.mark.parametrize("app", [inner(), http_only], ids=["whole", "http_only"])
async def test_everything_below_the_path_is_ours(app: Any, path: str | None, url: str) -> None:
    wrapped = realtime().wrap(app, path)
    async with (
        asgi_lifespan(wrapped),
        asgi_connector(wrapped) as server,
        connect(f"ws://host{url}", connector=server) as client,
        client.subscribe("prices:A") as prices,
    ):
        assert (await anext(prices)).value == {}  # type: ignore[union-attr]


async def test_the_path_is_below_the_servers_root_path() -> None:
    rt = realtime()
    wrapped = rt.wrap(inner())
    async with (
        rt.lifespan(),
        asgi_connector(wrapped, root_path="/api") as server,
        connect("ws://host/api/rt/ws", connector=server) as client,
    ):
        await client.connected()


async def test_websockets_of_the_app_reach_it() -> None:
    async with asgi_websocket(realtime().wrap(inner()), "/echo") as socket:
        await socket.send("hello")
        assert await socket.receive() == "hello"


@pytest.mark.parametrize(("server", "status"), [(STRICT, 404), (DAPHNE, 403)], ids=["denial", "close"])
async def test_a_websocket_that_the_app_does_not_look_at_is_denied(server: ServerModel, status: int) -> None:
    """Django raises on it, which servers log as a bug of the app."""
    with pytest.raises(HandshakeRefused) as caught:
        async with asgi_websocket(realtime().wrap(http_only), "/elsewhere", server=server):
            pytest.fail("accepted")
    assert caught.value.status == status


async def test_an_error_of_the_app_in_a_websocket_is_its_own() -> None:
    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        async with asgi_websocket(realtime().wrap(faulty), "/elsewhere", wait=False) as socket:
            await socket.finished()


@pytest.mark.parametrize("path", ["rt", "/rt/", "/"])
def test_a_path_that_could_never_match_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="must look like /rt"):
        realtime().wrap(inner(), path)
