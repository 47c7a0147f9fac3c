"""The seam to a WebSocket library: a page that says all the client asks of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from ..core import Message

__all__ = ["Connector", "Wire"]


class Wire(Protocol):
    """
    An open WebSocket.

    One task receives and another sends. Either may be cancelled while it waits; a message whose sending was cancelled is never
    followed by another.
    """

    async def send(self, message: Message) -> None:
        """Send one message, binary or text. Raises `WireClosed`."""
        ...

    async def receive(self) -> Message:
        """Return the next message whole. Raises `WireClosed` with the close code, if there was one."""
        ...

    async def close(self, code: int) -> None:
        """Start to close; must not wait for the peer. Closing what is closed does nothing."""
        ...


Connector: TypeAlias = Callable[[str, Sequence[str]], AbstractAsyncContextManager[Wire]]
"""
Opens a WebSocket: called with the URL and the subprotocols to offer, entered for each connection.

Entering raises `WireClosed` (or an ``OSError``) when the link cannot be opened and is cancelled when it takes too long. Leaving
closes the link without waiting for the peer.
"""
