"""
The publisher: documents, patches and events into the log, each ending acked, rejected or unknown.

State is appended by compare-and-set against the head it was made for; when another writer was first, the change is made again
for the new head. An append whose outcome is unknown is settled with the same link, which cannot store it twice, before the same
channel is written again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from decimal import Decimal
from types import NoneType
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
    Kind,
    ModelError,
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
from ._families import Family
from ._models import to_document
from ._options import HubOptions
from ._state_channel import StateChannel

__all__ = ["Publisher"]

logger = logging.getLogger("rtsync.hub")

_KEYFRAMES_PER_WINDOW: Final = 4
"""
A keyframe is saved after this part of the window: the log then keeps one to two such parts, and never runs full. The entry that
completes the part says so, for each save trims the log: if every node saved its own, little would be left to resume from.
"""

_UNKNOWN_PAUSE: Final = 0.1
"""Seconds between attempts to settle an unknown outcome."""


_CONFLICT_PAUSE: Final = 0.05
"""Seconds before the log is asked again what a conflict was with."""


class _Attempt:
    """How far one publish has come."""

    __slots__ = ("link", "refused")

    def __init__(self) -> None:
        self.link = 0  # of an append that has been sent and not been answered
        self.refused: Rejected | None = None  # why it has to be tried again


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

        Ends within ``publish_timeout``, and within the backend's own deadline where that is shorter. When cancelled, it may or
        may not have happened.

        Returns:
            The position at which the channel holds it.

        Raises:
            InvalidValue: It holds something that is not carried, or is larger than ``max_document_bytes``.
            ModelError: It does not fit the family's model.
            Rejected: It is certainly not in the log (`Unavailable`, `Fenced`, `Conflict` …).
            Unknown: It may or may not be in the log.
        """
        wanted = checked_document(to_document(document))
        family = self._family(name, "state")
        family.validate(wanted)
        return await self._write(name, lambda channel: diff(channel.document, wanted), token)

    async def patch(self, name: Channel, patch: Mapping[str, object], *, token: int = 0) -> Position:
        """Apply *patch* to the document of a state channel. Returns and raises as `set` does."""
        change = checked_patch(patch)
        family = self._family(name, "state")

        def make(channel: StateChannel) -> Patch:
            narrowed = narrow(change, channel.document)
            family.validate(apply(narrowed, channel.document))
            return narrowed

        return await self._write(name, make, token)

    async def append(self, name: Channel, event: object, *, token: int = 0) -> Position:
        """Append *event* to an event channel. Returns its position; raises as `set` does."""
        value = checked(event if type(event) in _PLAIN else to_document(event), "event")
        family = self._family(name, "events")
        if isinstance(value, dict):
            family.validate(value)
        elif family.model is not None:
            raise ModelError("event", f"must be a {family.model.__name__}, is {type(event).__name__}")
        payload = encode_event_entry(self._options.node, value)
        if len(payload) > self._options.max_document_bytes:
            raise InvalidValue("event", f"{len(payload)} bytes encoded; at most {self._options.max_document_bytes} are carried")
        return await self._publish(name, lambda channel, attempt: self._append(channel, attempt, payload, None, token))

    async def say(self, name: Channel, status: SourceStatus, *, token: int = 0) -> Position:
        """
        Append the source's *status* to a channel, unless it is already so. The holder of a lease says it in its own name.
        """

        async def write(channel: LiveChannel, attempt: _Attempt) -> Position:
            while True:
                head = channel.head
                if _same_status(channel.source_status, status) and (not token or channel.writer == self._options.node):
                    return head
                payload = encode_status_entry(self._options.node, head.link, status)
                try:
                    return await self._append(channel, attempt, payload, head, token)
                except Conflict as error:
                    await self._lost_race(channel, attempt, error, head)

        return await self._publish(name, write)

    def _family(self, name: Channel, kind: Kind) -> Family:
        family = self._channels.open(name).family
        if family.kind != kind:
            remedy = "append" if family.kind == "events" else "set or patch"
            raise UsageError("channel", f"{name} is of kind {family.kind}: use {remedy}")
        return family

    # ---- how it is written

    async def _publish(self, name: Channel, write: Callable[[LiveChannel, _Attempt], Awaitable[Position]]) -> Position:
        """Run *write* when it is its turn on the channel, for as long as a publish may take in all."""
        attempt = _Attempt()
        timeout = self._options.publish_timeout
        with anyio.move_on_after(timeout):
            channel = await self._channels.ready(name)
            channel.used_at = self._channels.now()
            async with channel.turn:
                if channel.unsettled:  # is it there?
                    await self._channels.read_again(channel)
                try:
                    return await write(channel, attempt)
                finally:
                    channel.unsettled = attempt.link != 0
        if attempt.link:
            raise Unknown(attempt.link, f"no answer within {timeout:g} s")
        raise attempt.refused or Unavailable(f"{name} cannot be written: no answer within {timeout:g} s")

    async def _write(self, name: Channel, make: Callable[[StateChannel], Patch], token: int) -> Position:
        """Append the patch that *make* finds due, again for each head that other writers are first to move."""

        async def write(channel: LiveChannel, attempt: _Attempt) -> Position:
            assert isinstance(channel, StateChannel)
            confirmed = False
            while True:
                head, patch = channel.head, make(channel)
                if not patch and (confirmed or channel.doubt is None):
                    return head
                if not patch:  # as far as this node knows, which cannot vouch for its copy
                    await self._channels.read_again(channel)
                    confirmed = True
                    continue
                due = (channel.since_keyframe + 1) * _KEYFRAMES_PER_WINDOW >= channel.family.retention.window
                payload = encode_patch_entry(self._options.node, head.link, patch, keyframe=due)
                size = self._bound_size(channel, patch, payload)
                try:
                    position = await self._append(channel, attempt, payload, head, token)
                except Conflict as error:
                    await self._lost_race(channel, attempt, error, head)
                    continue
                if channel.head == position:
                    channel.size_bound = size
                if due:
                    self._save_soon(channel)
                return position

        return await self._publish(name, write)

    async def _append(
        self, channel: LiveChannel, attempt: _Attempt, payload: bytes, expect: Position | None, token: int
    ) -> Position:
        """Append under a fresh link, and again under the same until the outcome is known."""
        link = self._options.random_bits(LINK_BITS) or 1  # 0 is the link of no entry
        unknown = False
        while True:
            attempt.link = link
            try:
                appended = await self._backend.append(
                    channel.name, payload, link=link, retention=channel.family.retention, expect=expect, token=token
                )
            except Unknown:
                unknown = True
            except Unavailable:
                if not unknown:
                    attempt.link = 0
                    raise
            except KeyframeNeeded as error:
                attempt.refused = error
                attempt.link = link if unknown else 0
                await self._save_keyframe(channel)
                continue
            except RTSyncError:
                # Refused for good. A first attempt of unknown outcome did not happen either: its link would have been found.
                attempt.link = 0
                raise
            else:
                attempt.link = 0
                return self._acked(channel, appended, payload, token)
            await anyio.sleep(_UNKNOWN_PAUSE)

    def _acked(self, channel: LiveChannel, appended: Appended, payload: bytes, token: int) -> Position:
        self.published += 1
        position = appended.position
        entry = Entry(position.offset, appended.previous, position.link, token, payload)
        self._channels.take_own(channel, Announcement(channel.name, position.epoch, entry))
        return position

    async def _lost_race(self, channel: LiveChannel, attempt: _Attempt, error: Conflict, head: Position) -> None:
        """Another writer was first: hold what it wrote before the next attempt."""
        self.conflicts += 1
        attempt.refused = error
        if channel.head == head:  # else its announcement has come
            await self._channels.read_again(channel)
        if channel.head == head:  # no entry is to be seen that stands in the way: not yet?
            await anyio.sleep(_CONFLICT_PAUSE)

    # ---- keyframes

    def _save_soon(self, channel: StateChannel) -> None:
        if channel not in self._saving and self._tasks is not None:
            self._saving.add(channel)
            self._tasks.start_soon(self._save_in_background, channel)

    async def _save_in_background(self, channel: StateChannel) -> None:
        saved = False
        try:
            saved = await self._save_keyframe(channel)
        except RTSyncError as error:
            logger.warning("no keyframe of %s saved: %s", channel.name, error)
        except Exception:  # a backend's bug must not end the node
            logger.exception("no keyframe of %s saved", channel.name)
        finally:
            self._saving.discard(channel)
            if not saved:
                channel.since_keyframe = channel.family.retention.window  # the next entry tries again

    async def _save_keyframe(self, channel: LiveChannel) -> bool:
        assert isinstance(channel, StateChannel)
        saved = await self._backend.save_keyframe(
            channel.name, channel.head, encode_keyframe(channel.document, channel.source_status)
        )
        if not saved:
            await self._channels.read_again(channel)
        return saved

    # ---- limits

    def _bound_size(self, channel: StateChannel, patch: Patch, payload: bytes) -> int:
        """
        Return bytes that the document does not exceed once it is patched; looks closely only when it could be too large.

        Raises `InvalidValue` if it is.
        """
        limit = self._options.max_document_bytes
        bound = channel.size_bound + len(payload)
        if bound > limit:
            bound = len(encode_keyframe(apply(patch, channel.document), channel.source_status))
            if bound > limit:
                raise InvalidValue("document", f"{bound} bytes encoded; at most {limit} are carried")
        return bound


_PLAIN: Final = frozenset({str, int, float, bool, list, NoneType, bytes, Decimal, datetime})


def _same_status(a: SourceStatus, b: SourceStatus) -> bool:
    return a.freshness == b.freshness and a.reason == b.reason
