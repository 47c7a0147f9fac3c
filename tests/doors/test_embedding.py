"""At home in every app: each framework, with what people put around and above it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException
from hypercorn.middleware import DispatcherMiddleware
from litestar import Litestar
from litestar import get as litestar_get
from litestar.handlers import asgi
from litestar.types import Receive, Scope, Send
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router

from rtsync import RTSync, Settings, combine, public
from rtsync.backends import MemoryBackend
from rtsync.client import connect
from rtsync.testing import HandshakeRefused, LifespanFailed, asgi_connector, asgi_lifespan, asgi_websocket

pytestmark = pytest.mark.anyio


def realtime(settings: Settings | None = None) -> RTSync:
    rt = RTSync(settings)
    rt.state("prices:{symbol}", access=public)
    return rt


async def first_value(app: Any, path: str = "/rt/ws", root_path: str = "") -> Any:
    """Return what a client of the running app first sees."""
    with anyio.fail_after(5):
        async with (
            asgi_connector(app, root_path=root_path) as server,
            connect(f"ws://host{path}", connector=server) as client,
            client.subscribe("prices:A") as prices,
        ):
            return (await anext(prices)).value  # type: ignore[union-attr]


async def get(app: Any, path: str, method: str = "GET") -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://host") as http:
        with anyio.fail_after(5):
            return await http.request(method, path)


# ---- frameworks ----------------------------------------------------------------------------------------------------


def in_starlette(rt: RTSync) -> Any:
    return Starlette(routes=[Mount("/rt", rt)], lifespan=rt.lifespan)


def in_starlette_with_its_own(rt: RTSync) -> Any:
    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"database": "open"}

    return Starlette(routes=[Mount("/rt", rt)], lifespan=combine(own, rt.lifespan))


def in_fastapi(rt: RTSync) -> Any:
    app = FastAPI()
    app.include_router(rt.router())
    return app


def in_fastapi_with_its_own(rt: RTSync) -> Any:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = FastAPI(lifespan=own)
    app.include_router(rt.router())
    return app


def in_litestar(rt: RTSync) -> Any:
    @litestar_get("/rtx")
    async def neighbour() -> str:
        return "not ours"

    return Litestar([neighbour], plugins=[rt.plugin()], logging_config=None)


def in_litestar_mounted_by_hand(rt: RTSync) -> Any:
    @asgi("/rt", is_mount=True, copy_scope=True)
    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        await rt(scope, receive, send)

    return Litestar([mount], lifespan=[rt.lifespan], logging_config=None)


def in_quart(rt: RTSync) -> Any:
    app = Quart("app")
    app.asgi_app = rt.wrap(app.asgi_app)  # type: ignore[method-assign]
    return app


def in_a_dispatcher(rt: RTSync) -> Any:
    """It sends the lifespan to each mount, in tasks of their own."""
    return DispatcherMiddleware({"/rt": rt, "": Quart("app")})


ON_BOTH = [
    in_starlette,
    in_starlette_with_its_own,
    in_fastapi,
    in_fastapi_with_its_own,
    in_litestar,
    in_litestar_mounted_by_hand,
]


@pytest.mark.parametrize("path", ["/rt/ws", "/rt/ws/"])
@pytest.mark.parametrize("door", ON_BOTH)
async def test_each_framework_serves_it_whatever_the_slash(door: Callable[[RTSync], Any], path: str) -> None:
    app = door(realtime())
    async with asgi_lifespan(app):
        assert await first_value(app, path) == {}
        assert await first_value(app, "/api" + path, "/api") == {}
        assert await first_value(app, path, "/api") == {}  # the proxy has removed it, the server speaks of it


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("path", ["/rt/ws", "/rt/ws/"])
@pytest.mark.parametrize("door", [in_quart, in_a_dispatcher])
async def test_each_framework_of_asyncio_serves_it_whatever_the_slash(door: Callable[[RTSync], Any], path: str) -> None:
    app = door(realtime())
    async with asgi_lifespan(app):
        assert await first_value(app, path) == {}


@pytest.mark.parametrize("door", ON_BOTH)
async def test_a_forgotten_lifespan_is_an_error_in_words_and_never_a_hang(
    door: Callable[[RTSync], Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = door(realtime())
    assert (await get(app, "/rt/ws")).status_code == 503
    assert "lifespan=rt.lifespan" in caplog.text


@pytest.mark.parametrize("door", ON_BOTH)
async def test_a_server_without_lifespan_gets_an_autostart(door: Callable[[RTSync], Any]) -> None:
    assert await first_value(door(realtime(Settings(autostart=True)))) == {}


@pytest.mark.parametrize("door", ON_BOTH)
async def test_an_app_runs_again_after_it_was_stopped(door: Callable[[RTSync], Any]) -> None:
    app = door(realtime())
    for _ in range(3):
        async with asgi_lifespan(app):
            assert await first_value(app) == {}
    assert (await get(app, "/rt/ws")).status_code == 503


async def test_a_neighbour_whose_name_begins_alike_is_left_alone() -> None:
    app = in_litestar(realtime())
    async with asgi_lifespan(app):
        assert (await get(app, "/rtx")).text == "not ours"


# ---- mounts --------------------------------------------------------------------------------------------------------


async def test_nested_mounts_lead_to_it() -> None:
    rt = realtime()
    inner = Starlette(routes=[Mount("/v1/{tenant}", Router([Mount("/rt", rt)]))])
    app = Starlette(routes=[Mount("/api", inner)], lifespan=rt.lifespan)
    async with asgi_lifespan(app):
        assert await first_value(app, "/api/v1/acme/rt/ws/") == {}


async def test_a_sub_app_of_fastapi_needs_the_lifespan_above(caplog: pytest.LogCaptureFixture) -> None:
    """A mounted app's lifespan is never run: the log says which call is missing, and where it belongs."""
    rt = realtime()
    app = FastAPI()
    app.mount("/sub", in_fastapi(rt))
    async with asgi_lifespan(app):
        assert (await get(app, "/sub/rt/ws")).status_code == 503
    assert "nobody runs that of a mounted app" in caplog.text
    repaired = FastAPI(lifespan=rt.lifespan)
    repaired.mount("/sub", in_fastapi(rt))
    async with asgi_lifespan(repaired):
        assert await first_value(repaired, "/sub/rt/ws") == {}


async def test_a_router_may_be_included_twice_and_below_prefixes() -> None:
    rt = realtime()
    app = FastAPI()
    app.include_router(rt.router(), prefix="/v1")
    app.include_router(rt.router("/live"), prefix="/v2")
    async with asgi_lifespan(app):
        assert await first_value(app, "/v1/rt/ws") == {}
        assert await first_value(app, "/v2/live/ws/") == {}
        assert await first_value(app, "/proxy/v2/live/ws", "/proxy") == {}
        assert await first_value(app, "/v2/live/ws", "/proxy") == {}


async def test_dependencies_of_fastapi_pass_it_by() -> None:
    """As they do every route that is plain ASGI: rtsync authenticates by itself."""

    async def refuse() -> None:
        raise HTTPException(401)

    rt = realtime()
    app = FastAPI(dependencies=[Depends(refuse)])
    app.include_router(rt.router())
    async with asgi_lifespan(app):
        assert await first_value(app) == {}


async def test_starlette_refuses_a_websocket_at_the_mount_itself_and_never_redirects_it() -> None:
    """``/rt`` has no route; HTTP is redirected to ``/rt/`` by Starlette, and answered there."""
    app = in_starlette(realtime())
    async with asgi_lifespan(app):
        for path, status in (("/rt", 403), ("/rt/", 404)):
            with pytest.raises(HandshakeRefused) as caught:
                async with asgi_websocket(app, path):
                    pytest.fail("accepted")
            assert caught.value.status == status
        assert (await get(app, "/rt")).status_code == 307
        assert (await get(app, "/rt/")).status_code == 404


@pytest.mark.parametrize(
    "door", [in_fastapi, in_litestar, lambda rt: rt.wrap(Starlette())], ids=["fastapi", "litestar", "wrap"]
)
async def test_a_websocket_at_the_path_itself_gets_404(door: Callable[[RTSync], Any]) -> None:
    app = door(realtime())
    async with asgi_lifespan(app):
        for path in ("/rt", "/rt/", "/rt/unknown"):
            with pytest.raises(HandshakeRefused) as caught:
                async with asgi_websocket(app, path):
                    pytest.fail("accepted")
            assert caught.value.status == 404


# ---- middleware above us -------------------------------------------------------------------------------------------


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = "yes"
        return response


async def index(request: Request) -> Response:
    return PlainTextResponse("index")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_it_works_below_middleware(method: str) -> None:
    """`BaseHTTPMiddleware` skips WebSockets; plain HTTP passes it, and ends."""
    rt = realtime()
    app = Starlette(
        routes=[Route("/", index), Mount("/rt", rt)],
        lifespan=rt.lifespan,
        middleware=[
            Middleware(Stamp),
            Middleware(GZipMiddleware, minimum_size=1),
            Middleware(SessionMiddleware, secret_key="for this test only"),
        ],
    )
    async with asgi_lifespan(app):
        assert await first_value(app) == {}
        answer = await get(app, "/rt/ws", method)
        assert (answer.status_code, answer.headers["x-stamp"]) == (426, "yes")


async def test_middleware_of_the_app_is_below_the_wrapper() -> None:
    """What `rt.wrap` serves, the app's own middleware does not see."""
    wrapped = realtime().wrap(Starlette(routes=[Route("/", index)], middleware=[Middleware(Stamp)]))
    async with asgi_lifespan(wrapped):
        assert (await get(wrapped, "/")).headers["x-stamp"] == "yes"
        assert "x-stamp" not in (await get(wrapped, "/rt/ws")).headers
        assert await first_value(wrapped) == {}


# ---- several, and again --------------------------------------------------------------------------------------------


async def test_two_apps_in_one_process_share_nothing() -> None:
    one, two = realtime(), realtime()
    prices = one.state("own:{symbol}", access=public)
    apps = [in_starlette(one), in_fastapi(two)]
    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(asgi_lifespan(app))
        await prices.channel("A").set({"of": "one"})
        assert one.statistics().published == 1
        assert two.statistics().published == 0
        assert one.hub is not two.hub
        for app in apps:
            assert await first_value(app) == {}


async def test_two_objects_in_one_app_stand_side_by_side() -> None:
    one, two = realtime(), realtime()
    app = FastAPI()
    app.include_router(one.router("/one"))
    app.include_router(two.router("/two"))
    async with asgi_lifespan(app):
        assert await first_value(app, "/one/ws") == {}
        assert await first_value(app, "/two/ws") == {}


async def test_several_doors_of_one_object_start_it_once() -> None:
    rt = realtime()
    app = rt.wrap(in_starlette(rt), "/outer")
    async with asgi_lifespan(app):
        hub = rt.hub
        assert await first_value(app, "/outer/ws") == {}
        assert await first_value(app, "/rt/ws") == {}
        assert rt.hub is hub


def test_event_loops_in_sequence_share_no_state(caplog: pytest.LogCaptureFixture) -> None:
    """A document published on one is not there on the next: the memory backend opens anew with the app."""
    rt = RTSync()
    prices = rt.state("prices:{symbol}", access=public)
    app = in_fastapi(rt)

    async def run() -> None:
        async with asgi_lifespan(app):
            assert await first_value(app) == {}
            await prices.channel("A").set({"bid": "1"})
            assert await first_value(app) == {"bid": "1"}

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(run, backend=backend)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_an_endpoint_that_runs_in_a_thread_publishes_through_the_loop() -> None:
    rt = RTSync()
    prices = rt.state("prices:{symbol}", access=public)
    app: FastAPI = in_fastapi(rt)

    @app.put("/quotes/{symbol}", status_code=204)
    def put_quote(symbol: str) -> None:
        anyio.from_thread.run(prices.channel(symbol).set, {"bid": "1"})

    async with asgi_lifespan(app):
        assert (await get(app, "/quotes/A", "PUT")).status_code == 204
        assert await first_value(app) == {"bid": "1"}


# ---- errors --------------------------------------------------------------------------------------------------------


async def test_errors_come_out_of_the_lifespan_bare() -> None:
    with pytest.raises(ZeroDivisionError):
        async with realtime().lifespan():
            raise ZeroDivisionError


async def test_an_error_of_the_host_at_shutdown_reaches_the_server_bare() -> None:
    rt = realtime()

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[None]:
        async with rt.lifespan():
            yield
            raise LookupError("at shutdown")

    with pytest.raises(LifespanFailed, match="LookupError: at shutdown") as caught:
        async with asgi_lifespan(Starlette(lifespan=own)):
            pass
    assert caught.value.message.strip().endswith("LookupError: at shutdown")  # a group's report ends otherwise


async def test_an_error_of_a_backend_at_start_comes_out_bare() -> None:
    class Broken(MemoryBackend):
        async def __aenter__(self) -> Any:
            raise ConnectionRefusedError("no broker")

    rt = RTSync(backend=Broken())
    with pytest.raises(ConnectionRefusedError):
        async with rt.lifespan():
            pytest.fail("started")
    with pytest.raises(LifespanFailed) as caught:
        async with asgi_lifespan(in_fastapi(rt)):
            pytest.fail("started")
    assert caught.value.message.strip().endswith("ConnectionRefusedError: no broker")
