"""
The pump: one task that flushes every session, and a spare one for each session whose send blocks.

While nothing blocks there is no task switch per client: a lane takes queued sessions one after the other. A watch notices a
lane that has been inside the same send for 10 ms; that task then stays with its session as the session's own writer, and a
fresh lane takes over the queue. Once its session is quick again the writer hands it back and ends.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ..core import Code
from ._loose import LooseTasks
from ._session import DEAD, FLUSHING, IDLE, QUEUED, WAITING, Session
from ._subscription import Subscription

__all__ = ["Pump"]

logger = logging.getLogger("rtsync.hub")

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
    """
    Flushes sessions. `queue` may be called from anywhere on the loop, never waits and never fails.

    Args:
        now: Monotonic seconds of the event loop.
        patience: Seconds that sends which cannot be cancelled are waited for at the end.
    """

    def __init__(self, now: Callable[[], float], patience: float = 5.0) -> None:
        self._now = now
        self._patience = patience
        self._ready: deque[Session] = deque()
        self._bell = anyio.Event()  # something is ready
        self._resting = False  # whether the lane in charge waits for that
        self._started = anyio.Event()  # it has begun to flush
        self._lane: object | None = None  # token of the lane in charge of the queue
        self._scope: anyio.CancelScope | None = None  # of that lane
        self._current: Session | None = None  # whom that lane is sending to
        self.flushes = 0
        self._tasks = LooseTasks()
        self.lanes = 0
        self.handovers = 0

    def queue(self, session: Session) -> None:
        """See to it that *session* is flushed soon."""
        state = session.state
        if state is IDLE:
            session.state = QUEUED
            if session.bell is not None:
                session.bell.set()
            else:
                self._ready.append(session)
                self._bell.set()

    def mark_all(self, subscriptions: Iterable[Subscription], holds_back: Callable[[Subscription], bool]) -> None:
        """Mark *subscriptions* as behind and queue their sessions, except where *holds_back* says a rate is not due yet."""
        ready = self._ready
        for subscription in subscriptions:
            if subscription.rate is not None and holds_back(subscription):
                continue
            session = subscription.session
            if not subscription.dirty:
                subscription.dirty = True
                subscription.next_dirty = session.dirty
                session.dirty = subscription
            if session.state is IDLE:
                session.state = QUEUED
                if session.bell is None:
                    ready.append(session)
                else:
                    session.bell.set()
        if ready:
            self._bell.set()

    def acknowledged(self, session: Session) -> None:
        """Take note that *session* has acknowledged something: it may be flushed again."""
        if session.state is WAITING:
            session.state = IDLE
            self.queue(session)

    @property
    def busy(self) -> bool:
        """Whether sessions are queued or the lane in charge is sending."""
        return bool(self._ready) or self._current is not None

    async def run(self) -> None:
        """Pump until cancelled. A lane inside a send that cannot be cancelled is left behind once our patience is over."""
        self._start_lane()
        try:
            await self._watch()
        finally:
            self._lane = None
            self._tasks.cancel()
            if not await self._tasks.wait(self._patience):
                logger.warning("%d clients hold up a send that cannot be cancelled", len(self._tasks))

    def _start_lane(self) -> None:
        self._lane = token = object()
        self._current = None
        self._resting = False
        self._tasks.start_soon(partial(self._run_lane, token))

    async def _run_lane(self, token: object) -> None:
        """Serve the queue until this task is stuck in a session and the watch has replaced it, or a send of it is cancelled."""
        self.lanes += 1
        try:
            with anyio.CancelScope() as scope:
                self._scope = scope
                # Where a send was cancelled but had succeeded, nobody else must be flushed under that scope.
                while self._lane is token and not scope.cancel_called:
                    if not self._ready:
                        self._bell = anyio.Event()
                        self._resting = True
                        await self._bell.wait()
                        self._resting = False
                    self._started.set()
                    await self._drain_queue(token, scope)
        finally:
            self.lanes -= 1
            if self._lane is token:  # the session it was sending to has ended, and this task with it
                self._start_lane()

    async def _drain_queue(self, token: object, scope: anyio.CancelScope) -> None:
        """Flush whoever is queued, and end with the session whose send this task is stuck in if another lane took over."""
        ready = self._ready
        now = self._now()
        turn_ends = now + _TURN
        looks = _LOOKS
        session: Session | None = None
        try:
            while ready:
                session = ready.popleft()
                if session.state is not QUEUED:
                    continue
                # This is _flush, written out: it spares a coroutine and two calls for every frame of every client.
                if message := session.collect(now):
                    session.state = FLUSHING
                    self._current = session
                    try:
                        await session.send(message)
                    except Exception as error:
                        session.lost(error)
                if session.dirty is not None or session.answers or session.state is DEAD:
                    session.settle()
                    if scope.cancel_called:
                        return
                else:
                    session.state = IDLE
                if self._lane is not token:  # replaced while sending
                    await self._write_alone(session, scope)
                    return
                if session.state is QUEUED:
                    ready.append(session)
                looks -= 1
                if looks == 0:
                    looks = _LOOKS
                    self.flushes += _LOOKS
                    now = self._now()
                    if now >= turn_ends:
                        self._current = session = None
                        await checkpoint()
                        now = self._now()
                        turn_ends = now + _TURN
        except Exception:  # our own mistake, for which nobody else pays
            logger.exception("%r cannot be flushed", session)
            if session is not None:
                session.end(Code.INTERNAL, "its updates could not be sent")
        except BaseException as error:
            # Cancelled, because the session ended; or the server cancelled what its send waited for, as asyncio lets it.
            if session is not None:
                session.lost(error)
            raise
        self.flushes += _LOOKS - looks
        if self._lane is token:
            self._current = None

    @staticmethod
    async def _flush(session: Session, now: float) -> None:
        """Send the session's next message, if it is owed one; leave it idle, queued, waiting or dead."""
        if message := session.collect(now):
            session.state = FLUSHING
            try:
                await session.send(message)
            except Exception as error:
                session.lost(error)
        session.settle()

    async def _write_alone(self, session: Session, scope: anyio.CancelScope) -> None:
        """Stay with a session that blocks, until it is quick again or dead."""
        self.handovers += 1
        quick = 0
        session.bell = anyio.Event()
        session.writer = scope
        while session.state is not DEAD and quick < _QUICK_FLUSHES:
            if session.state is QUEUED:
                began = self._now()
                await self._flush(session, began)
                self.flushes += 1
                quick = quick + 1 if self._now() - began < _QUICK else 0
            else:
                session.bell = anyio.Event()
                await session.bell.wait()
        session.bell = session.writer = None
        if session.state is QUEUED:
            self._ready.append(session)
            self._bell.set()

    def interrupt(self, session: Session) -> None:
        """Cancel the send of *session* that is under way."""
        scope = self._scope if self._current is session else session.writer
        if scope is not None:
            scope.cancel()

    async def _watch(self) -> None:
        """Replace a lane that has been inside one send for too long. Sleeps while there is nothing to flush."""
        while True:
            session = None  # it may have ended: nothing here keeps it
            if self._resting:
                self._started = anyio.Event()
                await self._started.wait()
            session = self._current  # None between sends, so that whoever else runs sees it only during one
            messages = 0 if session is None else session.messages
            await anyio.sleep(_PATIENCE)
            if session is not None and self._current is session and session.messages == messages:
                session.writer = self._scope
                self._start_lane()
                while self._current is None and not self._resting:
                    await checkpoint()  # until it has begun: it may run into the next one at once
