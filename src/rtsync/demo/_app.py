"""The demo's app: the recorded market, playing for whoever looks."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from .. import RTSync, Settings
from ._channels import declare_market
from ._recording import load_recording
from ._replay import Clock

__all__ = ["build_app", "demo_channels"]


def demo_channels() -> list[str]:
    """Return what fits a terminal: all prices, and the portfolio."""
    return [*(f"prices:{symbol}" for symbol in load_recording().symbols), "portfolio:demo"]


def build_app(settings: Settings | None = None, *, speed: float = 1.0) -> Starlette:
    """
    Return an app that plays the recorded market into public channels below ``settings.path``.

    Args:
        speed: Seconds of the recording in one real second.
    """
    rt = RTSync(settings)
    declare_market(rt, load_recording(), Clock(speed))

    async def index(request: Request) -> Response:
        return JSONResponse({"rtsync": str(request.url_for("rt", path="/ws")), "channels": demo_channels()})

    return Starlette(routes=[Route("/", index), Mount(rt.settings.path, rt, name="rt")], lifespan=rt.lifespan)
