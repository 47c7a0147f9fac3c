"""A state channel on one node: a versioned document and the key table of its frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ..backends import Cut, Entry
from ..core import (
    Channel,
    Code,
    DecodeError,
    Document,
    EventEntry,
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
    document does not exceed: exact when the publisher has looked, growing with every entry since. ``since_keyframe`` counts
    entries since one whose writer promised a keyframe.
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
        self.offset = position.offset
        self.size_bound = _UNBOUNDED
        self.since_keyframe = 0
        self._cache.clear()
        for subscription in self.subscriptions:
            subscription.cursor = NOTHING
            subscription.parts_sent()

    def _adopt(self, epoch: str) -> None:
        self._begin(Position.start(epoch), {})

    def _put(self, entry: Entry) -> None:
        self._apply(entry, self._body_of(entry, self._log.head.link))

    def _body_of(self, entry: Entry, base: int) -> PatchEntry | StatusEntry:
        """Return what *entry* holds. Raises `DecodeError` unless it was made for the entry whose link is *base*."""
        body = decode_entry(entry.payload)
        if isinstance(body, EventEntry):
            raise DecodeError(Code.INTERNAL, f"entry {entry.offset} of {self.name} is an event, in a state channel")
        if body.base != base:
            raise DecodeError(Code.INTERNAL, f"entry {entry.offset} of {self.name} was not made for the one before")
        return body

    def _apply(self, entry: Entry, body: PatchEntry | StatusEntry) -> None:
        base = self._log.head.offset
        patch = body.patch if isinstance(body, PatchEntry) else {}
        self._log.put(entry.offset, entry.link, patch)
        self._keys.learn_patch(patch, entry.offset)
        self._last_change = (base, patch)
        self._cache.clear()
        self.offset = entry.offset
        self.size_bound += len(entry.payload)
        self.since_keyframe += 1
        self.writer = body.writer
        if isinstance(body, StatusEntry):
            self.source_status = body.status
        elif body.keyframe:
            self.since_keyframe = 0

    def _rebuild(self, cut: Cut) -> None:
        position, status = Position.start(cut.head.epoch), self.unsaid
        document: Document = {}
        if cut.keyframe is not None:
            position = cut.keyframe.position._replace(epoch=cut.head.epoch)
            document, status = decode_keyframe(cut.keyframe.payload)
        following: list[tuple[Entry, PatchEntry | StatusEntry]] = []
        offset, link = position.offset, position.link
        for entry in cut.entries:
            if entry.offset > position.offset:
                if entry.previous != offset:
                    raise DecodeError(Code.INTERNAL, f"entry {entry.offset} of {self.name} does not follow {offset}")
                following.append((entry, self._body_of(entry, link)))
                offset, link = entry.offset, entry.link
        self._begin(position, document)
        self.source_status = status
        if cut.entries and not following:
            self.writer = decode_entry(cut.entries[-1].payload).writer
        for entry, body in following:
            self._apply(entry, body)
        self._judge()

    # ---- reading

    def establish(self, subscription: Subscription) -> tuple[Position, bool, Sequence[str]]:
        wanted = subscription.wanted
        if wanted is not None and self._log.verify(wanted):
            subscription.cursor = wanted.offset
            return wanted, True, self._keys.defined_by(wanted.offset)
        subscription.cursor = NOTHING
        return NOWHERE, False, ()

    def is_behind(self, subscription: Subscription) -> bool:
        return subscription.cursor != self.offset or subscription.parts is not None

    def read(self, subscription: Subscription, profile: Profile, budget: int) -> bytes:
        if subscription.parts is not None:
            return self._next_parts(subscription, budget)
        cursor = subscription.cursor
        if cursor == self.offset:
            return b""
        subscription.cursor = self.offset
        frame = subscription.frames.get(cursor)
        if frame is None and cursor != NOTHING and self._log.covers(cursor):
            frame = self._delta(cursor, profile)
        if frame is not None:
            return frame
        keyframe = self._keyframe(profile)
        if isinstance(keyframe, bytes):
            return keyframe
        subscription.send_in_parts(keyframe)
        return self._next_parts(subscription, budget)

    def _delta(self, cursor: int, profile: Profile) -> bytes | None:
        """Build what leads from *cursor* to the head; ``None`` if a keyframe is no larger."""
        log, last = self._log, self._last_change
        patch = last[1] if last is not None and last[0] == cursor else log.since(cursor)
        delta = profile.encode_delta(self.alias, log.head, cursor, patch, self._keys)
        if len(delta) > _SMALL:
            keyframe = self._keyframe(profile)
            if len(delta) >= (len(keyframe) if isinstance(keyframe, bytes) else sum(map(len, keyframe))):
                return None
        return self._cache.put(profile, cursor, delta)

    def _keyframe(self, profile: Profile) -> bytes | tuple[bytes, ...]:
        """Return the keyframe of the head, in one frame or in parts."""
        known = self._cache.of(profile).get(NOTHING) or self._cache.parts(profile)
        if known is not None:
            return known
        log = self._log
        parts = tuple(profile.encode_keyframe(self.alias, log.head, log.document, self._keys, self._piece))
        return self._cache.put(profile, NOTHING, parts[0]) if len(parts) == 1 else self._cache.put_parts(profile, parts)

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
            subscription.parts_sent()
        return b"".join(taken)
