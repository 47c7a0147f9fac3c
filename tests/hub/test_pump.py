"""One task serves every session, and none of them waits for another."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import count
from random import Random
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from starlette.websockets import WebSocketDisconnect

from rtsync.core import Code, frames
from rtsync.hub._session import DEAD, IDLE
from rtsync.testing import VIRTUAL_BACKENDS, run_virtual, settle
from tests.hub._fleet import Send, Ship, fleet

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def prompt(ship: Ship, number: int) -> None:
    """A send of a server that neither blocks nor yields."""


async def yielding(ship: Ship, number: int) -> None:
    await checkpoint()


async def blocked(ship: Ship, number: int) -> None:
    await anyio.sleep_forever()


class Gate:
    """A send that waits until it is opened, and notes when it was called, returned and cancelled."""

    def __init__(self, *, shield: bool = False) -> None:
        self.open = anyio.Event()
        self.called: list[float] = []
        self.cancelled: list[float] = []
        self._shield = shield

    async def __call__(self, ship: Ship, number: int) -> None:
        self.called.append(anyio.current_time())
        try:
            with anyio.CancelScope(shield=self._shield):
                await self.open.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(anyio.current_time())
            raise


class Log:
    """A prompt send that notes when."""

    def __init__(self) -> None:
        self.times: list[float] = []

    async def __call__(self, ship: Ship, number: int) -> None:
        self.times.append(anyio.current_time())


PATIENCE = pytest.approx(0.015, abs=0.006)
"""When a lane stuck since second 0 has been replaced: the watch looks every 10 ms."""


# ---- nothing is lost


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_thousands_of_sessions_of_all_kinds_get_the_last_update(backend: Any, seed: int) -> None:
    """Slow, stuck and failing sends among prompt ones: no wake-up is lost, no session is flushed twice at a time."""
    random = Random(seed)

    async def slow(ship: Ship, number: int) -> None:
        await anyio.sleep(random.random() * 0.02)

    async def fickle(ship: Ship, number: int) -> None:
        await anyio.sleep(random.choice((0, 0, 0, 0.03)))

    async def failing(ship: Ship, number: int) -> None:
        await checkpoint()
        if random.random() < 0.1:
            raise OSError

    kinds = [(prompt, 1500), (yielding, 400), (slow, 40), (fickle, 30), (blocked, 15), (failing, 20)]

    async def run() -> None:
        async with fleet() as sea:
            sends = [send for send, number in kinds for _ in range(number)]
            random.shuffle(sends)
            for send in sends:
                sea.join(send)
            for turn in range(60):
                ships = [ship for ship in sea.ships if ship.state is not DEAD]
                sea.publish(*random.sample(ships, len(ships) // 2))
                if turn == 40:
                    for ship in ships:
                        if ship.send_as is blocked:
                            ship.end(Code.SLOW)
                await anyio.sleep(random.choice((0, 0, 0.001, 0.01)))
            sea.publish()
            await anyio.sleep(2)
            alive = [ship for ship in sea.ships if ship.state is not DEAD]
            assert len(alive) >= 1970
            assert {ship.seen for ship in alive} == {sea.channel.offset}
            assert {ship.state for ship in alive} == {IDLE}
            assert all(ship.ends == (ship.state is DEAD) for ship in sea.ships)
            assert not sea.pump.busy
            assert sea.pump.lanes <= 1 + 40 + 30, "no more tasks than sessions that have been slow"

    run_virtual(run, backend=backend, seed=seed, limit=60)


async def test_update_during_a_send_is_sent_after_it() -> None:
    """What moved while a session was being flushed is what it is flushed again for."""
    async with fleet() as sea:
        gate = Gate()
        (ship,) = sea.join(gate)
        sea.publish()
        await settle()
        sea.publish()
        sea.publish()
        gate.open.set()
        await settle()
        assert (ship.seen, len(gate.called)) == (3, 2), "two updates travelled as one"


# ---- a session that blocks


async def test_lane_stuck_for_ten_milliseconds_is_replaced() -> None:
    """Whoever queues behind a blocked send waits 10 ms once, and nobody waits again."""
    async with fleet() as sea:
        sea.join(blocked)
        log = Log()
        sea.join(log)
        sea.publish()
        await anyio.sleep(1)
        sea.publish()
        await anyio.sleep(1)
        assert log.times == [PATIENCE, 1.0]
        assert sea.pump.lanes == 2


async def test_blocked_send_is_noticed_after_a_quiet_time() -> None:
    """The watch sleeps while there is nothing to send, and wakes with the lane."""
    async with fleet() as sea:
        log = Log()
        sea.join(blocked)
        sea.join(log)
        await anyio.sleep(100)
        sea.publish()
        await anyio.sleep(1)
        assert log.times == [pytest.approx(100.010)]


async def test_every_blocked_send_in_a_row_is_noticed() -> None:
    """A fresh lane that runs into the next blocked send at once is replaced as well."""
    async with fleet() as sea:
        log = Log()
        for _ in range(20):
            sea.join(blocked)
        sea.join(log)
        sea.publish()
        await anyio.sleep(1)
        assert log.times == [pytest.approx(0.2, abs=0.05)]
        assert sea.pump.lanes == 21


async def test_send_that_blocks_after_the_pump_gave_way_is_noticed() -> None:
    """The watch does not lose sight of a lane that let others run in the middle of its queue."""
    clock = count()
    async with fleet(now=lambda: next(clock) * 0.001) as sea:
        sea.join(prompt, 200)
        sea.join(blocked)
        log = Log()
        sea.join(log)
        for _ in range(3):
            sea.publish()
            await anyio.sleep(1)
        assert log.times == [PATIENCE, 1.0, 2.0]


async def test_many_sends_of_one_session_are_not_one_long_send() -> None:
    """A session that is quick but always busy is no reason for another lane."""

    async def busy(ship: Ship, number: int) -> None:
        await anyio.sleep(0.003)
        if number < 100:
            sea.publish()

    async with fleet() as sea:
        (ship,) = sea.join(busy)
        sea.publish()
        await anyio.sleep(1)
        assert ship.seen == 100
        assert sea.pump.handovers == 0


async def test_session_that_is_quick_again_returns_to_the_lane() -> None:
    """After eight quick flushes in a row its own writer ends, and the one lane serves it again."""
    async with fleet() as sea:
        gate = Gate()
        (ship,) = sea.join(gate)
        sea.publish()
        await anyio.sleep(0.1)
        assert (sea.pump.lanes, ship.bell) == (2, None), "still in its first send"
        gate.open.set()
        await settle()
        assert sea.pump.lanes == 2
        assert ship.bell is not None
        for number in range(8):
            assert sea.pump.lanes == 2, number
            sea.publish()
            await settle()
        assert sea.pump.lanes == 1
        assert (ship.bell is None) and (ship.writer is None)
        sea.publish()
        await settle()
        assert ship.seen == sea.channel.offset


async def test_session_with_its_own_writer_is_woken_by_whatever_it_is_owed() -> None:
    """Updates, answers and acknowledgements reach the writer just as they reach the lane."""
    async with fleet() as sea:
        gate = Gate()
        (ship,) = sea.join(gate)
        sea.publish()
        await anyio.sleep(0.1)
        gate.open.set()
        await settle()
        sea.publish()
        await settle()
        assert len(gate.called) == 2
        ship.push(frames.Bye("an answer"))
        await settle()
        assert len(gate.called) == 3


async def test_slow_session_keeps_its_own_writer() -> None:
    """A link that takes its time does so in a task of its own: the lane is held up by it once."""

    async def slow(ship: Ship, number: int) -> None:
        await anyio.sleep(0.05)

    async with fleet() as sea:
        log = Log()
        sea.join(slow)
        sea.join(log)
        for _ in range(20):
            sea.publish()
            await anyio.sleep(0.1)
        assert log.times[0] == PATIENCE
        assert log.times[1:] == [pytest.approx(number / 10) for number in range(1, 20)]
        assert sea.pump.handovers == 1


# ---- the end of a session


@pytest.mark.parametrize("after", [0.005, 0.5], ids=["in the lane", "in its own writer"])
async def test_eviction_cancels_a_blocked_send_at_once(after: float) -> None:
    """The send ends in the same instant, and the pump goes on with the others."""
    async with fleet() as sea:
        gate, log = Gate(), Log()
        (ship,) = sea.join(gate)
        sea.join(log)
        sea.publish()
        await anyio.sleep(after)
        ship.end(Code.SLOW)
        assert (ship.state, ship.ends) == (DEAD, 1)
        await settle()
        assert gate.cancelled == [after]
        assert log.times == [PATIENCE if after > 0.01 else after]
        assert sea.pump.lanes == 1
        sea.publish()
        await settle()
        assert len(log.times) == 2


@pytest.mark.parametrize("first", ["send returns", "session ends"])
async def test_cancelling_a_send_that_succeeds_in_the_same_instant_hits_nobody_else(first: str) -> None:
    """A cancellation that comes too late for its own send must not end the next session's."""
    async with fleet() as sea:
        gate, after = Gate(), Gate()
        after.open.set()
        (ship,) = sea.join(gate)
        others = sea.join(after, 3) + sea.join(yielding, 3)
        sea.publish()
        await settle()
        if first == "send returns":
            gate.open.set()
            ship.end(Code.SLOW)
        else:
            ship.end(Code.SLOW)
            gate.open.set()
        await settle()
        assert {other.seen for other in others} == {1}
        assert not after.cancelled
        assert {other.state for other in others} == {IDLE}
        assert sea.pump.lanes == 1


@pytest.mark.parametrize("error", [OSError, RuntimeError, ConnectionResetError, WebSocketDisconnect, ExceptionGroup])
async def test_send_that_raises_ends_its_session_once(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """Servers say "gone" in several ways; it concerns nobody else, and is nothing to log."""

    async def broken(ship: Ship, number: int) -> None:
        raise ExceptionGroup("", [OSError()]) if error is ExceptionGroup else error()

    async with fleet() as sea:
        (ship,) = sea.join(broken)
        (other,) = sea.join(prompt)
        for _ in range(3):
            sea.publish()
            await settle()
        assert (ship.state, ship.ends, ship.end_code, ship.send_cancelled) == (DEAD, 1, None, False)
        assert other.seen == 3
        assert not caplog.records


async def test_send_whose_future_the_server_cancels_costs_only_its_session(anyio_backend_name: str) -> None:
    """On asyncio, whatever a send waits for may be cancelled by others; that must not be taken for the end of the pump."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no such thing")

    def orphaned(delay: float) -> Send:
        async def send(ship: Ship, number: int) -> None:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(delay, future.cancel)
            await future

        return send

    for delay in (0.001, 0.5):  # in the lane, and in a writer of its own
        async with fleet() as sea:
            (ship,) = sea.join(orphaned(delay))
            (other,) = sea.join(prompt)
            sea.publish()
            await anyio.sleep(1)
            assert (ship.state, ship.ends) == (DEAD, 1)
            assert (other.seen, sea.pump.lanes) == (1, 1)
            sea.publish()
            await settle()
            assert other.seen == 2


async def test_own_mistake_costs_only_the_session_it_concerns(caplog: pytest.LogCaptureFixture) -> None:
    """A session whose updates cannot be read is ended and logged; the pump stays."""
    async with fleet() as sea:
        (ship,) = sea.join(prompt)
        sea.channel.defect = ZeroDivisionError()
        ship.subscription.cursor = -5
        sea.publish(ship)
        await settle()
        assert (ship.state, ship.end_code) == (DEAD, Code.INTERNAL)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        sea.channel.defect = None
        (other,) = sea.join(prompt)
        sea.publish()
        await settle()
        assert other.seen == 2


# ---- telling a client why


async def test_send_that_merely_yields_is_let_through_when_its_session_ends() -> None:
    """On servers whose sends yield, a session may end in the middle of one, and can still be told why."""
    async with fleet() as sea:
        gate = Gate()
        (ship,) = sea.join(gate)
        (other,) = sea.join(prompt)
        sea.publish()
        await settle()
        ship.end(Code.BAD_FRAME, "no frame")
        assert (ship.state, ship.ends) == (DEAD, 1), "it is gone for everybody else"
        landed: list[bool] = []
        async with anyio.create_task_group() as tasks:

            async def land() -> None:
                landed.append(await ship.land())

            tasks.start_soon(land)
            await anyio.sleep(0.001)
            gate.open.set()
        assert landed == [True]
        assert (gate.cancelled, other.seen) == ([], 1)
        assert sea.pump.lanes == 1
        assert await ship.land()


async def test_send_that_blocks_when_its_session_ends_is_cancelled_after_a_moment() -> None:
    """Nobody else waits for that moment: the lane is replaced as ever."""
    async with fleet() as sea:
        gate, log = Gate(), Log()
        (ship,) = sea.join(gate)
        sea.join(log)
        sea.publish()
        await settle()
        ship.end(Code.TAKEN_OVER)
        assert not await ship.land()
        await settle()
        assert gate.cancelled == [0.25]
        assert log.times == [PATIENCE]
        assert sea.pump.lanes == 1
        assert not await ship.land(), "after a cancelled send nothing more may be written"


async def test_send_that_fails_when_its_session_ends_leaves_nothing_to_tell() -> None:
    """The peer left in the same moment."""

    async def broken(ship: Ship, number: int) -> None:
        await anyio.sleep(0.001)
        raise OSError

    async with fleet() as sea:
        (ship,) = sea.join(broken)
        sea.publish()
        await settle()
        ship.end(Code.BAD_FRAME)
        assert not await ship.land()
        assert ship.end_code is Code.BAD_FRAME


async def test_session_without_a_send_can_be_written_to_at_once() -> None:
    """There is nothing to wait for."""
    async with fleet() as sea:
        (ship,) = sea.join(prompt)
        ship.end(Code.BAD_FRAME)
        assert await ship.land()
        assert anyio.current_time() == 0.0


# ---- the end of the pump


async def test_pump_ends_at_once_when_sends_can_be_cancelled() -> None:
    """Idle, blocked and handed-over sends: nothing keeps running."""
    async with fleet() as sea:
        sea.join(prompt)
        ships = sea.join(blocked, 3)
        sea.publish()
        await anyio.sleep(1)
    assert anyio.current_time() == 1.0
    assert sea.pump.lanes == 0
    assert all(ship.state is DEAD for ship in ships), "what was being sent to them is lost"


@pytest.mark.parametrize("stuck", [1, 3])
async def test_pump_ends_in_time_although_sends_ignore_cancellation(stuck: int, caplog: pytest.LogCaptureFixture) -> None:
    """Their tasks are left behind, do nothing more, and end with their sends."""
    gate = Gate(shield=True)
    async with fleet(patience=2.0) as sea:
        ships = sea.join(gate, stuck)
        (other,) = sea.join(prompt)
        sea.publish()
        await anyio.sleep(1)
        assert other.seen == 1
        for ship in ships:
            ship.end(Code.DRAIN)
    assert anyio.current_time() == 3.0
    assert sea.pump.lanes == stuck
    assert len(caplog.records) == 1
    sea.publish()
    gate.open.set()
    await settle()
    assert sea.pump.lanes == 0
    assert other.seen == 1, "the pump has ended"


async def test_session_whose_send_ignores_cancellation_is_gone_for_everybody_else() -> None:
    """Its eviction, later updates and the other sessions do not wait for it."""
    async with fleet() as sea:
        gate, log = Gate(shield=True), Log()
        (ship,) = sea.join(gate)
        sea.join(log)
        sea.publish()
        await settle()
        ship.end(Code.SLOW)
        await anyio.sleep(1)
        sea.publish()
        await settle()
        assert (ship.state, ship.ends) == (DEAD, 1)
        assert log.times == [PATIENCE, 1.0]
        gate.open.set()
        await settle()
        assert (sea.pump.lanes, len(gate.called)) == (1, 1)


# ---- turns


async def test_pump_lets_others_run_every_two_milliseconds() -> None:
    """However many sessions are queued, reading and publishing keep their latency."""
    clock = count()
    turns = 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with fleet(now=lambda: next(clock) * 0.001) as sea, anyio.create_task_group() as tasks:
        sea.join(prompt, 1000)
        await settle()
        tasks.start_soon(neighbour)
        sea.publish()
        while sea.pump.busy:
            await checkpoint()
        assert turns >= 20
        tasks.cancel_scope.cancel()


async def test_sessions_take_turns() -> None:
    """One with more than a flush to send goes to the end of the queue after each."""
    order: deque[str] = deque()

    async def note(ship: Ship, number: int) -> None:
        order.append(ship.id)
        if ship.id == "s0" and number < 3:
            sea.publish(ship)

    async with fleet() as sea:
        sea.join(note, 3)
        sea.publish()
        await settle()
    assert list(order) == ["s0", "s1", "s2", "s0", "s0"]


async def test_flushes_are_counted() -> None:
    """Whether by the lane or by a writer of its own."""
    async with fleet() as sea:
        sea.join(prompt, 100)
        for _ in range(5):
            sea.publish()
            await settle()
        assert sea.pump.flushes == 500
