"""The outermost door: around any ASGI app, whatever it makes of lifespans and WebSockets."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core import UsageError
from ..transports import ServerSocket
from ._lifespan import answer_lifespan
from ._paths import below, relative_path

__all__ = ["ForeignApp", "Wrapped"]

logger = logging.getLogger("rtsync.lifespan")

ForeignApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[object]]
"""Any ASGI 3 app: frameworks have types of their own for scopes and messages."""


class Wrapped:
    """
    An ASGI app with rtsync below one path, and *app* everywhere else.

    Args:
        app: Any ASGI 3 app. It takes part in the lifespan if it can; if it raises on a WebSocket at once, as Django does, the
            handshake is denied.
        realtime: What serves *path*.
        lifespan: Open while the server runs.
        ready: Awaited before each connection, so that what needs no lifespan may start.
        path: Such as ``/rt``.
    """

    def __init__(
        self,
        app: ForeignApp,
        realtime: ASGIApp,
        lifespan: Callable[[], AbstractAsyncContextManager[object]],
        ready: Callable[[], Awaitable[object]],
        path: str,
    ) -> None:
        if not path.startswith("/") or path.endswith("/"):
            raise UsageError("path", f"must look like /rt, without a slash at the end, is {path!r}")
        self.app = app
        self._realtime = realtime
        self._lifespan = lifespan
        self._ready = ready
        self._path = path

    def __repr__(self) -> str:
        return f"<rtsync at {self._path} around {self.app!r}>"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(self._lifespan, scope, receive, send, self.app)
            return
        await self._ready()
        path = relative_path(scope)
        if path == self._path or path.startswith(self._path + "/"):
            await self._realtime(below(scope, path[len(self._path) :]), receive, send)
        elif scope["type"] == "websocket":
            await self._try_websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _try_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave the WebSocket to the app; deny it if the app does not even look at it."""
        touched = False

        async def touching_receive() -> Message:
            nonlocal touched
            touched = True
            return await receive()

        async def touching_send(message: Message) -> None:
            nonlocal touched
            touched = True
            await send(message)

        try:
            await self.app(scope, touching_receive, touching_send)
        except Exception as error:
            if touched:
                raise
            logger.debug("%s serves no WebSockets: %r", type(self.app).__name__, error)
            socket = ServerSocket(scope, receive, send)
            if await socket.connected():
                await socket.deny(404, "not_found", "nothing is here")
