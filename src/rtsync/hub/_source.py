"""
Sources: what feeds a channel, on demand, by one writer in the whole cluster.

A runner lives on every node that has subscribers. The runners contend for the channel's lease; the holder runs the source and
appends with the lease's token, so that the log itself refuses whoever has been replaced without noticing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

import anyio
import anyio.to_thread

from ..backends import TTL, Backend
from ..core import LIVE, Fenced, Freshness, Patch, Rejected, RTSyncError, SourceStatus, Unknown, UsageError
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
"""Seconds a stopping runner may take to say so in the log and give its lease back."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a source yields instead of a whole document: a patch of the one before."""

    patch: Patch


class Polled(Protocol):
    """A source that is asked: one object a channel, made with the channel's parameters."""

    async def get_data(self) -> object:
        """Return the document (or event) of now. Called every interval, one call at a time."""
        ...


class _LeaseLost(Exception):
    """Somebody else is, or may be, the writer now."""


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
        """Take note that *channel* has a subscriber: a runner starts unless one runs."""
        spec = channel.family.source
        if spec is not None and channel not in self._runners and self._tasks is not None:
            runner = self._runners[channel] = _Runner(self, channel, spec)
            self._tasks.start_soon(self._run, runner)

    def unwanted(self, channel: LiveChannel) -> None:
        """Take note that the last subscriber of *channel* has left."""
        runner = self._runners.get(channel)
        if runner is not None:
            runner.left.set()

    async def _run(self, runner: _Runner) -> None:
        try:
            await runner.run()
        finally:
            del self._runners[runner.channel]
        if runner.channel.subscriptions:  # somebody came while it stopped
            self.wanted(runner.channel)


class _Runner:
    """Feeds one channel for as long as somebody is subscribed, and a while longer."""

    def __init__(self, sources: Sources, channel: LiveChannel, spec: SourceSpec) -> None:
        self.channel = channel
        self.left = anyio.Event()
        self._sources = sources
        self._spec = spec
        self._options = options = sources._options
        self._backend = sources._backend
        self._publisher = sources._publisher
        self._lease = Lease(sources._backend, channel.name, options.node, options.lease_ttl, sources._now)
        self._wait_key = f"wait:{channel.name}:{options.node}"
        self._params = channel.family.pattern.match(channel.name) or {}

    async def run(self) -> None:
        """Contend for the lease and feed the channel until nobody is subscribed any more."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._contend)
            await self._until_unwanted()
            tasks.cancel_scope.cancel()

    async def _until_unwanted(self) -> None:
        while True:
            if not self.channel.subscriptions:
                await anyio.sleep(self._options.source_linger)
                if not self.channel.subscriptions and not await self._others_wait():
                    return
            self.left = anyio.Event()
            if self.channel.subscriptions:
                await self.left.wait()

    async def _others_wait(self) -> bool:
        """Return whether another node wants this channel fed while we hold its lease."""
        if not self._lease.held:
            return False
        try:
            return bool(await self._backend.list(TTL.LEASE, f"wait:{self.channel.name}:"))
        except RTSyncError:
            return False

    # ---- the lease

    async def _contend(self) -> None:
        try:
            while True:
                await self._take_lease()
                try:
                    await self._lead()
                except _LeaseLost:
                    logger.info("%s: the lease went to another node", self.channel.name)
        finally:
            with anyio.move_on_after(_STOP_TIMEOUT, shield=True):
                await self._step_down()

    async def _take_lease(self) -> None:
        """Ask for the lease until it is ours; say meanwhile that somebody waits here."""
        while True:
            try:
                if await self._lease.take():
                    await self._backend.delete(TTL.LEASE, self._wait_key)
                    return
                await self._backend.put(TTL.LEASE, self._wait_key, b"")
            except RTSyncError as error:
                logger.debug("%s: no lease: %s", self.channel.name, error)
            await anyio.sleep(min(self._options.lease_renew, 0.5) * (0.75 + 0.5 * self._options.jitter()))

    async def _lead(self) -> None:
        """Feed the channel while the lease holds. Raises `_LeaseLost`."""
        lost = False
        async with anyio.create_task_group() as tasks:

            async def keep() -> None:
                nonlocal lost
                await self._keep_lease()
                lost = True
                tasks.cancel_scope.cancel()

            async def feed() -> None:
                nonlocal lost
                try:
                    await self._feed_forever()
                except Fenced:
                    lost = True
                    tasks.cancel_scope.cancel()

            tasks.start_soon(keep)
            tasks.start_soon(feed)
        if lost:
            self._lease.token = 0
            raise _LeaseLost

    async def _keep_lease(self) -> None:
        """Renew until the lease is lost, by the word of the store or by our own clock."""
        margin = self._options.lease_renew / 3
        while True:
            await anyio.sleep(self._options.lease_renew)
            while True:
                left = self._lease.expires_at - self._sources._now() - margin
                if left <= 0:
                    return
                try:
                    with anyio.move_on_after(left):
                        if not await self._lease.renew():
                            return
                        break
                except RTSyncError as error:
                    logger.debug("%s: lease not renewed: %s", self.channel.name, error)
                    await anyio.sleep(min(0.2, left))

    async def _step_down(self) -> None:
        if not self._lease.token:
            return
        try:
            if self._lease.held:
                await self._say("stale", "no source is running")
        except RTSyncError as error:
            logger.debug("%s: %s", self.channel.name, error)
        await self._lease.release()

    # ---- feeding

    async def _feed_forever(self) -> None:
        """Run the source, again and again with growing pauses after errors, until it ends by itself. Raises `Fenced`."""
        pause = self._options.source_backoff_min
        while True:
            began = self._sources._now()
            try:
                await self._feed()
            except Fenced:
                raise
            except Exception as error:  # a source is other people's code
                logger.exception("the source of %s failed", self.channel.name)
                self._sources.restarts += 1
                await self._say_if_possible("stale", f"the source failed: {type(error).__name__}")
            else:
                await self._say("closed", "the source has ended")
                await anyio.sleep_forever()
            if self._sources._now() - began > self._options.source_backoff_max:
                pause = self._options.source_backoff_min
            await anyio.sleep(pause * (0.75 + 0.5 * self._options.jitter()))
            pause = min(pause * 2, self._options.source_backoff_max)

    async def _feed(self) -> None:
        updates = self._updates()
        try:
            while True:
                update = await self._next(updates)
                if update is _END:
                    return
                await self._publish(update)
        finally:
            close = getattr(updates, "aclose", None)
            if close is not None:
                with anyio.move_on_after(_STOP_TIMEOUT, shield=True):
                    await close()

    async def _next(self, updates: AsyncIterator[object]) -> object:
        """Return the source's next update; say that the channel is stale while it keeps us waiting for too long."""
        patience = self._spec.stale_after
        if patience is None:
            return await anext(updates, _END)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def complain() -> None:
                    await anyio.sleep(patience)
                    await self._say_if_possible("stale", f"no data for {patience:g} s")

                tasks.start_soon(complain)
                update = await anext(updates, _END)
                tasks.cancel_scope.cancel()
        assert not scope.cancelled_caught
        return update

    async def _publish(self, update: object) -> None:
        name, token = self.channel.name, self._lease.token
        try:
            if isinstance(update, SourceStatus):
                await self._publisher.say(name, update, token=token)
                return
            if isinstance(update, Changes):
                await self._publisher.patch(name, update.patch, token=token)
            elif self.channel.family.kind == "events":
                await self._publisher.append(name, update, token=token)
            else:
                await self._publisher.set(name, update, token=token)
            if self.channel.source_status.freshness != "live":
                await self._publisher.say(name, LIVE, token=token)
        except Fenced:
            raise
        except (Rejected, Unknown) as error:
            if self.channel.family.kind == "events":
                raise
            # The next document carries everything this one did.
            logger.warning("%s: not published: %s", name, error)

    async def _say(self, freshness: Freshness, reason: str) -> None:
        since = int(self._options.wall_clock() * 1000)
        status = SourceStatus(freshness, since, reason)
        await self._publisher.say(self.channel.name, status, token=self._lease.token)

    async def _say_if_possible(self, freshness: Freshness, reason: str) -> None:
        try:
            await self._say(freshness, reason)
        except Fenced:
            raise
        except RTSyncError as error:
            logger.debug("%s: %s", self.channel.name, error)

    # ---- the kinds of sources

    def _updates(self) -> AsyncIterator[object]:
        spec = self._spec
        produce = spec.produce
        if inspect.isasyncgenfunction(produce):
            return cast(AsyncIterator[object], produce(**self._params))
        if inspect.isclass(produce):
            return self._poll(cast(Polled, produce(**self._params)).get_data)
        if inspect.iscoroutinefunction(produce):
            return self._poll(lambda: produce(**self._params))
        return self._poll(lambda: anyio.to_thread.run_sync(lambda: produce(**self._params)))

    async def _poll(self, ask: Callable[[], Awaitable[object]]) -> AsyncIterator[object]:
        interval = self._options.family_intervals.get(self.channel.family.pattern.name, self._spec.interval or 1.0)
        while True:
            began = self._sources._now()
            yield await ask()
            await anyio.sleep(max(interval - (self._sources._now() - began), 0))


_END: Final = object()


def check_source(produce: object) -> None:
    """Raise `UsageError` unless *produce* is something a runner can run."""
    if not callable(produce):
        raise UsageError("source", "a source is an async generator function, a class with get_data(), or a function")
