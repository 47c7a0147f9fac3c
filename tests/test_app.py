"""What the app object answers that is no connection: before it runs, at paths where nothing is, and to the wrong protocol."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import httpx2
import pytest

from rtsync import RTSync, UsageError, public
from rtsync.client import WireClosed, connect
from rtsync.core import MSGPACK, Code, Limits, frames
from rtsync.testing import HandshakeRefused, asgi_connector, asgi_websocket

pytestmark = pytest.mark.anyio

LIMITS = Limits(1 << 20, 16, 1000)


def realtime() -> RTSync:
    rt = RTSync()
    rt.state("prices:{symbol}", access=public)
    rt.endpoint("/ws/prices")
    return rt


async def request(rt: RTSync, method: str, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(rt), base_url="http://host") as http:
        return await http.request(method, path)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# ---- before it runs ------------------------------------------------------------------------------------------------


async def test_a_request_before_the_start_is_answered_503(caplog: pytest.LogCaptureFixture) -> None:
    answer = await request(realtime(), "GET", "/ws")
    assert (answer.status_code, answer.json()) == (503, {"error": "unavailable", "message": "not running"})
    (line,) = errors(caplog)
    assert "lifespan=rt.lifespan" in line
    assert "rt.wrap(app)" in line


async def test_a_websocket_before_the_start_is_told_and_may_come_again(caplog: pytest.LogCaptureFixture) -> None:
    async with asgi_websocket(realtime(), "/ws", subprotocols=["rtsync.v1.msgpack"]) as socket:
        (error,) = MSGPACK.read_server(await socket.receive(), LIMITS)
        assert isinstance(error, frames.Error)
        assert (error.code, error.retryable) == ("unavailable", True)
        with pytest.raises(WireClosed) as closed:
            await socket.receive()
    assert closed.value.code == Code.UNAVAILABLE.close
    assert len(errors(caplog)) == 1


async def test_the_missing_call_is_named_once_and_not_with_each_attempt(caplog: pytest.LogCaptureFixture) -> None:
    rt = realtime()
    for _ in range(3):
        await request(rt, "GET", "/ws")
    assert len(errors(caplog)) == 1
    async with rt.lifespan():
        pass
    await request(rt, "GET", "/ws")
    assert len(errors(caplog)) == 2


async def test_publishing_before_the_start_names_the_missing_call() -> None:
    rt = RTSync()
    prices = rt.state("prices:{symbol}", access=public)
    with pytest.raises(UsageError, match=r"lifespan=rt\.lifespan"):
        await prices.channel("A").set({})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_request_on_another_event_loop_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Rather than served by tasks of a loop that knows nothing of it."""
    rt = realtime()
    async with rt.lifespan():
        answer = await anyio.to_thread.run_sync(anyio.run, request, rt, "GET", "/ws")
    assert answer.status_code == 503
    assert "another event loop" in errors(caplog)[0]


# ---- the wrong place or protocol -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
async def test_http_is_told_where_it_stands(method: str) -> None:
    rt = realtime()
    async with rt.lifespan():
        for path in ("/ws", "/ws/"):
            answer = await request(rt, method, path)
            assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
        for path in ("/", "/wss", "/elsewhere", "/ws/x"):
            answer = await request(rt, method, path)
            assert answer.status_code == 404
            assert method == "HEAD" or answer.json()["error"] == "not_found"


async def test_http_2_gets_no_header_that_it_does_not_know() -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    rt = realtime()
    async with rt.lifespan():
        scope = {"type": "http", "http_version": "2", "method": "GET", "path": "/ws", "headers": []}
        await rt(scope, receive, send)
    assert sent[0]["status"] == 426
    assert b"upgrade" not in dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/", "/wss", "/ws/unknown"])
async def test_a_websocket_where_nothing_is_gets_404(path: str) -> None:
    rt = realtime()
    async with rt.lifespan():
        with pytest.raises(HandshakeRefused) as caught:
            async with asgi_websocket(rt, path, subprotocols=["rtsync.v1.json"]):
                pytest.fail("accepted")
    assert caught.value.status == 404


@pytest.mark.parametrize("path", ["/ws", "/ws/", "/ws/prices", "/ws/prices/"])
async def test_a_slash_at_the_end_makes_no_difference(path: str) -> None:
    rt = realtime()
    async with rt.lifespan(), asgi_connector(rt) as server, connect(f"ws://host{path}", connector=server) as client:
        await client.connected()


async def test_another_kind_of_connection_is_refused() -> None:
    async def never(*message: object) -> Any:
        pytest.fail("used")

    with pytest.raises(UsageError, match="webtransport"):
        await realtime()({"type": "webtransport", "path": "/"}, never, never)
