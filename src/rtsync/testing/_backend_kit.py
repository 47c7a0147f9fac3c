"""
The conformance kit: a backend that passes it keeps every promise of the backend protocol.

A backend's own tests subclass it, say how to make nodes, and let pytest run it on asyncio and on trio::

    import pytest
    from rtsync.testing import BackendKit

    pytestmark = pytest.mark.anyio


    class TestMyBackend(BackendKit):
        listener_capacity = 1024

        @asynccontextmanager
        async def nodes(self, count):
            async with fresh_server() as url:
                yield [MyBackend(url) for _ in range(count)]

``pytest.register_assert_rewrite("rtsync.testing")`` in ``conftest.py``, before the import, makes failures show their values.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import anyio

from ..backends import TTL, Backend
from ..core import Position, UsageError
from ._backend_kit_base import CHANNEL, EVENTS, append, next_announcement, payloads, raises
from ._backend_kit_log import LogKit
from ._backend_kit_notices import NoticesKit
from ._backend_kit_records import RecordsKit

__all__ = ["BackendKit"]


class BackendKit(LogKit, NoticesKit, RecordsKit):
    """
    Every promise of the backend protocol as a test. Subclass it and override `nodes`.

    Each test asks `nodes` once, for one to three nodes of a fresh and empty store, and is done within a minute. Tests that need
    time to pass call `advance`. What a backend may do either way (announce a large payload or report a gap, carry the head in a
    conflict or not) passes either way.
    """

    async def test_a_backend_is_used_inside_async_with_only(self) -> None:
        """Before it is entered and after it was left, every call says so."""

        async def listen(node: Backend) -> None:
            async with node.listen():
                pass

        calls: list[Callable[[Backend], Awaitable[object]]] = [
            lambda node: append(node, "x"),
            lambda node: node.read(CHANNEL),
            lambda node: node.heads([CHANNEL]),
            lambda node: node.save_keyframe(CHANNEL, Position("e", 1, 1), b""),
            lambda node: node.new_epoch(CHANNEL, "e"),
            listen,
            lambda node: node.watch(CHANNEL),
            lambda node: node.unwatch(CHANNEL),
            lambda node: node.get(TTL.LEASE, "k"),
            lambda node: node.put(TTL.LEASE, "k", b""),
            lambda node: node.delete(TTL.LEASE, "k"),
            lambda node: node.list(TTL.LEASE, ""),
        ]
        async with self.nodes(1) as (node,):
            for _ in ("before", "after"):
                for call in calls:
                    with raises(UsageError):
                        await call(node)
                async with node:
                    assert (await node.read(CHANNEL)).head.offset == 0

    async def test_a_backend_cannot_be_entered_twice_at_once(self) -> None:
        async with self.nodes(1) as (node,), node:
            with raises(UsageError):
                await node.__aenter__()
            await append(node, "still works")

    async def test_a_backend_can_be_entered_again_after_it_was_left(self) -> None:
        """The log goes on where it was, and listening begins anew."""
        async with self.nodes(2) as (one, two), two:
            for round_ in range(3):
                async with one, one.listen() as notices:
                    await one.watch(CHANNEL)
                    await append(two, str(round_))
                    assert (await next_announcement(notices, self.patience)).entry.payload.decode() == str(round_)
                    assert payloads((await one.read(CHANNEL)).entries) == [str(number) for number in range(round_ + 1)]

    async def test_leaving_while_others_work_disturbs_nobody(self) -> None:
        async with self.nodes(3) as (one, two, three), one:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(two)
                await stack.enter_async_context(two.listen())
                await two.watch(CHANNEL)
                await append(two, "0")
            async with three, one.listen() as notices:
                await one.watch(CHANNEL)
                for index in range(1, 4):
                    await append(three, str(index))
                    assert (await next_announcement(notices, self.patience)).entry.payload.decode() == str(index)
            assert payloads((await one.read(CHANNEL)).entries) == ["0", "1", "2", "3"]

    async def test_errors_inside_the_block_come_out_as_they_are(self) -> None:
        """Not wrapped in a group, and the backend is closed all the same."""

        class Oops(Exception):
            pass

        async with self.nodes(1) as (node,):
            with raises(Oops):
                async with node, node.listen():
                    raise Oops
            with raises(UsageError):
                await node.read(CHANNEL)
            async with node:
                assert (await node.read(CHANNEL)).head.offset == 0

    async def test_many_calls_at_once_each_get_their_own_answer(self) -> None:
        async with self.opened(2) as nodes:

            async def work(worker: int) -> None:
                node, key = nodes[worker % 2], f"key{worker}"
                revision = 0
                for index in range(5):
                    revision = await node.put(TTL.LIMIT, key, b"%d" % index, expect=revision)
                    record = await node.get(TTL.LIMIT, key)
                    assert record is not None
                    assert (record.value, record.revision) == (b"%d" % index, revision)
                    place = await append(node, f"{worker}.{index}", retention=EVENTS)
                    (entry,) = [e for e in (await node.read(CHANNEL)).entries if e.link == place.position.link]
                    assert entry.payload.decode() == f"{worker}.{index}"

            async with anyio.create_task_group() as tasks:
                for worker in range(20):
                    tasks.start_soon(work, worker)

    async def test_cancelled_calls_leave_no_wrong_answers_behind(self) -> None:
        """The reply of an abandoned call never reaches the next caller."""
        async with self.opened(1) as (node,):
            for index in range(20):
                await node.put(TTL.LIMIT, f"key{index}", b"%d" % index)
            for index in range(60):
                with anyio.move_on_after(0.0002 * (index % 10)):
                    await node.get(TTL.LIMIT, f"key{index % 20}")
                    await node.read(CHANNEL)
                record = await node.get(TTL.LIMIT, f"key{(index + 7) % 20}")
                assert record is not None
                assert record.value == b"%d" % ((index + 7) % 20)

    async def test_a_cancelled_listener_loses_nothing(self) -> None:
        """A wait for the next notice can be abandoned and taken up again."""
        async with self.opened(2) as (one, two), one.listen() as notices:
            await one.watch(CHANNEL)
            heard: list[str] = []
            for index in range(20):
                with anyio.move_on_after(0.001 if index % 2 else 0):
                    heard.extend(await _take(notices))
                await append(two, str(index), retention=EVENTS)
            while len(heard) < 20:
                heard.append((await next_announcement(notices, self.patience)).entry.payload.decode())
            assert heard == [str(index) for index in range(20)]


async def _take(notices: AsyncIterator[object]) -> list[str]:
    notice = await anext(notices)
    entry = getattr(notice, "entry", None)
    return [entry.payload.decode()] if entry is not None else []
