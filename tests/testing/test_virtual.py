from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from rtsync.testing._virtual import VIRTUAL_BACKENDS, Deadlock, Runaway, VirtualTimeError, run_virtual, settle

Backend = Literal["asyncio", "trio"]
Trace = list[tuple[float, object]]

both_loops = pytest.mark.parametrize("backend", ["asyncio", "trio"])


async def jittered_program(seed: int) -> Trace:
    """Tasks that sleep, pass messages, hold a lock, wait for events and give up waiting, at times that never meet by chance."""
    trace: Trace = []
    chance = random.Random(seed)
    send, receive = anyio.create_memory_object_stream[int](2)
    lock = anyio.Lock()
    event = anyio.Event()

    def note(what: object) -> None:
        trace.append((anyio.current_time(), what))

    async def produce(number: int) -> None:
        for turn in range(10):
            await anyio.sleep(chance.random())
            with anyio.move_on_after(chance.random()) as scope:
                await send.send(10 * number + turn)
            note(("sent", number, turn, scope.cancelled_caught))

    async def consume(number: int) -> None:
        while True:
            item = await receive.receive()
            async with lock:
                await anyio.sleep(chance.random() / 5)
            note(("received", number, item))
            if item % 7 == 0:
                event.set()

    async def wait(number: int) -> None:
        with anyio.move_on_after(5 * chance.random()):
            await event.wait()
        note(("waited", number))

    with send, receive:
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(produce, number)
                tasks.start_soon(consume, number)
                tasks.start_soon(wait, number)
            await anyio.sleep(20)
            tasks.cancel_scope.cancel()
    return trace


async def sleepers_that_wake_together(tasks: int) -> list[int]:
    order: list[int] = []

    async def sleeper(number: int) -> None:
        await anyio.sleep(1)
        order.append(number)

    async with anyio.create_task_group() as group:
        for number in range(tasks):
            group.start_soon(sleeper, number)
    return order


@both_loops
def test_an_hour_of_sleep_takes_no_time_and_is_exact(backend: Backend) -> None:
    async def program() -> list[float]:
        times = [anyio.current_time()]
        for _ in range(3):
            await anyio.sleep(1200.1)
            times.append(anyio.current_time())
        return times

    before = time.perf_counter()
    assert run_virtual(program, backend=backend) == [0.0, 1200.1, 1200.1 + 1200.1, 1200.1 + 1200.1 + 1200.1]
    assert time.perf_counter() - before < 5


@both_loops
def test_arguments_results_and_errors_pass_through(backend: Backend) -> None:
    async def divide(a: int, b: int) -> float:
        await checkpoint()
        return a / b

    assert run_virtual(divide, 6, 4, backend=backend) == 1.5
    with pytest.raises(ZeroDivisionError):
        run_virtual(divide, 1, 0, backend=backend)


@given(seed=st.integers(0, 10**9))
def test_jittered_programs_leave_the_same_trace_on_both_loops(seed: int) -> None:
    """Times, order and outcome are the same to the last bit, and the same again on a second run."""
    trace = run_virtual(jittered_program, seed, backend="asyncio")
    assert len(trace) > 60
    assert trace == run_virtual(jittered_program, seed, backend="trio")
    assert trace == run_virtual(jittered_program, seed, backend="asyncio")


def test_tasks_that_wake_together_run_in_the_order_of_the_seed_on_both_loops() -> None:
    orders = [run_virtual(sleepers_that_wake_together, 8, backend="asyncio", seed=seed) for seed in range(20)]
    assert orders[0] == list(range(8))
    assert len({tuple(order) for order in orders}) > 15
    assert orders == [run_virtual(sleepers_that_wake_together, 8, backend="trio", seed=seed) for seed in range(20)]


def test_timers_a_rounding_error_apart_stay_apart_on_both_loops() -> None:
    async def program() -> list[str]:
        order: list[str] = []

        async def sleeper(name: str, *delays: float) -> None:
            for delay in delays:
                await anyio.sleep(delay)
            order.append(name)

        assert 0.1 + 0.1 + 0.1 > 0.3
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sleeper, "later", 0.1, 0.1, 0.1)
            tasks.start_soon(sleeper, "sooner", 0.3)
        return order

    assert run_virtual(program, backend="asyncio") == run_virtual(program, backend="trio") == ["sooner", "later"]


@both_loops
def test_a_deadlock_is_an_error_that_says_where_tasks_wait(backend: Backend) -> None:
    async def wait_for_nothing() -> None:
        await anyio.Event().wait()

    async def program() -> None:
        await anyio.sleep(3)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_nothing, name="the waiting one")

    with pytest.raises(
        Deadlock, match=r"virtual second 3; 2 tasks:\n.*\n  the waiting one: .*test_virtual.py.* in wait_for_nothing"
    ):
        run_virtual(program, backend=backend)


@both_loops
def test_waiting_for_ever_counts_as_a_deadlock(backend: Backend) -> None:
    with pytest.raises(Deadlock):
        run_virtual(anyio.sleep_forever, backend=backend)


@both_loops
def test_a_stopped_run_cleans_up_in_virtual_time(backend: Backend) -> None:
    cleaned: list[float] = []

    async def program() -> None:
        try:
            await anyio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
                cleaned.append(anyio.current_time())

    with pytest.raises(Deadlock):
        run_virtual(program, backend=backend)
    assert cleaned == [5.0]


@both_loops
def test_a_deadlock_behind_a_shield_is_broken_up(backend: Backend) -> None:
    async def wait_shielded() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.Event().wait()

    async def program() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_shielded)
            await wait_shielded()

    with pytest.raises(Deadlock):
        run_virtual(program, backend=backend)


@both_loops
def test_the_deadlock_is_reported_whatever_the_program_makes_of_its_cancellation(backend: Backend) -> None:
    async def program() -> str:
        try:
            await anyio.Event().wait()
        finally:
            raise LookupError("lost")

    with pytest.raises(Deadlock) as caught:
        run_virtual(program, backend=backend)
    assert isinstance(caught.value.__cause__, LookupError)


@both_loops
def test_a_run_past_its_limit_is_stopped(backend: Backend) -> None:
    async def program() -> None:
        for _ in range(1000):
            await anyio.sleep(0.75)

    with pytest.raises(Runaway, match=r"stopped at virtual second 99.75: the next timer, at 100.5, is past 100"):
        run_virtual(program, backend=backend, limit=100)


@both_loops
def test_a_run_in_which_time_stands_still_is_stopped(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def program() -> None:
        while True:
            await checkpoint()

    monkeypatch.setattr("rtsync.testing._virtual._MAX_PASSES", 1000)
    with pytest.raises(Runaway, match="1,000 turns without leaving virtual second 0"):
        run_virtual(program, backend=backend)


@both_loops
def test_cancelled_timers_are_forgotten(backend: Backend) -> None:
    async def program() -> None:
        for _ in range(5000):
            with anyio.move_on_after(1000):
                await anyio.sleep(0.001)
        assert anyio.current_time() == pytest.approx(5)

    run_virtual(program, backend=backend)


@both_loops
def test_settle_lets_everything_run_that_can_and_no_time_pass(backend: Backend) -> None:
    async def program() -> None:
        steps = 0

        async def busy() -> None:
            nonlocal steps
            for _ in range(50):
                await checkpoint()
                steps += 1
            await anyio.sleep(1)
            steps = 1000

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(busy)
            await settle()
            assert (steps, anyio.current_time()) == (50, 0.0)

    run_virtual(program, backend=backend)


def test_trio_is_left_as_it_was() -> None:
    from trio._core import _run

    before = dict(vars(_run))
    run_virtual(sleepers_that_wake_together, 3, backend="trio")
    with pytest.raises(VirtualTimeError):
        run_virtual(anyio.sleep_forever, backend="trio")
    changed = {name for name, value in vars(_run).items() if value is not before.get(name)}
    assert not changed


def test_runs_in_two_threads_do_not_disturb_each_other() -> None:
    import trio
    from trio._core import _run

    before = _run._r
    results: list[Any] = []

    async def virtual() -> None:
        results.append(await sleepers_that_wake_together(5))

    async def real() -> None:
        await trio.to_thread.run_sync(lambda: run_virtual(virtual, backend="trio"))
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(trio.sleep, 0)

    trio.run(real)
    assert results == [[0, 1, 2, 3, 4]]
    assert _run._r is before


# ---- the pytest fixture --------------------------------------------------------------------------------------------


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.anyio
@pytest.mark.parametrize("attempt", [1, 2])
async def test_an_ordinary_async_test_runs_in_virtual_time_from_zero(attempt: int) -> None:
    before = time.perf_counter()
    assert anyio.current_time() < 1
    await anyio.sleep(3600)
    assert 3600 <= anyio.current_time() < 3601
    assert time.perf_counter() - before < 5


@pytest.fixture
async def ticking() -> Any:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await anyio.sleep(1)
            ticks.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        yield ticks
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_async_fixtures_share_the_virtual_clock(ticking: list[float]) -> None:
    await anyio.sleep(10.5)
    assert ticking == [float(second) for second in range(1, 11)]


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_a_deadlocked_or_runaway_test_fails_and_the_next_one_runs(name: str, tmp_path: Path) -> None:
    source = f"""
import anyio, pytest
from rtsync.testing._virtual import VIRTUAL_BACKENDS
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return dict((name, (name, options)) for name, options in VIRTUAL_BACKENDS)[{name!r}]

async def test_deadlock(): await anyio.Event().wait()
async def test_deadlock_in_a_child():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.Event().wait)
async def test_runaway():
    while True: await anyio.sleep(1000)
async def test_good(): await anyio.sleep(1)
"""
    (tmp_path / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert "3 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    assert result.stdout.count("Deadlock: nothing can run") >= 2
    assert "Runaway: stopped at virtual second 86000" in result.stdout
