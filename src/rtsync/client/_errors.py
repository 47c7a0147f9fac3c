"""What the client raises."""

from __future__ import annotations

from ..core import OutsideError, RTSyncError

__all__ = ["ConnectionFailed", "SubscriptionRefused", "WireClosed", "sole"]


class ConnectionFailed(OutsideError):
    """
    The client is not connected and will not try again.

    Attributes:
        code: The server's code (``unauthenticated``, ``taken_over`` …), empty if it named none.
        reason: In words.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason} ({code})" if code and code != reason else reason)
        self.code = code
        self.reason = reason


class SubscriptionRefused(RTSyncError):
    """
    The server refused a subscription, or ended it, for good.

    Attributes:
        channel: Which.
        code: The server's code: ``forbidden``, ``bad_request`` …
        message: In words.
        field: What of the request was wrong, or empty.
    """

    def __init__(self, channel: str, code: str, message: str, field: str = "") -> None:
        super().__init__(f"{channel}: {code}" + (f": {message}" if message else ""))
        self.channel = channel
        self.code = code
        self.message = message
        self.field = field


class WireClosed(OutsideError):
    """
    A link was closed, broke, or could not be opened.

    Attributes:
        code: The WebSocket close code, ``None`` if the link ended without one.
        reason: In words.
    """

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__(f"closed with {code}: {reason}" if code is not None else reason or "closed")
        self.code = code
        self.reason = reason


def sole(error: BaseException) -> BaseException:
    """Return the only exception inside nested groups of one, else *error* itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
