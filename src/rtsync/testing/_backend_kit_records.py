"""The backend kit, third part: the key-value store."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import anyio

from ..backends import TTL, Backend
from ..core import Conflict
from ._backend_kit_base import KitBase, raises

__all__ = ["RecordsKit"]

_ODD_KEYS = [
    "a",
    "A",
    "a:",
    "a:1",
    "a:10",
    "a.b",
    "a/b",
    "a:%2A",
    "a:%3E",
    "a:%20b",
    "a:%7Bb%7D",
    "a:%C3%A4",
    "lease:prices:%2A",
    "n" * 250,
]


class RecordsKit(KitBase):
    """Get, put, delete, list, revisions and lifetimes."""

    async def test_a_record_is_there_for_every_node_once_put(self) -> None:
        async with self.opened(2) as (one, two):
            assert await one.get(TTL.LEASE, "k") is None
            revision = await one.put(TTL.LEASE, "k", b"\x00\xff\r\n")
            record = await two.get(TTL.LEASE, "k")
            assert record is not None
            assert (record.key, record.value, record.revision) == ("k", b"\x00\xff\r\n", revision)
            assert revision > 0

    async def test_an_empty_value_is_a_record(self) -> None:
        async with self.opened(1) as (node,):
            await node.put(TTL.PRESENCE, "k", b"")
            record = await node.get(TTL.PRESENCE, "k")
            assert record is not None
            assert record.value == b""

    async def test_lifetime_classes_are_apart(self) -> None:
        async with self.opened(1) as (node,):
            for ttl in TTL:
                await node.put(ttl, "k", ttl.name.encode())
            await node.delete(TTL.BEAT, "k")
            assert await node.get(TTL.BEAT, "k") is None
            for ttl in (TTL.LEASE, TTL.PRESENCE, TTL.LIMIT, TTL.REVOCATION):
                (record,) = await node.list(ttl, "")
                assert record.value == ttl.name.encode()

    async def test_a_put_that_expects_another_revision_conflicts(self) -> None:
        async with self.opened(2) as (one, two):
            with raises(Conflict):
                await one.put(TTL.LEASE, "k", b"no", expect=7)
            first = await one.put(TTL.LEASE, "k", b"1", expect=0)
            with raises(Conflict):
                await two.put(TTL.LEASE, "k", b"no", expect=0)
            second = await two.put(TTL.LEASE, "k", b"2", expect=first)
            for stale in (first, second + 1):
                with raises(Conflict):
                    await one.put(TTL.LEASE, "k", b"no", expect=stale)
            record = await one.get(TTL.LEASE, "k")
            assert record is not None
            assert (record.value, record.revision) == (b"2", second)

    async def test_one_of_many_that_contend_wins(self) -> None:
        """A lease has one holder, however many nodes reach for it."""
        async with self.opened(3) as nodes:
            won: list[int] = []

            async def reach(node: Backend, name: bytes) -> None:
                with suppress(Conflict):
                    won.append(await node.put(TTL.LEASE, "lease", name, expect=0))

            async with anyio.create_task_group() as tasks:
                for index in range(12):
                    tasks.start_soon(reach, nodes[index % 3], b"%d" % index)
            assert len(won) == 1

    async def test_a_delete_that_expects_another_revision_conflicts(self) -> None:
        """A late holder cannot release the lease of the next."""
        async with self.opened(2) as (one, two):
            first = await one.put(TTL.LEASE, "k", b"1")
            second = await two.put(TTL.LEASE, "k", b"2")
            with raises(Conflict):
                await one.delete(TTL.LEASE, "k", expect=first)
            assert await one.get(TTL.LEASE, "k") is not None
            await two.delete(TTL.LEASE, "k", expect=second)
            assert await one.get(TTL.LEASE, "k") is None

    async def test_deleting_what_is_not_there_is_no_error(self) -> None:
        async with self.opened(1) as (node,):
            await node.delete(TTL.LEASE, "never")
            await node.delete(TTL.LEASE, "never", expect=0)
            await node.put(TTL.LEASE, "k", b"")
            await node.delete(TTL.LEASE, "k")
            await node.delete(TTL.LEASE, "k")

    async def test_revisions_of_a_class_grow_also_over_deletion(self) -> None:
        """A lease taken again has a greater token than every one before."""
        async with self.opened(2) as (one, two):
            revisions = []
            for index in range(12):
                node, key = (one, two)[index % 2], f"k{index % 3}"
                revisions.append(await node.put(TTL.LEASE, key, b""))
                if index % 4 == 1:
                    await node.delete(TTL.LEASE, key)
            assert all(earlier < later for earlier, later in pairwise(revisions))

    async def test_a_key_put_again_after_deletion_expects_none(self) -> None:
        async with self.opened(2) as (one, two):
            first = await one.put(TTL.LEASE, "k", b"1", expect=0)
            await one.delete(TTL.LEASE, "k", expect=first)
            with raises(Conflict):
                await two.put(TTL.LEASE, "k", b"no", expect=first)
            assert await two.put(TTL.LEASE, "k", b"2", expect=0) > first

    async def test_list_returns_the_records_under_a_prefix(self) -> None:
        async with self.opened(2) as (one, two):
            revisions = {key: await one.put(TTL.PRESENCE, key, key.encode()) for key in ("a:1", "a:2", "ab", "b:1", "a")}
            await one.delete(TTL.PRESENCE, "a:2")
            found = {record.key: record for record in await two.list(TTL.PRESENCE, "a:")}
            assert set(found) == {"a:1"}
            assert (found["a:1"].value, found["a:1"].revision) == (b"a:1", revisions["a:1"])
            assert {record.key for record in await two.list(TTL.PRESENCE, "a")} == {"a:1", "ab", "a"}
            assert {record.key for record in await two.list(TTL.PRESENCE, "")} == {"a:1", "ab", "b:1", "a"}
            assert list(await two.list(TTL.PRESENCE, "c")) == []

    async def test_keys_that_look_like_wildcards_or_paths_stay_apart(self) -> None:
        async with self.opened(2) as (one, two):
            for key in _ODD_KEYS:
                await one.put(TTL.LIMIT, key, key.encode(), expect=0)
            for key in _ODD_KEYS:
                record = await two.get(TTL.LIMIT, key)
                assert record is not None
                assert (record.key, record.value) == (key, key.encode())
                expected = {other for other in _ODD_KEYS if other.startswith(key)}
                assert {record.key for record in await two.list(TTL.LIMIT, key)} == expected

    # ---- lifetimes

    async def test_a_record_ends_with_its_lifetime(self) -> None:
        """It can be put again as new, with a greater revision; other classes live on."""
        async with self.opened(2) as (one, two):
            revision = await one.put(TTL.BEAT, "k", b"1")
            await one.put(TTL.LEASE, "k", b"lives")
            await self.advance(self.lifetimes[TTL.BEAT] + self.expiry_slack)
            assert await two.get(TTL.BEAT, "k") is None
            assert list(await two.list(TTL.BEAT, "")) == []
            assert await two.get(TTL.LEASE, "k") is not None
            with raises(Conflict):
                await two.put(TTL.BEAT, "k", b"no", expect=revision)
            assert await two.put(TTL.BEAT, "k", b"2", expect=0) > revision

    async def test_a_put_starts_the_lifetime_anew(self) -> None:
        async with self.opened(2) as (one, two):
            lifetime = self.lifetimes[TTL.BEAT]
            revision = await one.put(TTL.BEAT, "renewed", b"1")
            await one.put(TTL.BEAT, "left alone", b"1")
            await self.advance(lifetime * 0.6)
            renewed = await one.put(TTL.BEAT, "renewed", b"2", expect=revision)
            await self.advance(lifetime * 0.4 + min(self.expiry_slack, lifetime * 0.4))
            record = await two.get(TTL.BEAT, "renewed")
            assert record is not None
            assert (record.value, record.revision) == (b"2", renewed)
            assert [record.key for record in await two.list(TTL.BEAT, "")] == ["renewed"]
