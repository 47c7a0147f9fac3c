"""The backend protocol, the lookup by URL scheme, and the memory backend."""

from __future__ import annotations

from ._lookup import open_backend
from ._memory import MemoryBackend
from ._memory_store import MemoryStore
from ._notices import NoticeQueue
from ._protocol import TTL, Announcement, Appended, Backend, Cut, Entry, GapNotice, Health, Keyframe, Notice, Record, Retention

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
    "MemoryBackend",
    "MemoryStore",
    "Notice",
    "NoticeQueue",
    "Record",
    "Retention",
    "open_backend",
]
