"""Starting once, whoever asks: several doors into one app may all fire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

import anyio
from anyio.lowlevel import current_token

from ..core import UsageError, leaves, sole

__all__ = ["Starter"]

T = TypeVar("T")


class _Run(Generic[T]):
    """From one start to its stop."""

    def __init__(self) -> None:
        self.loop: object = current_token()
        self.node: T | None = None
        self.holders = 1
        self.settled = anyio.Event()  # it has started, or failed to
        self.let_go = anyio.Event()  # by all but whoever started it
        self.ended = anyio.Event()

    @property
    def is_here(self) -> bool:
        """Whether this is its event loop."""
        return self.loop == current_token()

    @property
    def is_lost(self) -> bool:
        """Whether its event loop was closed under it, so that it can never end."""
        native = getattr(self.loop, "native_token", self.loop)
        closed: Callable[[], bool] = getattr(native, "is_closed", bool)
        return closed()

    def release(self) -> None:
        """Take note that somebody holds it no longer."""
        self.holders -= 1
        if not self.holders:
            self.let_go.set()


class Starter(Generic[T]):
    """
    Opens something when the first asks for it, and closes it when the last has let go.

    Whoever comes first owns its tasks: if that one is cancelled or fails, all is closed at once.

    Args:
        open: Called for each start anew, so that what was stopped can be started again, also on another event loop.
    """

    def __init__(self, open: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._open = open
        self._run: _Run[T] | None = None

    @property
    def node(self) -> T | None:
        """What is open, on whichever event loop."""
        return self._run.node if self._run is not None else None

    @property
    def node_here(self) -> T | None:
        """What is open on the running event loop."""
        run = self._run
        return run.node if run is not None and run.node is not None and run.is_here else None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[T]:
        """
        Keep it open for the length of the block.

        Errors come out bare: those of the block, and those of opening and closing.

        Raises:
            UsageError: It is open on another event loop.
        """
        raised: BaseException | None = None
        try:
            async with await self._entrance() as node:
                try:
                    yield node
                except BaseException as error:
                    raised = error
                    raise
        except BaseExceptionGroup as group:
            cause = raised if raised is not None and leaves(raised) == leaves(group) else sole(group)
            if cause is group:
                raise
            raise cause from cause.__cause__

    async def _entrance(self) -> AbstractAsyncContextManager[T]:
        while (run := self._run) is not None and not run.is_lost:
            if not run.is_here:
                raise UsageError("lifespan", "this RTSync object is running in another event loop: make one for each")
            run.holders += 1  # from now on: it is not to stop before this one has held it
            try:
                await run.settled.wait()
            except BaseException:
                run.release()
                raise
            if run.node is not None:
                return self._shared(run, run.node)
            run.release()
            await run.ended.wait()  # it stops, or could not start: try anew
        self._run = run = _Run()
        return self._owned(run)

    @asynccontextmanager
    async def _shared(self, run: _Run[T], node: T) -> AsyncIterator[T]:
        try:
            yield node
        finally:
            run.release()

    @asynccontextmanager
    async def _owned(self, run: _Run[T]) -> AsyncIterator[T]:
        try:
            async with self._open() as node:
                run.node = node
                run.settled.set()
                try:
                    yield node
                    run.holders -= 1
                    while run.holders:
                        run.let_go = anyio.Event()
                        await run.let_go.wait()
                finally:
                    run.node = None
        finally:
            if self._run is run:
                self._run = None
            run.settled.set()
            run.ended.set()
