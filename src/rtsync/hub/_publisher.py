"""
The publisher: documents, patches and events into the log, each ending acked, rejected or unknown.

State is appended by compare-and-set against the head it was made for; when another writer was first, the change is made again
for the new head. An append whose outcome is unknown is settled with the same link, which cannot store it twice, before the same
channel is written again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskGroup

from ..backends import Announcement, Appended, Backend, Entry
from ..core import (
    LINK_BITS,
    Channel,
    Conflict,
    InvalidValue,
    KeyframeNeeded,
    Patch,
    Position,
    Rejected,
    RTSyncError,
    SourceStatus,
    Unavailable,
    Unknown,
    UsageError,
    apply,
    checked,
    checked_document,
    checked_patch,
    diff,
    encode_event_entry,
    encode_keyframe,
    encode_patch_entry,
    encode_status_entry,
    narrow,
)
from ._channel import LiveChannel
from ._channels import Channels
from ._event_channel import EventChannel
from ._models import to_document
from ._options import HubOptions
from ._state_channel import StateChannel

__all__ = ["Publisher"]

logger = logging.getLogger("rtsync.hub")

_KEYFRAMES_PER_WINDOW: Final = 4
"""A keyframe is saved after this part of the window: the log then keeps one to two such parts, and never runs full."""

_UNKNOWN_PAUSE: Final = 0.1
"""Seconds between attempts to settle an unknown outcome."""


class Publisher:
    """Writes to channels on behalf of this node."""

    def __init__(self, backend: Backend, channels: Channels, options: HubOptions) -> None:
        self._backend = backend
        self._channels = channels
        self._options = options
        self._saving: set[LiveChannel] = set()
        self._tasks: TaskGroup | None = None
        self.published = 0
        self.conflicts = 0

    def start(self, tasks: TaskGroup) -> None:
        """Run this publisher's tasks in *tasks* from now on."""
        self._tasks = tasks

    # ---- what can be published

    async def set(self, name: Channel, document: object, *, token: int = 0) -> Position:
        """
        Make *document* the document of a state channel; what is already so is not written.

        Returns:
            The position at which the channel holds it.

        Raises:
            InvalidValue: It holds something that is not carried, or is larger than ``max_document_bytes``.
            ModelError: It does not fit the family's model.
            Rejected: It is certainly not in the log (`Unavailable`, `Fenced`, `Conflict` …).
            Unknown: It may or may not be in the log.
        """
        wanted = checked_document(to_document(document))
        channel = await self._state(name)
        channel.family.validate(wanted)
        return await self._write(channel, lambda: diff(channel.document, wanted), token)

    async def patch(self, name: Channel, patch: Patch, *, token: int = 0) -> Position:
        """Apply *patch* to the document of a state channel. Returns and raises as `set` does."""
        change = checked_patch(patch)
        channel = await self._state(name)

        def make() -> Patch:
            narrowed = narrow(change, channel.document)
            channel.family.validate(apply(narrowed, channel.document))
            return narrowed

        return await self._write(channel, make, token)

    async def append(self, name: Channel, event: object, *, token: int = 0) -> Position:
        """Append *event* to an event channel. Returns its position; raises as `set` does."""
        value = checked(to_document(event) if not isinstance(event, _PLAIN) else event, "event")
        channel = await self._channels.ready(name)
        if not isinstance(channel, EventChannel):
            raise UsageError("channel", f"{name} is a state channel: use set or patch")
        if isinstance(value, dict):
            channel.family.validate(value)
        payload = encode_event_entry(self._options.node, value)
        self._check_size(payload, "event")
        async with self._turn(channel):
            return await self._append(channel, payload, None, token)

    async def say(self, name: Channel, status: SourceStatus, *, token: int = 0) -> Position:
        """Append the source's *status* to a channel, unless it is already so."""
        channel = await self._channels.ready(name)
        async with self._turn(channel):
            while True:
                if _same_status(channel.source_status, status):
                    return channel.head
                payload = encode_status_entry(self._options.node, channel.head.link, status)
                try:
                    return await self._append(channel, payload, channel.head, token)
                except Conflict:
                    await self._lost_race(channel)

    # ---- how it is written

    async def _state(self, name: Channel) -> StateChannel:
        channel = await self._channels.ready(name)
        if not isinstance(channel, StateChannel):
            raise UsageError("channel", f"{name} is an event channel: use append")
        return channel

    async def _write(self, channel: StateChannel, make: Callable[[], Patch], token: int) -> Position:
        async with self._turn(channel):
            with anyio.move_on_after(self._options.publish_timeout) as deadline:
                while True:
                    patch = make()
                    if not patch:
                        return channel.head
                    payload = encode_patch_entry(self._options.node, channel.head.link, patch)
                    self._check_document(channel, patch, payload)
                    try:
                        return await self._append(channel, payload, channel.head, token)
                    except Conflict:
                        await self._lost_race(channel)
            assert deadline.cancelled_caught
            raise Conflict(channel.head)

    @asynccontextmanager
    async def _turn(self, channel: LiveChannel) -> AsyncIterator[None]:
        """Hold the right to write to *channel*; an unknown outcome left behind is settled first."""
        channel.used_at = self._channels.now()
        async with channel.turn:
            if channel.unsettled is not None:
                await self._find(channel, channel.unsettled)
                channel.unsettled = None
            yield

    async def _append(self, channel: LiveChannel, payload: bytes, expect: Position | None, token: int) -> Position:
        """Append under a fresh link; try to settle an unknown outcome for as long as the publish may take."""
        link = self._options.random_bits(LINK_BITS) or 1  # 0 is the link of no entry
        deadline = self._channels.now() + self._options.publish_timeout
        unknown: Unknown | None = None
        while True:
            try:
                appended = await self._backend.append(
                    channel.name, payload, link=link, retention=channel.family.retention, expect=expect, token=token
                )
                return self._acked(channel, appended, payload, token)
            except KeyframeNeeded:
                await self._save_keyframe(channel)
            except Unknown as error:
                unknown = error
            except Rejected as error:
                if unknown is None:
                    raise
                # This refusal is of a second attempt: the first may be what stands in its way.
                if not isinstance(error, Unavailable):
                    position = await self._find(channel, link)
                    if position is None:
                        raise
                    return position
            if unknown is not None:
                if self._channels.now() >= deadline:
                    channel.unsettled = link
                    raise unknown
                await anyio.sleep(_UNKNOWN_PAUSE)

    async def _find(self, channel: LiveChannel, link: int) -> Position | None:
        """Return where the entry with *link* stands in the log, if it does."""
        cut = await self._backend.read(channel.name)
        for entry in reversed(cut.entries):
            if entry.link == link:
                self._channels.take_own(channel, Announcement(channel.name, cut.head.epoch, entry))
                return cut.head.at(entry.offset, entry.link)
        return None

    def _acked(self, channel: LiveChannel, appended: Appended, payload: bytes, token: int) -> Position:
        self.published += 1
        position = appended.position
        entry = Entry(position.offset, appended.previous, position.link, token, payload)
        self._channels.take_own(channel, Announcement(channel.name, position.epoch, entry))
        retention = channel.family.retention
        if retention.keyframed and channel.since_keyframe * _KEYFRAMES_PER_WINDOW >= retention.window:
            self._save_soon(channel)
        return position

    async def _lost_race(self, channel: LiveChannel) -> None:
        """Another writer was first: hold what it wrote before the next attempt."""
        self.conflicts += 1
        await self._channels.read_again(channel)

    # ---- keyframes

    def _save_soon(self, channel: LiveChannel) -> None:
        if channel not in self._saving and self._tasks is not None:
            self._saving.add(channel)
            self._tasks.start_soon(self._save_in_background, channel)

    async def _save_in_background(self, channel: LiveChannel) -> None:
        try:
            await self._save_keyframe(channel)
        except RTSyncError as error:
            logger.warning("no keyframe of %s saved: %s", channel.name, error)
        finally:
            self._saving.discard(channel)

    async def _save_keyframe(self, channel: LiveChannel) -> None:
        assert isinstance(channel, StateChannel)
        head, payload = channel.head, encode_keyframe(channel.document, channel.source_status)
        entries = channel.since_keyframe
        if await self._backend.save_keyframe(channel.name, head, payload):
            channel.since_keyframe -= entries
        else:
            await self._channels.read_again(channel)

    # ---- limits

    def _check_document(self, channel: StateChannel, patch: Patch, payload: bytes) -> None:
        """Refuse what would make the document too large; looks closely only when it could be."""
        limit = self._options.max_document_bytes
        if channel.size_bound + len(payload) > limit:
            size = len(encode_keyframe(apply(patch, channel.document), channel.source_status))
            if size > limit:
                raise InvalidValue("document", f"{size} bytes encoded; at most {limit} are carried")
            channel.size_bound = size

    def _check_size(self, payload: bytes, field: str) -> None:
        if len(payload) > self._options.max_document_bytes:
            raise InvalidValue(field, f"{len(payload)} bytes encoded; at most {self._options.max_document_bytes} are carried")


_PLAIN: Final = (str, int, float, list, dict, type(None), bytes)


def _same_status(a: SourceStatus, b: SourceStatus) -> bool:
    return a.freshness == b.freshness and a.reason == b.reason
