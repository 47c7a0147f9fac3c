"""
Virtual time, on asyncio and on trio: an hour of sleeping costs what the tasks compute, and no more.

The clock starts at second 0.0 and stands still while any task can run. When none can, it jumps to the very next timer. So
`anyio.current_time()` gives virtual seconds, whatever sleeps or times out is exact, and a program that does the same things
in the same order sees the same times on both loops. `time.time()` and `time.monotonic()` stay real.

What runs in virtual time must wait for nothing outside of it: no sockets, no processes and no threads (`anyio.to_thread`
included). The clock would jump ahead while they are still working, or the run would end as a `Deadlock`.

Tasks that wake at the same instant take turns in an order of their own: by creation for seed 0, and otherwise in an order
drawn from the seed. Neither loop draws on anything else (trio does by default), so a run can be repeated. What an unseeded
`random.Random()` or the order of a set of texts brings in remains the program's own affair.

A program leaves the same trace on both loops as long as unrelated timers do not meet at the very same instant. Where they do,
the loops may part: asyncio takes more turns to leave a task group, and a sleep that is cancelled just as it ends counts as
cancelled on trio only. So draw latencies and intervals from seeded random numbers rather than using round ones throughout.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableSequence
from contextvars import Context
from functools import partial
from itertools import count
from math import inf
from random import Random
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Protocol, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

import anyio

if TYPE_CHECKING:
    from trio.lowlevel import Task as TrioTask

__all__ = ["VIRTUAL_BACKENDS", "Deadlock", "Runaway", "VirtualTimeError", "run_virtual", "settle"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Passes of the loop at one instant after which it will hardly move on: a thousand tasks that all take a thousand turns.
_MAX_PASSES = 1_000_000
# Virtual seconds for the tasks of a stopped run to clean up.
_GRACE_SECONDS = 60.0
# A fixture's tests have no limit of their own. A leaked `while True: await sleep(1)` gets there within a second or two.
_FIXTURE_LIMIT = 86_400.0
_SHOWN_TASKS = 20


class VirtualTimeError(RuntimeError):
    """A run in virtual time cannot go on."""


class Deadlock(VirtualTimeError):
    """Every task waits, and no timer is set that could wake one."""


class Runaway(VirtualTimeError):
    """The run went past its limit of virtual seconds, or took a million turns without time moving on."""


def run_virtual(
    async_fn: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    backend: Literal["asyncio", "trio"],
    seed: int = 0,
    limit: float | None = None,
) -> T:
    """
    Run an async function to its end in virtual time and return its result.

    Args:
        async_fn: Called with `args`, as by `anyio.run`.
        backend: The event loop.
        seed: Which order tasks take that wake at the same instant. 0 is the order in which they were created; every other
            seed another order. The same seed gives the same run.
        limit: Virtual seconds after which the run is stopped. ``None`` means never.

    Raises:
        Deadlock: If nothing can run and no timer is set. Says where each task waits.
        Runaway: If the run passes `limit`, or time stands still for a million turns of the loop. In either case the run is
            cancelled first, and has 60 more virtual seconds to clean up.
        RuntimeError: If an event loop is running in this thread already.
    """
    time = _Time(inf if limit is None else limit)
    options: dict[str, Any]
    if backend == "asyncio":
        options = {"loop_factory": partial(_VirtualLoop, time, seed)}
    else:
        options = _trio_options(_VirtualClock(time, seed))

    async def main() -> T:
        with anyio.CancelScope() as time.scope:
            result = await async_fn(*args)
            if time.problem is None:
                return result
        assert time.problem is not None
        raise time.problem

    try:
        return anyio.run(main, backend=backend, backend_options=options)
    except Exception as error:
        # Whatever else a stopped run ends with, trio's internal error included, is only a consequence.
        if time.problem is None or error is time.problem:
            raise
        raise time.problem from error


async def settle() -> None:
    """
    Wait until every other task waits for something that only time, or this task, can bring. Virtual time does not move.

    Works on the ordinary loops too. (`anyio.wait_all_tasks_blocked` does the same on trio, but on asyncio it may sleep.)
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if isinstance(loop, _VirtualLoop):
        await loop.settled()
    else:
        await anyio.wait_all_tasks_blocked()


# ---- what both loops share -----------------------------------------------------------------------------------------


class _Host(Protocol):
    """What `_Time` asks of an event loop."""

    def living(self) -> Iterable[tuple[str, object]]:
        """Name and coroutine of each task of the program."""

    def interrupt(self, problem: VirtualTimeError, *, everyone: bool) -> None:
        """Raise the problem in the main task, or through all shields in every task that waits."""


class _Time:
    """The present moment, and when to give up."""

    def __init__(self, limit: float) -> None:
        self._limit = self._allowed = limit
        self.restart()

    def restart(self) -> None:
        self.now = 0.0
        self.scope: anyio.CancelScope | None = None
        self.problem: VirtualTimeError | None = None
        self._allowed = self._limit
        self._stops = self._passes = 0

    def jump(self, deadline: float, host: _Host) -> None:
        """Go to the next timer, now that nothing can run."""
        if deadline == inf:
            waiting = _describe(host.living())
            self._stop(Deadlock(f"nothing can run and no timer is set at virtual second {self.now:g}; {waiting}"), host)
        elif deadline > self._allowed:
            text = f"stopped at virtual second {self.now:g}: the next timer, at {deadline:g}, is past {self._allowed:g}"
            self._stop(Runaway(text), host)
        else:
            self.now = deadline
            self._passes = 0

    def count_pass(self, host: _Host) -> None:
        """Note that the loop went round without jumping."""
        self._passes += 1
        if self._passes > _MAX_PASSES:
            waiting = _describe(host.living())
            self._stop(Runaway(f"{_MAX_PASSES:,} turns without leaving virtual second {self.now:g}; {waiting}"), host)

    def _stop(self, problem: VirtualTimeError, host: _Host) -> None:
        """Insist a little more each time: cancel, break through shields, give up the loop."""
        self.problem = self.problem or problem
        self._allowed = self.now + _GRACE_SECONDS
        self._passes = 0
        self._stops += 1
        if self._stops == 1 and self.scope is not None:
            self.scope.cancel()
        elif self._stops <= 2:
            host.interrupt(self.problem, everyone=self._stops == 2)
        else:
            raise self.problem


class _Turns:
    """Whose turn it is among the tasks that can run at the same instant. Must see new tasks in the order of creation."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = count()
        self._turns: WeakKeyDictionary[object, int] = WeakKeyDictionary()

    def of(self, task: object) -> int:
        turn = self._turns.get(task)
        if turn is None:
            number = next(self._count)
            turn = self._turns[task] = number if self._seed == 0 else hash((self._seed, number))
        return turn


def _describe(tasks: Iterable[tuple[str, object]]) -> str:
    lines = [f"\n  {name}: {_position_of(coroutine)}" for name, coroutine in tasks]
    shown = "".join(lines[:_SHOWN_TASKS])
    return f"{len(lines)} tasks:{shown}" + ("\n  ..." if len(lines) > _SHOWN_TASKS else "")


def _position_of(coroutine: object) -> str:
    """Name the innermost line that is not the event loop's own."""
    frames = list(_frames_of(coroutine))
    if not frames:
        return "not started or finished"
    own = [frame for frame in frames if str(frame.f_globals.get("__name__")).partition(".")[0] not in _LOOP_PACKAGES]
    frame = (own or frames)[-1]
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


_LOOP_PACKAGES = frozenset({"anyio", "asyncio", "outcome", "trio"})


def _frames_of(awaitable: object) -> Iterator[FrameType]:
    while awaitable is not None:
        frames = (getattr(awaitable, name, None) for name in ("cr_frame", "gi_frame", "ag_frame"))
        yield from (frame for frame in frames if frame is not None)
        inner = (getattr(awaitable, name, None) for name in ("cr_await", "gi_yieldfrom", "ag_await"))
        awaitable = next((value for value in inner if value is not None), None)


# ---- asyncio -------------------------------------------------------------------------------------------------------


class _VirtualLoop(asyncio.BaseEventLoop):
    """
    An asyncio loop without I/O, on virtual time.

    It replaces one pass of the standard loop. A selector that jumps would need less code, but the standard pass also runs
    timers up to a nanosecond early and leaves equal ones in heap order: two ways to part from what happens on trio.
    """

    # Kept by BaseEventLoop.
    _closed: bool
    _ready: deque[asyncio.Handle]
    _timer_cancelled_count: int
    _stopping: bool

    def __init__(self, time: _Time, seed: int) -> None:
        super().__init__()
        self._virtual = time
        self._turns = _Turns(seed)
        self._settling: list[asyncio.Future[None]] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []  # heap; of equal times, the first set comes first
        self._ties = count()

    def time(self) -> float:
        return self._virtual.now

    async def settled(self) -> None:
        self._settling.append(waiter := self.create_future())
        await waiter

    def living(self) -> Iterable[tuple[str, object]]:
        return [(task.get_name(), task.get_coro()) for task in sorted(asyncio.all_tasks(self), key=self._turns.of)]

    def interrupt(self, problem: VirtualTimeError, *, everyone: bool) -> None:
        # Whoever runs the loop cancels all tasks when it raises, and asyncio's own cancellation knows no shields.
        raise problem

    # ---- what is to be done, without the checks for other threads and debugging that make half of the cost

    def create_task(self, *args: Any, **options: Any) -> asyncio.Task[Any]:
        task = super().create_task(*args, **options)
        self._turns.of(task)
        return task

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.Handle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._virtual.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]
        heapq.heappush(self._timers, (when, next(self._ties), timer))
        return timer

    # ---- doing it

    def _run_once(self) -> None:
        """Run everything that is ready now. What that makes ready is left for the next pass, as on every asyncio loop."""
        ready, timers, time = self._ready, self._timers, self._virtual
        if not ready and not self._stopping:
            self._prune_timers()
            self._wait()
        while timers and timers[0][0] <= time.now:
            ready.append(self._pop_timer())
        if len(ready) == 1:  # Most often by far, in a program whose times do not meet.
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        else:
            self._run_batch([ready.popleft() for _ in range(len(ready))])
        time.count_pass(self)

    def _run_batch(self, batch: list[asyncio.Handle]) -> None:
        batch.sort(key=self._turn_of)
        batch.reverse()
        try:
            while batch:
                handle = batch.pop()
                if not handle.cancelled():
                    handle._run()
        finally:  # A KeyboardInterrupt may come through.
            self._ready.extendleft(batch)

    def _turn_of(self, handle: asyncio.Handle) -> float:
        """Plain callbacks first, in the order of their calls; then one step of each task, in the order of their turns."""
        task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        return self._turns.of(task) if isinstance(task, asyncio.Task) else -inf

    def _wait(self) -> None:
        if not self._settling:
            self._virtual.jump(self._timers[0][0] if self._timers else inf, self)
            return
        for waiter in self._settling:
            if not waiter.done():
                waiter.set_result(None)
        self._settling.clear()

    def _prune_timers(self) -> None:
        """Forget cancelled timers, so that the first one tells when something happens next."""
        if self._timer_cancelled_count > 100 and self._timer_cancelled_count * 2 > len(self._timers):
            for _, _, timer in self._timers:
                timer._scheduled = not timer.cancelled()  # type: ignore[attr-defined]
            self._timers[:] = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._timer_cancelled_count = 0
        while self._timers and self._timers[0][2].cancelled():
            self._pop_timer()

    def _pop_timer(self) -> asyncio.TimerHandle:
        *_, timer = heapq.heappop(self._timers)
        timer._scheduled = False  # type: ignore[attr-defined]
        if timer.cancelled():
            self._timer_cancelled_count -= 1
        return timer

    def _write_to_self(self) -> None:
        """Called to wake a loop that sleeps in its selector. This one never sleeps."""


# ---- trio ----------------------------------------------------------------------------------------------------------


class _VirtualClock:
    """
    A trio clock that jumps exactly to the next deadline.

    `trio.testing.MockClock` goes there by a difference, which may miss by a rounding error; without a deadline it spins for
    ever; and it cannot be subclassed. So this class merely passes for it. It needs trio only when it is started.
    """

    def __init__(self, time: _Time, seed: int) -> None:
        self._time = time
        self._seed = seed
        self._turns = _Turns(seed)
        self._deadline = inf

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        from trio.testing import MockClock

        return MockClock

    def start_clock(self) -> None:
        from trio._core._run import GLOBAL_RUN_CONTEXT

        self._time.restart()
        self._turns = _Turns(self._seed)
        GLOBAL_RUN_CONTEXT.runner.clock_autojump_threshold = 0.0

    def current_time(self) -> float:
        return self._time.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self._deadline = deadline
        return 0.0 if deadline <= self._time.now else inf

    def _autojump(self) -> None:
        self._time.jump(self._deadline, self)

    def count_pass(self) -> None:
        self._time.count_pass(self)

    def order(self, batch: MutableSequence[TrioTask]) -> None:
        """Sort a batch of tasks, which stand in the order of creation, for a loop that takes them from the end."""
        batch[:] = sorted(batch, key=lambda task: -1 if _is_internal(task) else self._turns.of(task))
        batch.reverse()

    def living(self) -> Iterable[tuple[str, object]]:
        return [(task.name, task.coro) for task in _trio_tasks()]

    def interrupt(self, problem: VirtualTimeError, *, everyone: bool) -> None:
        from trio._core._run import GLOBAL_RUN_CONTEXT

        def raise_problem() -> NoReturn:
            raise problem

        # As trio delivers a KeyboardInterrupt.
        main = GLOBAL_RUN_CONTEXT.runner.main_task
        for task in _trio_tasks():
            if (everyone or task is main) and task._abort_func is not None:
                task._attempt_abort(raise_problem)


def _trio_tasks() -> list[TrioTask]:
    from trio.lowlevel import current_root_task

    root = current_root_task()
    tasks = [] if root is None else [root]
    for task in tasks:
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        tasks.extend(sorted(children, key=lambda child: child._counter))
    return [task for task in tasks if not _is_internal(task)]


def _is_internal(task: TrioTask) -> bool:
    return task.name.startswith("<")  # <init> and <TrioToken.run_sync_soon task>


class _TrioRandom(Random):
    """Stands in for trio's source of chance while runs in virtual time are under way. Other runs are none the wiser."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        from trio._core._run import GLOBAL_RUN_CONTEXT

        clock: object = GLOBAL_RUN_CONTEXT.runner.clock
        if type(clock) is _VirtualClock:
            clock.order(x)
        else:
            super().shuffle(x)


class _TrioDials:
    """
    A trio instrument that lets the clock decide who runs first, for as long as the run lasts.

    Both of trio's dials are global: the hook that Hypothesis uses, which sorts a batch by creation before it is shuffled,
    and the source of chance for that shuffle. The first run in virtual time turns them, the last one turns them back.
    """

    _lock: ClassVar = threading.Lock()
    _runs: ClassVar[int] = 0
    _before: ClassVar[dict[str, object]] = {}

    def __init__(self, clock: _VirtualClock) -> None:
        self._clock = clock

    def before_io_wait(self, timeout: float) -> None:
        self._clock.count_pass()

    def before_run(self) -> None:
        from trio._core import _run

        with self._lock:
            if _TrioDials._runs == 0:
                mine = {"_ALLOW_DETERMINISTIC_SCHEDULING": True, "_r": _TrioRandom()}
                _TrioDials._before = {name: vars(_run)[name] for name in mine}
                vars(_run).update(mine)
            _TrioDials._runs += 1

    def after_run(self) -> None:
        from trio._core import _run

        with self._lock:
            _TrioDials._runs -= 1
            if _TrioDials._runs == 0:
                vars(_run).update(_TrioDials._before)


def _trio_options(clock: _VirtualClock) -> dict[str, Any]:
    return {"clock": clock, "instruments": [_TrioDials(clock)]}


# ---- pytest --------------------------------------------------------------------------------------------------------


def _fixture_loop() -> _VirtualLoop:
    return _VirtualLoop(_Time(_FIXTURE_LIMIT), seed=0)


VIRTUAL_BACKENDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("asyncio", {"loop_factory": _fixture_loop}),
    ("trio", _trio_options(_VirtualClock(_Time(_FIXTURE_LIMIT), seed=0))),
)
"""
Parameters for an ``anyio_backend`` fixture, under which ordinary ``@pytest.mark.anyio`` tests run in virtual time::

    @pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param

Each test starts at second 0.0, with seed 0 and a limit of one virtual day. Async fixtures run in virtual time as well; those of
a wider scope than the test keep their loop, and so its clock, running on.
"""
