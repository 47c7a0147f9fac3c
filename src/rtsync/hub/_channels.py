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


class _Reading:
    """One task that reads a channel's log, and whoever waits for it."""

    __slots__ = ("begun", "done", "error", "following", "hurry")

    def __init__(self) -> None:
        self.begun = False  # what happens from then on may not be in what it reads
        self.hurry = anyio.Event()  # ends the pause before it
        self.done = anyio.Event()
        self.error: RTSyncError | None = None
        self.following: _Reading | None = None  # wanted by whoever doubted since it has begun


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
        self._left: dict[Channel, None] = {}  # forgotten here, and the backend could not be told
        self._reading: dict[LiveChannel, _Reading] = {}
        self._listener = 0  # how often this node has begun to listen
        self._aliases = 0
        self._tasks: TaskGroup | None = None
        self._down: SourceStatus | None = None
        self.frames = FrameCount()
        self.rereads = 0
        self.rewrites = 0
        self._gaps = 0  # of retired channels

    def __iter__(self) -> Iterator[LiveChannel]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    @property
    def gaps(self) -> int:
        """How often somebody was told of a gap."""
        return self._gaps + sum(channel.gaps for channel in self._live.values())

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
            self._left.pop(name, None)
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
            reading = self._reading[channel]
            await reading.done.wait()
            if reading.error is not None:
                raise Unavailable(f"{name} cannot be read: {reading.error}")
            if channel.phase is Phase.RETIRED:  # it was ready for a moment, and nobody else wanted it
                channel = self.open(name)
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
        await self._watch(channel)
        channel.reconcile(await self._backend.read(channel.name), channel.ask())

    async def _watch(self, channel: LiveChannel) -> None:
        listener = self._listener
        if channel.watched != listener:
            await self._backend.watch(channel.name)
            channel.watched = listener

    def retire_idle(self) -> None:
        """Forget channels nobody has used for a while."""
        deadline = self.now() - self._options.channel_linger
        for channel in list(self._live.values()):
            busy = channel.subscriptions or channel.waiting or channel.fed or channel.turn.locked() or channel in self._reading
            if not busy and channel.used_at < deadline:
                self._retire(channel)
        left, self._left = self._left, {}
        for name in left:
            self._start_unwatch(name)

    def _retire(self, channel: LiveChannel) -> None:
        del self._live[channel.name]
        channel.phase = Phase.RETIRED
        self._gaps += channel.gaps
        self._start_unwatch(channel.name)

    def _start_unwatch(self, name: Channel) -> None:
        assert self._tasks is not None
        self._retiring[name] = anyio.Event()
        self._tasks.start_soon(self._unwatch, name)

    async def _unwatch(self, name: Channel) -> None:
        try:
            await self._backend.unwatch(name)
        except RTSyncError as error:
            logger.debug("unwatch %s: %s", name, error)
            if name not in self._live:
                self._left[name] = None
        except Exception:  # a backend's bug must not end the node
            logger.exception("unwatch %s", name)
        finally:
            self._retiring.pop(name).set()

    # ---- reading again

    def doubt(self, channel: LiveChannel) -> _Reading | None:
        """
        Read *channel* again: what this node holds may not be what the log holds.

        Returns:
            The reading that begins from now on; ``None`` for a channel this node no longer holds.
        """
        reading = self._reading.get(channel)
        if reading is None:
            return self._start(channel) if channel.phase is Phase.READY else None
        if reading.begun:
            reading.following = reading.following or _Reading()
            return reading.following
        reading.hurry.set()
        return reading

    def doubt_all(self) -> None:
        """Read every channel again."""
        for channel in self._live.values():
            self.doubt(channel)

    async def read_again(self, channel: LiveChannel) -> None:
        """
        Read *channel* again and return when that was done.

        Raises:
            Unavailable: It could not be read.
        """
        reading = self.doubt(channel)
        if reading is not None:
            await reading.done.wait()
            if reading.error is not None:
                raise Unavailable(f"{channel.name} cannot be read: {reading.error}")

    def _start(self, channel: LiveChannel, pause: float = 0.0, reading: _Reading | None = None) -> _Reading:
        """Begin a reading after a *pause*, unless somebody is in a hurry."""
        assert self._tasks is not None, "the hub is not running"
        reading = self._reading[channel] = reading or _Reading()
        self._tasks.start_soon(self._read, channel, reading, pause)
        return reading

    async def _read(self, channel: LiveChannel, reading: _Reading, pause: float) -> None:
        """Bring up or read again, once; on failure say so and try again later for as long as somebody cares."""
        if pause:
            with anyio.move_on_after(pause):
                await reading.hurry.wait()
            if pause == _HOLE_PATIENCE and not channel.has_hole and not reading.hurry.is_set():
                self._end(channel, reading)  # the announcements had merely overtaken each other
                return
        reading.begun = True
        try:
            if channel.phase is Phase.LOADING:
                await self._bring_up(channel)
            else:
                await self._catch_up(channel)
        except RTSyncError as error:
            self._failed(channel, reading, error)
        except Exception as error:  # a backend's bug must not end the node
            logger.exception("reading %s", channel.name)
            self._failed(channel, reading, Unavailable(f"{type(error).__name__} in the backend"))
        else:
            self._succeeded(channel, reading)

    def _succeeded(self, channel: LiveChannel, reading: _Reading) -> None:
        self._end(channel, reading)
        self._take_verdict(channel, channel.replay_held())
        if self._down is None and channel not in self._reading:
            channel.set_doubt(None)
        self._settled(channel, None)

    def _end(self, channel: LiveChannel, reading: _Reading) -> None:
        del self._reading[channel]
        reading.done.set()
        following = reading.following
        if following is not None:
            if channel.phase is Phase.READY:
                self._start(channel, reading=following)
            else:
                following.error = reading.error
                following.done.set()

    def _failed(self, channel: LiveChannel, reading: _Reading, error: RTSyncError) -> None:
        level = logging.WARNING if channel.doubt is None else logging.DEBUG  # one line for each time it comes to that
        logger.log(level, "%s cannot be read: %s", channel.name, error)
        reading.error = error
        if channel.phase is Phase.LOADING:
            self._retire(channel)
            self._end(channel, reading)
            self._settled(channel, error)
            return
        self._end(channel, reading)
        channel.set_doubt(self._stale("the log cannot be read"))
        if channel.subscriptions and channel not in self._reading:
            self._start(channel, _RETRY * (1.0 + self._options.jitter()))

    async def _catch_up(self, channel: LiveChannel) -> None:
        self.rereads += 1
        await self._watch(channel)
        for _ in range(2):  # a head below ours is confirmed before it is believed
            asked_at = channel.ask()
            cut = await self._backend.read(channel.name)
            verdict = channel.reconcile(cut, asked_at)
            if verdict is not Verdict.DOUBT:
                break
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

    def listens(self) -> None:
        """Take note that this node has begun to listen: nothing is watched yet, and what came before was not heard."""
        self._listener += 1
        self.doubt_all()

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
            logger.warning("%d channels cannot be vouched for: %s", len(self._live), reason)
            for channel in list(self._live.values()):
                channel.set_doubt(self._down)

    def up(self) -> None:
        """Say that the backend answers again: each channel is read, and live once that succeeded."""
        if self._down is not None:
            self._down = None
            logger.info("the backend answers again")
            self.doubt_all()

    @property
    def is_down(self) -> bool:
        """Whether this node cannot vouch for its channels."""
        return self._down is not None

    def _stale(self, reason: str) -> SourceStatus:
        return SourceStatus("stale", int(self._options.wall_clock() * 1000), reason)
