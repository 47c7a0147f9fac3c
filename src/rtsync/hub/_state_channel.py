"""A state channel on one node: a versioned document and the key table of its frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ..backends import Cut, Entry
from ..core import (
    Channel,
    Code,
    DecodeError,
    Document,
    KeyTable,
    Patch,
    PatchEntry,
    Position,
    Profile,
    StateLog,
    StatusEntry,
    decode_entry,
    decode_keyframe,
)
from ._channel import NOWHERE, LiveChannel
from ._families import Family
from ._frame_cache import FrameCache
from ._subscription import NOTHING, Subscription

__all__ = ["StateChannel"]

_SMALL: Final = 512
"""Deltas up to this many bytes are sent without asking whether a keyframe would be smaller."""

_UNBOUNDED: Final = 1 << 62


class StateChannel(LiveChannel):
    """
    Holds one document.

    *piece* is the size in bytes beyond which a keyframe travels in parts. ``size_bound`` is a number of bytes that the encoded
    document does not exceed: exact when the publisher has looked, growing with every entry since.
    """

    def __init__(
        self,
        name: Channel,
        family: Family,
        alias: int,
        cache: FrameCache,
        changed: Callable[[LiveChannel], None],
        piece: int,
    ) -> None:
        super().__init__(name, family, alias, cache, changed)
        self._piece = piece
        self._begin(NOWHERE, {})

    @property
    def head(self) -> Position:
        return self._log.head

    @property
    def document(self) -> Document:
        """The document at the head. Never changed in place."""
        return self._log.document

    def link_at(self, offset: int) -> int | None:
        return self._log.link_at(offset)

    # ---- the local log against the backend's

    def _begin(self, position: Position, document: Document) -> None:
        """Start the local log at a keyframe; whoever reads it needs that keyframe."""
        self._log = StateLog(self.family.retention.window, position, document)
        self._keys = KeyTable()
        self._keys.learn_document(document, position.offset)
        self._last_change: tuple[int, Patch] | None = None  # (its base, the patch): what since() would find out again
        self.size_bound = _UNBOUNDED
        self._cache.clear()
        for subscription in self.subscriptions:
            subscription.cursor = NOTHING
            subscription.parts = None

    def _adopt(self, epoch: str) -> None:
        self._begin(Position.start(epoch), {})

    def _put(self, entry: Entry) -> bool:
        base = self._log.head
        body = decode_entry(entry.payload)
        if not isinstance(body, PatchEntry | StatusEntry) or body.base != base.link:
            return False
        patch: Patch = {}
        if isinstance(body, PatchEntry):
            patch = body.patch
        else:
            self.source_status = body.status
        self.writer = body.writer
        self._log.put(entry.offset, entry.link, patch)
        self.size_bound += len(entry.payload)
        self._keys.learn_patch(patch, entry.offset)
        self._cache.clear()
        self._last_change = (base.offset, patch)
        return True

    def _rebuild(self, cut: Cut) -> None:
        position = Position.start(cut.head.epoch)
        document: Document = {}
        self.source_status = self.unsaid
        if cut.keyframe is not None:
            position = cut.keyframe.position._replace(epoch=cut.head.epoch)
            document, self.source_status = decode_keyframe(cut.keyframe.payload)
        self._begin(position, document)
        self.since_keyframe = 0
        for entry in cut.entries:
            if entry.offset > position.offset:
                if entry.previous != self._log.head.offset or not self._put(entry):
                    raise DecodeError(Code.INTERNAL, f"entry {entry.offset} of {self.name} does not follow the one before")
                self.token = entry.token
                self.since_keyframe += 1

    # ---- reading

    def establish(self, subscription: Subscription) -> tuple[Position, bool, Sequence[str]]:
        wanted = subscription.wanted
        subscription.parts = None
        if wanted is not None and self._log.verify(wanted):
            subscription.cursor = wanted.offset
            return wanted, True, self._keys.defined_by(wanted.offset)
        subscription.cursor = NOTHING
        return NOWHERE, False, ()

    def is_behind(self, subscription: Subscription) -> bool:
        return subscription.cursor != self._log.head.offset or subscription.parts is not None

    def read(self, subscription: Subscription, profile: Profile, budget: int) -> bytes:
        if subscription.parts is not None:
            return self._next_parts(subscription, budget)
        head = self._log.head.offset
        cursor = subscription.cursor
        if cursor == head:
            return b""
        frames = self._cache.get(profile.name, cursor)
        if frames is None:
            frames = self._cache.put(profile.name, cursor, self._build(cursor, profile))
        subscription.cursor = head
        if len(frames) == 1:
            return frames[0]
        subscription.parts = deque(frames)
        return self._next_parts(subscription, budget)

    def _build(self, cursor: int, profile: Profile) -> tuple[bytes, ...]:
        log = self._log
        if cursor == NOTHING or not log.covers(cursor):
            return self._keyframe(profile)
        last = self._last_change
        patch = last[1] if last is not None and last[0] == cursor else log.since(cursor)
        delta = profile.encode_delta(self.alias, log.head, cursor, patch, self._keys)
        if len(delta) > _SMALL:
            keyframe = self._keyframe(profile)
            if len(delta) >= sum(map(len, keyframe)):
                return keyframe
        return (delta,)

    def _keyframe(self, profile: Profile) -> tuple[bytes, ...]:
        frames = self._cache.get(profile.name, NOTHING)
        if frames is None:
            log = self._log
            encoded = profile.encode_keyframe(self.alias, log.head, log.document, self._keys, self._piece)
            frames = self._cache.put(profile.name, NOTHING, tuple(encoded))
        return frames

    @staticmethod
    def _next_parts(subscription: Subscription, budget: int) -> bytes:
        """Send on the keyframe in parts that the cursor is pinned to; what changed meanwhile follows as one delta."""
        parts = subscription.parts
        assert parts is not None
        taken = [parts.popleft()]
        size = len(taken[0])
        while parts and size + len(parts[0]) <= budget:
            taken.append(parts.popleft())
            size += len(taken[-1])
        if not parts:
            subscription.parts = None
        return b"".join(taken)
