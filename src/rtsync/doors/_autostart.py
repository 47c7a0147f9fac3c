"""Starting with the first request, for servers that tell apps of no startup."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import anyio
from anyio.lowlevel import current_token

from ..hub import LooseTasks
from ._starter import Starter

__all__ = ["Autostart"]

logger = logging.getLogger("rtsync.lifespan")

T = TypeVar("T")


class _Attempt:
    def __init__(self, patience: float) -> None:
        self.loop: object = current_token()
        self.settled = anyio.Event()
        self.patient_until = anyio.current_time() + patience


class Autostart(Generic[T]):
    """
    Holds something open from the first request to the end of the event loop.

    Its task belongs to the loop, not to the request that caused it: such requests end.

    Args:
        patience: Seconds that requests wait for a start, all together: those that come later find what there is.
        announce: Called by the request that causes a start, in its task.
    """

    def __init__(self, starter: Starter[T], patience: float, announce: Callable[[], None] = lambda: None) -> None:
        self._starter = starter
        self._patience = patience
        self._announce = announce
        self._attempt: _Attempt | None = None

    async def ensure(self) -> None:
        """Return once it is open, or could not be opened, or that takes too long."""
        attempt = self._attempt
        if attempt is None or attempt.loop != current_token():
            attempt = self._attempt = _Attempt(self._patience)
            self._announce()
            LooseTasks().start_soon(partial(self._hold, attempt))
        with anyio.CancelScope(deadline=attempt.patient_until):
            await attempt.settled.wait()

    async def _hold(self, attempt: _Attempt) -> None:
        try:
            async with self._starter.held():
                attempt.settled.set()
                await anyio.sleep_forever()
        except Exception:
            logger.exception("rtsync could not be started, or has failed")
        finally:
            attempt.settled.set()
            if self._attempt is attempt:
                self._attempt = None
