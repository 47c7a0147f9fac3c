"""Task groups for tools that hold tasks behind an ``async with``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

__all__ = ["owned_tasks"]


@asynccontextmanager
async def owned_tasks() -> AsyncIterator[TaskGroup]:
    """
    Open a task group that lets through what its block raises bare, rather than wrapped in a group.

    For tasks that keep their errors to themselves, so that the block's own is the only one.
    """
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from group.exceptions[0].__cause__
