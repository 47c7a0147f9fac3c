"""The memory backend: the kit, and what is its own."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from rtsync.backends import (
    TTL,
    Announcement,
    Backend,
    Entry,
    GapNotice,
    Health,
    MemoryBackend,
    MemoryStore,
    NoticeQueue,
    Retention,
)
from rtsync.core import Channel, Position, SettingsError, UsageError
from rtsync.testing._backend_kit import BackendKit

pytestmark = pytest.mark.anyio

A = Channel("a")
B = Channel("b")
STATE = Retention(keyframed=True, window=100)


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class MemoryKit(BackendKit):
    """The kit on the memory backend, with a clock that the kit moves."""

    listener_capacity = 64
    shared_offsets = False

    @asynccontextmanager
    async def nodes(self, count: int) -> AsyncIterator[list[Backend]]:
        self.clock = FakeClock()
        store = MemoryStore(shared_offsets=self.shared_offsets)
        yield [MemoryBackend(store, clock=self.clock, max_notices=64) for _ in range(count)]
        assert not store._watchers, "closed nodes still watch"

    async def advance(self, seconds: float) -> None:
        self.clock.now += seconds


class TestMemoryBackend(MemoryKit):
    """Each channel counts for itself."""


class TestMemoryBackendWithSharedOffsets(MemoryKit):
    """One sequence for all channels, so that offsets have holes."""

    shared_offsets = True


# ---- epochs and offsets


async def test_injected_random_bits_make_the_epochs() -> None:
    def epochs(seed: int) -> list[str]:
        bits = random.Random(seed)
        store = MemoryStore()
        return [_append(store, channel, b"", mint=lambda: f"{bits.getrandbits(128):032x}").epoch for channel in (A, B)]

    assert epochs(1) == epochs(1) != epochs(2)
    async with MemoryBackend(randbits=random.Random(1).getrandbits) as node:
        place = await node.append(A, b"", link=1, retention=STATE)
        assert place.position.epoch == epochs(1)[0]


async def test_shared_offsets_leave_holes_in_each_channel() -> None:
    async with MemoryBackend(MemoryStore(shared_offsets=True)) as node:
        for link, channel in enumerate([A, B, B, A], 1):
            await node.append(channel, b"", link=link, retention=STATE)
        assert [(entry.offset, entry.previous) for entry in (await node.read(A)).entries] == [(1, 0), (4, 1)]
        assert [(entry.offset, entry.previous) for entry in (await node.read(B)).entries] == [(2, 0), (3, 2)]


@pytest.mark.parametrize(("keyframed", "window"), [(True, 1), (True, 0), (False, 0)])
async def test_a_window_without_room_is_a_usage_error(keyframed: bool, window: int) -> None:
    async with MemoryBackend() as node:
        with pytest.raises(UsageError, match=r"retention\.window"):
            await node.append(A, b"", link=1, retention=Retention(keyframed, window))
        assert (await node.read(A)).head == ("", 0, 0)


# ---- what is let go


async def test_a_log_expires_after_its_last_append() -> None:
    clock = FakeClock()
    async with MemoryBackend(clock=clock) as node:
        retention = Retention(keyframed=False, window=10, max_age=60)
        first = await node.append(A, b"1", link=1, retention=retention)
        clock.now += 59
        await node.append(A, b"2", link=2, retention=retention)
        clock.now += 59
        assert len((await node.read(A)).entries) == 2
        clock.now += 1
        assert await node.heads([A]) == [Position("", 0, 0)]
        again = await node.append(A, b"3", link=3, retention=retention)
        assert again.position.epoch != first.position.epoch
        assert again.previous == 0


async def test_expired_logs_are_dropped_though_nobody_asks_for_them() -> None:
    clock = FakeClock()
    store = MemoryStore()
    async with MemoryBackend(store, clock=clock) as node:
        retention = Retention(keyframed=False, window=10, max_age=60)
        kept = Retention(keyframed=False, window=10)
        await node.append(B, b"", link=1, retention=kept)
        for index in range(500):
            await node.append(Channel(f"c:{index}"), b"", link=index, retention=retention)
            clock.now += 1
        assert len(store.logs) == 61
        assert len(store._expiries) <= 61
        for _ in range(20):
            await node.append(A, b"", link=int(clock.now), retention=retention)
            clock.now += 30
        assert set(store.logs) == {A, B}


async def test_a_log_that_expires_again_and_again_leaves_nothing_behind() -> None:
    clock = FakeClock()
    store = MemoryStore()
    async with MemoryBackend(store, clock=clock) as node:
        for link in range(200):
            await node.append(A, b"", link=link, retention=Retention(keyframed=False, window=10, max_age=60))
            clock.now += 61
            assert len((await node.read(A)).entries) == 0
        assert len(store._expiries) <= 2


async def test_a_log_lost_and_made_anew_lives_its_full_age() -> None:
    clock = FakeClock()
    store = MemoryStore()
    async with MemoryBackend(store, clock=clock) as node:
        retention = Retention(keyframed=False, window=10, max_age=60)
        await node.append(A, b"", link=1, retention=retention)
        clock.now += 50
        store.lose_log(A)
        await node.append(A, b"", link=2, retention=retention)
        clock.now += 50
        await node.append(B, b"", link=3, retention=retention)
        assert set(store.logs) == {A, B}


async def test_expired_records_are_dropped_though_nobody_asks_for_them() -> None:
    clock = FakeClock()
    store = MemoryStore(lifetimes={TTL.PRESENCE: 10})
    async with MemoryBackend(store, clock=clock) as node:
        for index in range(100):
            await node.put(TTL.PRESENCE, f"k{index}", b"")
            clock.now += 1
        assert "records=10" in repr(store)
        await node.list(TTL.PRESENCE, "")
        assert "records=9" in repr(store)


async def test_a_record_put_again_does_not_keep_others_alive() -> None:
    clock = FakeClock()
    async with MemoryBackend(clock=clock) as node:
        await node.put(TTL.LEASE, "renewed", b"")
        await node.put(TTL.LEASE, "left", b"")
        clock.now += 6
        await node.put(TTL.LEASE, "renewed", b"")
        clock.now += 6
        assert [record.key for record in await node.list(TTL.LEASE, "")] == ["renewed"]


async def test_memory_of_a_log_is_bounded_by_its_window() -> None:
    """A million bytes pass through a window of ten thousand."""
    async with MemoryBackend() as node, node.listen():
        await node.watch(A)
        retention = Retention(keyframed=False, window=10)
        for link in range(100):
            await node.append(A, bytes(1000), link=link, retention=retention)
        await node.unwatch(A)
        gc.collect()
        tracemalloc.start()
        try:
            for link in range(100, 1100):
                await node.append(A, bytes(1000), link=link, retention=retention)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert grown < 200_000


# ---- keyframes when the window is full


async def test_the_only_keyframe_of_a_full_window_makes_room_up_to_itself() -> None:
    async with MemoryBackend() as node:
        retention = Retention(keyframed=True, window=4)
        places = [(await node.append(A, b"%d" % link, link=link, retention=retention)).position for link in range(4)]
        assert await node.save_keyframe(A, places[2], b"k")
        cut = await node.read(A)
        assert cut.keyframe is not None
        assert cut.keyframe.position == places[2]
        assert [entry.payload for entry in cut.entries] == [b"2", b"3"]
        await node.append(A, b"4", link=4, retention=retention)


async def test_a_keyframe_saved_again_carries_the_newer_bytes() -> None:
    async with MemoryBackend() as node:
        place = await node.append(A, b"", link=1, retention=STATE)
        for payload in (b"one", b"two"):
            assert await node.save_keyframe(A, place.position, payload)
        keyframe = (await node.read(A)).keyframe
        assert keyframe is not None
        assert keyframe.payload == b"two"


async def test_an_event_log_takes_no_keyframe() -> None:
    async with MemoryBackend() as node:
        place = await node.append(A, b"", link=1, retention=Retention(keyframed=False, window=5))
        assert await node.save_keyframe(A, place.position, b"k") is False


# ---- listening


async def test_watching_without_a_listener_is_a_usage_error() -> None:
    async with MemoryBackend() as node:
        with pytest.raises(UsageError, match="listener"):
            await node.watch(A)
        await node.unwatch(A)


async def test_a_node_has_one_listener() -> None:
    async with MemoryBackend() as node, node.listen():
        with pytest.raises(UsageError, match="listener"):
            async with node.listen():
                pass


async def test_leaving_the_backend_ends_the_iteration() -> None:
    node = MemoryBackend()
    heard: list[object] = []
    async with anyio.create_task_group() as tasks:
        ready = anyio.Event()

        async def listen() -> None:
            async with node.listen() as notices:
                ready.set()
                heard.extend([notice async for notice in notices])
            heard.append("ended")

        async with node:
            tasks.start_soon(listen)
            await ready.wait()
    assert heard == ["ended"]


async def test_a_burst_of_appends_lets_the_listener_keep_up() -> None:
    """A publisher in a tight loop yields often enough that a quick listener loses nothing."""
    async with MemoryBackend(max_notices=32) as node, node.listen() as notices, anyio.create_task_group() as tasks:
        await node.watch(A)
        heard: list[object] = []

        async def listen() -> None:
            async for notice in notices:
                heard.append(notice)
                if len(heard) == 1000:
                    break

        tasks.start_soon(listen)
        for link in range(1000):
            await node.append(A, b"", link=link, retention=Retention(keyframed=False, window=10))
    assert [notice.entry.offset for notice in heard if isinstance(notice, Announcement)] == list(range(1, 1001))


async def test_a_cancelled_call_has_changed_nothing() -> None:
    async with MemoryBackend() as node:
        for link in range(40):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await node.append(A, b"", link=link, retention=STATE)
            assert scope.cancelled_caught
            with anyio.CancelScope() as scope:
                scope.cancel()
                await node.put(TTL.LEASE, "k", b"")
        assert (await node.read(A)).head == ("", 0, 0)
        assert await node.get(TTL.LEASE, "k") is None


# ---- the queue


def announcement(channel: Channel, offset: int, size: int = 0) -> Announcement:
    return Announcement(channel, "e", Entry(offset, offset - 1, offset, 0, bytes(size)))


async def drained(queue: NoticeQueue) -> list[object]:
    return [await anext(queue) for _ in range(len(queue))]


async def test_a_full_queue_holds_one_gap_notice_for_each_channel() -> None:
    queue = NoticeQueue(max_notices=3)
    for offset in range(1, 100):
        queue.announce(announcement(A if offset % 2 else B, offset))
    assert len(queue) == 5
    taken = await drained(queue)
    assert taken[:3] == [announcement(A, 1), announcement(B, 2), announcement(A, 3)]
    assert {notice.channel for notice in taken[3:] if isinstance(notice, GapNotice)} == {A, B}


async def test_a_gap_notice_stands_where_the_loss_began_and_swallows_what_follows() -> None:
    queue = NoticeQueue(max_notices=2)
    for offset in (1, 2, 3):
        queue.announce(announcement(A, offset))
    assert await anext(queue) == announcement(A, 1)
    queue.announce(announcement(A, 4))  # there is room, but 3 is lost already
    assert await anext(queue) == announcement(A, 2)
    assert isinstance(await anext(queue), GapNotice)
    queue.announce(announcement(A, 5))
    assert await anext(queue) == announcement(A, 5)


async def test_too_many_gaps_become_one_for_all() -> None:
    queue = NoticeQueue(max_notices=1, max_gaps=4)
    for offset in range(1, 1000):
        queue.announce(announcement(Channel(f"c:{offset}"), offset))
    assert len(queue) == 6
    taken = await drained(queue)
    assert isinstance(taken[-1], GapNotice)
    assert taken[-1].channel is None
    queue.announce(announcement(A, 1000))
    assert await drained(queue) == [announcement(A, 1000)]


async def test_a_queue_is_bounded_in_bytes_too() -> None:
    queue = NoticeQueue(max_bytes=100)
    queue.announce(announcement(A, 1, 500))  # alone it may pass
    queue.announce(announcement(A, 2, 1))
    taken = await drained(queue)
    assert [type(notice) for notice in taken] == [Announcement, GapNotice]
    for offset in (3, 4, 5):
        queue.announce(announcement(A, offset, 50))
    assert [type(notice) for notice in await drained(queue)] == [Announcement, Announcement, GapNotice]


async def test_health_is_kept_in_order_and_bounded() -> None:
    queue = NoticeQueue(max_notices=4, max_gaps=2)
    queue.announce(announcement(A, 1))
    for index in range(1000):
        queue.put(Health(index % 2 == 0))
        queue.put(Health(index % 2 == 0))
    assert len(queue) <= 8
    taken = await drained(queue)
    assert taken[0] == announcement(A, 1)
    assert taken[-1] == Health(False)


async def test_a_gap_for_all_covers_the_single_ones() -> None:
    queue = NoticeQueue()
    queue.put(GapNotice(None, "reconnected"))
    queue.put(GapNotice(None, "reconnected"))
    queue.put(GapNotice(A, "hole"))
    queue.announce(announcement(A, 1))
    assert await drained(queue) == [GapNotice(None, "reconnected")]


async def test_a_closed_queue_ends_and_takes_nothing() -> None:
    queue = NoticeQueue()
    queue.announce(announcement(A, 1))
    queue.close()
    queue.announce(announcement(A, 2))
    queue.put(Health(True))
    assert [notice async for notice in queue] == []
    assert "closed" in repr(queue)


async def test_all_who_wait_in_a_queue_are_woken() -> None:
    queue = NoticeQueue()
    taken: list[object] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(2):

            async def take() -> None:
                taken.append(await anext(queue))

            tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        queue.announce(announcement(A, 1))
        await anyio.wait_all_tasks_blocked()
        queue.announce(announcement(A, 2))
    assert taken == [announcement(A, 1), announcement(A, 2)]


# ---- the rest


def test_from_url_takes_the_scheme_alone() -> None:
    assert isinstance(MemoryBackend.from_url("memory://"), MemoryBackend)
    with pytest.raises(SettingsError) as caught:
        MemoryBackend.from_url("memory://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


async def test_reprs_tell_the_state() -> None:
    store = MemoryStore()
    node = MemoryBackend(store)
    assert "closed" in repr(node)
    async with node, node.listen():
        await node.watch(A)
        await node.append(A, b"xyz", link=1, retention=STATE)
        assert "watched=1" in repr(node)
        assert "bytes=3" in repr(node)
        assert "entries=1" in repr(store.logs[A])


def _append(store: MemoryStore, channel: Channel, payload: bytes, *, mint: object) -> Position:
    assert callable(mint)
    return store.append(channel, payload, 1, STATE, None, 0, now=0.0, mint=mint).position
