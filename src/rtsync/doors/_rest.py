"""An ASGI app behind routes, as if it were mounted."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ._paths import below

__all__ = ["Rest"]


class Rest:
    """
    Serves an app at Starlette's routes, such as ``/rt`` and ``/rt/{rest:path}``: what the parameter matched is the path below.

    An instance, because Starlette takes functions for something else than ASGI.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rest = str(scope.get("path_params", {}).get("rest", "")).strip("/")
        scope = {**scope, "path": scope["path"].rstrip("/")}
        await self._app(below(scope, f"/{rest}" if rest else ""), receive, send)
