"""
The channels of one node: brought up on first interest, kept equal to the backend's log, forgotten when idle.

Announcements are hints. Whenever one contradicts what this node holds, or some may be missing, the channel is read again, by a
task of this table and once for everybody who waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

import anyio
from anyio.abc import TaskGroup

from ..backends import Announcement, Backend, Cut, GapNotice, Health
from ..core import Channel, RTSyncError, SourceStatus, Unavailable
from ._channel import LiveChannel, Phase, Verdict
from ._event_channel import EventChannel
from ._families import Families
from ._frame_cache import FrameCache, FrameCount
from ._options import HubOptions
from ._state_channel import StateChannel

__all__ = ["Channels"]

logger = logging.getLogger("rtsync.hub")

_HOLE_PATIENCE: Final = 0.05
"""Seconds a hole may stay open before the log is read: announcements that merely overtook each other close it."""

_RETRY: Final = 1.0
"""Least seconds between attempts to read a log that cannot be read; up to twice that, so that channels spread."""


class Channels:
    """
    The table of live channels.

    Args:
        changed: Called whenever a channel has something new to read or show.
        settled: Called when a channel became ready (``None``) or cannot be brought up (the reason).
    """

    def __init__(
        self,
        backend: Backend,
        families: Families,
        options: HubOptions,
        now: Callable[[], float],
        changed: Callable[[LiveChannel], None],
        settled: Callable[[LiveChannel, RTSyncError | None], None],
    ) -> None:
        self._backend = backend
        self._families = families
        self._options = options
        self.now = now
        self._changed = changed
        self._settled = settled
        self._live: dict[Channel, LiveChannel] = {}
        self._retiring: dict[Channel, anyio.Event] = {}
        self._reading: dict[LiveChannel, anyio.Event] = {}
        self._again: set[LiveChannel] = set()  # doubted anew while being read
        self._aliases = 0
        self._tasks: TaskGroup | None = None
        self._down: SourceStatus | None = None
        self.frames = FrameCount()
        self.rereads = 0
        self.rewrites = 0

    def __iter__(self) -> Iterator[LiveChannel]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def start(self, tasks: TaskGroup) -> None:
        """Run this table's tasks in *tasks* from now on."""
        self._tasks = tasks

    # ---- bring-up and retirement

    def get(self, name: Channel) -> LiveChannel | None:
        """Return the channel if this node holds it."""
        return self._live.get(name)

    def open(self, name: Channel) -> LiveChannel:
        """
        Return the channel, beginning its bring-up if this node does not hold it. Raises `InvalidName` outside all families.
        """
        channel = self._live.get(name)
        if channel is None:
            channel = self._live[name] = self._new(name)
            channel.doubt = self._down
            self._start(channel)
        channel.used_at = self.now()
        return channel

    async def ready(self, name: Channel) -> LiveChannel:
        """
        Return the channel once it is ready.

        Raises:
            Unavailable: It could not be read.
        """
        channel = self.open(name)
        while channel.phase is not Phase.READY:
            if channel.phase is Phase.RETIRED:
                channel = self.open(name)
            reading = self._reading.get(channel)
            if reading is None:
                raise Unavailable(f"{name} cannot be read")
            await reading.wait()
        return channel

    def _new(self, name: Channel) -> LiveChannel:
        family = self._families.of(name)
        self._aliases += 1
        cache = FrameCache(self._options.frame_cache_bytes, self.frames)
        if family.kind == "events":
            return EventChannel(name, family, self._aliases, cache, self._changed)
        return StateChannel(name, family, self._aliases, cache, self._changed, self._options.flush_bytes)

    async def _bring_up(self, channel: LiveChannel) -> None:
        """Listen first, then read: what is appended in between is announced."""
        retiring = self._retiring.get(channel.name)
        if retiring is not None:
            await retiring.wait()
        await self._backend.watch(channel.name)
        channel.reconcile(await self._backend.read(channel.name))

    def retire_idle(self) -> None:
        """Forget channels nobody has used for a while."""
        deadline = self.now() - self._options.channel_linger
        for channel in list(self._live.values()):
            idle = not channel.subscriptions and not channel.waiting and channel not in self._reading
            if idle and channel.used_at < deadline:
                self._retire(channel)

    def _retire(self, channel: LiveChannel) -> None:
        assert self._tasks is not None
        del self._live[channel.name]
        channel.phase = Phase.RETIRED
        self._retiring[channel.name] = anyio.Event()
        self._tasks.start_soon(self._unwatch, channel.name)

    async def _unwatch(self, name: Channel) -> None:
        try:
            await self._backend.unwatch(name)
        except RTSyncError as error:
            logger.debug("unwatch %s: %s", name, error)
        finally:
            self._retiring.pop(name).set()

    # ---- reading again

    def doubt(self, channel: LiveChannel) -> None:
        """Read *channel* again: what this node holds may not be what the log holds."""
        if channel in self._reading:
            self._again.add(channel)
        elif channel.phase is Phase.READY:
            self._start(channel)

    def doubt_all(self) -> None:
        """Read every channel again."""
        for channel in self._live.values():
            self.doubt(channel)

    async def read_again(self, channel: LiveChannel) -> None:
        """Read *channel* again and return when that was done."""
        self.doubt(channel)
        reading = self._reading.get(channel)
        if reading is not None:
            await reading.wait()

    def _start(self, channel: LiveChannel, delay: float = 0.0) -> None:
        assert self._tasks is not None, "the hub is not running"
        self._reading[channel] = anyio.Event()
        self._tasks.start_soon(self._read, channel, delay)

    async def _read(self, channel: LiveChannel, delay: float) -> None:
        """Bring up or read again, once; on failure say so and try again later for as long as somebody cares."""
        try:
            if delay:
                await anyio.sleep(delay)
            if channel.phase is Phase.LOADING:
                await self._bring_up(channel)
            elif delay != _HOLE_PATIENCE or channel.has_hole:
                await self._catch_up(channel)
        except RTSyncError as error:
            self._failed(channel, error)
        except Exception as error:  # a backend's bug must not end the node
            logger.exception("reading %s", channel.name)
            self._failed(channel, Unavailable(f"{type(error).__name__} in the backend"))
        else:
            self._done(channel)
            if self._down is None and channel not in self._reading:
                channel.set_doubt(None)
            self._settled(channel, None)

    def _done(self, channel: LiveChannel) -> None:
        self._reading.pop(channel).set()
        if channel in self._again:
            self._again.discard(channel)
            self.doubt(channel)

    def _failed(self, channel: LiveChannel, error: RTSyncError) -> None:
        logger.warning("%s cannot be read: %s", channel.name, error)
        if channel.phase is Phase.LOADING:
            self._retire(channel)
            self._done(channel)
            self._settled(channel, error)
            return
        self._done(channel)
        channel.set_doubt(self._stale("the log cannot be read"))
        if channel.subscriptions and channel not in self._reading:
            self._start(channel, _RETRY * (1.0 + self._options.jitter()))

    async def _catch_up(self, channel: LiveChannel) -> None:
        self.rereads += 1
        cut = await self._backend.read(channel.name)
        verdict = channel.reconcile(cut)
        if verdict is Verdict.DOUBT:  # our head is not in the log (any more): confirm before believing it
            cut = await self._backend.read(channel.name)
            verdict = channel.reconcile(cut)
        if verdict is not Verdict.FINE:
            await self._rewrite(channel, cut)

    async def _rewrite(self, channel: LiveChannel, cut: Cut) -> None:
        """The log went back under the same epoch: rename the history, so that no cursor of old is believed anywhere."""
        self.rewrites += 1
        logger.warning("%s went back from %s to %s: beginning a new epoch", channel.name, channel.head, cut.head)
        if cut.head.epoch:
            await self._backend.new_epoch(channel.name, cut.head.epoch)
            cut = await self._backend.read(channel.name)
        channel.rewrite(cut)

    # ---- announcements

    def take(self, notice: Announcement | GapNotice | Health) -> None:
        """Act on one notice of the backend's."""
        if isinstance(notice, Announcement):
            channel = self._live.get(notice.channel)
            if channel is not None:
                self._take_verdict(channel, channel.offer(notice.epoch, notice.entry))
        elif isinstance(notice, GapNotice):
            channel = None if notice.channel is None else self._live.get(notice.channel)
            if notice.channel is None:
                self.doubt_all()
            elif channel is not None:
                self.doubt(channel)
        elif notice.up:
            self.up()
        else:
            self.down(notice.reason)

    def take_own(self, channel: LiveChannel, announcement: Announcement) -> None:
        """Apply an entry this node has appended, without waiting for its announcement."""
        self._take_verdict(channel, channel.offer(announcement.epoch, announcement.entry))

    def _take_verdict(self, channel: LiveChannel, verdict: Verdict) -> None:
        if verdict is Verdict.HOLE and channel not in self._reading:
            self._start(channel, _HOLE_PATIENCE)
        elif verdict is Verdict.DOUBT:
            self.doubt(channel)

    # ---- whether this node can vouch for what it holds

    def down(self, reason: str) -> None:
        """Say that heads cannot be confirmed: every channel is stale to its clients until it has been read again."""
        if self._down is None:
            self._down = self._stale(reason)
            for channel in list(self._live.values()):
                channel.set_doubt(self._down)

    def up(self) -> None:
        """Say that the backend answers again: each channel is read, and live once that succeeded."""
        if self._down is not None:
            self._down = None
            self.doubt_all()

    @property
    def is_down(self) -> bool:
        """Whether this node cannot vouch for its channels."""
        return self._down is not None

    def _stale(self, reason: str) -> SourceStatus:
        return SourceStatus("stale", int(self._options.wall_clock() * 1000), reason)
