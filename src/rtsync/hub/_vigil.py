"""
The vigil: does what this node holds still equal what the log holds, and do the writers still live?

Three cheap watches run beside the announcements, which may stop without a word. A *probe* is appended to a channel of this
node's own and has to come back as an announcement: it vouches for the whole link. *Heads* are compared on a budget, each about
once per ``head_check_interval``. *Beats* are renewed by every node and looked at for the writers of the channels held here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio

from ..backends import TTL, Announcement, Backend, Retention
from ..core import LINK_BITS, Channel, RTSyncError, SourceStatus
from ._channel import LiveChannel, Phase
from ._channels import Channels
from ._options import HubOptions

__all__ = ["Vigil"]

logger = logging.getLogger("rtsync.hub")

_PROBED: Final = Retention(keyframed=False, window=1, max_age=60.0)
_BEAT: Final = "beat:"
_BATCH: Final = 100
"""Most heads asked for at once."""


class Vigil:
    """Watches over the channels of one node."""

    def __init__(self, backend: Backend, channels: Channels, options: HubOptions) -> None:
        self._backend = backend
        self._channels = channels
        self._options = options
        self._probe_channel = Channel(f"$probe:{options.node}")
        self._probe_links: dict[int, anyio.Event] = {}
        self._beats: dict[str, tuple[int, float]] = {}  # {node: (revision of its beat, when that was first seen)}

    async def run(self) -> None:
        """Keep watch until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._forever, self._options.probe_interval, self._probe)
            tasks.start_soon(self._forever, self._options.beat_interval, self._beat)
            tasks.start_soon(self._forever, self._options.beat_interval / 2, self._look_at_writers)
            tasks.start_soon(self._check_heads)

    async def _forever(self, interval: float, step: Callable[[], Awaitable[None]]) -> None:
        """Do *step* again and again, with at most *interval* seconds in between."""
        while True:
            await self._safely(step)
            await self._sleep(interval)

    async def _sleep(self, seconds: float) -> None:
        """Sleep for *seconds*, or a little less, so that nodes do not move in step."""
        await anyio.sleep(seconds * (0.8 + 0.2 * self._options.jitter()))

    async def _safely(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except RTSyncError as error:
            logger.debug("%r: %s", step, error)
        except Exception:  # a backend's bug must not end the node
            logger.exception("%r failed", step)

    # ---- probe

    def take(self, announcement: Announcement) -> bool:
        """Return whether *announcement* was of a probe, and take note that it came back."""
        if announcement.channel != self._probe_channel:
            return False
        came_back = self._probe_links.pop(announcement.entry.link, None)
        if came_back is not None:
            came_back.set()
        return True

    async def _probe(self) -> None:
        """Append a probe and wait for its announcement; without it nothing held here can be vouched for."""
        link = self._options.random_bits(LINK_BITS) or 1
        came_back = self._probe_links[link] = anyio.Event()
        reason = "the backend does not answer"
        try:
            with anyio.move_on_after(self._options.probe_timeout):
                await self._backend.watch(self._probe_channel)
                await self._backend.append(self._probe_channel, b"", link=link, retention=_PROBED)
                reason = "announcements do not arrive"
                await came_back.wait()
                self._channels.up()
                return
        except RTSyncError as error:
            reason = f"the backend does not answer: {type(error).__name__}"
        except Exception as error:  # a backend's bug
            logger.exception("the probe failed")
            reason = f"the backend fails: {type(error).__name__}"
        finally:
            self._probe_links.pop(link, None)
        self._channels.down(reason)

    # ---- heads

    async def _check_heads(self) -> None:
        """Compare heads in small batches, so that it is each channel's turn about once per interval."""
        at = 0
        while True:
            batches = 1 + len(self._channels) // _BATCH
            await self._sleep(self._options.head_check_interval / batches)
            channels = [channel for channel in self._channels if channel.phase is Phase.READY]
            batch = channels[at : at + _BATCH]
            at = at + _BATCH if at + _BATCH < len(channels) else 0
            if batch and not self._channels.is_down:
                await self._safely(partial(self._check_batch, batch))

    async def _check_batch(self, batch: list[LiveChannel]) -> None:
        before = [channel.head for channel in batch]
        heads = await self._backend.heads([channel.name for channel in batch])
        for channel, ours, theirs in zip(batch, before, heads, strict=True):
            if theirs != ours and channel.head == ours:  # it has not moved meanwhile, as it would have by an announcement
                self._channels.doubt(channel)

    # ---- beats

    async def _beat(self) -> None:
        """Renew this node's beat."""
        await self._backend.put(TTL.BEAT, _BEAT + self._options.node, b"")

    async def _look_at_writers(self) -> None:
        """Find channels whose writer has not beaten for too long: by our own clock, or long enough for its beat to be gone."""
        sourced = [channel for channel in self._channels if channel.family.source is not None and channel.writer]
        if not sourced:
            self._beats.clear()
            return
        records = await self._backend.list(TTL.BEAT, _BEAT)
        now = self._channels.now()
        seen, self._beats = self._beats, {}
        for record in records:
            revision, since = seen.get(record.key, (0, now))
            self._beats[record.key] = (record.revision, now if revision != record.revision else since)
        alive = {key.removeprefix(_BEAT) for key, (_, since) in self._beats.items() if now - since < self._options.beat_timeout}
        alive.add(self._options.node)  # whoever looks is alive
        for channel in sourced:
            if channel.writer in alive or channel.source_status.freshness != "live":
                channel.set_writer_lost(None)
            else:
                wall = int(self._options.wall_clock() * 1000)
                channel.set_writer_lost(SourceStatus("stale", wall, "its writer has stopped"))
