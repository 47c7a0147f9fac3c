"""How commands end that would otherwise go on for ever."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from rtsync._interrupt import until_interrupted

pytestmark = pytest.mark.anyio


async def test_work_that_ends_gives_its_result() -> None:
    async def work() -> str:
        return "done"

    assert await until_interrupted(work) == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_the_work_which_cleans_up(number: signal.Signals) -> None:
    cleaned = []

    async def work() -> str:
        try:
            os.kill(os.getpid(), number)
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)
        return "never"

    with anyio.fail_after(10):
        assert await until_interrupted(work) is None
    assert cleaned


async def test_errors_come_out_bare() -> None:
    """Also when they passed through task groups, and when several tasks failed in the same way."""

    async def fail() -> None:
        raise BrokenPipeError("nobody reads")

    async def work() -> None:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            outer.start_soon(fail)
            inner.start_soon(fail)
            inner.start_soon(fail)

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        await until_interrupted(work)


async def test_different_errors_stay_together() -> None:
    async def work() -> None:
        raise ExceptionGroup("both", [ValueError("one"), KeyError("other")])

    with pytest.raises(ExceptionGroup, match="both"):
        await until_interrupted(work)
