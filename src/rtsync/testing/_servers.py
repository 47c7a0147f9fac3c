"""
Real ASGI servers on a free loopback port, for tests.

In a thread, a server has an event loop of its own and so suits tests on asyncio and trio alike; on the loop of the caller, the
test can also reach into the app. Either way nothing of it is left when the block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._owned import owned_tasks

if TYPE_CHECKING:
    from hypercorn.config import Config as HypercornConfig
    from hypercorn.typing import Framework
    from uvicorn import Config as UvicornConfig

__all__ = ["serve_hypercorn", "serve_uvicorn"]

Backend = Literal["asyncio", "trio"]
Call = Callable[[], object]
Serve = Callable[[Call, Callable[[], Awaitable[object]]], Awaitable[None]]
"""Serves, calls the first argument when that has begun, and ends when the second returns."""

# For a server to let go once its connections are cut, and once it is cancelled.
_CUT_SECONDS = 1.0
_CANCEL_SECONDS = 5.0


@asynccontextmanager
async def serve_uvicorn(app: ASGIApp, *, thread: bool = True, shutdown: float = 5.0, **config: Any) -> AsyncIterator[str]:
    """
    Serve an app with uvicorn, and give its base URL: ``http://127.0.0.1:port`` (``https`` with a certificate).

    Args:
        app: Any ASGI 3 app.
        thread: In a thread of its own. Otherwise on the loop of the caller, which must be asyncio.
        shutdown: Seconds at the end for connections and app to finish; connections get half of it. What is left then is cut
            and cancelled.
        config: For `uvicorn.Config`. Unless told otherwise, it logs through Python's logging, and only what is wrong.

    Raises:
        RuntimeError: If the server does not start, because the app's startup fails, or does not end.
    """
    import uvicorn

    defaults = {"log_config": None, "log_level": "warning", "timeout_graceful_shutdown": max(1, int(shutdown / 2))}
    with _listening() as listener:
        settings = uvicorn.Config(app, **{**defaults, **config})
        run = partial(_run_uvicorn, settings, listener)
        async with _serving(run, "asyncio", _port(listener), thread=thread, shutdown=shutdown):
            yield _url(listener, secure=settings.is_ssl)


@asynccontextmanager
async def serve_hypercorn(
    app: ASGIApp, *, backend: Backend | None = None, thread: bool = False, shutdown: float = 5.0, **config: Any
) -> AsyncIterator[str]:
    """
    Serve an app with hypercorn, and give its base URL: ``http://127.0.0.1:port`` (``https`` with a certificate).

    Args:
        app: Any ASGI 3 app.
        backend: The kind of loop to serve on; ``None`` for that of the caller.
        thread: In a thread of its own. Otherwise on the loop of the caller.
        shutdown: Seconds at the end for connections and app to finish; connections get half of it. What is left then is cut
            and cancelled.
        config: Attributes of `hypercorn.Config`. Unless told otherwise, it logs through Python's logging.

    Raises:
        RuntimeError: If the server does not start, because the app's startup fails, or does not end.
    """
    from hypercorn.config import Config

    defaults = {"errorlog": logging.getLogger("hypercorn.error"), "graceful_timeout": shutdown / 2}
    with _listening() as listener:
        settings = Config.from_mapping({**defaults, **config})
        kind = backend or _current_backend()
        run = partial(_run_hypercorn, app, settings, listener, kind)
        async with _serving(run, kind, _port(listener), thread=thread, shutdown=shutdown):
            yield _url(listener, secure=settings.ssl_enabled)


@contextmanager
def _listening() -> Iterator[socket.socket]:
    """Listen at a free port. The server is handed this very socket, so that nobody can take the port in between."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        yield listener


def _url(listener: socket.socket, *, secure: bool) -> str:
    return f"{'https' if secure else 'http'}://127.0.0.1:{_port(listener)}"


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def _current_backend() -> Backend:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "trio"
    return "asyncio"


# ---- the servers ---------------------------------------------------------------------------------------------------


async def _run_uvicorn(
    config: UvicornConfig, listener: socket.socket, ready: Call, stop: Callable[[], Awaitable[object]]
) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # Ctrl-C is the test runner's.

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    server = Server(config)

    async def stop_server() -> None:
        await stop()
        server.should_exit = True

    async with owned_tasks() as tasks:
        tasks.start_soon(stop_server)
        try:
            await server.serve(sockets=[listener])
        except SystemExit as exit:  # How uvicorn says that the app's startup failed.
            raise RuntimeError(f"uvicorn would exit with status {exit.code}; see its log") from exit
        finally:
            # A peer that reads nothing keeps its connection beyond the server's end.
            for connection in server.server_state.connections:
                connection.transport.abort()
            tasks.cancel_scope.cancel()


async def _run_hypercorn(
    app: ASGIApp,
    config: HypercornConfig,
    listener: socket.socket,
    backend: Backend,
    ready: Call,
    stop: Callable[[], Awaitable[object]],
) -> None:
    from hypercorn.config import Sockets

    sockets = Sockets([listener], [], []) if config.ssl_enabled else Sockets([], [listener], [])
    config.create_sockets = lambda: sockets  # type: ignore[method-assign]
    if backend == "asyncio":
        from hypercorn.asyncio import serve
    else:
        from hypercorn.trio import serve
    await serve(cast("Framework", _announcing(app, ready)), config, shutdown_trigger=stop, mode="asgi")


def _announcing(app: ASGIApp, ready: Call) -> ASGIApp:
    """Tell when the app's startup is over: the one sign from hypercorn that is the same on both loops."""

    async def announcing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        failed = False

        async def announce(message: Message) -> None:
            nonlocal failed
            failed = failed or message["type"] == "lifespan.startup.failed"
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                ready()

        try:
            await app(scope, receive, announce)
        finally:
            if not failed:  # It knows no lifespan, which is no reason not to serve it.
                ready()

    return announcing


# ---- running them --------------------------------------------------------------------------------------------------


class _Run:
    """One server at work, on whichever loop; and, for other threads, the means to end it."""

    def __init__(self, serve: Serve) -> None:
        self.failure: BaseException | None = None
        self._serve = serve
        self._call_soon: Callable[[Call], object] = lambda call: None
        self._stop: Call = lambda: None
        self._cancel: Call = lambda: None

    async def __call__(self, begun: Call, ready: Call) -> None:
        stop, scope = anyio.Event(), anyio.CancelScope(shield=True)  # Whoever is cancelled, servers end in good order.
        self._call_soon, self._stop, self._cancel = _call_soon(), stop.set, scope.cancel
        begun()
        with scope:
            try:
                await self._serve(ready, stop.wait)
            except Exception as error:
                self.failure = error

    def stop(self) -> None:
        self._call_soon(self._stop)

    def cancel(self) -> None:
        self._call_soon(self._cancel)


@asynccontextmanager
async def _serving(serve: Serve, backend: Backend, port: int, *, thread: bool, shutdown: float) -> AsyncIterator[None]:
    if not thread and backend != _current_backend():
        raise ValueError(f"a server on {backend} needs thread=True here")
    run = _Run(serve)
    begun, ready, done = anyio.Event(), anyio.Event(), anyio.Event()
    call_soon = _call_soon()

    def finish() -> None:
        for event in (begun, ready, done):
            event.set()

    async def run_here() -> None:
        try:
            await run(begun.set, ready.set)
        finally:
            finish()

    def run_in_thread() -> None:
        try:
            anyio.run(run, partial(call_soon, begun.set), partial(call_soon, ready.set), backend=backend)
        except BaseException as error:
            run.failure = error
        finally:
            call_soon(finish)

    async with owned_tasks() as tasks:
        worker = threading.Thread(target=run_in_thread, name=f"serving on {backend}", daemon=True)
        if thread:
            worker.start()
        else:
            tasks.start_soon(run_here)
        try:
            with anyio.CancelScope(shield=True):  # Until there is something that can be ended.
                await begun.wait()
            await ready.wait()
            if done.is_set():
                raise RuntimeError("the server did not start") from run.failure
            yield
        finally:
            steps: list[tuple[Call, float]] = [
                (run.stop, shutdown),
                (partial(_cut_connections, port), _CUT_SECONDS),
                (run.cancel, _CANCEL_SECONDS),
            ]
            for end, seconds in steps:
                if not done.is_set():
                    end()
                    with anyio.move_on_after(seconds, shield=True):
                        await done.wait()
            if not done.is_set():
                raise RuntimeError("the server does not end")
            if thread:
                worker.join()
    if run.failure is not None:
        raise RuntimeError("the server failed") from run.failure


def _cut_connections(port: int) -> None:
    """
    Break what is still connected to a server of this process.

    Servers offer no way to do that, and a peer that reads nothing holds up their writes for ever. Hypercorn's writes on trio
    cannot even be cancelled, and on asyncio it waits for such a peer once more when it closes.
    """
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # Gone meanwhile.
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family == socket.AF_INET and _port(connection) == port:
                    connection.shutdown(socket.SHUT_RDWR)


def _call_soon() -> Callable[[Call], object]:
    """Return what schedules a call on the caller's loop, from any thread, without waiting. Too late is fine, too."""
    schedule: Callable[[Call], object]
    try:
        schedule = asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        from trio.lowlevel import current_trio_token

        schedule = current_trio_token().run_sync_soon

    def call_soon(call: Call) -> None:
        with contextlib.suppress(RuntimeError):
            schedule(call)

    return call_soon
