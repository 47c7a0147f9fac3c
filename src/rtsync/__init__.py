"""
Realtime channels for ASGI apps: recover exactly, or say so.

    rt = RTSync()
    prices = rt.state("prices:{symbol}", access=public)
    app = Starlette(routes=[Mount("/rt", rt)], lifespan=rt.lifespan)
    ...
    await prices.channel("ETH-USD").set({"bid": Decimal("4215.5"), "ask": Decimal("4215.6")})
"""

from ._app import RTSync
from ._handles import EventFamily, EventsHandle, StateFamily, StateHandle
from ._settings import Settings, SettingsWarning
from .core import (
    LIVE,
    REMOVED,
    Conflict,
    Fenced,
    InvalidName,
    InvalidValue,
    KeyframeNeeded,
    ModelError,
    OutsideError,
    PeerError,
    Position,
    Rejected,
    Replace,
    RTSyncError,
    SettingsError,
    SourceStatus,
    Unavailable,
    Unknown,
    UsageError,
)
from .doors import combine
from .hub import Changes, HubStatistics, Principal
from .security import Authenticator, Refused, authenticated, public

__all__ = [
    "LIVE",
    "REMOVED",
    "Authenticator",
    "Changes",
    "Conflict",
    "EventFamily",
    "EventsHandle",
    "Fenced",
    "HubStatistics",
    "InvalidName",
    "InvalidValue",
    "KeyframeNeeded",
    "ModelError",
    "OutsideError",
    "PeerError",
    "Position",
    "Principal",
    "RTSync",
    "RTSyncError",
    "Refused",
    "Rejected",
    "Replace",
    "Settings",
    "SettingsError",
    "SettingsWarning",
    "SourceStatus",
    "StateFamily",
    "StateHandle",
    "Unavailable",
    "Unknown",
    "UsageError",
    "authenticated",
    "combine",
    "public",
]
