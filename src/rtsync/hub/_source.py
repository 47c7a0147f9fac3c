"""
Sources: what feeds a channel, on demand, by one writer in the whole cluster.

A runner lives on every node that has subscribers. The runners contend for the channel's lease; the holder runs the source and
appends with the lease's token, so that the log itself refuses whoever has been replaced without noticing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

import anyio
import anyio.to_thread

from ..backends import TTL, Backend
from ..core import LIVE, Fenced, Freshness, Rejected, RTSyncError, SourceStatus, Unknown
from ._channel import LiveChannel
from ._families import SourceSpec
from ._lease import Lease
from ._options import HubOptions

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ._publisher import Publisher

__all__ = ["Changes", "Sources"]

logger = logging.getLogger("rtsync.hub")

_STOP_TIMEOUT: Final = 1.0
"""Seconds a stopping runner may take to say so in the log and give its lease back, and a source to clean up."""

_TAKE_INTERVAL: Final = 0.5
"""Seconds between attempts to take a lease: a graceful stop is followed by another node within a second."""

_RENEW_RETRY: Final = 0.2
"""Seconds between attempts to renew a lease after one has failed."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a source yields instead of a whole document: a patch of the one before."""

    patch: Mapping[str, object]


class Polled(Protocol):
    """A source that is asked: one object a channel, made with the channel's parameters."""

    async def get_data(self) -> object:
        """Return the document (or event) of now. Called every interval, one call at a time."""
        ...


class Sources:
    """The source runners of one node."""

    def __init__(self, backend: Backend, publisher: Publisher, options: HubOptions, now: Callable[[], float]) -> None:
        self._backend = backend
        self._publisher = publisher
        self._options = options
        self._now = now
        self._runners: dict[LiveChannel, _Runner] = {}
        self._tasks: TaskGroup | None = None
        self.restarts = 0

    def __len__(self) -> int:
        return len(self._runners)

    def start(self, tasks: TaskGroup) -> None:
        """Run the runners in *tasks* from now on."""
        self._tasks = tasks

    def wanted(self, channel: LiveChannel) -> None:
        """Take note that *channel* has a subscriber more: a runner starts unless one runs."""
        spec = channel.family.source
        runner = self._runners.get(channel)
        if runner is not None:
            runner.moved.set()
        elif spec is not None and self._tasks is not None:
            channel.fed = True
            runner = self._runners[channel] = _Runner(self, channel, spec)
            self._tasks.start_soon(self._run, runner)

    def unwanted(self, channel: LiveChannel) -> None:
        """Take note that the last subscriber of *channel* has left."""
        runner = self._runners.get(channel)
        if runner is not None:
            runner.moved.set()

    async def _run(self, runner: _Runner) -> None:
        channel = runner.channel
        try:
            await runner.run()
        except Exception:  # nothing that feeds one channel may end the node
            logger.exception("the source runner of %s failed", channel.name)
        finally:
            del self._runners[channel]
            channel.fed = False
        if channel.subscriptions:  # somebody came while it stopped
            self.wanted(channel)


class _LeaseLost(Exception):
    """Somebody else is, or may be, the writer now."""


class _Runner:
    """Feeds one channel for as long as somebody is subscribed, and a while longer."""

    def __init__(self, sources: Sources, channel: LiveChannel, spec: SourceSpec) -> None:
        self.channel = channel
        self.moved = anyio.Event()  # somebody came, or the last one left
        self._sources = sources
        self._spec = spec
        self._options = options = sources._options
        self._backend = sources._backend
        self._publisher = sources._publisher
        self._now = sources._now
        self._lease = Lease(sources._backend, channel.name, options.node, options.lease_ttl, sources._now)
        self._waiting = f"wait:{channel.name} "  # a blank, for no name has one: prices:A must not match prices:A:B
        self._term: TaskGroup | None = None  # tasks that run while the lease is ours
        self._params = channel.family.pattern.match(channel.name) or {}

    async def run(self) -> None:
        """Contend for the lease and feed the channel until nobody is subscribed any more."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._contend)
            await self._until_unwanted()
            tasks.cancel_scope.cancel()

    async def _until_unwanted(self) -> None:
        linger = self._options.source_linger
        while True:
            self.moved = anyio.Event()
            if self.channel.subscriptions:
                await self.moved.wait()
                continue
            with anyio.move_on_after(linger):
                await self.moved.wait()
                continue
            if not await self._others_wait() and not self.channel.subscriptions:
                return
            linger = max(linger, self._options.lease_renew)  # at most so often is that asked

    async def _others_wait(self) -> bool:
        """Return whether another node wants this channel fed while we hold its lease."""
        if not self._lease.held:
            return False
        try:
            return bool(await self._backend.list(TTL.LEASE, self._waiting))
        except RTSyncError:
            return False

    # ---- the lease

    async def _contend(self) -> None:
        try:
            while True:
                pause = _TAKE_INTERVAL
                try:
                    await self._take_lease()
                    await self._lead()
                except Exception:  # a backend's bug
                    logger.exception("%s: leading", self.channel.name)
                    pause = self._options.source_backoff_max
                await anyio.sleep(pause)
        finally:
            with anyio.CancelScope(shield=True):
                await self._step_down()

    async def _take_lease(self) -> None:
        """Ask for the lease until it is ours; say meanwhile that somebody waits here."""
        key = self._waiting + self._options.node
        say_at = self._now()
        while True:
            try:
                if await self._lease.take():
                    break
                if self._now() >= say_at:
                    await self._backend.put(TTL.LEASE, key, b"")
                    say_at = self._now() + self._options.lease_renew
            except RTSyncError as error:
                logger.debug("%s: no lease: %s", self.channel.name, error)
            await anyio.sleep(min(self._options.lease_renew, _TAKE_INTERVAL) * (0.75 + 0.5 * self._options.jitter()))
        with suppress(RTSyncError):  # it ends by itself
            await self._backend.delete(TTL.LEASE, key)

    async def _lead(self) -> None:
        """Feed the channel while the lease holds."""
        async with anyio.create_task_group() as self._term:
            self._term.start_soon(self._keep_lease)
            self._term.start_soon(self._feed_forever)
        logger.info("%s: the lease is lost", self.channel.name)
        with anyio.move_on_after(self._lease.expires_at - self._now()):
            await self._resign()  # if it could not be renewed, maybe nobody can take it
        self._lease.lose()

    def _stop_leading(self) -> None:
        assert self._term is not None
        self._term.cancel_scope.cancel()

    async def _keep_lease(self) -> None:
        """Renew until the lease is lost, by the word of the store or by our own clock."""
        margin = self._options.lease_renew / 3
        pause = self._options.lease_renew
        while True:
            left = self._lease.expires_at - self._now() - margin
            if left <= 0:
                return self._stop_leading()
            await anyio.sleep(min(pause, left))
            try:
                with anyio.move_on_after(left - min(pause, left)):
                    if not await self._lease.renew():
                        return self._stop_leading()
                    pause = self._options.lease_renew
                    continue
            except RTSyncError as error:
                logger.debug("%s: lease not renewed: %s", self.channel.name, error)
            pause = _RENEW_RETRY

    async def _step_down(self) -> None:
        """Give the lease back, so that another node need not wait for its end."""
        with anyio.move_on_after(_STOP_TIMEOUT / 2):
            await self._resign()
        with anyio.move_on_after(_STOP_TIMEOUT / 2), suppress(RTSyncError):
            await self._lease.release()
            await self._backend.delete(TTL.LEASE, self._waiting + self._options.node)

    async def _resign(self) -> None:
        """Say in the log that nobody writes, if that is still ours to say."""
        if self._lease.held and self.channel.source_status.freshness == "live":
            with suppress(RTSyncError):
                await self._write(self._status("stale", "no source is running"))

    # ---- feeding

    async def _feed_forever(self) -> None:
        """Run the source, again and again with growing pauses after errors, until it ends by itself or the lease is lost."""
        try:
            if self.channel.family.kind == "events":
                await self._publish(LIVE)  # whose source need not have anything to tell for a long time
            pause = self._options.source_backoff_min
            while True:
                began = self._now()
                try:
                    await self._feed()
                    await self._publish(self._status("closed", "the source has ended"))
                    await anyio.sleep_forever()
                except _LeaseLost:
                    raise
                except Exception as error:  # a source is other people's code
                    logger.exception("the source of %s failed", self.channel.name)
                    self._sources.restarts += 1
                    await self._publish(self._status("stale", f"the source failed: {type(error).__name__}"))
                if self._now() - began > self._options.source_backoff_max:
                    pause = self._options.source_backoff_min
                await anyio.sleep(pause * (0.75 + 0.5 * self._options.jitter()))
                pause = min(pause * 2, self._options.source_backoff_max)
        except _LeaseLost:
            self._stop_leading()

    async def _feed(self) -> None:
        updates = self._updates()
        try:
            while (update := await self._next(updates)) is not _END:
                await self._publish(update)
        finally:
            close = getattr(updates, "aclose", None)
            if close is not None:
                with anyio.move_on_after(_STOP_TIMEOUT, shield=True):
                    await close()

    async def _next(self, updates: AsyncIterator[object]) -> object:
        """Return the source's next update; say that the channel is stale while it keeps us waiting for too long."""
        if self._spec.stale_after is None:
            return await anext(updates, _END)
        assert self._term is not None
        patience = anyio.CancelScope()
        # Not in a task group around the source's code: that would wrap what it raises, and meddle with scopes of its own.
        self._term.start_soon(self._complain, self._spec.stale_after, patience)
        try:
            return await anext(updates, _END)
        finally:
            patience.cancel()

    async def _complain(self, seconds: float, scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.sleep(seconds)
            try:
                await self._publish(self._status("stale", f"no data for {seconds:g} s"))
            except _LeaseLost:
                self._stop_leading()

    async def _publish(self, update: object) -> None:
        """
        Publish what the source yielded, however long the backend takes: the source waits. Data also make the channel live.

        Raises `_LeaseLost`, and `UsageError` if it cannot be carried.
        """
        level = logging.WARNING
        while self._lease.held:
            try:
                return await self._write(update)
            except Fenced as error:
                await self._outbid(error.token)
            except (Rejected, Unknown) as error:
                logger.log(level, "%s: not published: %s", self.channel.name, error)
                if isinstance(error, Unknown) and self._appends(update):
                    return  # it may be there; appended again, it might be there twice
                level = logging.DEBUG
                await anyio.sleep(self._options.source_backoff_min)
        raise _LeaseLost

    async def _outbid(self, token: int) -> None:
        """Find out who the writer is, us or whoever wrote an entry with a *token* newer than ours. Raises `_LeaseLost`."""
        try:
            if not await self._lease.outbid(token):
                raise _LeaseLost
        except RTSyncError as error:
            logger.debug("%s: lease not renewed: %s", self.channel.name, error)
            await anyio.sleep(_RENEW_RETRY)

    def _appends(self, update: object) -> bool:
        return self.channel.family.kind == "events" and not isinstance(update, SourceStatus)

    async def _write(self, update: object) -> None:
        name, token = self.channel.name, self._lease.token
        if isinstance(update, SourceStatus):
            await self._publisher.say(name, update, token=token)
        elif self._appends(update):
            await self._say_live()  # first, so that an event is not appended again when this fails
            await self._publisher.append(name, update, token=token)
        else:
            if isinstance(update, Changes):
                await self._publisher.patch(name, update.patch, token=token)
            else:
                await self._publisher.set(name, update, token=token)
            await self._say_live()

    async def _say_live(self) -> None:
        """Say that data come, and that it is this node that writes them, unless the log says so."""
        channel = self.channel
        if channel.source_status.freshness != "live" or channel.writer != self._options.node:
            await self._publisher.say(channel.name, LIVE, token=self._lease.token)

    def _status(self, freshness: Freshness, reason: str) -> SourceStatus:
        return SourceStatus(freshness, int(self._options.wall_clock() * 1000), reason)

    # ---- the kinds of sources

    def _updates(self) -> AsyncIterator[object]:
        produce, params = self._spec.produce, self._params
        if inspect.isasyncgenfunction(produce):
            return cast(AsyncIterator[object], produce(**params))
        if inspect.isclass(produce):
            return self._poll(cast(Polled, produce(**params)).get_data)
        if inspect.iscoroutinefunction(produce):
            return self._poll(lambda: produce(**params))
        # A limiter of its own, so that sources that hang in their threads do not keep others from theirs.
        limiter = anyio.CapacityLimiter(1)
        return self._poll(
            lambda: anyio.to_thread.run_sync(lambda: produce(**params), abandon_on_cancel=True, limiter=limiter),
        )

    async def _poll(self, ask: Callable[[], Awaitable[object]]) -> AsyncIterator[object]:
        interval = self._options.family_intervals.get(self.channel.family.pattern.name, self._spec.interval or 1.0)
        while True:
            began = self._now()
            yield await ask()
            await anyio.sleep(max(interval - (self._now() - began), 0))


_END: Final = object()
