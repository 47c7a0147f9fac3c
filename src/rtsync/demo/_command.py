"""What ``rtsync demo`` does."""

from __future__ import annotations

import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from math import inf

import anyio

from .. import Settings
from .._tail import Reporter, TailOptions, tail
from ._app import build_app, demo_channels
from ._server import base_url, serving

__all__ = ["run_demo"]


async def run_demo(
    listener: socket.socket, *, speed: float, reporter: Callable[[str], Reporter] | None, seconds: float | None
) -> str | None:
    """
    Serve the recorded market; given a reporter, for as long as that has something to report.

    Args:
        listener: A listening socket; closed at the end.
        speed: Seconds of the recording in one real second.
        reporter: Called with the URL, returns what shows the market in this terminal.
        seconds: Seconds after which to end; ``None`` for never.

    Returns:
        Why there is nothing more to report, as `rtsync._tail.tail` does.
    """
    settings = Settings()
    url = base_url(listener) + settings.path
    async with serving(build_app(settings, speed=speed), listener, max_message_bytes=settings.max_frame_bytes):
        print(f"serving a recorded market at {url} (Ctrl-C ends)", flush=True)
        print(f"to watch it: {_program()} tail {url} prices:ETH-USD portfolio:demo", flush=True)
        if reporter is None:
            await anyio.sleep(inf if seconds is None else seconds)
            return None
        return await tail(TailOptions(url, tuple(demo_channels()), seconds=seconds), reporter(url))


def _program() -> str:
    """Return how this program can be called again."""
    return "rtsync" if shutil.which("rtsync") else shlex.quote(sys.argv[0])
