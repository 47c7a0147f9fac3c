"""
The pump: one task that flushes every session, and a spare one for each session whose send blocks.

While nothing blocks there is no task switch per client: a lane takes queued sessions one after the other. A watch notices a
lane that has been inside the same send for 10 ms; that task then stays with its session as the session's own writer, and a
fresh lane takes over the queue. Once its session is quick again the writer hands it back and ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ._session import Session, State

__all__ = ["Pump"]

_PATIENCE: Final = 0.010
"""Seconds inside one send after which a lane counts as stuck: far above any send that does not block."""

_TURN: Final = 0.002
"""Seconds of flushing after which the event loop gets a turn, so that reading and publishing keep their latency."""

_LOOKS: Final = 16
"""Flushes between two looks at the clock."""

_QUICK: Final = 0.002
_QUICK_FLUSHES: Final = 8
"""A session's own writer gives it back after so many flushes in a row, each within that many seconds."""


class Pump:
    """Flushes sessions. `queue` may be called from anywhere on the loop, never waits and never fails."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._ready: deque[Session] = deque()
        self._bell = anyio.Event()  # something is ready
        self._started = anyio.Event()  # a lane has begun to flush
        self._lane: object | None = None  # token of the lane in charge of the queue
        self._current: Session | None = None  # whom that lane is sending to
        self._rounds = 0
        self._tasks: TaskGroup | None = None
        self.lanes = 0
        self.handovers = 0

    def queue(self, session: Session) -> None:
        """See to it that *session* is flushed soon."""
        state = session.state
        if state is State.IDLE:
            session.state = State.QUEUED
            if session.bell is not None:
                session.bell.set()
            else:
                self._ready.append(session)
                self._bell.set()
        elif state is State.FLUSHING:
            session.again = True

    def acknowledged(self, session: Session) -> None:
        """Take note that *session* has acknowledged something: it may be flushed again."""
        if session.state is State.WAITING:
            session.state = State.IDLE
            self.queue(session)

    async def run(self) -> None:
        """Pump until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._start_lane()
            tasks.start_soon(self._watch)

    def _start_lane(self) -> None:
        assert self._tasks is not None
        self._lane = token = object()
        self._current = None
        self._tasks.start_soon(self._run_lane, token)

    async def _run_lane(self, token: object) -> None:
        """Serve the queue until this task is stuck in a session and the watch has replaced it, or a send of it is cancelled."""
        self.lanes += 1
        try:
            with anyio.CancelScope() as flight:
                while self._lane is token:
                    if not self._ready:
                        self._bell = anyio.Event()
                        await self._bell.wait()
                        self._started.set()
                    await self._drain_queue(token, flight)
        finally:
            self.lanes -= 1
        if self._lane is token:  # an ended session's send was cancelled, and this task with it
            self._start_lane()

    async def _drain_queue(self, token: object, flight: anyio.CancelScope) -> None:
        ready = self._ready
        turn_ends = self._now() + _TURN
        looks = _LOOKS
        while ready:
            session = ready.popleft()
            if session.state is not State.QUEUED:
                continue
            self._current = session
            self._rounds += 1
            await self._flush(session, flight)
            if self._lane is not token:  # replaced while sending
                await self._write_alone(session, flight)
                return
            if session.state is State.QUEUED:
                ready.append(session)
            looks -= 1
            if looks == 0:
                looks = _LOOKS
                if self._now() >= turn_ends:
                    self._current = None
                    await checkpoint()
                    turn_ends = self._now() + _TURN
        self._current = None

    async def _flush(self, session: Session, flight: anyio.CancelScope) -> None:
        """Send the session's next message, if it is owed one; leave it idle, queued, waiting or dead."""
        session.state = State.FLUSHING
        session.again = False
        message = session.collect()
        if message:
            session.flight = flight
            try:
                await session.send(message)
            except Exception as error:  # servers say "gone" in several ways; the reader finds out the details
                session.end(None, f"send failed: {type(error).__name__}")
            finally:
                session.flight = None
            if session.state is State.DEAD:
                return
        elif not session.rules.may_send:
            session.state = State.WAITING
            return
        session.state = State.QUEUED if session.again or session.owes else State.IDLE

    async def _write_alone(self, session: Session, flight: anyio.CancelScope) -> None:
        """Stay with a session that blocks, until it is quick again or dead."""
        self.handovers += 1
        quick = 0
        session.bell = anyio.Event()
        while session.state is not State.DEAD and quick < _QUICK_FLUSHES:
            if session.state is State.QUEUED:
                began = self._now()
                await self._flush(session, flight)
                quick = quick + 1 if self._now() - began < _QUICK else 0
            else:
                session.bell = anyio.Event()
                await session.bell.wait()
        session.bell = None
        if session.state is State.QUEUED:
            self._ready.append(session)
            self._bell.set()

    async def _watch(self) -> None:
        """Replace a lane that has been inside one send for too long. Sleeps while no lane is flushing."""
        while True:
            session, rounds = self._current, self._rounds
            if session is None:
                self._started = anyio.Event()
                await self._started.wait()
            await anyio.sleep(_PATIENCE)
            if session is not None and self._current is session and self._rounds == rounds:
                self._start_lane()
