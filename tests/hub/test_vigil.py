"""What a node cannot vouch for is shown as stale in time, and as live only once it has been read again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from rtsync.backends import TTL
from rtsync.core import Channel, SourceStatus
from rtsync.testing import VIRTUAL_BACKENDS, settle
from tests.hub.nodes import DOC, LOG, Cluster, Node, Tap, View, cluster, events, state

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def ticks(name: str) -> AsyncIterator[object]:
    """A source that always has something new."""
    number = 0
    while True:
        number += 1
        yield {"number": number}
        await anyio.sleep(0.5)


async def one_value(name: str) -> AsyncIterator[object]:
    """A source that has something to say only once."""
    yield {"number": 0}
    await anyio.sleep_forever()


async def nothing(name: str) -> AsyncIterator[object]:
    """A source that has nothing to say."""
    await anyio.sleep_forever()
    yield {}


async def watched(node: Node) -> list[View]:
    views = [node.client().subscribe(name) for name in (DOC, Channel("doc:b"), LOG)]
    await settle()
    return views


# ---- probes


@pytest.mark.parametrize("fault", ["hangs", "refuses", "is silent"])
@pytest.mark.parametrize("after", [0.1, 1.0, 1.9])
async def test_every_channel_is_stale_within_five_seconds_of_silence(fault: str, after: float) -> None:
    """One probe vouches for all, whatever the link suffers, and whenever that begins."""
    async with cluster(1) as (node,):
        views = await watched(node)
        await anyio.sleep(20 + after)
        began = anyio.current_time()
        if fault == "is silent":
            node.backend.plan.drop_rate = 1.0
        else:
            node.backend.partition(hang=fault == "hangs")
        await anyio.sleep(5.01)
        for view in views:
            assert view.freshness == "stale"
            (at,) = view.became("stale")
            assert 0 < at - began <= 5.0
        reason = "announcements do not arrive" if fault == "is silent" else "the backend does not answer"
        assert all(view.reason.startswith(reason) for view in views)


async def test_channels_are_live_again_only_once_they_were_read() -> None:
    """Each for itself; one whose read takes long stays stale."""
    async with cluster(2) as (one, two):
        views = await watched(one)
        one.backend.partition()
        await anyio.sleep(6)
        await two.set(DOC, {"x": 1})
        await two.set("doc:b", {"x": 1})
        await settle()
        reads = Tap(one, "read")
        reads.hold_answers()
        one.backend.heal()
        await anyio.sleep(6)
        assert len(reads.calls) == 3
        assert [view.freshness for view in views] == ["stale"] * 3
        assert not any(view.document for view in views)
        reads.let_go()
        await settle()
        assert [view.freshness for view in views] == ["live"] * 3
        assert [view.document for view in views[:2]] == [{"x": 1}] * 2
        for view in views[:2]:
            (live_at,) = view.became("live")[1:]
            assert live_at >= view.documents[-1][0]


async def test_health_that_the_backend_tells_of_is_acted_on_at_once() -> None:
    """A client library may know before any probe."""
    async with cluster(2) as (one, two):
        views = await watched(one)
        one.backend.partition(notify=True)
        await settle()
        assert [(view.freshness, view.reason) for view in views] == [("stale", "partitioned")] * 3
        await two.set(DOC, {"x": 1})
        one.backend.heal(notify=True)
        await settle()
        assert [view.freshness for view in views] == ["live"] * 3
        assert views[0].document == {"x": 1}


async def test_staleness_is_said_once_and_with_its_beginning() -> None:
    """However many probes fail."""
    async with cluster(1) as (node,):
        views = await watched(node)
        node.backend.partition()
        await anyio.sleep(60)
        for view in views:
            assert len(view.statuses) == 2
            (at,) = view.became("stale")
            assert abs(view.subscription.status.since - 1000 * (1_790_000_000 + at)) <= 1


async def test_quiet_node_stays_live_and_reads_nothing() -> None:
    """Ten minutes without a fault are ten minutes without a word."""
    async with cluster(2) as nodes:
        views = [view for node in nodes for view in await watched(node)]
        await anyio.sleep(600)
        assert all(len(view.statuses) == 1 for view in views)
        assert [node.hub.statistics().rereads for node in nodes] == [0, 0]
        assert not any(node.hub._vigil._probe_links for node in nodes)
        probes = [log for name, log in nodes.store.logs.items() if name.startswith("$probe")]
        assert [len(log.entries) for log in probes] == [1, 1]


@pytest.mark.parametrize("method", ["append", "watch", "put", "heads", "list"])
async def test_backend_that_raises_what_it_must_not_does_not_end_the_vigil(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What it shows for it depends on what failed; afterwards all is well."""
    async with cluster(1) as (node,):
        views = await watched(node)
        tap = Tap(node, method)
        tap.error = ZeroDivisionError("a bug")
        await anyio.sleep(20)
        expected = "stale" if method in ("append", "watch") else "live"
        assert [view.freshness for view in views] == [expected] * 3
        tap.error = None
        await anyio.sleep(6)
        assert [view.freshness for view in views] == ["live"] * 3
    caplog.clear()


# ---- heads


async def test_heads_of_hundreds_of_channels_are_compared_within_the_interval() -> None:
    """In batches; a lost announcement is found wherever it was."""
    async with cluster(2, max_subscriptions=1000) as (one, two):
        client = one.client()
        views = [client.subscribe(f"doc:{number}") for number in range(350)]
        await settle()
        heads = Tap(one, "heads")
        one.backend.plan.drop_rate = 0.99  # but for some probes
        for number in range(0, 350, 7):
            await two.set(f"doc:{number}", {"x": number})
        await anyio.sleep(4.9)
        one.backend.plan.drop_rate = 0.0
        await anyio.sleep(6)
        assert all((view.document or {}).get("x") == (number if number % 7 == 0 else None) for number, view in enumerate(views))
        assert all(len(batch) <= 100 for batch in heads.calls if isinstance(batch, list))


async def test_wrong_number_of_heads_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    """A bug of the backend's, logged, and tried again."""
    async with cluster(2) as (one, two):
        (view, *_) = await watched(one)
        heads = Tap(one, "heads")
        call = heads._call

        async def too_few(channels: list[Channel]) -> object:
            return (await call(channels))[:-1]

        heads._call = too_few
        await anyio.sleep(11)
        assert caplog.records
        heads._call = call
        one.backend.plan.drop_rate = 1.0
        await two.set(DOC, {"x": 1})
        await settle()
        one.backend.plan.drop_rate = 0.0
        await anyio.sleep(5.1)
        assert view.document == {"x": 1}
    caplog.clear()


# ---- beats


def fed(produce: Any = ticks, **spec: Any) -> list[Any]:
    return [state(produce=produce, **spec), events()]


async def leading(nodes: Cluster) -> tuple[Node, Node, View, View]:
    """Return the node that feeds the channel, another one, and what a client holds on each."""
    first = nodes[0].client().subscribe(DOC)
    await anyio.sleep(1)
    second = nodes[1].client().subscribe(DOC)
    await anyio.sleep(20)
    assert [view.freshness for view in (first, second)] == ["live"] * 2
    assert nodes[1].channel(DOC).writer == nodes[0].name
    return nodes[0], nodes[1], first, second


@pytest.mark.parametrize("produce", [ticks, one_value])
async def test_channel_whose_writer_stopped_beating_is_stale_until_another_writes(produce: Any) -> None:
    """A node that is gone takes five seconds to be missed, and its lease to be followed."""
    async with cluster(2, *fed(produce)) as nodes:
        one, _, first, second = await leading(nodes)
        one.backend.partition()
        began = anyio.current_time()
        await anyio.sleep(15)
        (stale_at,) = [at for at in second.became("stale") if at > began]
        (live_at,) = [at for at in second.became("live") if at > began]
        assert 3.0 <= stale_at - began <= 6.1
        assert live_at - began <= 11.0
        assert second.freshness == "live"
        assert first.freshness == "stale"
        assert any(status.reason == "its writer has stopped" for _, status in second.statuses)
        if produce is one_value:
            assert second.document == {"number": 0}


async def test_beats_that_are_merely_lost_from_the_store_come_again() -> None:
    """A moment of doubt, at most."""
    async with cluster(2, *fed()) as nodes:
        *_, second = await leading(nodes)
        nodes.store._shelves[TTL.BEAT].records.clear()
        await anyio.sleep(4)
        assert second.freshness == "live"


async def test_node_that_cannot_beat_trusts_itself_and_is_mistrusted_by_others() -> None:
    """Its own clients know that it lives."""
    async with cluster(2, *fed()) as nodes:
        one, _, first, second = await leading(nodes)
        inner = one.backend.inner
        put = inner.put

        async def deaf(ttl: TTL, key: str, value: bytes, *, expect: int | None = None) -> int:
            return 1 if ttl is TTL.BEAT else await put(ttl, key, value, expect=expect)

        inner.put = deaf  # type: ignore[method-assign]
        await anyio.sleep(8)
        assert [first.freshness, second.freshness] == ["live", "stale"]
        inner.put = put  # type: ignore[method-assign]
        await anyio.sleep(4)
        assert [first.freshness, second.freshness] == ["live", "live"]


async def test_beat_that_is_not_renewed_counts_only_for_so_long() -> None:
    """A store that keeps records for longer than a beat may be old does not hide a dead writer."""
    async with cluster(2, *fed(), beat_timeout=4.5) as nodes:
        one, _, _, second = await leading(nodes)
        nodes.store._shelves[TTL.BEAT].lifetime = 1000.0
        await anyio.sleep(3)
        one.backend.partition()
        began = anyio.current_time()
        await anyio.sleep(8)
        (stale_at,) = [at for at in second.became("stale") if at > began]
        assert stale_at - began <= 7.0


async def test_closed_channel_needs_no_writer() -> None:
    """Nothing more is to come."""
    async with cluster(2, state(produce=nothing)) as (one, two):
        await one.set(DOC, {"x": 1})
        await one.hub.publisher.say(DOC, SourceStatus("closed", 1, "over"), token=10**6)
        view = two.client().subscribe(DOC)
        await settle()
        one.backend.partition()
        await anyio.sleep(20)
        assert view.freshness == "closed"


async def test_channels_without_a_source_need_no_beat() -> None:
    """Anybody may have written them, and left."""
    async with cluster(2) as (one, two):
        await one.set(DOC, {"x": 1})
        view = two.client().subscribe(DOC)
        await settle()
        one.backend.partition()
        await anyio.sleep(30)
        assert view.freshness == "live"
