"""Without a lifespan: nothing starts unless it was asked to, and then with the first request."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from rtsync import RTSync, Settings, public
from rtsync.client import connect
from rtsync.doors import Autostart, Starter
from rtsync.testing import VIRTUAL_BACKENDS, asgi_connector

AUTOSTART = Settings(autostart=True)


def realtime(settings: Settings = AUTOSTART) -> RTSync:
    rt = RTSync(settings)
    rt.state("prices:{symbol}", access=public)
    return rt


async def receive_once(rt: RTSync) -> None:
    async with (
        asgi_connector(rt) as server,
        connect("ws://host/ws", connector=server) as client,
        client.subscribe("prices:A") as prices,
    ):
        assert (await anext(prices)).value == {}  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_the_first_request_starts_and_later_ones_find_it_running() -> None:
    rt = realtime()
    await receive_once(rt)
    hub = rt.hub
    await receive_once(rt)
    assert rt.hub is hub


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_ends_with_the_event_loop_and_starts_anew_on_the_next(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    rt = realtime()
    for _ in range(2):
        anyio.run(receive_once, rt, backend=backend)
        with pytest.raises(Exception, match="not running"):
            rt.hub  # noqa: B018
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.anyio
async def test_a_lifespan_meanwhile_shares_it() -> None:
    rt = realtime()
    await receive_once(rt)
    hub = rt.hub
    async with rt.lifespan():
        assert rt.hub is hub
    assert rt.hub is hub


class Opening:
    """Fails as long as `failure` is set, after `gate`."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.gate = anyio.Event()
        self.starts = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        self.starts += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        yield "node"


@pytest.mark.anyio
async def test_requests_that_come_together_share_one_start() -> None:
    opening = Opening()
    starter = Starter(opening.open)
    announced: list[str] = []
    autostart = Autostart(starter, 60, lambda: announced.append("start"))
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(autostart.ensure)
        await anyio.wait_all_tasks_blocked()
        opening.gate.set()
    assert (opening.starts, starter.node, announced) == (1, "node", ["start"])


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
async def test_a_start_that_hangs_does_not_hold_requests_for_ever() -> None:
    """Those that come in the first ten seconds wait for them to pass; later ones not at all."""
    opening = Opening()
    starter = Starter(opening.open)
    autostart = Autostart(starter, 10.0)
    for waited in (10.0, 10.0):
        await autostart.ensure()
        assert starter.node is None
        assert anyio.current_time() == waited
    opening.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert starter.node == "node"


@pytest.mark.anyio
async def test_a_failed_start_is_logged_and_tried_again_by_the_next_request(caplog: pytest.LogCaptureFixture) -> None:
    opening = Opening()
    opening.gate.set()
    opening.failure = LookupError("no broker")
    starter = Starter(opening.open)
    autostart = Autostart(starter, 60)
    await autostart.ensure()
    assert starter.node is None
    assert "could not be started" in caplog.text
    assert "no broker" in caplog.text
    opening.failure = None
    await autostart.ensure()
    assert starter.node == "node"
