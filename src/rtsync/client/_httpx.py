"""The WebSocket of httpx2 as a wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio

from ..core import Message
from ._errors import WireClosed, sole
from ._wire import Connector, Wire

if TYPE_CHECKING:
    import httpx2
    from httpx2.websockets import AsyncWebSocketSession

__all__ = ["httpx_connector"]

_MAX_MESSAGE: Final = 16 << 20
"""Most bytes of a message: as much as the client decodes. The library's own default, 64 KiB, is less than a server sends."""

_CLOSE_TIMEOUT: Final = 1.0
"""Seconds for the closing handshake's first half; a link that does not take a few bytes in that time is not worth more."""


def httpx_connector(client: httpx2.AsyncClient | None = None) -> Connector:
    """
    Return a connector that opens WebSockets with httpx2.

    Args:
        client: Brings cookies, headers, certificates or a proxy; stays yours to close. By default a plain one for each
            connection.

    Raises:
        ImportError: If httpx2 or its WebSocket extra is not installed.
    """
    try:
        import httpx2
        import httpx2.websockets
    except ImportError as error:
        raise ImportError('the client needs httpx2 and wsproto: pip install "rtsync[client]"') from error

    @asynccontextmanager
    async def fresh(url: str, subprotocols: Sequence[str]) -> AsyncIterator[Wire]:
        # Reading the certificate store takes 20 ms and more, for nothing where there is no TLS.
        async with (
            httpx2.AsyncClient(verify=not url.startswith("ws:")) as plain,
            _open(plain, url, subprotocols) as wire,
        ):
            yield wire

    def given(url: str, subprotocols: Sequence[str]) -> AbstractAsyncContextManager[Wire]:
        assert client is not None
        return _open(client, url, subprotocols)

    return fresh if client is None else given


@asynccontextmanager
async def _open(client: httpx2.AsyncClient, url: str, subprotocols: Sequence[str]) -> AsyncIterator[Wire]:
    """Open a WebSocket; whatever the libraries below raise comes out as `WireClosed`."""
    theirs = _errors_below()
    try:
        async with client.websocket(
            url,
            subprotocols=list(subprotocols) or None,
            max_message_size_bytes=_MAX_MESSAGE,
            keepalive_ping_interval_seconds=None,  # the protocol has its own, and judges by what arrives
            timeout=None,  # the client gives up an attempt by cancelling it
        ) as session:
            wire = _HttpxWire(session, theirs)
            try:
                yield wire
            finally:
                # The session's own close is shielded and has no deadline; once ours has begun, it only drops the link.
                await wire.close(1000)
    except Exception as error:
        cause = sole(error)
        if isinstance(cause, theirs):
            raise _translated(cause) from error
        if cause is not error:
            raise cause from cause.__cause__
        raise


class _HttpxWire:
    def __init__(self, session: AsyncWebSocketSession, theirs: tuple[type[Exception], ...]) -> None:
        self._session = session
        self._theirs = theirs

    async def send(self, message: Message) -> None:
        try:
            if isinstance(message, str):
                await self._session.send_text(message)
            else:
                await self._session.send_bytes(message)
        except self._theirs as error:
            raise _translated(error) from error

    async def receive(self) -> Message:
        try:
            event = await self._session.receive()
        except self._theirs as error:
            raise _translated(error) from error
        data: object = getattr(event, "data", None)
        if isinstance(data, str):
            return data
        if isinstance(data, bytes | bytearray):
            return bytes(data)
        raise WireClosed(None, f"not a message: {type(event).__name__}")

    async def close(self, code: int) -> None:
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True), suppress(*self._theirs):
            await self._session.close(code)


def _errors_below() -> tuple[type[Exception], ...]:
    """What httpx2 and the libraries below it raise for a link: the session passes some of it on as it is."""
    import httpcore2
    import httpx2
    import wsproto
    from httpx2.websockets import HTTPXWSException

    return (
        HTTPXWSException,
        httpx2.HTTPError,
        httpx2.InvalidURL,
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.TimeoutException,
        wsproto.utilities.ProtocolError,
        anyio.ClosedResourceError,
        anyio.BrokenResourceError,
        anyio.EndOfStream,
        OSError,
    )


def _translated(error: BaseException) -> WireClosed:
    from httpx2.websockets import WebSocketDisconnect, WebSocketUpgradeError

    if isinstance(error, WebSocketDisconnect):
        return WireClosed(int(error.code), error.reason)
    if isinstance(error, WebSocketUpgradeError):
        return WireClosed(None, f"the server answered HTTP {error.response.status_code}")
    return WireClosed(None, str(error) or type(error).__name__)
