"""The door into Litestar: a plugin, because a mounted app gets neither lifespan nor a path that says where it stands."""

from __future__ import annotations

from typing import Any, cast

from litestar.config.app import AppConfig
from litestar.handlers import asgi
from litestar.plugins import InitPlugin
from litestar.types import Receive, Scope, Send
from starlette.types import ASGIApp

from ._lifespan import Lifespan

__all__ = ["RTSyncPlugin"]


class RTSyncPlugin(InitPlugin):
    """
    Serves rtsync below a path, and runs its lifespan with that of the app.

    Litestar gives a mount all that begins with the letters of its path: beside ``/rt``, a route ``/rtx/{id}`` is never found.
    """

    def __init__(self, realtime: ASGIApp, lifespan: Lifespan, path: str) -> None:
        self._realtime = realtime
        self._lifespan = lifespan
        self._path = path

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add the mount and the lifespan."""
        realtime = cast(Any, self._realtime)  # the same protocol, in other types

        @asgi(self._path, is_mount=True, copy_scope=True)
        async def rtsync(scope: Scope, receive: Receive, send: Send) -> None:
            # What was matched is cut off the path, and root_path is the server's: it says nothing of the mount.
            await realtime({**scope, "root_path": ""}, receive, send)

        app_config.route_handlers.append(rtsync)
        app_config.lifespan.append(self._lifespan)
        return app_config
