"""
Tasks that belong to the event loop instead of a task group, so that whoever started them need not wait for their end.

Everything else runs in task groups. But hypercorn on trio, and middleware that shields, hand out a `send` that cannot be
cancelled, and a task group waits for its tasks: one peer that reads nothing would hold up the whole app's shutdown, or keep a
connection's handler from returning, which is what its server waits for before it closes the very socket that would end the
send. So what awaits such a `send` runs here. It is cancelled in time and waited for within bounds; what then still refuses to
end holds nothing but its own session, and ends with the socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

__all__ = ["LooseTasks"]

logger = logging.getLogger("rtsync.hub")

_KEPT: Final[set[asyncio.Task[None]]] = set()
"""asyncio itself holds its tasks only weakly."""


class LooseTasks:
    """Some such tasks, to be ended together."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._ended = anyio.Event()  # all of them, when somebody waits for that

    def __len__(self) -> int:
        return len(self._scopes)

    def start_soon(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run *function* in a task. What it raises is logged."""
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            from trio.lowlevel import spawn_system_task

            spawn_system_task(self._run, function, scope)
        else:
            task = loop.create_task(self._run(function, scope))
            _KEPT.add(task)
            task.add_done_callback(_KEPT.discard)

    async def _run(self, function: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await function()
        except Exception:
            logger.exception("a task failed")
        finally:
            self._scopes.discard(scope)
            if not self._scopes:
                self._ended.set()

    def cancel(self) -> None:
        """Cancel them all."""
        for scope in self._scopes:
            scope.cancel()

    async def wait(self, seconds: float) -> bool:
        """Wait until all have ended, for so many seconds at most, even if cancelled. Return whether they have."""
        with anyio.move_on_after(seconds, shield=True):
            while self._scopes:
                self._ended = anyio.Event()
                await self._ended.wait()
        return not self._scopes
