"""
A backend that misbehaves on purpose, and a store that loses what it held.

`FaultyBackend` stands between one node and its backend and harms what passes: announcements come twice, late, out of order or
never; calls are refused, time out, or hang on a cut link. `StoreFaults` harms the store itself, as a crash or a wrong failover
does. Everything is drawn from one seeded `random.Random`, with a stream of its own for each channel and purpose, so that the
order in which tasks run does not change what is drawn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ..backends import (
    TTL,
    Announcement,
    Appended,
    Backend,
    Cut,
    GapNotice,
    Health,
    MemoryStore,
    Notice,
    NoticeQueue,
    Record,
    Retention,
)
from ..core import Channel, OutsideError, Position, Rejected, Unavailable, Unknown, UsageError

__all__ = ["FaultPlan", "FaultyBackend", "StoreFaults"]


@dataclass(slots=True)
class FaultPlan:
    """
    What goes wrong, and how often. May be changed while in use; the default is that nothing does.

    Every ``*_rate`` is a probability from 0 to 1; every time is in seconds.

    Attributes:
        drop_rate: Of an announcement never to arrive.
        duplicate_rate: Of a second copy, that comes after up to `reorder_within` later announcements of its channel.
        reorder_rate: Of an announcement to be overtaken by up to `reorder_within` later ones of its channel.
        reorder_within: Most announcements that overtake.
        reorder_seconds: Longest wait for announcements that overtake; afterwards it arrives without them.
        delay_rate: Of an announcement to be late, by up to `delay_seconds`.
        delay_seconds: Longest delay.
        refuse_rate: Of an append to be refused with `Unavailable`, after `refuse_seconds`.
        fail_rate: Of any other call to raise `Unavailable`, after `refuse_seconds`.
        refuse_seconds: How long a refusal takes.
        unknown_rate: Of an append to end as `Unknown`, after `deadline`.
        unknown_applied: Share of the unknown appends that are in the log all the same.
        unknown_late: Share of the unknown appends that get there after the caller was told, within `late_seconds`.
        late_seconds: Longest time a lost append takes to arrive, counted from the deadline.
        latency: How long every call takes at least.
        deadline: When a call gives up: the backend's total deadline.
    """

    drop_rate: float = 0.0
    duplicate_rate: float = 0.0
    reorder_rate: float = 0.0
    reorder_within: int = 5
    reorder_seconds: float = 0.1
    delay_rate: float = 0.0
    delay_seconds: float = 0.5
    refuse_rate: float = 0.0
    fail_rate: float = 0.0
    refuse_seconds: float = 0.0
    unknown_rate: float = 0.0
    unknown_applied: float = 0.5
    unknown_late: float = 0.0
    late_seconds: float = 60.0
    latency: float = 0.0
    deadline: float = 5.0


class _Held:
    """An announcement that waits until *left* later ones of its channel have passed."""

    __slots__ = ("announcement", "left", "passed")

    def __init__(self, announcement: Announcement, left: int) -> None:
        self.announcement = announcement
        self.left = left
        self.passed = False


class _Line:
    """The faulty way from one listener of the inner backend to whoever listens to the faulty one."""

    def __init__(self, backend: FaultyBackend, notices: AsyncIterator[Notice]) -> None:
        self.queue = NoticeQueue()
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self._backend = backend
        self._notices = notices
        self._held: dict[Channel, list[_Held]] = {}

    async def carry(self, tasks: TaskGroup) -> None:
        try:
            with self.scope:
                async for notice in self._notices:
                    if isinstance(notice, Announcement):
                        self._harm(notice, tasks)
                    elif not self._backend.partitioned:
                        self.queue.put(notice)
            self.queue.close()
        except OutsideError as error:
            self.queue.put(Health(False, str(error)))
        finally:
            self.ended.set()

    def _harm(self, announcement: Announcement, tasks: TaskGroup) -> None:
        plan = self._backend.plan
        channel = announcement.channel
        random = self._backend.random("notice", channel)
        # The same number of draws whatever the plan, so that changing one rate does not reshuffle the rest.
        dropped, duplicated, reordered, delayed, seconds = (random.random() for _ in range(5))
        places, places_of_copy = (random.random() for _ in range(2))
        waiting = self._held.pop(channel, [])
        if dropped >= plan.drop_rate:
            if delayed < plan.delay_rate:
                tasks.start_soon(self._deliver_after, announcement, seconds * plan.delay_seconds)
            elif reordered < plan.reorder_rate:
                self._hold(announcement, places, tasks)
            else:
                self._deliver(announcement)
            if duplicated < plan.duplicate_rate:
                self._hold(announcement, places_of_copy, tasks)
        for held in waiting:
            held.left -= 1
            if held.left > 0:
                self._held.setdefault(channel, []).append(held)
            else:
                self._let_pass(held)

    def _hold(self, announcement: Announcement, place: float, tasks: TaskGroup) -> None:
        held = _Held(announcement, 1 + int(place * self._backend.plan.reorder_within))
        self._held.setdefault(announcement.channel, []).append(held)
        tasks.start_soon(self._let_pass_after, held, self._backend.plan.reorder_seconds)

    def _let_pass(self, held: _Held) -> None:
        if not held.passed:
            held.passed = True
            self._deliver(held.announcement)

    async def _let_pass_after(self, held: _Held, seconds: float) -> None:
        await anyio.sleep(seconds)
        if not held.passed:
            self._let_pass(held)
            others = [other for other in self._held.get(held.announcement.channel, ()) if other is not held]
            if others:
                self._held[held.announcement.channel] = others
            else:
                self._held.pop(held.announcement.channel, None)

    async def _deliver_after(self, announcement: Announcement, seconds: float) -> None:
        await anyio.sleep(seconds)
        self._deliver(announcement)

    def _deliver(self, announcement: Announcement) -> None:
        if not self._backend.partitioned:
            self.queue.announce(announcement)


class FaultyBackend:
    """
    A backend that does to *inner* what *plan* says.

    Args:
        inner: Any backend, not yet entered.
        plan: What goes wrong; may be changed at any time.
        random: Where everything is drawn from. Give each node one of its own.
    """

    def __init__(self, inner: Backend, plan: FaultPlan | None = None, *, random: Random) -> None:
        self.inner = inner
        self.plan = FaultPlan() if plan is None else plan
        self._seed = random.getrandbits(64)
        self._randoms: dict[tuple[str, str], Random] = {}  # {(purpose, channel or key): its own stream}
        self._tasks: TaskGroup | None = None
        self._line: _Line | None = None
        self._healed: anyio.Event | None = None  # set when the partition that lasts is over
        self._hang = False

    def __repr__(self) -> str:
        return f"<FaultyBackend partitioned={self.partitioned} inner={self.inner!r}>"

    async def __aenter__(self) -> FaultyBackend:
        if self._tasks is not None:
            raise UsageError("backend", "is open already")
        await self.inner.__aenter__()
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks, self._tasks = self._tasks, None
        self.heal()
        if self._line is not None:
            self._line.queue.close()
        try:
            if tasks is not None:
                tasks.cancel_scope.cancel()
                # What the body raised is not passed in: a task group would wrap it in a group.
                await tasks.__aexit__(None, None, None)
        finally:
            await self.inner.__aexit__(*exc)

    # ---- faults by hand

    @property
    def partitioned(self) -> bool:
        """Whether the link is cut now."""
        return self._healed is not None

    def partition(self, *, hang: bool = True, notify: bool = False) -> None:
        """
        Cut the link: announcements are lost without a word, calls fail.

        Args:
            hang: ``True``: calls hang until the link heals or their deadline is over, whichever comes first; an append that
                gives up is `Unknown`. ``False``: calls raise `Unavailable` after ``refuse_seconds``.
            notify: Whether the listener is told by a `Health` notice, as a client library does that notices.
        """
        self._hang = hang
        if self._healed is None:
            self._healed = anyio.Event()
            if notify and self._line is not None:
                self._line.queue.put(Health(False, "partitioned"))

    def heal(self, *, notify: bool = False) -> None:
        """Join the link again. With *notify* the listener is told, and that everything may have a gap."""
        healed, self._healed = self._healed, None
        if healed is not None:
            healed.set()
            if notify and self._line is not None:
                self._line.queue.put(Health(True))
                self._line.queue.put(GapNotice(None, "the link was cut"))

    def gap(self, channel: Channel | None = None, reason: str = "injected") -> None:
        """Give the listener a gap notice."""
        if self._line is not None:
            self._line.queue.put(GapNotice(channel, reason))

    def random(self, purpose: str, key: str) -> Random:
        """Return the stream of random numbers for *purpose* and *key*, the same stream every time."""
        found = self._randoms.get((purpose, key))
        if found is None:
            found = self._randoms[purpose, key] = Random(f"{self._seed}/{purpose}/{key}")
        return found

    # ---- the log

    async def append(
        self,
        channel: Channel,
        payload: bytes,
        *,
        link: int,
        retention: Retention,
        expect: Position | None = None,
        token: int = 0,
    ) -> Appended:
        tasks = self._opened()
        plan = self.plan
        random = self.random("append", channel)
        refused, unknown, fate, lateness = (random.random() for _ in range(4))
        await self._pass_link(link)
        if refused < plan.refuse_rate:
            await anyio.sleep(plan.refuse_seconds)
            raise Unavailable("injected refusal")

        async def apply() -> Appended:
            return await self.inner.append(channel, payload, link=link, retention=retention, expect=expect, token=token)

        async def apply_late(seconds: float) -> None:
            await anyio.sleep(seconds)
            with suppress(OutsideError):  # nobody waits for the answer
                await apply()

        if unknown < plan.unknown_rate:
            if fate < plan.unknown_applied:
                with suppress(Rejected):  # the answer is lost, whatever it was
                    await apply()
                await anyio.sleep(plan.deadline)
            elif fate < plan.unknown_applied + plan.unknown_late:
                tasks.start_soon(apply_late, plan.deadline + lateness * plan.late_seconds)
                await anyio.sleep(plan.deadline)
            else:
                await anyio.sleep(plan.deadline)
            raise Unknown(link, "injected timeout")
        return await apply()

    async def read(self, channel: Channel) -> Cut:
        await self._pass("read", channel)
        return await self.inner.read(channel)

    async def heads(self, channels: Sequence[Channel]) -> Sequence[Position]:
        await self._pass("heads", "")
        return await self.inner.heads(channels)

    async def save_keyframe(self, channel: Channel, position: Position, payload: bytes) -> bool:
        await self._pass("save_keyframe", channel)
        return await self.inner.save_keyframe(channel, position, payload)

    async def new_epoch(self, channel: Channel, expect: str) -> str:
        await self._pass("new_epoch", channel)
        return await self.inner.new_epoch(channel, expect)

    # ---- announcements

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Notice]]:
        tasks = self._opened()
        async with self.inner.listen() as notices:
            line = self._line = _Line(self, notices)
            tasks.start_soon(line.carry, tasks)
            try:
                yield line.queue
            finally:
                self._line = None
                line.queue.close()
                line.scope.cancel()
                # The inner listener may not be closed while somebody still waits in it.
                with anyio.CancelScope(shield=True):
                    await line.ended.wait()

    async def watch(self, channel: Channel) -> None:
        await self._pass("watch", channel)
        await self.inner.watch(channel)

    async def unwatch(self, channel: Channel) -> None:
        await self._pass("unwatch", channel)
        await self.inner.unwatch(channel)

    # ---- the key-value store

    async def get(self, ttl: TTL, key: str) -> Record | None:
        await self._pass(f"get {ttl.name}", key)
        return await self.inner.get(ttl, key)

    async def put(self, ttl: TTL, key: str, value: bytes, *, expect: int | None = None) -> int:
        await self._pass(f"put {ttl.name}", key)
        return await self.inner.put(ttl, key, value, expect=expect)

    async def delete(self, ttl: TTL, key: str, *, expect: int | None = None) -> None:
        await self._pass(f"delete {ttl.name}", key)
        await self.inner.delete(ttl, key, expect=expect)

    async def list(self, ttl: TTL, prefix: str) -> Sequence[Record]:
        await self._pass(f"list {ttl.name}", prefix)
        return await self.inner.list(ttl, prefix)

    # ---- inside

    def _opened(self) -> TaskGroup:
        if self._tasks is None:
            raise UsageError("backend", "is not open: use it inside `async with backend:`")
        return self._tasks

    async def _pass(self, purpose: str, key: str) -> None:
        """Let a call through that is no append, or raise `Unavailable`."""
        self._opened()
        failed = self.random(purpose, key).random()
        await self._pass_link(None)
        if failed < self.plan.fail_rate:
            await anyio.sleep(self.plan.refuse_seconds)
            raise Unavailable("injected failure")

    async def _pass_link(self, link: int | None) -> None:
        """Wait as long as the link takes; raise if it is cut and does not heal in time."""
        if self.plan.latency:
            await anyio.sleep(self.plan.latency)
        else:
            await checkpoint()
        if self._healed is None:
            return
        if not self._hang:
            await anyio.sleep(self.plan.refuse_seconds)
            raise Unavailable("partitioned")
        with anyio.move_on_after(self.plan.deadline):
            while self._healed is not None:
                await self._healed.wait()
        if self._healed is None:
            return
        if link is None:
            raise Unavailable("partitioned: no answer within the deadline")
        raise Unknown(link, "partitioned: no answer within the deadline")


class StoreFaults:
    """
    What can happen to a `MemoryStore`: the faults of a broker rather than of the way to it. Nobody is told.

    Args:
        store: The store that suffers.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def roll_back(self, channel: Channel, entries: int) -> int:
        """
        Forget the newest *entries* of a log under the same epoch, as a restart from an old snapshot does.

        Returns:
            How many were forgotten: of a log that was trimmed, the oldest retained entry stays.
        """
        log = self.store.logs.get(channel)
        return 0 if log is None else log.drop_newest(entries)

    def lose_log(self, channel: Channel) -> None:
        """Forget one log with its epoch and keyframes."""
        self.store.lose_log(channel)

    def lose_records(self) -> None:
        """Forget all records, leases among them; revisions go on from where they were."""
        self.store.lose_records()

    def lose_store(self, *, revisions: bool = True) -> None:
        """
        Forget everything, as a broker does that restarts empty.

        Args:
            revisions: Whether the revision counters start anew as well, so that lease tokens come again.
        """
        self.store.lose(revisions=revisions)
