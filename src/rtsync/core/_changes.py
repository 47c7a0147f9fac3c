"""What a client's subscription tells: changes of a document, events, and gaps between events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ._entries import SourceStatus
from ._patch import Patch
from ._position import Position
from ._values import Document, Value

__all__ = ["Change", "Event", "Gap", "Update", "worse"]


@dataclass(frozen=True, slots=True)
class Change:
    """
    A state channel moved on.

    ``kind`` is ``keyframe`` (the whole document; whatever was held before no longer counts), ``delta`` (``patch`` leads from
    the value of the change before to this one) or ``status`` (only the freshness changed). ``value`` is the whole document and
    is shared: read it, never modify it.
    """

    kind: Literal["keyframe", "delta", "status"]
    value: Document
    patch: Patch | None
    position: Position
    status: SourceStatus


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an event channel. To resume from ``position`` brings what follows it."""

    value: Value
    position: Position


@dataclass(frozen=True, slots=True)
class Gap:
    """Events after ``start``, up to and including ``position``, are missing; ``reason`` says why."""

    start: Position
    position: Position
    reason: str


Update: TypeAlias = Change | Event | Gap
"""What iterating over a subscription gives: changes for a state channel, events and gaps for an event channel."""


def worse(status: SourceStatus, doubt: SourceStatus | None) -> SourceStatus:
    """Return the worse of what the server says of a channel and of what the client itself has to doubt."""
    return doubt if doubt is not None and _RANK[doubt.freshness] > _RANK[status.freshness] else status


_RANK: Final = {"live": 0, "closed": 1, "stale": 2}
