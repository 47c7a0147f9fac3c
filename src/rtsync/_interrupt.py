"""How a command of the terminal ends that would otherwise go on for ever: by Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus

__all__ = ["until_interrupted"]

T = TypeVar("T")


async def until_interrupted(work: Callable[[], Awaitable[T]]) -> T | None:
    """Return what *work* returns. Ctrl-C or SIGTERM cancel it, so that it leaves everything in good order: then ``None``."""
    result: T | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(_cancel_at_signal, tasks.cancel_scope)
        try:
            result = await work()
        except Exception as error:  # to be raised bare, not in a group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _cancel_at_signal(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    try:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                scope.cancel()
    except NotImplementedError:  # Windows: there, Ctrl-C arrives as KeyboardInterrupt
        task_status.started()
