"""Lifespans as one, and the lifespan protocol answered for an app that does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from rtsync import combine
from rtsync.doors import answer_lifespan
from rtsync.testing import LifespanFailed, asgi_lifespan

pytestmark = pytest.mark.anyio


class Journal:
    """Lifespans that write down when they were open."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def lifespan(self, name: str, state: Mapping[str, Any] | None = None, failure: Exception | None = None) -> Any:
        @asynccontextmanager
        async def lifespan(app: object = None) -> AsyncIterator[Mapping[str, Any] | None]:
            if failure is not None:
                raise failure
            self.lines.append(f"{name} up")
            try:
                yield state
            finally:
                self.lines.append(f"{name} down")

        return lifespan

    def around(self, inner: ASGIApp | None, failure: Exception | None = None) -> ASGIApp:
        """Return an app that answers its lifespan with "outer" open, and *inner* within."""
        outer = self.lifespan("outer", failure=failure)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await answer_lifespan(outer, scope, receive, send, inner)

        return app


# ---- combine -------------------------------------------------------------------------------------------------------


async def test_combined_lifespans_merge_state_and_end_in_reverse() -> None:
    journal = Journal()
    lifespan = combine(journal.lifespan("a", {"x": 1, "y": 1}), journal.lifespan("b"), journal.lifespan("c", {"y": 2}))
    async with asgi_lifespan(Starlette(lifespan=lifespan)) as state:
        assert state == {"x": 1, "y": 2}
    assert journal.lines == ["a up", "b up", "c up", "c down", "b down", "a down"]


async def test_combined_lifespans_give_no_state_if_none_does() -> None:
    """A server without state refuses an app that has some."""
    async with combine(Journal().lifespan("a"))(None) as state:
        assert state is None


async def test_a_lifespan_that_fails_ends_those_before_it() -> None:
    journal = Journal()
    lifespan = combine(journal.lifespan("a"), journal.lifespan("b", failure=LookupError("b")), journal.lifespan("c"))
    with pytest.raises(LookupError):
        async with lifespan(None):
            pytest.fail("started")
    assert journal.lines == ["a up", "a down"]


# ---- the protocol --------------------------------------------------------------------------------------------------


async def test_an_app_alone_is_open_from_startup_to_shutdown() -> None:
    journal = Journal()
    async with asgi_lifespan(journal.around(None)):
        assert journal.lines == ["outer up"]
    assert journal.lines == ["outer up", "outer down"]


async def test_the_inner_app_takes_part_within() -> None:
    """It starts after, stops before, and its state reaches the server."""
    journal = Journal()
    inner = Starlette(lifespan=journal.lifespan("inner", {"key": "value"}))
    async with asgi_lifespan(journal.around(inner)) as state:
        assert state == {"key": "value"}
        assert journal.lines == ["outer up", "inner up"]
    assert journal.lines[2:] == ["inner down", "outer down"]


async def raises_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("only HTTP")


async def raises_after_receiving(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise AssertionError("an unknown scope")


async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def returns_after_startup(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def says_nothing_at_shutdown(scope: Scope, receive: Receive, send: Send) -> None:
    await returns_after_startup(scope, receive, send)
    await receive()


@pytest.mark.parametrize(
    "inner", [raises_at_once, raises_after_receiving, returns_at_once, returns_after_startup, says_nothing_at_shutdown]
)
async def test_what_the_inner_app_leaves_out_is_said_for_it(inner: ASGIApp) -> None:
    journal = Journal()
    async with asgi_lifespan(journal.around(inner)):
        assert journal.lines == ["outer up"]
    assert journal.lines == ["outer up", "outer down"]


async def test_a_failing_start_is_reported_in_words() -> None:
    journal = Journal()
    with pytest.raises(LifespanFailed, match="no broker") as caught:
        async with asgi_lifespan(journal.around(None, failure=LookupError("no broker"))):
            pytest.fail("started")
    assert caught.value.phase == "startup"


async def test_an_inner_app_that_cannot_start_stops_what_is_around_it() -> None:
    journal = Journal()
    inner = Starlette(lifespan=journal.lifespan("inner", failure=LookupError("no database")))
    with pytest.raises(LifespanFailed, match="no database") as caught:
        async with asgi_lifespan(journal.around(inner)):
            pytest.fail("started")
    assert caught.value.phase == "startup"
    assert journal.lines == ["outer up", "outer down"]


async def test_an_inner_app_that_only_says_that_it_cannot_start_is_believed() -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.failed", "message": "not today"})

    with pytest.raises(LifespanFailed, match="not today"):
        async with asgi_lifespan(Journal().around(inner)):
            pytest.fail("started")


async def test_an_inner_app_that_cannot_stop_is_reported_after_the_rest_has_stopped() -> None:
    journal = Journal()

    @asynccontextmanager
    async def stuck(app: Starlette) -> AsyncIterator[None]:
        yield
        raise LookupError("stuck")

    with pytest.raises(LifespanFailed, match="stuck") as caught:
        async with asgi_lifespan(journal.around(Starlette(lifespan=stuck))):
            pass
    assert caught.value.phase == "shutdown"
    assert journal.lines == ["outer up", "outer down"]
