"""
The backend protocol: a log per channel and a small key-value store.

A backend stores bytes and assigns positions; it knows nothing of documents, patches or sessions. Every promise below is proven
by the conformance kit (`rtsync.testing.BackendKit`), which third-party backends run too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ..core import Channel, Position

__all__ = [
    "TTL",
    "Announcement",
    "Appended",
    "Backend",
    "Cut",
    "Entry",
    "GapNotice",
    "Health",
    "Keyframe",
    "Notice",
    "Record",
    "Retention",
]


@dataclass(frozen=True, slots=True)
class Retention:
    """
    How much of a channel's log the backend keeps.

    Attributes:
        keyframed: ``True`` for state logs: only `Backend.save_keyframe` trims them, and an append that would overrun the
            window is refused. ``False`` for event logs: the oldest entries fall out by themselves.
        window: Most entries kept (for state logs: since the newest keyframe's predecessor).
        max_age: Seconds after its last append when a whole log may be dropped; ``None`` keeps it.
    """

    keyframed: bool
    window: int
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One entry of a log.

    ``previous`` is the offset of the entry before it in the same channel (0 for none), so that a reader sees a hole without
    assuming that offsets are dense. ``token`` is the lease token it was appended with, 0 without a lease.
    """

    offset: int
    previous: int
    link: int
    token: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an append put its entry, and the offset of the entry before it."""

    position: Position
    previous: int


@dataclass(frozen=True, slots=True)
class Keyframe:
    """The whole document as of *position*, encoded by whoever saved it."""

    position: Position
    payload: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """
    One consistent view of a log.

    Attributes:
        head: Position of the newest entry; offset 0 if there is none yet.
        keyframe: The oldest keyframe from which *entries* lead to the head without a hole; ``None`` if they lead there from the
            empty log (or for event logs).
        entries: Retained entries in order, the keyframe's own entry first where there is a keyframe.
    """

    head: Position
    keyframe: Keyframe | None
    entries: Sequence[Entry]


# ---- what listen() yields ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Announcement:
    """A hint that *entry* was appended. May come late, twice, out of order or never: the log is the truth."""

    channel: Channel
    epoch: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class GapNotice:
    """Announcements may have been lost: of *channel*, or of every channel when ``None``."""

    channel: Channel | None
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the backend can be reached, as far as the listener can tell."""

    up: bool
    reason: str = ""


Notice = Announcement | GapNotice | Health


# ---- the key-value store -------------------------------------------------------------------------------------------


class TTL(Enum):
    """Lifetime classes of records; each put starts the lifetime anew. The value is the default lifetime in seconds."""

    BEAT = 5.0
    LEASE = 10.0
    PRESENCE = 30.0
    LIMIT = 60.0
    REVOCATION = 86_400.0


@dataclass(frozen=True, slots=True)
class Record:
    """
    A stored value. ``revision`` grows with every put in its class, also across deletion and expiry: it serves as lease token.
    """

    key: str
    value: bytes
    revision: int


class Backend(Protocol):
    """
    What a backend promises. Used inside ``async with backend:``; may be entered again after it was left.

    Every method may raise `Unavailable` (nothing was changed). Calls are bounded by the backend's own total deadline;
    cancelling a call abandons only the wait: an append already submitted may still happen.
    """

    async def __aenter__(self) -> Backend: ...
    async def __aexit__(self, *exc: object) -> None: ...

    # ---- the log

    async def append(
        self,
        channel: Channel,
        payload: bytes,
        *,
        link: int,
        retention: Retention,
        expect: Position | None = None,
        token: int = 0,
    ) -> Appended:
        """
        Store *payload* as the newest entry and announce it, atomically.

        A *link* that is already in the window returns that entry's place and stores nothing (idempotent retry). The first
        append to a log gives it an epoch.

        Args:
            channel: Canonical name.
            payload: Opaque bytes.
            link: Random 48 bits that identify the entry; also its idempotency key.
            retention: What to keep; the same for every append to a channel.
            expect: The head this entry was made for; offset 0 expects an empty log. ``None`` appends wherever the head is.
            token: Lease token of the writer; 0 without a lease.

        Raises:
            Conflict: *expect* is not the head.
            Fenced: The newest entry carries a token greater than *token*.
            KeyframeNeeded: A keyframed log's window is full.
            Unknown: The outcome cannot be known within the deadline.
        """
        ...

    async def read(self, channel: Channel) -> Cut:
        """
        Return one consistent cut of the log. A log that does not exist has the head ``Position("", 0, 0)``; reading creates
        nothing.
        """
        ...

    async def heads(self, channels: Sequence[Channel]) -> Sequence[Position]:
        """Return the heads of several logs, in order; cheaper than `read`."""
        ...

    async def save_keyframe(self, channel: Channel, position: Position, payload: bytes) -> bool:
        """
        Save the document as of *position*, then trim the log up to the keyframe before it.

        Returns:
            ``False``, with nothing changed, if *position* is not an entry of the window with that very link.
        """
        ...

    async def new_epoch(self, channel: Channel, expect: str) -> str:
        """
        Rename the history *expect*, because its continuity cannot be proven: its entries stay, positions of old no longer
        match.

        Returns:
            The epoch now in force: a fresh one, or the one another node was first to set; ``""`` if the log does not exist.
        """
        ...

    # ---- announcements

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[Notice]]:
        """Open this node's stream of notices, one at a time. Bounded: what does not fit becomes a `GapNotice`."""
        ...

    async def watch(self, channel: Channel) -> None:
        """
        Start announcing *channel* to the open listener; on return every later append will be announced (or lost with a gap).
        """
        ...

    async def unwatch(self, channel: Channel) -> None:
        """Stop announcing *channel*."""
        ...

    # ---- the key-value store

    async def get(self, ttl: TTL, key: str) -> Record | None:
        """Return the record under *key*, or ``None`` if there is none or its lifetime is over."""
        ...

    async def put(self, ttl: TTL, key: str, value: bytes, *, expect: int | None = None) -> int:
        """
        Store *value* and return its revision.

        Raises:
            Conflict: *expect* is not the current revision (0 expects no record).
        """
        ...

    async def delete(self, ttl: TTL, key: str, *, expect: int | None = None) -> None:
        """Remove the record; no error if there is none. Raises `Conflict` as `put` does."""
        ...

    async def list(self, ttl: TTL, prefix: str) -> Sequence[Record]:
        """Return the live records whose key starts with *prefix*."""
        ...
