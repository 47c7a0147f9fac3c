"""How a connection proves who it acts for."""

from __future__ import annotations

from typing import Protocol

from ..core import Code, PeerError
from ..hub import Principal

__all__ = ["Authenticator", "Refused"]


class Refused(PeerError):
    """The credentials are not accepted. The client is told this message and no more."""

    def __init__(self, message: str = "the credentials were not accepted") -> None:
        super().__init__(Code.UNAUTHENTICATED, message)


class Authenticator(Protocol):
    """Called once per connection, with the token of its hello."""

    async def __call__(self, token: str | None) -> Principal:
        """
        Return whom the connection acts for.

        Raises:
            Refused: The connection ends with code 4401.
        """
        ...
