"""A rate lets the first change through at once and the last one on the next tick, on ticks that subscriptions share."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from rtsync.hub._rates import LADDER, step_down
from rtsync.testing import VIRTUAL_BACKENDS, settle
from tests.hub.nodes import DOC, LOG, Node, View, cluster

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_rates_are_rounded_down_to_the_ladder() -> None:
    """More than its top is no limit, less than its bottom is the bottom, and nothing is a pause."""
    assert [step_down(rate) for rate in (None, 100, 10.01, 10, 9.99, 5, 1.5, 0.7, 0.2, 0.01)] == [
        None, None, None, 10.0, 5.0, 5.0, 1.0, 0.5, 0.2, 0.2,
    ]  # fmt: skip
    assert [step_down(rate) for rate in (0, -1, 0.0)] == [0.0, 0.0, 0.0]


async def publish(node: Node, seconds: float, every: float = 0.02) -> int:
    """Change the document again and again; return its last number."""
    number = 0
    ends = anyio.current_time() + seconds
    while anyio.current_time() < ends:
        number += 1
        await node.set(DOC, {"number": number})
        await anyio.sleep(every)
    return number


def times(view: View) -> list[float]:
    return [round(at, 6) for at, _ in view.documents]


@pytest.mark.parametrize("rate", LADDER)
async def test_changes_come_at_most_so_often_and_the_last_one_always(rate: float) -> None:
    """The first comes at once, the others on multiples of the period, and the last not later than one period."""
    period = 1.0 / rate
    async with cluster(1) as (node,):
        await anyio.sleep(period * 0.3)
        view = node.client().subscribe(DOC, rate=rate)
        await settle()
        await anyio.sleep(period * 1.2)
        view.documents.clear()
        began = anyio.current_time()
        last = await publish(node, period * 6.1)
        await anyio.sleep(period)
        assert view.document == {"number": last}
        first, *others = times(view)
        assert first == pytest.approx(began)
        assert 5 <= len(others) <= 8
        for at in others:
            assert at / period == pytest.approx(round(at / period), abs=1e-6)
        assert len(set(others)) == len(others)


async def test_single_change_is_not_delayed() -> None:
    """After a quiet time each change comes at once."""
    async with cluster(1) as (node,):
        view = node.client().subscribe(DOC, rate=0.5)
        await settle()
        for number in range(5):
            await anyio.sleep(2.7)
            await node.set(DOC, {"number": number})
            await settle()
            assert view.document == {"number": number}


async def test_subscriptions_of_one_rate_share_ticks_and_frames() -> None:
    """However they came, from the first tick on they move together: one frame is encoded for all."""
    async with cluster(1) as (node,):
        await node.set(DOC, {"number": 0})
        views = []
        for _ in range(20):
            views.append(node.client().subscribe(DOC, rate=2))
            await anyio.sleep(0.13)
        await publish(node, 3.0)
        built = node.hub.statistics().frames_built
        before = [len(view.documents) for view in views]
        last = await publish(node, 5.0)
        await anyio.sleep(0.5)
        assert all(view.document == {"number": last} for view in views)
        received = [len(view.documents) - count for view, count in zip(views, before, strict=True)]
        assert len(set(received)) == 1
        assert node.hub.statistics().frames_built - built <= received[0] + 1


async def test_pause_holds_everything_back_but_what_got_worse() -> None:
    """The position stays; going on brings what was missed in one step."""
    async with cluster(1) as (node,):
        await node.set(DOC, {"number": 0})
        client = node.client()
        view = client.subscribe(DOC, rate=0)
        await anyio.sleep(1)
        assert (view.document, view.freshness) == (None, "live")
        client.set_rate(DOC, None)
        await settle()
        assert view.document == {"number": 0}
        client.set_rate(DOC, 0)
        last = await publish(node, 1.0)
        node.backend.partition()
        await anyio.sleep(6)
        assert (view.document, view.freshness) == ({"number": 0}, "stale")
        node.backend.heal()
        await anyio.sleep(6)
        client.set_rate(DOC, 1)
        await settle()
        assert (view.document, view.freshness, view.keyframes) == ({"number": last}, "live", 1)


async def test_rate_is_changed_live() -> None:
    """Slower, faster, and without limit; what was held back for the old rate comes under the new one."""
    async with cluster(1) as (node,):
        client = node.client()
        view = client.subscribe(DOC, rate=0.2)
        await node.set(DOC, {"number": 0})
        await node.set(DOC, {"number": 1})
        await settle()
        client.set_rate(DOC, None)
        await settle()
        assert view.document == {"number": 1}
        view.documents.clear()
        last = await publish(node, 1.0)
        assert len(view.documents) == last - 1, "the first one changed nothing"
        client.set_rate(DOC, 5)
        view.documents.clear()
        await publish(node, 2.0)
        assert 9 <= len(view.documents) <= 12


async def test_events_wait_for_their_tick_and_are_never_thinned() -> None:
    """A rate groups them."""
    async with cluster(1) as (node,):
        view = node.client().subscribe(LOG, rate=1)
        await settle()
        for number in range(50):
            await node.append(LOG, number)
            await anyio.sleep(0.05)
        await anyio.sleep(1)
        assert view.events == list(range(50))
        assert len({at for at, _ in view.updates}) <= 5


async def test_subscription_that_ends_is_not_woken() -> None:
    """Nor is anything left of it."""
    async with cluster(1) as (node,):
        client = node.client()
        view = client.subscribe(DOC, rate=1)
        await settle()
        await node.set(DOC, {"number": 0})
        await node.set(DOC, {"number": 1})
        await settle()
        client.unsubscribe(DOC)
        held = view.document
        await anyio.sleep(3)
        assert view.document == held
        ticker = node.hub._ticker
        assert not any(ticker._waiting.values())
        assert not ticker._due


async def test_ticker_sleeps_while_nobody_waits() -> None:
    """Without changes there is no work."""
    async with cluster(1) as (node,):
        node.client().subscribe(DOC, rate=10)
        served = 0
        ticker = node.hub._ticker
        serve = ticker._serve

        def count(now: float) -> None:
            nonlocal served
            served += 1
            serve(now)

        ticker._serve = count  # type: ignore[method-assign]
        await settle()
        await anyio.sleep(100)
        assert served == 0
