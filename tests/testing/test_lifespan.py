from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from rtsync.testing._lifespan import LifespanFailed, asgi_lifespan
from rtsync.testing._virtual import VIRTUAL_BACKENDS

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def an_app(journal: list[str], *, startup: Exception | None = None, shutdown: Exception | None = None) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            journal.append("up")
            if startup is not None:
                raise startup
            yield {"answer": 42}
            tasks.cancel_scope.cancel()
        if shutdown is not None:
            raise shutdown
        await anyio.sleep(3)
        journal.append("down")

    return Starlette(lifespan=lifespan)


async def test_the_block_runs_between_startup_and_shutdown_with_the_apps_state() -> None:
    journal: list[str] = []
    async with asgi_lifespan(an_app(journal)) as state:
        assert state == {"answer": 42}
        assert journal == ["up"]
    assert journal == ["up", "down"]
    assert anyio.current_time() == 3


async def test_a_failed_startup_is_raised_and_the_block_never_runs() -> None:
    with pytest.raises(LifespanFailed, match=r"(?s)startup failed: .*LookupError: lost") as failed:
        async with asgi_lifespan(an_app([], startup=LookupError("lost")), required=False):
            pytest.fail("started")
    assert failed.value.phase == "startup"


async def test_a_failed_shutdown_is_raised_unless_the_block_raised() -> None:
    with pytest.raises(LifespanFailed, match=r"(?s)shutdown failed: .*LookupError: lost"):
        async with asgi_lifespan(an_app([], shutdown=LookupError("lost"))):
            pass
    with pytest.raises(ZeroDivisionError):
        async with asgi_lifespan(an_app([], shutdown=LookupError("lost"))):
            raise ZeroDivisionError


async def test_an_app_without_lifespan_is_an_error_unless_it_may_do_without() -> None:
    async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("only http")

    with pytest.raises(ValueError, match="only http"):
        async with asgi_lifespan(no_lifespan):
            pytest.fail("started")
    async with asgi_lifespan(no_lifespan, required=False) as state:
        assert state == {}


async def test_a_cancelled_block_still_shuts_the_app_down() -> None:
    journal: list[str] = []
    with anyio.move_on_after(1):
        async with asgi_lifespan(an_app(journal)):
            await anyio.sleep_forever()
    assert journal == ["up", "down"]
    assert anyio.current_time() == 4


async def test_a_startup_that_takes_too_long_can_be_cancelled() -> None:
    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(1) as scope:
        async with asgi_lifespan(stuck):
            pytest.fail("started")
    assert scope.cancelled_caught
    assert anyio.current_time() == 1


async def test_a_shutdown_that_never_ends_is_an_error() -> None:
    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError, match="more than 2 s"):
        async with asgi_lifespan(stuck, timeout=2):
            pass
    assert anyio.current_time() == 2


async def test_an_app_that_fails_meanwhile_is_an_error_at_the_end() -> None:
    async def fragile(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await anyio.sleep(1)
        raise LookupError("lost")

    with pytest.raises(LookupError):
        async with asgi_lifespan(fragile):
            await anyio.sleep(5)
