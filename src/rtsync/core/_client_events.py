"""What the rules of a client tell the program around them, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ._changes import Update
from ._entries import SourceStatus
from ._frames import Kind
from ._position import Position

__all__ = [
    "Began",
    "Changed",
    "ClientEvent",
    "ConnectionState",
    "Draining",
    "Ended",
    "Lost",
    "Refused",
    "RequestRefused",
    "Resynchronising",
    "StateChanged",
    "StatusChanged",
    "Welcomed",
]

ConnectionState = Literal["connecting", "live", "stalled", "disconnected", "failed"]
"""
How a client is connected.

``connecting``: an attempt is under way. ``live``: welcomed, and the server was heard in time. ``stalled``: it was not, and may
be gone. ``disconnected``: waiting for the next attempt, or for good when another connection took over. ``failed``: the server
refused for a reason that another attempt does not cure, or the attempts ran out.
"""


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The connection has another state; ``reason`` says why it is not live."""

    state: ConnectionState
    reason: str


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The server took the connection. ``user`` is who it takes us for."""

    session: str
    user: str | None


@dataclass(frozen=True, slots=True)
class Began:
    """
    A subscription instance begins.

    What follows continues ``position``. That is ``None`` when the server could not continue what is held: then a keyframe or a
    gap will tell.
    """

    channel: str
    kind: Kind
    position: Position | None


@dataclass(frozen=True, slots=True)
class Changed:
    """Something was applied to a channel."""

    channel: str
    update: Update


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """A channel's freshness changed."""

    channel: str
    status: SourceStatus


@dataclass(frozen=True, slots=True)
class Resynchronising:
    """What arrived for a channel did not continue what is held, so it is asked for anew."""

    channel: str
    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The server refused a subscription for good."""

    channel: str
    code: str
    message: str
    field: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The server ended a subscription for good. ``code`` is empty when there was nothing wrong with it."""

    channel: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """Another request, such as a change of rate, was refused; the subscription goes on as before."""

    channel: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Draining:
    """The server will close soon and has said when to come back."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is of no more use and has to be cut."""

    reason: str


ClientEvent: TypeAlias = (
    StateChanged
    | Welcomed
    | Began
    | Changed
    | StatusChanged
    | Resynchronising
    | Refused
    | Ended
    | RequestRefused
    | Draining
    | Lost
)
