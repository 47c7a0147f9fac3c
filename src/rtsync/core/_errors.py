"""
Every code and every exception of rtsync, in one place.

The tree answers "whose move is it?"::

    RTSyncError
    ├── UsageError            you misused it: a programming or configuration mistake
    │   ├── SettingsError         a setting is out of range
    │   ├── InvalidName           a channel name or pattern is not legal
    │   ├── InvalidValue          a document, patch or event cannot be carried
    │   └── ModelError            a document does not fit its family's model
    ├── PeerError             the peer misbehaved
    │   ├── DecodeError           bytes that are not protocol v1, or over a limit
    │   └── ProtocolError         well-formed frames that break a session rule
    └── OutsideError          the outside broke
        ├── Rejected              a request that certainly changed nothing
        │   ├── Conflict              another writer was first
        │   ├── KeyframeNeeded        the window is full until a keyframe is saved
        │   ├── Fenced                a newer lease holder has written
        │   └── Unavailable           the backend cannot answer now
        └── Unknown               a publish that may or may not be in the log
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ._position import Position

__all__ = [
    "Code",
    "CodeInfo",
    "Conflict",
    "DecodeError",
    "Fenced",
    "InvalidName",
    "InvalidValue",
    "KeyframeNeeded",
    "ModelError",
    "OutsideError",
    "PeerError",
    "ProtocolError",
    "RTSyncError",
    "Rejected",
    "SettingsError",
    "Unavailable",
    "Unknown",
    "UsageError",
]


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a code means to a peer: its WebSocket close code, and whether trying again can help."""

    text: str
    close: int
    retryable: bool


class Code(Enum):
    """
    Why a request was refused, a subscription ended or a connection was closed.

    The member's value is ``CodeInfo(text, close, retryable)``. ``text`` travels in ``error`` and ``unsubscribed`` frames;
    ``close`` is the WebSocket close code when the whole connection ends for this reason: 44xx the client's doing
    (a reconnect alone does not help), 45xx the server's (reconnect).

    Source: docs/reference/protocol.md, "Codes".
    """

    BAD_FRAME = CodeInfo("bad_frame", 4400, False)
    UNAUTHENTICATED = CodeInfo("unauthenticated", 4401, False)
    FORBIDDEN = CodeInfo("forbidden", 4403, False)
    NOT_SUBSCRIBED = CodeInfo("not_subscribed", 4404, False)
    HELLO_TIMEOUT = CodeInfo("hello_timeout", 4408, True)
    TAKEN_OVER = CodeInfo("taken_over", 4409, False)
    TOO_LARGE = CodeInfo("too_large", 4413, False)
    BAD_REQUEST = CodeInfo("bad_request", 4422, False)
    TOO_MANY = CodeInfo("too_many", 4429, True)
    INTERNAL = CodeInfo("internal", 4500, True)
    UNAVAILABLE = CodeInfo("unavailable", 4503, True)
    NO_PONG = CodeInfo("no_pong", 4508, True)
    SLOW = CodeInfo("slow", 4509, True)
    DRAIN = CodeInfo("drain", 4512, True)

    @property
    def text(self) -> str:
        return self.value.text

    @property
    def close(self) -> int:
        return self.value.close

    @property
    def retryable(self) -> bool:
        return self.value.retryable

    @classmethod
    def from_text(cls, text: str) -> Code | None:
        """Return the code a frame names, or ``None`` for one this version does not know."""
        return _BY_TEXT.get(text)

    @classmethod
    def from_close(cls, close: int) -> Code | None:
        """Return the code behind a WebSocket close code, or ``None`` when it is not one of ours."""
        return _BY_CLOSE.get(close)


_BY_TEXT = {code.text: code for code in Code}
_BY_CLOSE = {code.close: code for code in Code}


class RTSyncError(Exception):
    """Base of everything rtsync raises on purpose."""


# ---- you misused it ------------------------------------------------------------------------------------------------


class UsageError(RTSyncError, ValueError):
    """
    You misused it.

    Attributes:
        field: What was wrong, as a path (``"settings.ping_interval"``, ``"document.positions.ETH-USD.qty"``).
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class SettingsError(UsageError):
    """A setting is missing, mistyped or out of range."""


class InvalidName(UsageError):
    """A channel name or family pattern is not legal, or not in its canonical form."""


class InvalidValue(UsageError):
    """A document, patch or event holds something the type table cannot carry, or is over a limit."""


class ModelError(UsageError):
    """A document or event does not fit the model its family declares."""


# ---- the peer misbehaved -------------------------------------------------------------------------------------------


class PeerError(RTSyncError):
    """
    The peer misbehaved.

    Attributes:
        code: What the peer is told.
        field: The frame field that was wrong, or ``""``.
    """

    def __init__(self, code: Code, message: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.code = code
        self.message = message
        self.field = field


class DecodeError(PeerError):
    """Bytes that are not protocol v1, or that exceed a decode limit."""


class ProtocolError(PeerError):
    """Well-formed frames that break a session rule."""


# ---- the outside broke ---------------------------------------------------------------------------------------------


class OutsideError(RTSyncError):
    """The outside broke: a backend, a source or a network."""


class Rejected(OutsideError):
    """A request that certainly changed nothing: a publish refused with it is not in the log."""


class Conflict(Rejected):
    """
    Another writer was first.

    Attributes:
        head: Where the log stands now, if the backend said so.
    """

    def __init__(self, head: Position | None) -> None:
        super().__init__(f"the log moved on to {head}")
        self.head = head


class KeyframeNeeded(Rejected):
    """The window since the last keyframe is full; save one and append again."""

    def __init__(self, window: int) -> None:
        super().__init__(f"the window of {window} entries is full: save a keyframe first")
        self.window = window


class Fenced(Rejected):
    """
    A newer lease holder has written to the log.

    Attributes:
        token: The newest token the log has seen.
    """

    def __init__(self, token: int) -> None:
        super().__init__(f"a writer with the newer token {token} has taken over")
        self.token = token


class Unavailable(Rejected):
    """The backend cannot answer now."""


class Unknown(OutsideError):
    """
    A publish that may or may not be in the log.

    Attributes:
        link: The entry's link; appending again with it cannot store the entry twice.
    """

    def __init__(self, link: int, reason: str) -> None:
        super().__init__(f"the append of link {link:012x} may or may not have happened: {reason}")
        self.link = link
