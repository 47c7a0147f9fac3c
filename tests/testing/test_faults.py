"""A backend that misbehaves on purpose misbehaves as it was told, and the same way for the same seed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import anyio
import pytest

from rtsync.backends import (
    TTL,
    Announcement,
    Appended,
    Backend,
    GapNotice,
    Health,
    MemoryBackend,
    MemoryStore,
    Notice,
    Retention,
)
from rtsync.core import Channel, Conflict, Position, Unavailable, Unknown
from rtsync.testing._backend_kit import BackendKit
from rtsync.testing._faults import FaultPlan, FaultyBackend, StoreFaults
from rtsync.testing._virtual import VIRTUAL_BACKENDS, run_virtual, settle

pytestmark = pytest.mark.anyio

A = Channel("a")
B = Channel("b")
EVENTS = Retention(keyframed=False, window=1000)
STATE = Retention(keyframed=True, window=1000)


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Everything here runs in virtual time: what takes five seconds takes none."""
    backend: object = request.param
    return backend


class TestFaultyBackendWithoutFaults(BackendKit):
    """With an empty plan the wrapper is a backend like any other."""

    @asynccontextmanager
    async def nodes(self, count: int) -> AsyncIterator[list[Backend]]:
        store = MemoryStore()
        yield [FaultyBackend(MemoryBackend(store), random=Random(index)) for index in range(count)]


def faulty(plan: FaultPlan, *, seed: int = 1, store: MemoryStore | None = None) -> FaultyBackend:
    return FaultyBackend(MemoryBackend(store), plan, random=Random(seed))


async def appended(node: Backend, link: int, *, channel: Channel = A, expect: Position | None = None) -> Appended:
    return await node.append(channel, b"%d" % link, link=link, retention=EVENTS, expect=expect)


class Ear:
    """Listens to one node and notes when it heard what."""

    def __init__(self, notices: AsyncIterator[Notice]) -> None:
        self._notices = notices
        self.notices: list[Notice] = []
        self.times: list[float] = []

    async def listen(self) -> None:
        async for notice in self._notices:
            self.notices.append(notice)
            self.times.append(anyio.current_time())

    def links(self, channel: Channel = A) -> list[int]:
        return [n.entry.link for n in self.notices if isinstance(n, Announcement) and n.channel == channel]


@asynccontextmanager
async def listening(node: FaultyBackend) -> AsyncIterator[Ear]:
    """Enter *node*, watch two channels and listen."""
    async with node, node.listen() as notices, anyio.create_task_group() as tasks:
        for channel in (A, B):
            await node.watch(channel)
        ear = Ear(notices)
        tasks.start_soon(ear.listen)
        yield ear
        await settle()
        tasks.cancel_scope.cancel()


async def heard(plan: FaultPlan, count: int = 50, *, seed: int = 1) -> list[int]:
    """What of *count* appends is heard, in order."""
    node = faulty(plan, seed=seed)
    async with listening(node) as ear:
        for link in range(1, count + 1):
            await appended(node, link)
            await settle()
        await anyio.sleep(10)
    return ear.links()


# ---- announcements


async def test_nothing_is_harmed_by_default() -> None:
    assert await heard(FaultPlan()) == list(range(1, 51))


async def test_dropped_announcements_never_come() -> None:
    assert await heard(FaultPlan(drop_rate=1)) == []
    some = await heard(FaultPlan(drop_rate=0.3))
    assert some == sorted(set(some))
    assert 20 < len(some) < 50


async def test_duplicates_come_again_later() -> None:
    twice = await heard(FaultPlan(duplicate_rate=1))
    assert sorted(twice) == sorted([*range(1, 51)] * 2)
    assert [link for index, link in enumerate(twice) if link not in twice[:index]] == list(range(1, 51))
    assert twice != sorted(twice)


async def test_reordered_announcements_are_overtaken_by_no_more_than_the_limit() -> None:
    order = await heard(FaultPlan(reorder_rate=0.5, reorder_within=3))
    assert sorted(order) == list(range(1, 51))
    assert order != sorted(order)
    for index, link in enumerate(order):
        assert sum(later > link for later in order[:index]) <= 3


async def test_a_reordered_announcement_that_nothing_overtakes_comes_all_the_same() -> None:
    node = faulty(FaultPlan(reorder_rate=1, reorder_seconds=0.1))
    async with listening(node) as ear:
        await appended(node, 1)
        await anyio.sleep(0.05)
        assert ear.links() == []
        await anyio.sleep(0.06)
        assert ear.links() == [1]
    assert not node._randoms.keys() - {("notice", A), ("append", A), ("watch", A), ("watch", B)}


async def test_delayed_announcements_come_within_the_limit() -> None:
    node = faulty(FaultPlan(delay_rate=1, delay_seconds=2))
    async with listening(node) as ear:
        for link in range(1, 21):
            await appended(node, link)
        start = anyio.current_time()
        await anyio.sleep(2)
    assert sorted(ear.links()) == list(range(1, 21))
    assert ear.links() != sorted(ear.links())
    assert all(start < time <= start + 2 for time in ear.times)


async def test_another_channels_announcements_pass_by_in_order() -> None:
    """One channel's fate does not depend on what happens in another."""

    async def of_a(with_b: bool) -> list[int]:
        node = faulty(FaultPlan(drop_rate=0.3, duplicate_rate=0.2, reorder_rate=0.3))
        async with listening(node) as ear:
            for link in range(1, 31):
                if with_b:
                    await appended(node, 1000 + link, channel=B)
                await appended(node, link)
            await anyio.sleep(1)
        return ear.links(A)

    assert await of_a(False) == await of_a(True)


async def test_the_log_itself_is_never_harmed() -> None:
    node = faulty(FaultPlan(drop_rate=0.5, duplicate_rate=0.5, reorder_rate=0.5, delay_rate=0.5))
    async with listening(node):
        for link in range(1, 21):
            await appended(node, link)
        assert [entry.link for entry in (await node.read(A)).entries] == list(range(1, 21))


async def test_an_injected_gap_is_heard() -> None:
    node = faulty(FaultPlan())
    async with listening(node) as ear:
        node.gap(A)
        node.gap()
        await settle()
    assert ear.notices == [GapNotice(A, "injected"), GapNotice(None, "injected")]


async def test_gaps_of_the_inner_backend_pass_through_unless_the_link_is_cut() -> None:
    node = faulty(FaultPlan())
    async with listening(node) as ear:
        assert isinstance(node.inner, MemoryBackend)
        assert node.inner._queue is not None
        for cut in (False, True):
            if cut:
                node.partition()
            node.inner._queue.put(GapNotice(A if cut else B, "inner"))
            await settle()
        assert "partitioned=True" in repr(node)
    assert ear.notices == [GapNotice(B, "inner")]


async def test_an_inner_listener_that_breaks_shows_as_bad_health() -> None:
    class Breaks(MemoryBackend):
        @asynccontextmanager
        async def listen(self) -> AsyncIterator[AsyncIterator[Notice]]:
            async def notices() -> AsyncIterator[Notice]:
                yield GapNotice(None, "last words")
                raise Unavailable("gone")

            yield notices()

    async with FaultyBackend(Breaks(), random=Random(1)) as node, node.listen() as heard:
        assert [await anext(heard), await anext(heard)] == [GapNotice(None, "last words"), Health(False, "gone")]


async def test_leaving_the_backend_ends_the_iteration() -> None:
    node = faulty(FaultPlan())
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            async with node.listen() as notices:
                assert [notice async for notice in notices] == []

        async with node:
            tasks.start_soon(listen)
            await settle()


# ---- calls


async def test_a_refused_append_is_not_in_the_log() -> None:
    async with faulty(FaultPlan(refuse_rate=1, refuse_seconds=0.5)) as node:
        start = anyio.current_time()
        with pytest.raises(Unavailable):
            await appended(node, 1)
        assert anyio.current_time() - start == pytest.approx(0.5)
        assert (await node.read(A)).head.offset == 0


async def test_other_calls_fail_apart_from_appends() -> None:
    async with faulty(FaultPlan(fail_rate=1)) as node:
        await appended(node, 1)
        for call in (node.read(A), node.heads([A]), node.get(TTL.LEASE, "k"), node.put(TTL.LEASE, "k", b"")):
            with pytest.raises(Unavailable):
                await call
        node.plan.fail_rate = 0
        assert await node.get(TTL.LEASE, "k") is None
        assert (await node.read(A)).head.offset == 1


@pytest.mark.parametrize(("applied", "entries"), [(1.0, 1), (0.0, 0)])
async def test_an_unknown_append_took_the_deadline_and_may_be_in_the_log(applied: float, entries: int) -> None:
    async with faulty(FaultPlan(unknown_rate=1, unknown_applied=applied, deadline=5)) as node:
        start = anyio.current_time()
        with pytest.raises(Unknown) as caught:
            await appended(node, 7)
        assert caught.value.link == 7
        assert anyio.current_time() - start == pytest.approx(5)
        assert len((await node.read(A)).entries) == entries
        node.plan.unknown_rate = 0
        assert (await appended(node, 7)).position.offset == 1
        assert len((await node.read(A)).entries) == 1


async def test_an_unknown_append_that_was_refused_stays_unknown_to_the_caller() -> None:
    async with faulty(FaultPlan(unknown_rate=1, unknown_applied=1)) as node:
        with pytest.raises(Unknown):
            await appended(node, 1, expect=Position("elsewhere", 5, 5))
        assert (await node.read(A)).head.offset == 0


async def test_a_lost_append_may_arrive_long_after_the_caller_gave_up() -> None:
    plan = FaultPlan(unknown_rate=1, unknown_applied=0, unknown_late=1, deadline=5, late_seconds=60)
    async with faulty(plan) as node:
        with pytest.raises(Unknown):
            await appended(node, 1)
        assert (await node.read(A)).head.offset == 0
        await anyio.sleep(66)
        assert (await node.read(A)).head.link == 1


async def test_a_lost_append_that_arrives_to_a_changed_log_is_refused_there() -> None:
    plan = FaultPlan(unknown_rate=1, unknown_applied=0, unknown_late=1)
    async with faulty(plan) as node:
        with pytest.raises(Unknown):
            await appended(node, 1, expect=Position("", 0, 0))
        plan.unknown_rate = 0
        await appended(node, 2)
        await anyio.sleep(70)
        assert [entry.link for entry in (await node.read(A)).entries] == [2]


async def test_latency_makes_every_call_slow() -> None:
    async with faulty(FaultPlan(latency=0.2)) as node:
        start = anyio.current_time()
        await appended(node, 1)
        await node.read(A)
        assert anyio.current_time() - start == pytest.approx(0.4)


# ---- partitions


async def test_a_partitioned_node_hears_nothing_and_is_not_told() -> None:
    store = MemoryStore()
    node = faulty(FaultPlan(), store=store)
    async with MemoryBackend(store) as other, listening(node) as ear:
        await appended(other, 1)
        await settle()
        node.partition()
        assert node.partitioned
        await appended(other, 2)
        await settle()
        node.heal()
        await appended(other, 3)
        await settle()
        assert ear.links() == [1, 3]
        assert len(ear.notices) == 2


async def test_what_was_under_way_when_the_link_was_cut_is_lost() -> None:
    store = MemoryStore()
    node = faulty(FaultPlan(delay_rate=1, delay_seconds=1), store=store)
    async with MemoryBackend(store) as other, listening(node) as ear:
        await appended(other, 1)
        await settle()
        node.partition()
        await anyio.sleep(1)
        node.heal()
        await anyio.sleep(1)
        assert ear.links() == []


async def test_a_partition_that_is_noticed_tells_health_and_gap() -> None:
    node = faulty(FaultPlan())
    async with listening(node) as ear:
        node.partition(notify=True)
        await settle()
        node.heal(notify=True)
        await settle()
    assert ear.notices == [Health(False, "partitioned"), Health(True), GapNotice(None, "the link was cut")]


async def test_calls_on_a_cut_link_hang_until_their_deadline() -> None:
    store = MemoryStore()
    async with faulty(FaultPlan(deadline=5), store=store) as node, MemoryBackend(store) as other:
        node.partition()
        start = anyio.current_time()
        with pytest.raises(Unavailable):
            await node.read(A)
        assert anyio.current_time() - start == pytest.approx(5)
        with pytest.raises(Unknown):
            await appended(node, 1)
        assert anyio.current_time() - start == pytest.approx(10)
        assert (await other.read(A)).head.offset == 0


async def test_calls_that_hang_go_on_when_the_link_heals() -> None:
    async with faulty(FaultPlan(deadline=5)) as node, anyio.create_task_group() as tasks:
        node.partition()
        places: list[Appended] = []

        async def write() -> None:
            places.append(await appended(node, 1))

        tasks.start_soon(write)
        await anyio.sleep(3)
        node.heal()
        await settle()
        assert [place.position.link for place in places] == [1]


async def test_a_partition_that_refuses_raises_soon() -> None:
    async with faulty(FaultPlan(refuse_seconds=0.25)) as node:
        node.partition(hang=False)
        start = anyio.current_time()
        for call in (appended(node, 1), node.get(TTL.BEAT, "k")):
            with pytest.raises(Unavailable):
                await call
        assert anyio.current_time() - start == pytest.approx(0.5)


async def test_leaving_with_late_work_pending_ends_it() -> None:
    """Nothing of a faulty backend runs on after its block."""
    store = MemoryStore()
    node = faulty(FaultPlan(delay_rate=1, delay_seconds=3600, unknown_rate=1, unknown_applied=0, unknown_late=1), store=store)
    async with listening(node):
        with pytest.raises(Unknown):
            await appended(node, 1)
    await anyio.sleep(3600)
    assert not store.logs
    async with node:
        node.plan = FaultPlan()
        assert (await appended(node, 2)).position.offset == 1


# ---- same seed, same faults


async def fates(seed: int) -> list[str]:
    """A trace of what two busy channels suffer, appended to by tasks that race."""
    plan = FaultPlan(
        drop_rate=0.1,
        duplicate_rate=0.1,
        reorder_rate=0.2,
        delay_rate=0.2,
        refuse_rate=0.1,
        unknown_rate=0.2,
        unknown_late=0.2,
    )
    node = faulty(plan, seed=seed)
    trace: list[str] = []
    async with listening(node) as ear:

        async def write(channel: Channel) -> None:
            for link in range(1, 60):
                try:
                    await appended(node, link, channel=channel)
                    outcome = "acked"
                except (Unavailable, Unknown, Conflict) as error:
                    outcome = type(error).__name__
                trace.append(f"{anyio.current_time():.6f} {channel} {link} {outcome}")
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as writers:
            for channel in (A, B):
                writers.start_soon(write, channel)
        await anyio.sleep(120)
        heard = zip(ear.times, ear.notices, strict=True)
        trace += [f"{time:.6f} {n.channel} {n.entry.link} heard" for time, n in heard if isinstance(n, Announcement)]
    return sorted(trace)


def test_the_same_seed_gives_the_same_faults_on_both_event_loops() -> None:
    """Also when tasks that wake at one instant take turns in another order."""
    first = run_virtual(fates, 1, backend="asyncio")
    assert {line.split()[-1] for line in first} == {"acked", "Unavailable", "Unknown", "heard"}
    assert first == run_virtual(fates, 1, backend="asyncio")
    assert first == run_virtual(fates, 1, backend="trio")
    assert first == run_virtual(fates, 1, backend="asyncio", seed=5)
    assert first != run_virtual(fates, 2, backend="asyncio")


# ---- the store


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_a_rolled_back_log_has_its_epoch_and_a_lower_head(store: MemoryStore) -> None:
    async with MemoryBackend(store) as node:
        places = [(await appended(node, link)).position for link in range(1, 6)]
        assert StoreFaults(store).roll_back(A, 2) == 2
        cut = await node.read(A)
        assert cut.head == places[2]
        assert [entry.link for entry in cut.entries] == [1, 2, 3]
        again = await appended(node, 104)
        assert again.position.offset == places[3].offset
        assert again.position != places[3]
        assert (await appended(node, 4)).position.offset == places[4].offset  # the link lost is not remembered


async def test_a_keyframe_whose_entry_was_rolled_back_does_not_count(store: MemoryStore) -> None:
    async with MemoryBackend(store) as node:
        places = []
        for link in range(1, 8):
            places.append((await node.append(A, b"", link=link, retention=STATE)).position)
        assert await node.save_keyframe(A, places[2], b"3")
        assert await node.save_keyframe(A, places[5], b"6")
        assert StoreFaults(store).roll_back(A, 3) == 3
        cut = await node.read(A)
        assert cut.keyframe is not None
        assert cut.keyframe.payload == b"3"
        assert [entry.link for entry in cut.entries] == [3, 4]
        # Entries that grow again over its place do not revive it.
        for link in (105, 106, 107):
            await node.append(A, b"", link=link, retention=STATE)
        cut = await node.read(A)
        assert cut.keyframe is not None
        assert cut.keyframe.payload == b"3"
        assert await node.save_keyframe(A, cut.head, b"107")
        cut = await node.read(A)
        assert [entry.link for entry in cut.entries] == [3, 4, 105, 106, 107]


async def test_a_rollback_stops_at_what_is_left_of_a_trimmed_log(store: MemoryStore) -> None:
    async with MemoryBackend(store) as node:
        for link in range(1, 6):
            await node.append(A, b"", link=link, retention=Retention(keyframed=False, window=3))
            await appended(node, link, channel=B)
        faults = StoreFaults(store)
        assert faults.roll_back(A, 100) == 2
        assert [entry.link for entry in (await node.read(A)).entries] == [3]
        assert faults.roll_back(B, 100) == 5
        head = (await node.read(B)).head
        assert head == Position.start(head.epoch)
        assert head.epoch
        assert (await appended(node, 9, channel=B, expect=head)).position.epoch == head.epoch
        assert faults.roll_back(Channel("absent"), 1) == 0


async def test_a_lost_log_begins_a_new_epoch(store: MemoryStore) -> None:
    async with MemoryBackend(store) as node:
        old = (await appended(node, 1)).position
        kept = (await appended(node, 1, channel=B)).position
        StoreFaults(store).lose_log(A)
        assert await node.heads([A, B]) == [Position("", 0, 0), kept]
        with pytest.raises(Conflict):
            await appended(node, 2, expect=old)
        assert (await appended(node, 2)).position.epoch != old.epoch


async def test_lost_records_take_the_leases_but_not_the_tokens(store: MemoryStore) -> None:
    async with MemoryBackend(store) as node:
        token = await node.put(TTL.LEASE, "lease", b"one")
        StoreFaults(store).lose_records()
        assert await node.get(TTL.LEASE, "lease") is None
        assert await node.put(TTL.LEASE, "lease", b"two", expect=0) > token


@pytest.mark.parametrize("revisions", [True, False])
async def test_a_lost_store_is_empty_and_still_announces(store: MemoryStore, revisions: bool) -> None:
    async with MemoryBackend(store) as node, node.listen() as notices:
        await node.watch(A)
        token = await node.put(TTL.LEASE, "lease", b"one")
        old = (await appended(node, 1)).position
        StoreFaults(store).lose_store(revisions=revisions)
        assert await node.heads([A]) == [Position("", 0, 0)]
        assert (await node.put(TTL.LEASE, "lease", b"two", expect=0) == token) is revisions
        again = await appended(node, 2)
        assert again.position.offset == old.offset
        epochs = [notice.epoch for notice in [await anext(notices), await anext(notices)] if isinstance(notice, Announcement)]
        assert epochs == [old.epoch, again.position.epoch]
