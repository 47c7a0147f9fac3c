"""A source feeds its channel while somebody is subscribed, by one writer in the cluster, and never harms anything else."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import anyio
import pytest

from rtsync.backends import TTL
from rtsync.core import (
    LIVE,
    REMOVED,
    Channel,
    EventEntry,
    SourceStatus,
    Unavailable,
    decode_entry,
)
from rtsync.hub import Changes, Families, Hub
from rtsync.testing import VIRTUAL_BACKENDS, settle
from tests.hub.nodes import BEGINNING, DOC, LOG, Cluster, Node, Tap, cluster, events, options, state

pytestmark = pytest.mark.anyio

B = Channel("doc:b")


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Feed:
    """A source that counts, and what has become of it."""

    def __init__(self, every: float = 0.5) -> None:
        self.every = every
        self.number = 0
        self.running = 0
        self.most_running = 0
        self.starts: list[float] = []
        self.ends: list[float] = []

    async def produce(self, name: str) -> AsyncGenerator[object, None]:
        self.starts.append(anyio.current_time())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            while True:
                self.number += 1
                yield {"number": self.number}
                await anyio.sleep(self.every)
        finally:
            self.running -= 1
            self.ends.append(anyio.current_time())


def fed(feed: Feed, **spec: Any) -> Any:
    return state(produce=feed.produce, **spec)


def tokens(nodes: Cluster, channel: Channel = DOC) -> list[int]:
    return [entry.token for entry in nodes.store.logs[channel].entries]


def check_one_writer(nodes: Cluster, channel: Channel = DOC) -> None:
    """Tokens never decrease, and each is of one node."""
    found = tokens(nodes, channel)
    assert found == sorted(found)
    writers: dict[int, str] = {}
    for entry in nodes.store.logs[channel].entries:
        writer = decode_entry(entry.payload).writer
        assert writers.setdefault(entry.token, writer) == writer


# ---- on demand


async def test_source_runs_while_somebody_is_subscribed_and_a_while_longer() -> None:
    """The first subscriber starts it, the last one's leaving ends it after the linger."""
    feed = Feed()
    async with cluster(1, fed(feed), source_linger=5.0) as (node,):
        await anyio.sleep(10)
        assert feed.starts == []
        clients = [node.client() for _ in range(3)]
        views = [client.subscribe(DOC) for client in clients]
        await anyio.sleep(3)
        assert (len(feed.starts), feed.running) == (1, 1)
        assert all(view.document == {"number": feed.number} for view in views)
        assert [status.reason for _, status in views[0].statuses] == ["no data yet", ""]
        for client in clients:
            client.unsubscribe(DOC)
        await anyio.sleep(4.9)
        assert feed.running == 1
        await anyio.sleep(0.2)
        assert (feed.running, len(feed.starts), node.hub.statistics().sources) == (0, 1, 0)
        status = node.channel(DOC).status
        assert (status.freshness, status.reason) == ("stale", "no source is running")
        view = clients[0].subscribe(DOC)
        await anyio.sleep(1)
        assert (len(feed.starts), view.freshness) == (2, "live")


async def test_subscriber_within_the_linger_finds_the_source_running() -> None:
    """A page that reloads does not restart it."""
    feed = Feed()
    async with cluster(1, fed(feed), source_linger=5.0) as (node,):
        client = node.client()
        for _ in range(5):
            client.subscribe(DOC)
            await anyio.sleep(1)
            client.unsubscribe(DOC)
            await anyio.sleep(4)
        assert (len(feed.starts), feed.running) == (1, 1)


async def test_subscriber_who_comes_while_it_stops_is_fed() -> None:
    """Stopping takes time; whoever comes meanwhile gets a new run."""
    feed = Feed()
    async with cluster(1, fed(feed), source_linger=1.0) as (node,):
        client = node.client()
        client.subscribe(DOC)
        await anyio.sleep(1)
        client.unsubscribe(DOC)
        node.backend.plan.latency = 0.1
        await anyio.sleep(1.15)
        view = client.subscribe(DOC)
        await anyio.sleep(3)
        assert (view.freshness, feed.running, len(feed.starts)) == ("live", 1, 2)


async def test_channel_stays_while_its_source_lingers() -> None:
    """Whatever the channel's own linger is."""
    feed = Feed(every=4.0)
    async with cluster(1, fed(feed), source_linger=20.0, channel_linger=0.0) as (node,):
        client = node.client()
        client.subscribe(DOC)
        await anyio.sleep(1)
        channel = node.channel(DOC)
        client.unsubscribe(DOC)
        await anyio.sleep(10)
        client.subscribe(DOC)
        await settle()
        assert node.channel(DOC) is channel
        assert (len(feed.starts), feed.most_running) == (1, 1)
        client.unsubscribe(DOC)
        await anyio.sleep(22)
        assert len(node.hub.channels) == 0


async def test_each_channel_of_a_family_has_a_run_of_its_own() -> None:
    """With the parameters of its name."""
    seen: list[str] = []

    async def produce(symbol: str) -> AsyncIterator[object]:
        seen.append(symbol)
        yield {"symbol": symbol}
        await anyio.sleep_forever()

    async with cluster(1, state("prices:{symbol}", produce=produce)) as (node,):
        client = node.client()
        views = [client.subscribe(name) for name in ("prices:A", "prices:BTC%2FUSD")]
        await anyio.sleep(1)
        assert seen == ["A", "BTC/USD"]
        assert [view.document for view in views] == [{"symbol": "A"}, {"symbol": "BTC/USD"}]


# ---- one writer in the cluster


async def test_one_node_feeds_for_all() -> None:
    """Whoever takes the lease first; the others read."""
    feed = Feed()
    async with cluster(3, fed(feed)) as nodes:
        views = [node.client().subscribe(DOC) for node in nodes]
        await anyio.sleep(60)
        assert (len(feed.starts), feed.most_running) == (1, 1)
        assert all(view.document == {"number": feed.number} for view in views)
        assert all(view.freshness == "live" for view in views)
        check_one_writer(nodes)


async def test_holder_goes_on_for_those_who_wait_elsewhere() -> None:
    """Its own subscribers have left; nobody notices, until the last one anywhere leaves."""
    feed = Feed()
    async with cluster(2, fed(feed), source_linger=5.0) as (one, two):
        holder, other = one.client(), two.client()
        holder.subscribe(DOC)
        await anyio.sleep(1)
        view = other.subscribe(DOC)
        await anyio.sleep(2)
        holder.unsubscribe(DOC)
        await anyio.sleep(60)
        assert (len(feed.starts), feed.running, view.document) == (1, 1, {"number": feed.number})
        assert len(view.became("live")) == 1
        other.unsubscribe(DOC)
        await anyio.sleep(12)
        assert (feed.running, one.hub.statistics().sources, two.hub.statistics().sources) == (0, 0, 0)
        assert not await one.backend.list(TTL.LEASE, "")


async def test_waiting_elsewhere_is_asked_for_now_and_then_only() -> None:
    """Even without a linger."""
    feed = Feed()
    async with cluster(2, fed(feed), source_linger=0.0) as (one, two):
        holder = one.client()
        holder.subscribe(DOC)
        await anyio.sleep(1)
        two.client().subscribe(DOC)
        await anyio.sleep(2)
        lists = Tap(one, "list")
        holder.unsubscribe(DOC)
        await anyio.sleep(30)
        assert len([prefix for prefix in lists.calls if prefix is TTL.LEASE]) <= 12
        assert feed.running == 1


async def test_waiting_for_another_channel_keeps_nothing_alive() -> None:
    """Although its name begins alike."""
    feeds = Feed(), Feed()

    async def second(name: str, part: str) -> AsyncIterator[object]:
        async with aclosing(feeds[1].produce(name)) as documents:
            async for document in documents:
                yield document

    async with cluster(2, fed(feeds[0]), state("doc:{name}:{part}", produce=second), source_linger=1.0) as (one, two):
        client = one.client()
        client.subscribe(DOC)
        client.subscribe("doc:a:b")
        await anyio.sleep(1)
        two.client().subscribe("doc:a:b")
        await anyio.sleep(1)
        client.unsubscribe(DOC)
        await anyio.sleep(5)
        assert (feeds[0].running, feeds[1].running) == (0, 1)


async def test_graceful_stop_is_taken_over_within_a_second() -> None:
    """The holder says that it stops and gives its lease back; readers elsewhere see a moment of staleness."""
    feed = Feed()
    async with cluster(2, fed(feed)) as nodes:
        one, two = nodes
        one.client().subscribe(DOC)
        await anyio.sleep(1)
        view = two.client().subscribe(DOC)
        await anyio.sleep(7)
        began = anyio.current_time()
        await nodes.stop(one)
        await anyio.sleep(2)
        assert len(feed.starts) == 2
        assert feed.starts[1] - began < 1.0
        assert [(status.freshness, status.reason) for _, status in view.statuses][-2:] == [
            ("stale", "no source is running"),
            ("live", ""),
        ]
        assert view.statuses[-1][0] - began < 1.0
        assert view.document == {"number": feed.number}
        check_one_writer(nodes)


async def test_takeover_writes_only_what_changed() -> None:
    """The new writer goes on with the document that is there."""

    async def produce(name: str) -> AsyncIterator[object]:
        yield {"same": "s" * 1000, "at": int(anyio.current_time())}
        await anyio.sleep_forever()

    async with cluster(2, state(produce=produce)) as nodes:
        one, two = nodes
        one.client().subscribe(DOC)
        await anyio.sleep(1)
        view = two.client().subscribe(DOC)
        await anyio.sleep(5)
        keyframes = view.keyframes
        await nodes.stop(one)
        await anyio.sleep(2)
        assert view.document == {"same": "s" * 1000, "at": 6}
        assert view.keyframes == keyframes
        assert all(len(entry.payload) < 100 for entry in list(nodes.store.logs[DOC].entries)[2:])


@pytest.mark.parametrize("hang", [True, False])
async def test_holder_that_is_cut_off_stops_before_another_starts(hang: bool) -> None:
    """By its own clock; the lease's end and a second later another one feeds, and the old one never writes again."""
    feeds: dict[str, Feed] = {}
    async with cluster(2, state(produce=Feed().produce)) as nodes:
        for node in nodes:
            feeds[node.name] = feed = Feed()
            family = node.families.of(DOC)
            node.families._families = [state(produce=feed.produce)]
            assert family is not node.families.of(DOC)
        one, two = nodes
        first = one.client().subscribe(DOC)
        await anyio.sleep(1)
        second = two.client().subscribe(DOC)
        await anyio.sleep(10.3)
        began = anyio.current_time()
        one.backend.partition(hang=hang)
        await anyio.sleep(30)
        ended, started = feeds["n1"].ends[0], feeds["n2"].starts[0]
        assert ended < started
        assert started - began <= 11.0
        assert (first.freshness, second.freshness) == ("stale", "live")
        one.backend.heal()
        await anyio.sleep(20)
        assert (feeds["n1"].running, feeds["n2"].running) == (0, 1)
        assert first.document == second.document == {"number": feeds["n2"].number}
        assert (first.freshness, second.freshness) == ("live", "live")
        check_one_writer(nodes)


async def test_source_of_events_that_has_nothing_to_tell_is_live() -> None:
    """From its start, and after each takeover: silence is what a good day sounds like."""

    async def produce(name: str) -> AsyncIterator[object]:
        await anyio.sleep_forever()
        yield {}

    async with cluster(2, events(produce=produce)) as (one, two):
        first, second = one.client().subscribe(LOG), two.client().subscribe(LOG)
        await anyio.sleep(1)
        assert [first.freshness, second.freshness] == ["live"] * 2
        writer = one.channel(LOG).writer
        holder, other = (one, second) if writer == "n1" else (two, first)
        holder.backend.partition()
        await anyio.sleep(8)
        assert other.freshness == "stale"
        await anyio.sleep(5)
        assert other.freshness == "live"


async def test_holder_that_slept_through_its_lease_does_not_write() -> None:
    """A process that was stopped, or a loop that stalled, looks at the clock before it writes."""
    feed = Feed()
    skew = 0.0
    async with cluster(1, fed(feed)) as nodes:
        (node,) = nodes
        node.hub.sources._now = lambda: anyio.current_time() + skew
        node.client().subscribe(DOC)
        await anyio.sleep(2)
        before = tokens(nodes)
        skew = 60.0
        await anyio.sleep(3)
        after = tokens(nodes)
        assert len(after) > len(before)
        assert set(after[len(before) :]).isdisjoint(before), "with a new lease only"
        check_one_writer(nodes)


async def test_store_of_leases_that_fails_silences_the_source_and_says_so() -> None:
    """Without a lease nobody writes; readers are told in time, although the log itself works."""
    feed = Feed()
    async with cluster(1, fed(feed)) as nodes:
        (node,) = nodes
        view = node.client().subscribe(DOC)
        await anyio.sleep(5)
        puts, gets = Tap(node, "put"), Tap(node, "get")
        puts.error = gets.error = Unavailable("no records")
        await anyio.sleep(11)
        assert (feed.running, view.freshness, view.reason) == (0, "stale", "no source is running")
        puts.error = gets.error = None
        await anyio.sleep(2)
        assert (feed.running, view.freshness, view.document) == (1, "live", {"number": feed.number})
        check_one_writer(nodes)


async def test_lost_records_cost_a_new_lease_and_no_second_writer() -> None:
    """The store forgot who holds it."""
    feed = Feed()
    async with cluster(2, fed(feed)) as nodes:
        views = [node.client().subscribe(DOC) for node in nodes]
        for _ in range(5):
            await anyio.sleep(5)
            nodes.faults.lose_records()
        await anyio.sleep(8)
        check_one_writer(nodes)
        assert all(view.freshness == "live" for view in views)
        assert all(view.document == {"number": feed.number} for view in views)
        assert feed.running == 1


async def test_holder_that_is_refused_for_an_older_token_outbids_it() -> None:
    """The store numbers anew after a loss, and a holder from before has written since: the lease decides who goes on."""
    feed = Feed()
    async with cluster(2, fed(feed)) as nodes:
        one, two = nodes
        view = one.client().subscribe(DOC)
        await anyio.sleep(1)
        for step in (1, 1000, 10**6):
            await two.hub.publisher.patch(DOC, {"other": True}, token=tokens(nodes)[-1] + step)
            await anyio.sleep(0.6)
            assert (view.freshness, view.document) == ("live", {"number": feed.number})
        assert (len(feed.starts), feed.running) == (1, 1)
        found = tokens(nodes)
        assert found == sorted(found)


async def test_writer_that_is_fenced_by_the_next_holder_stops() -> None:
    """It is not the holder any more, whatever it believes."""
    feed = Feed()
    async with cluster(2, fed(feed)) as nodes:
        one, two = nodes
        one.client().subscribe(DOC)
        await anyio.sleep(1)
        inner = two.backend.inner
        await inner.delete(TTL.LEASE, "lease:doc:a")
        token = await inner.put(TTL.LEASE, "lease:doc:a", b"somebody")
        await two.hub.publisher.patch(DOC, {"other": True}, token=token)
        await anyio.sleep(1)
        assert (feed.running, tokens(nodes)[-1]) == (0, token)
        await anyio.sleep(12)
        assert feed.running == 1
        assert tokens(nodes)[-1] > token


async def test_store_that_came_back_empty_and_numbers_anew_stops_no_source() -> None:
    """Leases, logs and counters are gone; every channel goes on within seconds."""
    feeds = Feed(), Feed()
    async with cluster(2, fed(feeds[0]), events(produce=feeds[1].produce)) as nodes:
        views = [node.client().subscribe(name) for node in nodes for name in (DOC, LOG)]
        await anyio.sleep(30)
        for _ in range(3):
            nodes.faults.lose_store()
            await anyio.sleep(12)
            assert all(view.freshness == "live" for view in views)
            assert [view.document for view in views[::2]] == [{"number": feeds[0].number}] * 2
            assert [view.events[-1] for view in views[1::2]] == [{"number": feeds[1].number}] * 2
            check_one_writer(nodes)
            check_one_writer(nodes, LOG)


async def test_source_of_a_node_that_stops_is_cleaned_up_and_nothing_waits_for_it_for_long() -> None:
    """Its ``finally`` runs; one that hangs there is left behind."""
    cleaned: list[str] = []

    async def produce(name: str) -> AsyncIterator[object]:
        try:
            yield {"x": 1}
            await anyio.sleep_forever()
        finally:
            cleaned.append(name)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2 if name == "a" else 5)
            cleaned.append(f"{name} done")

    async with cluster(1, state(produce=produce)) as nodes:
        (node,) = nodes
        for name in (DOC, B):
            node.client().subscribe(name)
        await anyio.sleep(1)
        began = anyio.current_time()
        await nodes.stop(node)
        assert anyio.current_time() - began <= 6.1
        assert cleaned[:2] == ["a", "b"]
        assert "a done" in cleaned


async def test_node_stops_in_time_although_its_backend_is_away() -> None:
    """Nothing it would like to say is waited for without end."""
    feed = Feed()
    async with cluster(2, fed(feed), events(), source_linger=1.0) as nodes:
        node, other = nodes
        clients = [each.client() for each in nodes]
        for client in clients:
            client.subscribe(DOC)
            client.subscribe(LOG)
        await anyio.sleep(3)
        node.backend.partition()
        clients[0].unsubscribe(DOC)
        await anyio.sleep(2)
        began = anyio.current_time()
        await nodes.stop(node)
        assert anyio.current_time() - began <= 2.5
        other.backend.partition()
        await anyio.sleep(1)
        began = anyio.current_time()
        await nodes.stop(other)
        assert anyio.current_time() - began <= 2.5


# ---- errors


async def test_failing_source_is_restarted_with_growing_pauses_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Readers see that it failed, and other channels see nothing."""
    healthy, starts = Feed(), []

    async def produce(name: str) -> AsyncIterator[object]:
        if name == "b":
            async with aclosing(healthy.produce(name)) as documents:
                async for document in documents:
                    yield document
        starts.append(anyio.current_time())
        yield {"start": len(starts)}
        raise ExceptionGroup("several", [ZeroDivisionError("a bug")]) if len(starts) % 2 else ValueError("a bug")

    async with cluster(1, state(produce=produce), source_backoff_min=0.5, source_backoff_max=8.0) as (node,):
        view, other = node.client().subscribe(DOC), node.client().subscribe(B)
        await anyio.sleep(60)
        pauses = [after - before for before, after in pairwise(starts)]
        for pause, expected in zip(pauses, (0.5, 1, 2, 4, 8, 8, 8), strict=False):
            assert 0.75 * expected <= pause <= 1.25 * expected
        assert 7 <= len(starts) <= 14
        assert (view.document, view.freshness) == ({"start": len(starts)}, "stale")
        assert {status.reason for _, status in view.statuses} >= {
            "the source failed: ExceptionGroup",
            "the source failed: ValueError",
        }
        assert (other.freshness, other.document, len(healthy.starts)) == ("live", {"number": healthy.number}, 1)
        assert node.hub.statistics().source_restarts == len(starts)
        assert len({record.levelno for record in caplog.records} - {logging.ERROR}) == 0
    caplog.clear()


async def test_pauses_are_short_again_after_a_long_good_run(caplog: pytest.LogCaptureFixture) -> None:
    """A failure a day is not answered with half a minute of silence."""
    starts: list[float] = []

    async def produce(name: str) -> AsyncIterator[object]:
        starts.append(anyio.current_time())
        yield {"start": len(starts)}
        await anyio.sleep(20)
        raise ValueError("a bug")

    async with cluster(1, state(produce=produce), source_backoff_max=8.0) as (node,):
        node.client().subscribe(DOC)
        await anyio.sleep(200)
        assert all(after - before <= 20.7 for before, after in pairwise(starts))
    caplog.clear()


@pytest.mark.parametrize("update", [{"x": {1}}, 5, None, "text", {"x": object()}])
async def test_source_that_yields_what_cannot_be_carried_has_failed(update: object, caplog: pytest.LogCaptureFixture) -> None:
    """Its readers keep what they have, and see that it is stale."""

    async def produce(name: str) -> AsyncIterator[object]:
        yield {"good": True}
        yield update

    async with cluster(1, state(produce=produce)) as (node,):
        view = node.client().subscribe(DOC)
        await anyio.sleep(3)
        assert (view.document, view.freshness) == ({"good": True}, "stale")
        assert view.reason == "the source failed: InvalidValue"
    caplog.clear()


@pytest.mark.parametrize("method", ["get", "put", "delete", "list"])
async def test_backend_that_raises_what_it_must_not_ends_no_node(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """The source waits for better times."""
    feed = Feed()
    async with cluster(1, fed(feed), source_linger=1.0, source_backoff_max=5.0) as (node,):
        client = node.client()
        client.subscribe(DOC)
        await anyio.sleep(1)
        tap = Tap(node, method)
        tap.error = ZeroDivisionError("a bug")
        await anyio.sleep(15)
        client.unsubscribe(DOC)
        await anyio.sleep(5)
        view = client.subscribe(DOC)
        await anyio.sleep(5)
        tap.error = None
        await anyio.sleep(20)
        assert (view.freshness, feed.running, feed.most_running) == ("live", 1, 1)
    caplog.clear()


async def test_document_that_could_not_be_published_is_published_later() -> None:
    """The source is held back meanwhile: it need not say again what it said only once."""
    nested: Any = {"z": 2}

    async def produce(name: str) -> AsyncIterator[object]:
        yield {"x": 1}
        await anyio.sleep(2)
        yield Changes({"y": nested})
        yield Changes({"x": REMOVED})
        await anyio.sleep_forever()

    async with cluster(1, state(produce=produce)) as (node,):
        view = node.client().subscribe(DOC)
        await anyio.sleep(1)
        node.backend.plan.refuse_rate = 1.0
        await anyio.sleep(4)
        assert view.document == {"x": 1}
        node.backend.plan.refuse_rate = 0.0
        await anyio.sleep(2)
        assert view.document == {"y": {"z": 2}}


async def test_events_are_never_appended_twice() -> None:
    """A refused one is tried again, one of unknown fate is not."""
    appended: list[int] = []

    async def produce(name: str) -> AsyncIterator[object]:
        for number in range(40):
            appended.append(number)
            yield number
            await anyio.sleep(0.3)
        await anyio.sleep_forever()

    async with cluster(1, events(produce=produce, window=1000)) as nodes:
        (node,) = nodes
        view = node.client().subscribe(LOG, BEGINNING)
        plan = node.backend.plan
        plan.refuse_rate, plan.unknown_rate, plan.deadline = 0.3, 0.05, 2.0
        await anyio.sleep(60)
        plan.refuse_rate = plan.unknown_rate = 0.0
        await anyio.sleep(60)
        entries = [decode_entry(entry.payload) for entry in nodes.store.logs[LOG].entries]
        found = [entry.value[-1] for entry in entries if isinstance(entry, EventEntry)]
        assert found == sorted(set(found))
        assert len(found) >= 38
        assert view.events == found
        assert view.freshness == "live"


# ---- what a source may say


async def test_source_that_ends_by_itself_closes_its_channel() -> None:
    """It is not run again while its runner holds the lease."""
    starts: list[float] = []

    async def produce(name: str) -> AsyncIterator[object]:
        starts.append(anyio.current_time())
        yield {"x": 1}

    async with cluster(2, state(produce=produce)) as (one, two):
        views = [node.client().subscribe(DOC) for node in (one, two)]
        await anyio.sleep(60)
        assert len(starts) == 1
        for view in views:
            assert (view.document, view.freshness, view.reason) == ({"x": 1}, "closed", "the source has ended")


async def test_end_that_could_not_be_said_is_said_later() -> None:
    """An outage just then ends neither the node nor the channel's truth."""

    async def produce(name: str) -> AsyncIterator[object]:
        yield {"x": 1}
        await anyio.sleep(1)

    async with cluster(1, state(produce=produce)) as (node,):
        view = node.client().subscribe(DOC)
        await anyio.sleep(0.5)
        node.backend.plan.refuse_rate = 1.0
        await anyio.sleep(2)
        assert view.freshness != "closed"
        node.backend.plan.refuse_rate = 0.0
        await anyio.sleep(4)
        assert view.freshness == "closed"


async def test_source_that_keeps_silent_for_too_long_is_stale() -> None:
    """Until its next update, even if that changes nothing."""

    async def produce(name: str) -> AsyncIterator[object]:
        for pause in (1, 1, 10, 1, 1, 10, 1):
            yield {"x": 1}
            await anyio.sleep(pause)
        await anyio.sleep_forever()

    async with cluster(2, state(produce=produce, stale_after=3.0)) as nodes:
        views = [node.client().subscribe(DOC) for node in nodes]
        await anyio.sleep(25)
        for view in views:
            assert [round(at) for at in view.became("stale")] == [0, 5, 17]
            assert [round(at) for at in view.became("live")] == [0, 12, 24]
            assert view.statuses[2][1].reason == "no data for 3 s"
        check_one_writer(nodes)


async def test_silent_source_that_fails_fails_with_its_own_error(caplog: pytest.LogCaptureFixture) -> None:
    """Watching its silence wraps nothing that it raises."""

    async def produce(name: str) -> AsyncIterator[object]:
        async with anyio.create_task_group():
            yield {"x": 1}
        await anyio.sleep(1)
        raise KeyError("a bug")

    async with cluster(1, state(produce=produce, stale_after=0.5)) as (node,):
        view = node.client().subscribe(DOC)
        await anyio.sleep(1.2)
        assert view.reason == "the source failed: KeyError"
    caplog.clear()


async def test_silence_is_told_although_the_log_carries_a_newer_token() -> None:
    """The complaint outbids it as data would."""

    async def produce(name: str) -> AsyncIterator[object]:
        yield {"x": 1}
        await anyio.sleep_forever()

    async with cluster(1, state(produce=produce, stale_after=3.0)) as nodes:
        (node,) = nodes
        view = node.client().subscribe(DOC)
        await anyio.sleep(1)
        await node.hub.publisher.patch(DOC, {"y": 1}, token=tokens(nodes)[-1] + 1)
        await anyio.sleep(4)
        assert (view.freshness, view.reason) == ("stale", "no data for 3 s")


async def test_source_may_yield_changes_and_statuses() -> None:
    """And whole documents between them."""
    nested: Any = {"d": 2}

    async def produce(name: str) -> AsyncIterator[object]:
        yield {"a": 1, "b": {"c": 1}}
        yield Changes({"b": nested})
        yield SourceStatus("stale", 5, "the exchange is closed")
        await anyio.sleep(1)
        yield Changes({"a": REMOVED})
        await anyio.sleep_forever()

    async with cluster(1, state(produce=produce)) as (node,):
        view = node.client().subscribe(DOC)
        await anyio.sleep(0.5)
        assert (view.document, view.reason) == ({"a": 1, "b": {"c": 1, "d": 2}}, "the exchange is closed")
        await anyio.sleep(1)
        assert (view.document, view.freshness) == ({"b": {"c": 1, "d": 2}}, "live")


# ---- sources that are asked


async def test_class_is_made_once_and_asked_every_interval() -> None:
    """One question at a time; a slow answer is followed at once, not by a burst."""
    made: list[str] = []
    asked: list[float] = []

    class Prices:
        def __init__(self, name: str) -> None:
            made.append(name)

        async def get_data(self) -> object:
            asked.append(anyio.current_time())
            if len(asked) == 3:
                await anyio.sleep(5)
            return {"number": len(asked)}

    async with cluster(1, state(produce=Prices, interval=2.0)) as (node,):
        view = node.client().subscribe(DOC)
        await anyio.sleep(14.5)
        assert made == ["a"]
        assert [round(at - asked[0], 3) for at in asked] == [0, 2, 4, 9, 11, 13]
        assert view.document == {"number": 6}


async def test_interval_of_the_settings_wins() -> None:
    """An operator may slow a family down."""
    asked: list[float] = []

    async def ask(name: str) -> object:
        asked.append(anyio.current_time())
        return {"number": len(asked)}

    intervals = {"doc:{name}": 7.0}
    async with cluster(1, state(produce=ask, interval=1.0), family_intervals=intervals) as (node,):
        node.client().subscribe(DOC)
        await anyio.sleep(22)
        assert [round(at - asked[0], 3) for at in asked] == [0, 7, 14, 21]


async def test_question_that_fails_is_asked_again_after_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    """Its errors are a source's errors."""
    asked = 0

    async def ask(name: str) -> object:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise OSError("no database")
        return {"number": asked}

    async with cluster(1, state(produce=ask)) as (node,):
        view = node.client().subscribe(DOC)
        await anyio.sleep(4)
        assert [status.freshness for _, status in view.statuses] == ["stale", "live", "stale", "live"]
        assert (node.hub.statistics().source_restarts, view.document) == (1, {"number": asked})
    caplog.clear()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
class TestThreads:
    """Plain functions run in threads, which virtual time knows nothing of."""

    async def fed_by(self, produce: Callable[..., object], done: Callable[[Node, Any], bool], **spec: Any) -> None:
        async with cluster(1, state(produce=produce, interval=0.01, **spec)) as (node,):
            view = node.client().subscribe(DOC)
            with anyio.fail_after(10):
                while not done(node, view):  # noqa: ASYNC110 - whatever the thread does
                    await anyio.sleep(0.005)

    async def test_plain_function_is_asked_in_a_thread(self) -> None:
        """It may block without holding up the loop."""
        threads: list[int] = []

        def ask(name: str) -> object:
            threads.append(threading.get_ident())
            return {"name": name, "count": len(threads)}

        await self.fed_by(ask, lambda _, view: (view.document or {}).get("count", 0) >= 3)
        assert threading.get_ident() not in threads

    async def test_function_that_never_returns_holds_up_neither_others_nor_the_end(self) -> None:
        """Its thread is left behind."""
        release = threading.Event()
        asked: list[str] = []

        def ask(name: str) -> object:
            asked.append(name)
            release.wait(30)
            return {}

        try:
            with anyio.fail_after(10):
                await self.fed_by(ask, lambda _, __: bool(asked))
        finally:
            release.set()


async def test_hub_that_is_left_leaves_no_runner_behind() -> None:
    """Entering and leaving again and again."""
    feed = Feed()
    async with cluster(1, fed(feed)) as nodes:
        backend = nodes[0].backend
        await nodes.stop(nodes[0])
        families = Families()
        families.add(fed(feed))
        for number in range(3):
            async with backend:
                hub = Hub(backend, families, options(f"again{number}"))
                async with hub.running():
                    channel = await hub.channels.ready(DOC)
                    hub.sources.wanted(channel)
                    await anyio.sleep(1)
                    assert len(hub.sources) == 1
                assert len(hub.sources) == 0
        assert feed.running == 0
        assert channel.source_status != LIVE
