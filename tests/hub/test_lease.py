"""At most one node holds a lease, by the store's clock and its own, and each holder's token is greater than the last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import anyio
import pytest

from rtsync.backends import TTL, MemoryBackend, MemoryStore
from rtsync.core import Unavailable
from rtsync.hub._lease import Lease
from rtsync.testing import VIRTUAL_BACKENDS, FaultyBackend
from tests.hub.nodes import DOC

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Holders(list[Lease]):
    """The same lease as three nodes see it."""

    def __init__(self, store: MemoryStore, backends: list[FaultyBackend]) -> None:
        super().__init__(
            Lease(backend, DOC, f"n{number}", 10.0, anyio.current_time) for number, backend in enumerate(backends, 1)
        )
        self.store = store
        self.backends = backends


@asynccontextmanager
async def holders() -> AsyncIterator[Holders]:
    store = MemoryStore()
    one, two, three = (FaultyBackend(MemoryBackend(store), random=Random(number)) for number in range(3))
    async with one, two, three:
        yield Holders(store, [one, two, three])


async def test_only_one_takes_it_until_it_is_given_back() -> None:
    """The next one need not wait for its end."""
    async with holders() as (one, two, _):
        assert [await one.take(), await two.take()] == [True, False]
        assert [one.held, two.held] == [True, False]
        token = one.token
        await one.release()
        assert not one.held
        assert await two.take()
        assert two.token > token


async def test_two_that_ask_at_the_same_moment_get_one_lease() -> None:
    """The store compares and sets."""
    async with holders() as leases:
        taken: list[bool] = []

        async def take(lease: Lease) -> None:
            taken.append(await lease.take())

        async with anyio.create_task_group() as tasks:
            for lease in leases:
                tasks.start_soon(take, lease)
        assert sorted(taken) == [False, False, True]
        assert sum(lease.held for lease in leases) == 1


async def test_renewal_keeps_the_token() -> None:
    """What is written under it goes on."""
    async with holders() as (one, two, _):
        await one.take()
        token = one.token
        for _ in range(5):
            await anyio.sleep(8)
            assert await one.renew()
            assert not await two.take()
        assert (one.token, one.held) == (token, True)


async def test_holder_stops_by_its_own_clock_before_another_can_start() -> None:
    """Its time counts from before it asked."""
    async with holders() as leases:
        one, two, _ = leases
        leases.backends[0].plan.latency = 1.5
        await one.take()
        leases.backends[0].plan.latency = 0.0
        while one.held:
            assert not await two.take()
            await anyio.sleep(0.5)
        assert anyio.current_time() == pytest.approx(10.0)
        assert not await two.take()
        await anyio.sleep(3.1)
        assert await two.take()


async def test_renewal_of_a_lost_lease_says_so() -> None:
    """Somebody else has it, or its record is gone."""
    async with holders() as leases:
        one, two, _ = leases
        await one.take()
        await anyio.sleep(10.1)
        assert await two.take()
        assert not await one.renew()
        assert (one.token, one.held) == (0, False)
        leases.store.lose_records()
        assert not await two.renew()
        assert not two.held


async def test_tokens_grow_although_records_are_lost() -> None:
    """Revisions go on, so that the log can fence whoever held it before."""
    async with holders() as leases:
        tokens = []
        for lease in leases:
            assert await lease.take()
            tokens.append(lease.token)
            leases.store.lose_records()
        assert tokens == sorted(set(tokens))


async def test_own_record_is_taken_anew() -> None:
    """A node that lost its lease by its clock, or could not give it back, does not wait for itself."""
    async with holders() as leases:
        one, two, _ = leases
        await one.take()
        token = one.token
        one.lose()
        assert not one.held
        assert not await two.take()
        assert await one.take()
        assert one.token > token
        again = Lease(leases.backends[0], DOC, "n1", 10.0, anyio.current_time)
        assert await again.take()
        assert again.token > one.token
        assert not await one.renew()


async def test_holder_outbids_an_entry_that_carries_a_newer_token() -> None:
    """And so does the holder after it, with another token."""
    async with holders() as leases:
        one, two, _ = leases
        await one.take()
        assert await one.outbid(500)
        first = one.token
        assert first > 500
        assert await one.renew()
        assert one.token == first
        await anyio.sleep(10.1)
        assert await two.take()
        assert two.token < 500
        assert not await one.outbid(600)
        assert not one.held
        assert await two.outbid(500)
        assert two.token > 500
        assert two.token != first


async def test_renewals_at_the_same_moment_do_not_mistake_each_other_for_a_rival() -> None:
    """One waits for the other."""
    async with holders() as leases:
        one, *_ = leases
        await one.take()
        renewed: list[bool] = []

        async def renew() -> None:
            renewed.append(await one.renew())

        leases.backends[0].plan.latency = 0.1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(renew)
            tasks.start_soon(renew)
        assert renewed == [True, True]


async def test_release_never_takes_it_from_the_next_holder() -> None:
    """A late one is of a lease that is gone."""
    async with holders() as (one, two, three):
        await one.take()
        await anyio.sleep(10.1)
        assert await two.take()
        await one.release()
        assert not await three.take()
        await three.release()
        assert two.held


async def test_unreachable_store_is_an_error_and_not_a_loss() -> None:
    """The holder may try again until its own time is over; giving back fails in silence, for it ends by itself."""
    async with holders() as leases:
        one, two, _ = leases
        await one.take()
        leases.backends[0].partition(hang=False)
        with pytest.raises(Unavailable):
            await one.renew()
        assert one.held
        leases.backends[0].heal()
        assert await one.renew()
        leases.backends[0].partition(hang=False)
        await one.release()
        assert not one.held
        assert not await two.take()
        assert [record.value for record in await leases.backends[1].list(TTL.LEASE, "")] == [b"n1"]
