"""What a real server's version, flags and workers make rtsync say at start: to whoever reads the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp

from rtsync import RTSync
from rtsync.testing import serve_hypercorn, serve_uvicorn
from rtsync.transports import Server, current_server
from tests.contract.servers import Combination, serve

pytestmark = pytest.mark.anyio

WELL: dict[str, Any] = {"ws_per_message_deflate": False, "ws_max_size": 65_536, "timeout_graceful_shutdown": 2}


def mounted(rt: RTSync) -> ASGIApp:
    return Starlette(routes=[Mount("/rt", rt)], lifespan=rt.lifespan, middleware=[Middleware(GZipMiddleware)])


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "rtsync" and record.levelno == logging.WARNING]


@pytest.mark.parametrize("door", [mounted, lambda rt: rt, lambda rt: rt.wrap(Starlette())], ids=["mounted", "bare", "wrapped"])
async def test_uvicorns_defaults_are_warned_about(door: Callable[[RTSync], ASGIApp], caplog: pytest.LogCaptureFixture) -> None:
    async with serve_uvicorn(door(RTSync()), timeout_graceful_shutdown=None):
        pass
    assert [sentence.rpartition("--")[2] for sentence in said(caplog)] == [
        "ws-per-message-deflate false",
        "ws-max-size 65536",
        "timeout-graceful-shutdown 10",
    ]


async def test_uvicorn_as_it_should_be_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async with serve_uvicorn(mounted(RTSync()), **WELL):
        pass
    assert said(caplog) == []


async def test_a_uvicorn_that_never_slows_a_sender_is_recognised(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtsync.transports._server_advice.version", lambda package: "0.51.0")
    async with serve_uvicorn(mounted(RTSync()), ws="websockets-sansio", **WELL):
        pass
    assert len(said(caplog)) == 1
    assert "uvicorn 0.51.0 never slows down a sender" in said(caplog)[0]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_hypercorns_default_is_warned_about(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    serve = partial(serve_hypercorn, backend=backend, thread=True)
    async with serve(mounted(RTSync())):
        pass
    assert ["websocket_max_message_size" in sentence for sentence in said(caplog)] == [True]
    caplog.clear()
    async with serve(mounted(RTSync()), websocket_max_message_size=65_536):
        pass
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("name", "serve"),
    [
        ("uvicorn", partial(serve_uvicorn)),
        ("hypercorn", partial(serve_hypercorn, backend="asyncio", thread=True)),
        ("hypercorn", partial(serve_hypercorn, backend="trio", thread=True)),
    ],
)
async def test_the_server_is_known_by_its_lifespan(
    name: str, serve: Callable[[ASGIApp], AbstractAsyncContextManager[str]]
) -> None:
    found: list[Server] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(current_server())
        await RTSync()(scope, receive, send)

    async with serve(app):
        pass
    assert found[0].name == name
    assert found[0].version > (0, 1)


async def test_without_a_server_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with RTSync().lifespan():
        assert current_server() == Server()
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("server", "options"),
    [("uvicorn", ("--workers", "2")), ("hypercorn", ("--workers", "2")), ("granian", ("--workers", "2"))],
    ids=["uvicorn", "hypercorn", "granian"],
)
def test_workers_that_cannot_share_are_warned_about(server: str, options: tuple[str, ...]) -> None:
    """With the cure, by each of them."""
    with serve(Combination("starlette", server, options)) as running:
        assert "2 worker processes cannot share the memory backend" in running.output
        assert "RTSYNC_BACKEND_URL" in running.output


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "granian"])
def test_a_single_worker_is_not(server: str) -> None:
    with serve(Combination("starlette", server)) as running:
        assert "worker processes" not in running.output
