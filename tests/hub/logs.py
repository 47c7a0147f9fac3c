"""Logs written by hand: entries, cuts and announcements for channels that are tested without a backend."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from rtsync.backends import Cut, Entry, Keyframe
from rtsync.core import (
    Document,
    Patch,
    Position,
    SourceStatus,
    Value,
    apply,
    encode_event_entry,
    encode_keyframe,
    encode_patch_entry,
    encode_status_entry,
)

__all__ = ["Log"]

_links = count(1)


class Log:
    """One channel's log. *step*: how far offsets are apart, for brokers that number all channels in one sequence."""

    def __init__(self, epoch: str = "E", *, step: int = 1, entries: Sequence[Entry] = ()) -> None:
        self.epoch = epoch
        self.entries = list(entries)
        self._step = step
        self._documents: dict[int, Document] = {0: {}}

    @property
    def head(self) -> Position:
        newest = self.entries[-1] if self.entries else None
        return Position(self.epoch, newest.offset, newest.link) if newest else Position.start(self.epoch)

    def patch(self, patch: Patch, writer: str = "w") -> Entry:
        entry = self._put(encode_patch_entry(writer, self.head.link, patch))
        self._documents[entry.offset] = apply(patch, self._documents.get(entry.previous, {}))
        return entry

    def event(self, value: Value, writer: str = "w") -> Entry:
        return self._put(encode_event_entry(writer, value))

    def say(self, status: SourceStatus, writer: str = "w") -> Entry:
        entry = self._put(encode_status_entry(writer, self.head.link, status))
        self._documents[entry.offset] = self._documents.get(entry.previous, {})
        return entry

    def raw(self, payload: bytes) -> Entry:
        return self._put(payload)

    def _put(self, payload: bytes) -> Entry:
        head = self.head
        entry = Entry(head.offset + self._step, head.offset, next(_links), 0, payload)
        self.entries.append(entry)
        return entry

    def cut(self, *, keyframe_at: int | None = None, last: int | None = None) -> Cut:
        """Return a cut with the keyframe at entry number *keyframe_at* (from 0), or with the *last* entries only."""
        if last is not None:
            return Cut(self.head, None, tuple(self.entries[-last:] if last else ()))
        if keyframe_at is None:
            return Cut(self.head, None, tuple(self.entries))
        entry = self.entries[keyframe_at]
        payload = encode_keyframe(self._documents[entry.offset], SourceStatus())
        return Cut(self.head, Keyframe(self.head.at(entry.offset, entry.link), payload), tuple(self.entries[keyframe_at:]))

    def branch(self, entries: int, *, epoch: str | None = None, step: int | None = None) -> Log:
        """Return another history that shares the first *entries* with this one."""
        other = Log(epoch or self.epoch, step=step or self._step, entries=self.entries[:entries])
        other._documents = dict(self._documents)
        return other
