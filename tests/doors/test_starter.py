"""Start once, stop when the last has left, start again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from rtsync.core import UsageError
from rtsync.doors import Starter

pytestmark = pytest.mark.anyio


class Opening:
    """Counts starts and stops; `gate` holds a start up, `failure` lets it fail."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.gate: anyio.Event | None = None
        self.failure: Exception | None = None
        self.starter = Starter(self.open)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        self.journal.append("start")
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        try:
            async with anyio.create_task_group():
                yield "node"
        finally:
            self.journal.append("stop")


async def test_several_doors_share_one_start() -> None:
    opening = Opening()
    starter = opening.starter
    assert starter.node is None
    async with starter.held() as first:
        async with starter.held() as second:
            assert first is second is starter.node is starter.node_here
        assert starter.node == "node"
    assert starter.node is None
    assert opening.journal == ["start", "stop"]


async def test_it_can_be_started_again() -> None:
    opening = Opening()
    for _ in range(3):
        async with opening.starter.held():
            pass
    assert opening.journal == ["start", "stop"] * 3


async def test_a_door_that_comes_during_the_start_waits_for_it() -> None:
    opening = Opening()
    opening.gate = anyio.Event()
    entered: list[str] = []

    async def enter(name: str) -> None:
        async with opening.starter.held():
            entered.append(name)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter, "one")
        tasks.start_soon(enter, "two")
        await anyio.wait_all_tasks_blocked()
        assert entered == []
        assert opening.starter.node is None
        opening.gate.set()
    assert sorted(entered) == ["one", "two"]
    assert opening.journal == ["start", "stop"]


async def test_whoever_started_waits_for_the_others_at_the_end() -> None:
    opening = Opening()
    other_entered, other_may_leave = anyio.Event(), anyio.Event()

    async def other() -> None:
        async with opening.starter.held():
            other_entered.set()
            await other_may_leave.wait()

    async with anyio.create_task_group() as tasks:

        async def owner() -> None:
            async with opening.starter.held():
                tasks.start_soon(other)
                await other_entered.wait()

        tasks.start_soon(owner)
        await other_entered.wait()
        await anyio.wait_all_tasks_blocked()
        assert opening.starter.node == "node"
        other_may_leave.set()
    assert opening.journal == ["start", "stop"]


async def test_a_cancelled_owner_waits_for_nobody() -> None:
    opening = Opening()
    async with anyio.create_task_group() as tasks:
        owned = anyio.Event()
        scope = anyio.CancelScope()

        async def owner() -> None:
            with scope:
                async with opening.starter.held():
                    owned.set()
                    await anyio.sleep_forever()

        async def other() -> None:
            async with opening.starter.held():
                await anyio.sleep_forever()

        tasks.start_soon(owner)
        await owned.wait()
        tasks.start_soon(other)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert opening.journal == ["start", "stop"]
        async with opening.starter.held():
            assert opening.journal == ["start", "stop", "start"]
        tasks.cancel_scope.cancel()


async def test_a_failed_start_fails_every_door_and_leaves_nothing() -> None:
    opening = Opening()
    opening.gate, opening.failure = anyio.Event(), LookupError("no backend")
    errors: list[Exception] = []

    async def enter() -> None:
        try:
            async with opening.starter.held():
                pytest.fail("started")
        except LookupError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
        await anyio.wait_all_tasks_blocked()
        opening.gate.set()
    assert len(errors) == 2
    opening.failure = None
    async with opening.starter.held() as node:
        assert node == "node"


async def test_errors_of_the_block_come_out_bare() -> None:
    """The task group inside would wrap them; a group that the block itself raises stays what it is."""
    starter = Opening().starter
    with pytest.raises(ZeroDivisionError):
        async with starter.held(), starter.held():
            raise ZeroDivisionError
    own = ExceptionGroup("own", [ValueError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with starter.held():
            raise own
    assert caught.value is own


def test_it_serves_one_event_loop_after_the_other() -> None:
    opening = Opening()

    async def once() -> None:
        async with opening.starter.held():
            await checkpoint()

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(once, backend=backend)
    assert opening.journal == ["start", "stop"] * 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_second_event_loop_at_the_same_time_is_refused() -> None:
    opening = Opening()
    elsewhere: list[object] = []

    async def other_loop() -> None:
        elsewhere.append(opening.starter.node_here)
        with pytest.raises(UsageError, match="another event loop"):
            async with opening.starter.held():
                pytest.fail("started")

    async with opening.starter.held():
        await anyio.to_thread.run_sync(anyio.run, other_loop)
        assert opening.starter.node_here == "node"
    assert elsewhere == [None]


def test_a_loop_that_was_closed_without_an_end_does_not_stand_in_the_way() -> None:
    """As some test clients do."""
    opening = Opening()
    loop = asyncio.new_event_loop()
    held = opening.starter.held()
    loop.run_until_complete(held.__aenter__())
    loop.close()

    async def again() -> None:
        async with opening.starter.held():
            assert opening.journal[-1] == "start"

    anyio.run(again)
    assert opening.journal.count("start") == 2
