from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from rtsync.client._errors import WireClosed
from rtsync.testing._asgi import ASGIWebSocket, HandshakeRefused
from rtsync.testing._connector import asgi_websocket
from rtsync.testing._server_models import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    HYPERCORN_TRIO,
    SERVER_MODELS,
    STRICT,
    UVICORN,
    UVICORN_LEGACY,
    ServerModel,
)
from rtsync.testing._virtual import VIRTUAL_BACKENDS, settle

pytestmark = pytest.mark.anyio

KIB = b"x" * 1024
SMALL = replace(STRICT, buffer=4096)

every_server = pytest.mark.parametrize("server", SERVER_MODELS, ids=lambda server: server.name)


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts with the first subprotocol offered and sends everything back."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event.get("bytes"), "text": event.get("text")})


class Script:
    """An app that runs a function of its receive and send once it has accepted, and notes what it came across."""

    def __init__(self, run: Callable[[Receive, Send], Awaitable[None]]) -> None:
        self.notes: list[object] = []
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await self._run(receive, send)


async def until_disconnect(receive: Receive) -> dict[str, Any]:
    while (event := await receive())["type"] != "websocket.disconnect":
        pass
    return dict(event)


async def flood(receive: Receive, send: Send) -> None:
    """Send a KiB at a time without end, and read beside that until the peer is gone."""
    async with anyio.create_task_group() as tasks:

        async def write() -> None:
            with suppress(OSError):
                for _ in range(10_000):
                    await send({"type": "websocket.send", "bytes": KIB})

        tasks.start_soon(write)
        await until_disconnect(receive)
        tasks.cancel_scope.cancel()


# ---- the handshake -------------------------------------------------------------------------------------------------


async def test_messages_go_both_ways_in_order() -> None:
    async with asgi_websocket(echo, "/rt/ws") as ws:
        await ws.send(b"one")
        await ws.send("two")
        assert [await ws.receive(), await ws.receive()] == [b"one", "two"]
        assert (ws.sends, ws.bytes_sent) == (2, 6)


async def test_the_scope_is_that_of_a_server() -> None:
    async with asgi_websocket(
        echo,
        "/rt/a%20b?x=1",
        root_path="/rt",
        headers={"X-Token": "t"},
        subprotocols=["b", "a"],
        state={"hub": 1},
        server=UVICORN,
    ) as ws:
        scope = ws.scope
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/rt/a b", b"/rt/a%20b", b"x=1")
        assert (scope["type"], scope["root_path"], scope["subprotocols"]) == ("websocket", "/rt", ["b", "a"])
        assert scope["headers"] == [(b"host", b"testserver"), (b"sec-websocket-protocol", b"b, a"), (b"x-token", b"t")]
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
        assert scope["state"] == {"hub": 1}
        assert ws.accepted_subprotocol == "b"


async def test_a_starlette_endpoint_works() -> None:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept(headers=[(b"x-node", b"1")])
        await websocket.send_json({"got": await websocket.receive_text()})
        await websocket.close(4001, "enough")

    async with asgi_websocket(endpoint) as ws:
        await ws.send("hello")
        assert await ws.receive() == '{"got":"hello"}'
        with pytest.raises(WireClosed) as closed:
            await ws.receive()
        assert (closed.value.code, closed.value.reason) == (4001, "enough")
        assert (ws.close_code, ws.closes, ws.accept_headers) == (4001, 1, [("x-node", "1")])


async def test_close_before_accept_is_a_403_whose_code_is_lost() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4401})

    with pytest.raises(HandshakeRefused) as refused:
        async with asgi_websocket(refuse):
            pytest.fail("accepted")
    assert (refused.value.status, refused.value.code) == (403, None)


async def test_a_denial_response_reaches_the_peer_where_the_server_offers_it() -> None:
    async def deny(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"retry-after", b"3")]})
        await send({"type": "websocket.http.response.body", "body": b"go ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"away"})

    with pytest.raises(HandshakeRefused) as refused:
        async with asgi_websocket(deny):
            pytest.fail("accepted")
    assert (refused.value.status, refused.value.headers, refused.value.body) == (401, [("retry-after", "3")], b"go away")

    with pytest.raises(HandshakeRefused) as refused:
        async with asgi_websocket(deny, server=DAPHNE, raise_app_errors=False) as ws:
            assert ws.scope["extensions"] == {}
    assert refused.value.status == 500


async def test_an_app_that_returns_or_raises_instead_of_accepting_is_a_500() -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None: ...

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("broken")

    for app in (nothing, broken):
        with pytest.raises(HandshakeRefused, match="HTTP 500"):
            async with asgi_websocket(app, raise_app_errors=False):
                pytest.fail("accepted")


async def test_a_peer_may_leave_before_the_app_accepts() -> None:
    """The app learns of it by the disconnect, and by sending if it accepts all the same."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await anyio.sleep(10)  # A look into a database.
        await send({"type": "websocket.accept"})

    async with asgi_websocket(slow, wait=False, raise_app_errors=False, grace=30) as ws:
        await anyio.sleep(1)
        await ws.close()
        with pytest.raises(WireClosed):
            await ws.accepted()
        await ws.finished()
        assert isinstance(ws.error, OSError)

    async with asgi_websocket(slow, wait=False, server=HYPERCORN, grace=30) as ws:
        await ws.close()
        await ws.finished()
        assert ws.error is None


async def test_a_subprotocol_that_was_not_offered_is_refused_by_strict_servers_only() -> None:
    async def presumptuous(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "other"})

    with pytest.raises(HandshakeRefused):
        async with asgi_websocket(presumptuous, subprotocols=["mine"], raise_app_errors=False):
            pytest.fail("accepted")
    async with asgi_websocket(presumptuous, subprotocols=["mine"], server=UVICORN) as ws:
        assert ws.accepted_subprotocol == "other"


async def test_messages_against_the_protocol_are_runtime_errors() -> None:
    async def eager(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match=r"'websocket.send' while connecting"):
            await send({"type": "websocket.send", "text": "too early"})
        await send({"type": "websocket.accept"})
        with pytest.raises(RuntimeError, match=r"'websocket.accept' while open"):
            await send({"type": "websocket.accept"})
        for nothing in ({}, {"bytes": None, "text": None}, {"bytes": b"both", "text": "both"}, {"bytes": "text"}):
            with pytest.raises(TypeError):
                await send({"type": "websocket.send", **nothing})
        await send({"type": "websocket.close"})
        with pytest.raises(RuntimeError, match=r"'websocket.close' after the app closed"):
            await send({"type": "websocket.close"})

    async with asgi_websocket(eager) as ws:
        await ws.finished()
        assert ws.closes == 1


# ---- sends that wait -----------------------------------------------------------------------------------------------


async def test_a_full_buffer_makes_send_wait_until_the_peer_reads() -> None:
    async with asgi_websocket(Script(flood), server=SMALL) as ws:
        await settle()
        assert (ws.sends, ws.buffered, ws.blocked) == (4, 4096, True)
        await anyio.sleep(7)
        assert ws.blocked_seconds == 7
        assert await ws.receive() == KIB
        await settle()
        assert (ws.sends, ws.buffered, ws.blocked) == (5, 4096, True)


async def test_a_server_that_writes_first_has_written_when_it_waits() -> None:
    async with asgi_websocket(Script(flood), server=replace(SMALL, write_first=True)) as ws:
        await settle()
        assert (ws.sends, ws.buffered, ws.blocked) == (4, 4096, True)
        ws.server = replace(ws.server, buffer=4000)
        await ws.receive()
        await settle()
        assert (ws.sends, ws.buffered, ws.blocked) == (5, 4096, True)


async def test_a_server_without_bound_never_makes_send_wait() -> None:
    async def write(receive: Receive, send: Send) -> None:
        for _ in range(8192):
            await send({"type": "websocket.send", "bytes": KIB})
        await until_disconnect(receive)

    async with asgi_websocket(Script(write), server=DAPHNE) as ws:
        await settle()
        assert (ws.buffered, ws.blocked_seconds) == (8 * 1024 * 1024, 0)


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN], ids=lambda server: server.name)
async def test_an_unhindered_send_lets_others_run_only_on_servers_that_yield(server: ServerModel) -> None:
    async def write(receive: Receive, send: Send) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            turns += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(5):
                await send({"type": "websocket.send", "bytes": KIB})
            script.notes.append(turns)

    script = Script(write)
    async with asgi_websocket(script, server=server) as ws:
        await ws.finished()
    assert script.notes == [server.yields]


@pytest.mark.parametrize("write_first", [False, True])
async def test_a_send_cancelled_while_it_waits_was_written_only_by_servers_that_write_first(write_first: bool) -> None:
    async def write(receive: Receive, send: Send) -> None:
        with anyio.move_on_after(2) as scope:
            await send({"type": "websocket.send", "text": "late"})
        script.notes.append((scope.cancelled_caught, anyio.current_time()))
        await send({"type": "websocket.close"})

    script = Script(write)
    async with asgi_websocket(script, server=replace(STRICT, buffer=0, write_first=write_first)) as ws:
        await anyio.sleep(3)
        assert script.notes == [(True, 2.0)]
        assert ws.sends == write_first
        assert ws.sends_after_cancel == 0
        ws.server = STRICT
        if write_first:
            assert await ws.receive() == "late"
        with pytest.raises(WireClosed) as closed:
            await ws.receive()
        assert closed.value.code == 1000


async def test_a_shielded_send_cannot_be_cancelled() -> None:
    async def write(receive: Receive, send: Send) -> None:
        with anyio.move_on_after(3):
            while True:
                await send({"type": "websocket.send", "bytes": KIB})
        script.notes.append(anyio.current_time())

    script = Script(write)
    async with asgi_websocket(script, server=replace(HYPERCORN_TRIO, buffer=4096)) as ws:
        await anyio.sleep(9.25)
        assert script.notes == []
        await ws.receive()
        await settle()
        assert script.notes == [9.25]


async def test_sending_after_a_cancelled_send_is_counted() -> None:
    async def write(receive: Receive, send: Send) -> None:
        with anyio.move_on_after(1):
            await send({"type": "websocket.send", "text": "one"})
        with anyio.move_on_after(1):
            await send({"type": "websocket.send", "text": "two"})

    async with asgi_websocket(Script(write), server=replace(STRICT, buffer=0)) as ws:
        await ws.finished()
        assert ws.sends_after_cancel == 1


async def test_concurrent_sends_and_receives_are_counted() -> None:
    async def write(receive: Receive, send: Send) -> None:
        async def read_once() -> None:
            await receive()

        async def write_once() -> None:
            await send({"type": "websocket.send", "bytes": KIB})

        async with anyio.create_task_group() as tasks:
            for task in (read_once, read_once, write_once, write_once, write_once):
                tasks.start_soon(task)

    async with asgi_websocket(Script(write), server=replace(STRICT, buffer=0), raise_app_errors=False) as ws:
        await settle()
        assert (ws.max_concurrent_sends, ws.max_concurrent_receives) == (3, 2)


async def test_close_waits_like_any_message_and_is_lost_if_cancelled() -> None:
    async def write(receive: Receive, send: Send) -> None:
        with anyio.move_on_after(1) as scope:
            await send({"type": "websocket.close", "code": 4509})
        script.notes.append(scope.cancelled_caught)

    script = Script(write)
    async with asgi_websocket(script, server=replace(STRICT, buffer=0)) as ws:
        with pytest.raises(WireClosed) as closed:
            await ws.receive()
        assert script.notes == [True]
        assert closed.value.code is None


@pytest.mark.parametrize("how", ["reads", "leaves", "breaks"])
async def test_a_close_that_waits_ends_with_the_peer(how: str) -> None:
    async def write(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 4509})
        script.notes.append(anyio.current_time())

    script = Script(write)
    async with asgi_websocket(script, server=replace(STRICT, buffer=0, write_first=True)) as ws:
        await anyio.sleep(2)
        assert ws.blocked
        match how:
            case "reads":
                with pytest.raises(WireClosed):
                    await ws.receive()
            case "leaves":
                await ws.close()
            case "breaks":
                ws.reset()
        await ws.finished()
    assert script.notes == [2.0]


async def test_habits_can_change_while_the_app_runs() -> None:
    async with asgi_websocket(Script(flood), server=replace(STRICT, buffer=0)) as ws:
        await settle()
        assert (ws.sends, ws.blocked) == (0, True)
        ws.server = SMALL
        await settle()
        assert (ws.sends, ws.blocked) == (4, True)
        ws.server = replace(SMALL, buffer=None)
        await settle()
        assert (ws.sends, ws.blocked) == (10_000, False)


# ---- ends ----------------------------------------------------------------------------------------------------------


@every_server
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_the_app_is_told_of_the_end_in_the_words_of_the_server(server: ServerModel, how: str) -> None:
    async def read(receive: Receive, send: Send) -> None:
        script.notes.append(await until_disconnect(receive))

    script = Script(read)
    async with asgi_websocket(script, server=server) as ws:
        if how == "close":
            await ws.close(4009, "tired")
        else:
            ws.reset()
        await ws.finished()
        with pytest.raises(WireClosed) as closed:
            await ws.receive()
        assert closed.value.code == (4009 if how == "close" else None)
    (event,) = script.notes
    assert isinstance(event, dict)
    expected = {"uvicorn": (4009, 1005), "uvicorn-legacy": (4009, 1006), "hypercorn": (1006, 1006), "daphne": (4009, 1006)}
    expected |= {"hypercorn-trio": (1006, 1006), "granian": (4009, 1005)}
    assert event["code"] == expected[server.name][how == "reset"]
    assert event.get("reason") == ("tired" if how == "close" and server.reports_reason else None)


@pytest.mark.parametrize(
    ("habit", "first", "later"),
    [
        ("oserror", OSError, OSError),
        ("runtime", RuntimeError, RuntimeError),
        ("disconnect", WebSocketDisconnect, WebSocketDisconnect),
        ("silent", None, None),
        ("legacy", OSError, RuntimeError),
    ],
)
async def test_sends_to_a_peer_that_is_gone_end_as_the_server_has_it(
    habit: Any, first: type[Exception] | None, later: type[Exception] | None
) -> None:
    async def attempt(send: Send) -> type[Exception] | None:
        try:
            await send({"type": "websocket.send", "text": "anybody there?"})
        except Exception as error:
            return type(error)
        return None

    async def write(receive: Receive, send: Send) -> None:
        await anyio.sleep(1)
        script.notes.append(await attempt(send))
        await until_disconnect(receive)
        script.notes.append(await attempt(send))

    script = Script(write)
    async with asgi_websocket(script, server=replace(STRICT, after_gone=habit)) as ws:
        ws.reset()
        await ws.finished()
        assert script.notes == [first, later]
        assert (ws.sends, ws.sends_after_disconnect) == (0, 1)


async def test_a_send_that_waits_ends_when_the_peer_goes() -> None:
    async def write(receive: Receive, send: Send) -> None:
        try:
            await send({"type": "websocket.send", "text": "late"})
        except OSError:
            script.notes.append(anyio.current_time())

    script = Script(write)
    async with asgi_websocket(script, server=replace(STRICT, buffer=0, shielded=True)) as ws:
        await anyio.sleep(5)
        await ws.close()
        await ws.finished()
        assert script.notes == [5.0]


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN], ids=["repeats", "blocks"])
async def test_receiving_after_the_disconnect_is_counted(server: ServerModel) -> None:
    async def read(receive: Receive, send: Send) -> None:
        await until_disconnect(receive)
        with anyio.move_on_after(60) as scope:
            script.notes.append((await receive())["type"])
        script.notes.append(scope.cancelled_caught)

    script = Script(read)
    async with asgi_websocket(script, server=server, grace=100) as ws:
        await ws.close()
        await ws.finished()
        assert ws.receives_after_disconnect == 1
        assert script.notes == (["websocket.disconnect", False] if server is UVICORN else [True])


@every_server
async def test_after_its_own_close_the_app_is_told_as_the_server_has_it(server: ServerModel) -> None:
    async def close(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 4512, "reason": "drain"})
        script.notes.append((await receive())["code"])
        try:
            await send({"type": "websocket.send", "text": "after the close"})
        except RuntimeError:
            script.notes.append("raised")

    script = Script(close)
    async with asgi_websocket(script, server=server) as ws:
        with pytest.raises(WireClosed) as closed:
            await ws.receive()
        assert (closed.value.code, closed.value.reason) == (4512, "drain")
    code = {"uvicorn": 4512, "uvicorn-legacy": 1005, "granian": 1005, "daphne": 1006}.get(server.name, 1000)
    assert script.notes == ([code] if server.after_close == "silent" else [code, "raised"])


@every_server
async def test_what_the_peer_sees_of_an_app_that_forgets_to_close_or_raises(server: ServerModel) -> None:
    async def forget(receive: Receive, send: Send) -> None: ...

    async def fail(receive: Receive, send: Send) -> None:
        raise LookupError("lost")

    async def code_seen(run: Callable[[Receive, Send], Awaitable[None]]) -> int | str | None:
        async with asgi_websocket(Script(run), server=server, raise_app_errors=False) as ws:
            with anyio.move_on_after(60):
                try:
                    await ws.receive()
                except WireClosed as closed:
                    return closed.code
        return "still open"

    forgot = {"daphne": "still open", "granian": 1005, "hypercorn": 1011, "hypercorn-trio": 1011}.get(server.name)
    failed = {"daphne": 1011, "granian": 1005, "hypercorn": 1011, "hypercorn-trio": 1011}.get(server.name)
    assert (await code_seen(forget), await code_seen(fail)) == (forgot, failed)


async def test_a_peer_that_vanished_leaves_no_disconnect_and_takes_nothing() -> None:
    async with asgi_websocket(Script(flood), server=SMALL) as ws:
        ws.vanish()
        await anyio.sleep(3600)
        assert (ws.sends, ws.blocked, ws.unread) == (4, True, 0)
        await ws.close()
        ws.resume()
        await anyio.sleep(3600)
        assert ws.blocked
        assert ws.blocked_seconds == 7200


async def test_closing_twice_or_after_the_app_is_harmless() -> None:
    async with asgi_websocket(echo) as ws:
        await ws.close()
        await ws.close(4000)
        ws.reset()
        with pytest.raises(WireClosed) as closed:
            await ws.send("late")
        assert closed.value.code == 1000

    async def close(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": 4001})
        script.notes.append(await until_disconnect(receive))

    script = Script(close)
    async with asgi_websocket(script) as ws:
        await settle()
        await ws.close()
    assert script.notes == [{"type": "websocket.disconnect", "code": 4001, "reason": ""}]


# ---- what is received ----------------------------------------------------------------------------------------------


@every_server
async def test_received_messages_have_the_keys_of_the_server(server: ServerModel) -> None:
    async def read(receive: Receive, send: Send) -> None:
        script.notes += [await receive(), await receive()]

    script = Script(read)
    async with asgi_websocket(script, server=server) as ws:
        await ws.send(b"b")
        await ws.send("t")
        await ws.finished()
    other = [{"text": None}, {"bytes": None}] if server.both_keys else [{}, {}]
    kind = {"type": "websocket.receive"}
    assert script.notes == [{**kind, "bytes": b"b", **other[0]}, {**kind, "text": "t", **other[1]}]


async def test_odd_events_can_be_delivered() -> None:
    async def read(receive: Receive, send: Send) -> None:
        script.notes += [await receive(), await receive()]

    script = Script(read)
    events: list[Message] = [{"type": "websocket.receive", "bytes": None, "text": None}, {"type": "websocket.disconnect"}]
    async with asgi_websocket(script) as ws:
        for event in events:
            ws.deliver(event)
        await ws.finished()
        with pytest.raises(WireClosed):
            await ws.receive()
    assert script.notes == events


async def test_a_cancelled_receive_loses_nothing() -> None:
    async def read(receive: Receive, send: Send) -> None:
        while len(script.notes) < 12:
            with anyio.move_on_after(0.3):
                script.notes.append((await receive()).get("text"))

    script = Script(read)
    async with asgi_websocket(script, latency=0.25) as ws:
        for number in range(12):
            await ws.send(str(number))
            await anyio.sleep(0.3)
        await ws.finished()
    assert script.notes == [str(number) for number in range(12)]


# ---- latency and stalls --------------------------------------------------------------------------------------------


async def test_latency_counts_each_way() -> None:
    async with asgi_websocket(echo, latency=0.2) as ws:
        assert anyio.current_time() == pytest.approx(0.4)
        await ws.send("ping")
        await ws.receive()
        assert anyio.current_time() == pytest.approx(0.8)


async def test_latency_that_varies_keeps_the_order() -> None:
    delays = iter([0.0, 0.0, 5.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])

    async with asgi_websocket(echo, latency=lambda: next(delays)) as ws:
        for text in ("a", "b", "c"):
            await ws.send(text)
        assert [await ws.receive() for _ in range(3)] == ["a", "b", "c"]
        assert anyio.current_time() == pytest.approx(5.5)


async def test_a_stalled_link_delivers_everything_afterwards_in_order() -> None:
    async with asgi_websocket(echo) as ws:
        ws.stall(10)
        await ws.send("one")
        await anyio.sleep(4)
        await ws.send("two")
        assert [await ws.receive(), await ws.receive()] == ["one", "two"]
        assert anyio.current_time() == 10

        ws.stall(way="to_peer")
        await ws.send("three")
        await settle()
        assert (ws.unread, ws.buffered) == (0, 5)
        ws.resume()
        assert await ws.receive() == "three"
        assert anyio.current_time() == 10


async def test_a_reset_loses_what_is_under_way() -> None:
    async def read(receive: Receive, send: Send) -> None:
        while (event := await receive())["type"] != "websocket.disconnect":
            script.notes.append(event["text"])
        script.notes.append(anyio.current_time())

    script = Script(read)
    async with asgi_websocket(script, latency=1.0) as ws:
        await ws.send("early")
        await anyio.sleep(1.5)
        await ws.send("late")
        ws.reset()
        await ws.finished()
    assert script.notes == ["early", 4.5]


async def test_the_server_learns_of_a_reset_only_when_the_link_carries_it() -> None:
    async with asgi_websocket(Script(flood), server=SMALL, latency=1.0) as ws:
        ws.stall(10, way="to_app")
        ws.reset()
        await anyio.sleep(9)
        assert ws.blocked
        await ws.finished()
        assert anyio.current_time() == 12
        assert math.isclose(ws.blocked_seconds, 11)


# ---- the harness itself --------------------------------------------------------------------------------------------


async def test_what_the_app_raises_is_raised_at_the_end_unless_the_block_raised() -> None:
    async def broken(receive: Receive, send: Send) -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        async with asgi_websocket(Script(broken)) as ws:
            await ws.finished()
    with pytest.raises(WireClosed):
        async with asgi_websocket(Script(broken)) as ws:
            await ws.receive()
    async with asgi_websocket(Script(broken), raise_app_errors=False) as ws:
        await ws.finished()
        assert isinstance(ws.error, LookupError)


async def test_an_app_that_does_not_return_after_the_disconnect_is_an_error() -> None:
    async def linger(receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError, match=r"the app did not return within 5 s of its disconnect: /x"):
        async with asgi_websocket(Script(linger), "/x"):
            pass
    assert anyio.current_time() == 5
    async with asgi_websocket(Script(linger)) as ws:
        ws.vanish()
    assert anyio.current_time() == 5


async def test_errors_of_the_block_come_out_bare() -> None:
    with pytest.raises(ZeroDivisionError):
        async with asgi_websocket(echo):
            raise ZeroDivisionError


async def test_a_cancelled_block_ends_the_app() -> None:
    sockets: list[ASGIWebSocket] = []
    with anyio.move_on_after(1) as scope:
        async with asgi_websocket(echo) as ws:
            sockets.append(ws)
            await ws.receive()
    assert scope.cancelled_caught
    await sockets[0].finished()


def test_every_model_has_a_name_of_its_own() -> None:
    assert len({server.name for server in (STRICT, *SERVER_MODELS)}) == 7
    assert {GRANIAN, UVICORN_LEGACY} < set(SERVER_MODELS)
