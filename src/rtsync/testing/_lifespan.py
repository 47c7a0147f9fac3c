"""An ASGI app's startup and shutdown, driven as a server does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.types import ASGIApp, Message

from ._owned import owned_tasks

__all__ = ["LifespanFailed", "asgi_lifespan"]


class LifespanFailed(Exception):
    """
    The app reported that it could not start, or not stop.

    Attributes:
        phase: ``"startup"`` or ``"shutdown"``.
        message: The app's own words.
    """

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(f"{phase} failed: {message}")
        self.phase = phase
        self.message = message


class _Lifespan:
    """The server's end of one lifespan call."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self.started = anyio.Event()
        self.stopped = anyio.Event()
        self.returned = anyio.Event()
        self.failure: Exception | None = None
        self.life = anyio.CancelScope(shield=True)  # A server's app, even if the block is cancelled.
        self._app = app
        self._stop = anyio.Event()
        self._asked = 0

    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            with self.life:
                await self._app(scope, self._receive, self._send)
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self.started.set()
            self.returned.set()
            if not self.life.cancel_called:
                self.stopped.set()

    def stop(self) -> None:
        self._stop.set()

    async def _receive(self) -> Message:
        self._asked += 1
        if self._asked == 1:
            return {"type": "lifespan.startup"}
        if self._asked > 2:
            await anyio.sleep_forever()
        await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        _, phase, outcome = message["type"].split(".")
        if outcome == "failed":
            self.failure = LifespanFailed(phase, message.get("message", ""))
        (self.started if phase == "startup" else self.stopped).set()


@asynccontextmanager
async def asgi_lifespan(app: ASGIApp, *, required: bool = True, timeout: float = 10.0) -> AsyncIterator[dict[str, Any]]:
    """
    Start an app, give its lifespan state, and shut it down at the end of the block.

    Args:
        app: Any ASGI 3 app.
        required: Whether an app that raises instead of starting up raises here, too. Otherwise it is taken for one without a
            lifespan, as most servers do.
        timeout: Seconds for the shutdown, also when the block was cancelled.

    Raises:
        LifespanFailed: If the app says so.
        TimeoutError: If its shutdown takes too long.
        Exception: Whatever the app raises.
    """
    lifespan = _Lifespan(app)
    async with owned_tasks() as tasks:
        tasks.start_soon(lifespan.run)
        try:
            await lifespan.started.wait()
            unsupported = lifespan.failure
            if unsupported is not None and (required or isinstance(unsupported, LifespanFailed)):
                raise unsupported
            try:
                yield lifespan.state
            finally:
                lifespan.stop()
                with anyio.move_on_after(timeout, shield=True):
                    await lifespan.returned.wait()
        finally:
            lifespan.life.cancel()
    if not lifespan.stopped.is_set():
        raise TimeoutError(f"the app's shutdown took more than {timeout:g} s")
    if lifespan.failure is not unsupported and lifespan.failure is not None:
        raise lifespan.failure
