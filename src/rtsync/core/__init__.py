"""The pure heart of rtsync: values and `now` in, values out. No I/O, no clock, no event loop."""

from . import _client_events as client_events
from . import _frames as frames
from ._buckets import TokenBucket
from ._changes import Change, Event, Gap, Update
from ._client_events import ConnectionState
from ._client_session import ClientSession
from ._client_subscription import ClientSubscription
from ._document import VersionedDocument
from ._entries import (
    LIVE,
    EventEntry,
    PatchEntry,
    SourceStatus,
    StatusEntry,
    decode_entry,
    decode_keyframe,
    encode_event_entry,
    encode_keyframe,
    encode_patch_entry,
    encode_status_entry,
)
from ._errors import (
    Code,
    CodeInfo,
    Conflict,
    DecodeError,
    Fenced,
    InvalidName,
    InvalidValue,
    KeyframeNeeded,
    ModelError,
    OutsideError,
    PeerError,
    ProtocolError,
    Rejected,
    RTSyncError,
    SettingsError,
    Unavailable,
    Unknown,
    UsageError,
)
from ._frames import Freshness, Kind
from ._groups import bare_errors, leaves, sole
from ._keys import KeyTable
from ._limits import Limits
from ._logs import EventLog, StateLog, StoredEvent
from ._names import MAX_NAME_BYTES, Channel, FamilyPattern, parse_channel
from ._patch import REMOVED, Patch, PatchValue, Replace, apply, checked_patch, diff, narrow
from ._patch_wire import document_from_wire, patch_from_wire, patch_to_wire
from ._position import LINK_BITS, MAX_OFFSET, Position
from ._profiles import JSON, MSGPACK, PROFILES, Message, Profile
from ._reconnect import ReconnectPolicy
from ._server_session import ServerSession, SessionRules
from ._values import Document, Value, checked, checked_document, same

__all__ = [
    "JSON",
    "LINK_BITS",
    "LIVE",
    "MAX_NAME_BYTES",
    "MAX_OFFSET",
    "MSGPACK",
    "PROFILES",
    "REMOVED",
    "Change",
    "Channel",
    "ClientSession",
    "ClientSubscription",
    "Code",
    "CodeInfo",
    "Conflict",
    "ConnectionState",
    "DecodeError",
    "Document",
    "Event",
    "EventEntry",
    "EventLog",
    "FamilyPattern",
    "Fenced",
    "Freshness",
    "Gap",
    "InvalidName",
    "InvalidValue",
    "KeyTable",
    "KeyframeNeeded",
    "Kind",
    "Limits",
    "Message",
    "ModelError",
    "OutsideError",
    "Patch",
    "PatchEntry",
    "PatchValue",
    "PeerError",
    "Position",
    "Profile",
    "ProtocolError",
    "RTSyncError",
    "ReconnectPolicy",
    "Rejected",
    "Replace",
    "ServerSession",
    "SessionRules",
    "SettingsError",
    "SourceStatus",
    "StateLog",
    "StatusEntry",
    "StoredEvent",
    "TokenBucket",
    "Unavailable",
    "Unknown",
    "Update",
    "UsageError",
    "Value",
    "VersionedDocument",
    "apply",
    "bare_errors",
    "checked",
    "checked_document",
    "checked_patch",
    "client_events",
    "decode_entry",
    "decode_keyframe",
    "diff",
    "document_from_wire",
    "encode_event_entry",
    "encode_keyframe",
    "encode_patch_entry",
    "encode_status_entry",
    "frames",
    "leaves",
    "narrow",
    "parse_channel",
    "patch_from_wire",
    "patch_to_wire",
    "same",
    "sole",
]
