"""The door into FastAPI: a router, because `include_router` runs its lifespan and a mount's is never run."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from ._lifespan import Lifespan
from ._rest import Rest

__all__ = ["build_router"]


def build_router(realtime: ASGIApp, lifespan: Lifespan, path: str) -> APIRouter:
    """
    Return a router with everything below *path*, running *lifespan*.

    Routes, not a mount: FastAPI has included mounts only of late. They are plain ASGI, so ``dependencies`` pass them by.
    """
    router = APIRouter(lifespan=lifespan)
    endpoint = Rest(realtime)
    for pattern in (path, path + "/{rest:path}"):
        router.routes += [Route(pattern, endpoint, include_in_schema=False), WebSocketRoute(pattern, endpoint)]
    return router
