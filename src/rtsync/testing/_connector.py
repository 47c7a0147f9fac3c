"""A server of one ASGI app in memory, and the way to it: for tests that drive an app, and for clients connected to one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from starlette.types import ASGIApp

from ._asgi import ASGIWebSocket, HandshakeRefused
from ._link import Latency
from ._owned import owned_tasks
from ._server_models import STRICT, ServerModel

__all__ = ["ASGIConnector", "asgi_connector", "asgi_websocket"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class ASGIConnector:
    """
    A server of one app, and the way to it: call it with a URL and subprotocols, as the Python client does.

    The app's tasks belong to the server. A client that is cancelled leaves its connection, and the app learns of it.

    Attributes:
        server: The habits of new connections.
        latency: Of new connections: seconds each way, or what draws them for each message.
        refusing: Whether new connections find nobody listening.
        connections: Those whose clients have not left, oldest first.
        opened: How many there ever were.
    """

    def __init__(
        self,
        app: ASGIApp,
        tasks: TaskGroup,
        *,
        server: ServerModel,
        latency: Latency,
        root_path: str,
        headers: Headers,
        state: Mapping[str, object] | None,
    ) -> None:
        self.server = server
        self.latency = latency
        self.refusing = False
        self.connections: list[ASGIWebSocket] = []
        self.opened = 0
        self._app = app
        self._tasks = tasks
        self._root_path = root_path
        self._headers = _pairs(headers)
        self._state = state
        self._serving: list[ASGIWebSocket] = []
        self._errors: list[Exception] = []

    def __call__(self, url: str, subprotocols: Sequence[str]) -> AbstractAsyncContextManager[ASGIWebSocket]:
        """Connect; only path and query of the URL matter."""
        return self.open(url, subprotocols=subprotocols)

    @property
    def serving(self) -> int:
        """How many calls of the app are under way."""
        return len(self._serving)

    @asynccontextmanager
    async def open(
        self,
        path: str = "/",
        *,
        subprotocols: Sequence[str] = (),
        headers: Headers = (),
        client: tuple[str, int] = ("127.0.0.1", 50_000),
        latency: Latency | None = None,
        wait: bool = True,
    ) -> AsyncIterator[ASGIWebSocket]:
        """
        Open a connection, and leave it at the end of the block: with code 1000, or without a word if the block raised.

        Args:
            path: The path the app sees, mount path included; may be a whole URL, and have a query.
            subprotocols: To offer.
            headers: Beside those of the connector.
            client: The peer's address.
            latency: Of this connection; by default the connector's.
            wait: Until the app has accepted. Otherwise call `ASGIWebSocket.accepted`.

        Raises:
            HandshakeRefused: If the app does not accept, or nobody listens.
        """
        await checkpoint()
        if self.refusing:
            raise HandshakeRefused(0)
        scope = self._scope(path, subprotocols, _pairs(headers), client)
        socket = ASGIWebSocket(self._app, scope, self.server, self.latency if latency is None else latency)
        self.opened += 1
        self.connections.append(socket)
        self._serving.append(socket)
        self._tasks.start_soon(self._serve, socket)
        code = None
        try:
            if wait:
                await socket.accepted()
            yield socket
            code = 1000
        finally:
            socket._hang_up(code, "")
            self.connections.remove(socket)

    def cut(self) -> None:
        """Reset all connections."""
        for socket in self.connections:
            socket.reset()

    def kill(self, *, silently: bool = False) -> None:
        """
        Switch the server off, as a crash does: its apps are cancelled wherever they are, and nothing they do is seen any more.

        Args:
            silently: The machine is gone rather than the process: peers hear nothing, not even a reset.
        """
        self.refusing = True
        for socket in list(self._serving):
            if silently:
                socket.vanish()
            else:
                socket.reset()
            socket._tear()

    def _scope(
        self, path: str, subprotocols: Sequence[str], headers: list[tuple[bytes, bytes]], client: tuple[str, int]
    ) -> MutableMapping[str, Any]:
        url = urlsplit(path)
        host = url.netloc or "testserver"
        offered = [(b"sec-websocket-protocol", ", ".join(subprotocols).encode())] if subprotocols else []
        asgi = {"version": "3.0", "spec_version": self.server.spec_version}
        return {
            "type": "websocket",
            "asgi": {key: value for key, value in asgi.items() if value is not None},
            "http_version": "1.1",
            "scheme": url.scheme or "ws",
            "server": (url.hostname or host, url.port or 80),
            "client": client,
            "root_path": self._root_path,
            "path": unquote(url.path) or "/",
            "raw_path": url.path.encode() or b"/",
            "query_string": url.query.encode(),
            "headers": [(b"host", host.encode()), *offered, *self._headers, *headers],
            "subprotocols": list(subprotocols),
            "extensions": {"websocket.http.response": {}} if self.server.denial else {},
            **({} if self._state is None else {"state": dict(self._state)}),
        }

    async def _serve(self, socket: ASGIWebSocket) -> None:
        try:
            await socket._run()
        finally:
            self._serving.remove(socket)
            if socket.error is not None:
                self._errors.append(socket.error)

    async def _shut_down(self, grace: float) -> list[Exception]:
        """Wait for apps whose peers are gone, then end what is left; return what went wrong."""
        for socket in self.connections:
            socket.resume()
            socket._hang_up(None, "")
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(grace):
                for socket in [socket for socket in self._serving if not socket._vanished]:
                    await socket.finished()
            for socket in self._serving:
                socket._tear()
                if not socket._vanished:
                    text = f"the app did not return within {grace:g} s of its disconnect: {socket.scope['path']}"
                    self._errors.append(TimeoutError(text))
        return self._errors


@asynccontextmanager
async def asgi_connector(
    app: ASGIApp,
    *,
    server: ServerModel = STRICT,
    latency: Latency = 0.0,
    root_path: str = "",
    headers: Headers = (),
    state: Mapping[str, object] | None = None,
    grace: float = 5.0,
    raise_app_errors: bool = True,
) -> AsyncIterator[ASGIConnector]:
    """
    Serve an app in memory for the length of the block.

    Args:
        app: Any ASGI 3 app. Its lifespan is `asgi_lifespan`'s business.
        server: Whose habits to follow.
        latency: Seconds each way, or what draws them for each message. Order is kept.
        root_path: In the scope, as it is.
        headers: Of every connection.
        state: In the scope, copied for each connection, as servers do with the lifespan's.
        grace: Seconds at the end for apps to return after their disconnect. Those whose peer vanished are not waited for.
        raise_app_errors: Raise at the end what an app raised, or that one did not return, unless the block itself raised.

    Raises:
        ExceptionGroup: At the end, if there is more than one such error.
    """
    errors: list[Exception] = []
    async with owned_tasks() as tasks:
        connector = ASGIConnector(app, tasks, server=server, latency=latency, root_path=root_path, headers=headers, state=state)
        try:
            yield connector
        finally:
            errors = await connector._shut_down(grace)
    if raise_app_errors and errors:
        raise errors[0] if len(errors) == 1 else ExceptionGroup("apps failed", errors)


@asynccontextmanager
async def asgi_websocket(
    app: ASGIApp,
    path: str = "/",
    *,
    subprotocols: Sequence[str] = (),
    headers: Headers = (),
    root_path: str = "",
    state: Mapping[str, object] | None = None,
    server: ServerModel = STRICT,
    latency: Latency = 0.0,
    wait: bool = True,
    grace: float = 5.0,
    raise_app_errors: bool = True,
) -> AsyncIterator[ASGIWebSocket]:
    """
    Open one WebSocket to an app in memory. See `asgi_connector` and `ASGIConnector.open` for the arguments.

    Raises:
        HandshakeRefused: If the app does not accept.
    """
    async with (
        asgi_connector(
            app,
            server=server,
            latency=latency,
            root_path=root_path,
            state=state,
            grace=grace,
            raise_app_errors=raise_app_errors,
        ) as connector,
        connector.open(path, subprotocols=subprotocols, headers=headers, wait=wait) as socket,
    ):
        yield socket


def _pairs(headers: Headers) -> list[tuple[bytes, bytes]]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
