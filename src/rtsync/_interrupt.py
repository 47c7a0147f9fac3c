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
    """
    Return what *work* returns. Ctrl-C or SIGTERM cancel it, so that it leaves everything in good order: then ``None``.

    What it raises comes out bare, rather than in the groups of the tasks it passed through.
    """
    result: T | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(_cancel_at_signal, tasks.cancel_scope)
        try:
            result = await work()
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise _bare(failure)
    return result


def _bare(error: Exception) -> Exception:
    """Return one for all, where several tasks failed in the same way, as all do that write to a pipe nobody reads."""
    causes = _causes(error)
    return causes[0] if len({type(cause) for cause in causes}) == 1 else error


def _causes(error: Exception) -> list[Exception]:
    if isinstance(error, ExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [error]


async def _cancel_at_signal(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    try:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                scope.cancel()
    except NotImplementedError:  # Windows: there, Ctrl-C arrives as KeyboardInterrupt
        task_status.started()
