"""Serving the demo on the running asyncio loop."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import uvicorn
from starlette.types import ASGIApp

from ..core import OutsideError

__all__ = ["base_url", "listen", "serving"]

_GRACE = 2
"""Seconds that connections get to end."""


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address, port 0 meaning any that is free. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def base_url(listener: socket.socket) -> str:
    """Return the URL under which this machine reaches *listener*."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket, *, max_message_bytes: int) -> AsyncIterator[None]:
    """
    Serve *app* for the length of the block, and end its connections with it.

    Args:
        max_message_bytes: Largest message that a client may send. The server refuses it before the app sees any of it.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE,
        ws_max_size=max_message_bytes,
        # Frames are small, and many are the same for everybody: compressing each for each client would cost the most.
        ws_per_message_deflate=False,
    )
    server = _Server(config)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run_to_end, listener)
        await server.ready.wait()
        try:
            if not server.started:
                raise OutsideError("the server did not start; its log says why")
            yield
        except Exception as error:  # to be raised bare, not in a group
            failure = error
        finally:
            server.should_exit = True
    if failure is not None:
        raise failure


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # whoever serves decides what Ctrl-C means

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def run_to_end(self, listener: socket.socket) -> None:
        """Serve until `should_exit`, also when cancelled: then the connections end in good order all the same."""
        with anyio.CancelScope(shield=True), contextlib.suppress(SystemExit):  # how it says that the app's startup failed
            await self.serve(sockets=[listener])
        self.ready.set()
