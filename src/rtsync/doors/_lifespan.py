"""The lifespan protocol from the app's end, alone or around another app; and several lifespans as one."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

from starlette.types import Message, Receive, Scope, Send

__all__ = ["Lifespan", "answer_lifespan", "combine"]

logger = logging.getLogger("rtsync.lifespan")

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]
"""What apps take for ``lifespan``: called with the app, gives an async context manager; that gives a mapping or nothing."""


def combine(*lifespans: Lifespan) -> Lifespan:
    """
    Return one lifespan made of several, for ``Starlette(lifespan=combine(rt.lifespan, mine))``.

    They are entered in this order and left in the opposite one; those after a failing one are not entered. The state they yield
    is merged, the later winning where two use the same key.
    """

    @asynccontextmanager
    async def combined(app: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for lifespan in lifespans:
                yielded = await stack.enter_async_context(lifespan(app))
                if yielded is not None:
                    state.update(yielded)
            yield state or None  # servers that have no state want none

    return combined


async def answer_lifespan(
    lifespan: Callable[[], AbstractAsyncContextManager[object]],
    scope: Scope,
    receive: Receive,
    send: Send,
    inner: Callable[[Any, Any, Any], Awaitable[object]] | None = None,
) -> None:
    """
    Answer a server's lifespan: what *lifespan* gives is open from startup to shutdown.

    Args:
        inner: An app to take part in it, within *lifespan*. One that raises or returns instead of answering takes no part.
    """
    await receive()  # lifespan.startup
    part = _Part(scope, receive, send)
    try:
        async with lifespan():
            await part.play(inner)
    except Exception:
        await send({"type": f"lifespan.{part.phase}.failed", "message": part.refusal or traceback.format_exc()})
        raise
    await send({"type": "lifespan.shutdown.complete"})


class _Refused(Exception):
    """The inner app said that it cannot start, or not stop."""


class _Part:
    """
    The inner app's part in a lifespan.

    It runs in the task that the server calls, and hears the server's messages. Its last answer waits until what is around it
    has ended, too: a server may be gone once it has heard that.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.phase = "startup"
        self.refusal = ""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._told_startup = False
        self._told_shutdown = False
        self._refused = False

    async def play(self, inner: Callable[[Any, Any, Any], Awaitable[object]] | None) -> None:
        """Return once the server wants to stop, and the app has. Raises what the app raises, if it takes part."""
        if inner is not None:
            try:
                await inner(self._scope, self._hear, self._answer)
            except Exception as error:
                if self.phase == "shutdown" or self._refused:
                    raise
                logger.info("%s takes no part in the lifespan: %r", type(inner).__name__, error)
        if self._refused:
            raise _Refused(self.refusal)
        await self._started()
        if not self._told_shutdown:
            await self._receive()  # lifespan.shutdown

    async def _started(self) -> None:
        if self.phase == "startup":
            self.phase = "shutdown"
            await self._send({"type": "lifespan.startup.complete"})

    async def _hear(self) -> Message:
        if not self._told_startup:
            self._told_startup = True
            return {"type": "lifespan.startup"}
        message = await self._receive()
        self._told_shutdown = True
        return message

    async def _answer(self, message: Message) -> None:
        kind: str = message["type"]
        if kind == "lifespan.startup.complete":
            await self._started()
        elif kind.endswith(".failed"):
            self._refused = True
            self.refusal = message.get("message", "")
