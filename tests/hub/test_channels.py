"""Channels come up on first interest, stay equal to the backend's log, say when they cannot, and are forgotten."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from rtsync.backends import MemoryBackend
from rtsync.core import Channel, InvalidName, Unavailable
from rtsync.hub._channel import LiveChannel
from rtsync.testing import VIRTUAL_BACKENDS, settle
from tests.hub.nodes import BEGINNING, DOC, LOG, Node, Tap, cluster, events, state

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def unwatched(node: Node) -> bool:
    """Whether nothing but the probe is watched at the backend."""
    inner = node.backend.inner
    assert isinstance(inner, MemoryBackend)
    return all(channel.startswith("$") for channel in inner._watched)


async def until_quiet(seconds: float = 8.0) -> None:
    """Wait until everything has been found out that nobody announces."""
    await anyio.sleep(seconds)


# ---- bring-up


async def test_first_subscribers_share_one_bring_up() -> None:
    """However many come at once, the log is watched and read once."""
    async with cluster(1) as (node,):
        watches, reads = Tap(node, "watch"), Tap(node, "read")
        reads.hold_answers()
        views = [node.client().subscribe(DOC) for _ in range(50)]
        await settle()
        assert (watches.calls.count(DOC), reads.calls) == (1, [DOC])
        reads.let_go()
        await settle()
        assert (watches.calls.count(DOC), reads.calls) == (1, [DOC])
        assert all(view.document == {} for view in views)


async def test_channel_is_watched_before_it_is_read() -> None:
    """What is appended between the read and its answer is delivered."""
    async with cluster(2) as (one, two):
        reads = Tap(one, "read")
        reads.hold_answers()
        view, log = one.client().subscribe(DOC), one.client().subscribe(LOG, BEGINNING)
        await settle()
        await two.set(DOC, {"x": 1})
        await two.append(LOG, 1)
        reads.let_go()
        await settle()
        assert (view.document, log.events) == ({"x": 1}, [1])


async def test_publish_from_another_node_right_after_subscribed_is_received() -> None:
    """The answer comes only once the backend has confirmed the watch."""
    async with cluster(2) as (one, two):
        watches = Tap(one, "watch")
        watches.hold_questions()
        view = one.client().subscribe(DOC)
        await settle()
        assert view.frames == []
        watches.let_go()
        await settle()
        assert view.frames != []
        await two.set(DOC, {"x": 1})
        await settle()
        assert view.document == {"x": 1}


async def test_failed_bring_up_is_told_to_all_who_wait_and_leaves_nothing() -> None:
    """Subscribers get an error they may retry, publishers and readers one they can catch; a second attempt succeeds."""
    async with cluster(1) as (node,):
        reads = Tap(node, "read")
        reads.hold_questions()
        reads.error = Unavailable("no answer")
        clients = [node.client() for _ in range(3)]
        for client in clients:
            client.subscribe(DOC)
        refused: list[Exception] = []

        async def publish() -> None:
            try:
                await node.set(DOC, {"x": 1})
            except Unavailable as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            tasks.start_soon(publish)
            await settle()
            reads.let_go()
        await settle()
        assert (len(refused), reads.calls) == (2, [DOC]), "nobody tries again by himself"
        errors = [error for client in clients for error in client.errors]
        assert [(error.code, error.retryable, error.channel) for error in errors] == [("unavailable", True, DOC)] * 3
        assert all(error.retry_after is not None and error.retry_after >= 1 for error in errors)
        assert (len(node.hub.channels), unwatched(node)) == (0, True)
        assert not any(client.subscriptions for client in clients)

        reads.error = None
        view = clients[0].subscribe(DOC)
        await node.set(DOC, {"x": 2})
        await settle()
        assert view.document == {"x": 2}


@pytest.mark.parametrize("method", ["watch", "read"])
async def test_backend_that_raises_what_it_must_not_is_survived(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in a backend costs the one channel, not the node."""
    async with cluster(1) as (node,):
        tap = Tap(node, method)
        tap.error = ZeroDivisionError("a bug")
        client = node.client()
        client.subscribe(DOC)
        await settle()
        assert [error.code for error in client.errors] == ["unavailable"]
        with pytest.raises(Unavailable, match="cannot be read"):
            await node.append(LOG, 1)
        tap.error = None
        view = client.subscribe(DOC)
        await node.set(DOC, {"x": 1})
        await settle()
        assert view.document == {"x": 1}
        assert "a bug" in caplog.text
    caplog.clear()


async def test_backend_that_raises_what_it_must_not_while_forgetting_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    """The same when a channel is let go."""
    async with cluster(1, channel_linger=0.0) as (node,):
        Tap(node, "unwatch").error = ZeroDivisionError("a bug")
        client = node.client()
        for _ in range(3):
            view = client.subscribe(DOC)
            await settle()
            client.unsubscribe(DOC)
            await anyio.sleep(1)
            assert len(node.hub.channels) == 0
        assert view.document == {}
    assert caplog.records
    caplog.clear()


async def test_name_outside_all_families_is_refused() -> None:
    """Nothing is created for it."""
    async with cluster(1) as (node,):
        for name in ("other:a", "doc", "doc:a:b", "Doc:a"):
            with pytest.raises(InvalidName):
                await node.set(name, {})
        assert len(node.hub.channels) == 0


async def test_channel_comes_up_while_announcements_are_in_doubt_and_is_stale_until_they_are_not() -> None:
    """What can be read is shown, and not as live."""
    async with cluster(1) as (node,):
        await node.set(DOC, {"x": 1})
        appends = Tap(node, "append")
        appends.error = Unavailable("no writes")
        await anyio.sleep(4)
        view = node.client().subscribe(DOC)
        await settle()
        assert (view.document, view.freshness) == ({"x": 1}, "stale")
        appends.error = None
        await anyio.sleep(4)
        assert view.freshness == "live"


# ---- holes and doubts


async def test_hole_that_closes_by_itself_costs_no_read() -> None:
    """Announcements that merely overtook each other are waited for."""
    async with cluster(2) as (one, two):
        view = one.client().subscribe(LOG)
        await settle()
        one.backend.plan.reorder_rate, one.backend.plan.reorder_within, one.backend.plan.reorder_seconds = 1.0, 1, 0.03
        for number in range(20):
            await two.append(LOG, number)
        await anyio.sleep(0.2)
        assert view.events == list(range(20))
        assert one.hub.statistics().rereads == 0


async def test_hole_that_stays_is_closed_by_reading_the_log() -> None:
    """A lost announcement is missed as soon as the next one comes."""
    async with cluster(2) as (one, two):
        view = one.client().subscribe(LOG)
        await settle()
        await two.append(LOG, 1)
        await settle()
        one.backend.plan.drop_rate = 1.0
        await two.append(LOG, 2)
        await settle()
        one.backend.plan.drop_rate = 0.0
        await two.append(LOG, 3)
        await settle()
        assert view.events == [1]
        await anyio.sleep(0.06)
        assert view.events == [1, 2, 3]
        assert one.hub.statistics().rereads == 1


async def test_last_announcement_lost_is_found_by_comparing_heads() -> None:
    """Nothing follows that would show the hole."""
    async with cluster(2) as (one, two):
        view, log = one.client().subscribe(DOC), one.client().subscribe(LOG)
        await settle()
        one.backend.plan.drop_rate = 1.0
        await two.set(DOC, {"x": 1})
        await two.append(LOG, 1)
        await anyio.sleep(5.1)
        assert (view.document, log.events) == ({"x": 1}, [1])


async def test_doubt_during_a_read_is_followed_by_another_read() -> None:
    """An answer that was on its way may not hold what the doubt is about."""
    async with cluster(1) as (node,):
        node.client().subscribe(DOC)
        await settle()
        reads = Tap(node, "read")
        reads.hold_answers()
        for _ in range(3):
            node.hub.channels.doubt(node.channel(DOC))
            await settle()
        assert len(reads.calls) == 1
        reads.let_go()
        await settle()
        assert len(reads.calls) == 2


async def test_read_again_waits_for_a_read_that_began_after_the_call() -> None:
    """Whoever asks for certainty is not content with an answer that was on its way."""
    async with cluster(1) as (node,):
        node.client().subscribe(DOC)
        await settle()
        reads, channel = Tap(node, "read"), node.channel(DOC)
        reads.hold_answers()
        node.hub.channels.doubt(channel)
        await settle()
        seen: list[int] = []

        async def ask() -> None:
            await node.hub.channels.read_again(channel)
            seen.append(len(reads.calls))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await settle()
            reads.let_go()
        assert seen == [2]


async def test_slow_answers_under_constant_publishing_are_no_sign_of_a_rollback() -> None:
    """The log's answer is compared with what was known when it was asked."""
    async with cluster(1) as (node,):
        view = node.client().subscribe(DOC)
        await settle()
        reads, renames = Tap(node, "read"), Tap(node, "new_epoch")
        for number in range(20):
            reads.hold_answers()
            node.hub.channels.doubt(node.channel(DOC))
            await settle()
            await node.set(DOC, {"x": number})
            reads.let_go()
            await node.set(DOC, {"y": number})
            await settle()
        assert (view.document, view.keyframes, renames.calls) == ({"y": 19}, 2, [])


async def test_gap_notice_has_its_channel_read_and_no_other() -> None:
    """A gap of every channel has all of them read."""
    async with cluster(1) as (node,):
        for name in (DOC, LOG):
            node.client().subscribe(name)
        await settle()
        reads = Tap(node, "read")
        node.backend.gap(DOC)
        node.backend.gap(Channel("doc:unknown"))
        await settle()
        assert reads.calls == [DOC]
        node.backend.gap()
        await settle()
        assert sorted(map(str, reads.calls[1:])) == [DOC, LOG]


async def test_slow_listener_is_resynchronised() -> None:
    """Announcements that did not fit become a gap, and the gap a read; nothing is lost."""
    async with cluster(2) as (one, two):
        view = one.client().subscribe(LOG, BEGINNING)
        await settle()
        for number in range(90):
            line = one.backend._line
            assert line is not None
            line.queue._max_notices = 3
            await two.append(LOG, number)
        await anyio.sleep(1)
        assert (view.events, view.gaps) == (list(range(90)), [])


async def test_log_that_cannot_be_read_is_tried_again_and_stale_until_then() -> None:
    """Readers are told, and need do nothing."""
    async with cluster(2) as (one, two):
        view = one.client().subscribe(DOC)
        await settle()
        reads = Tap(one, "read")
        reads.error = Unavailable("no answer")
        one.hub.channels.doubt(one.channel(DOC))
        await settle()
        assert (view.freshness, view.reason) == ("stale", "the log cannot be read")
        await anyio.sleep(10)
        assert 5 <= len(reads.calls) <= 11
        one.backend.plan.drop_rate = 1.0
        await two.set(DOC, {"x": 1})
        reads.error = None
        await anyio.sleep(2.1)
        assert (view.document, view.freshness) == ({"x": 1}, "live")


async def test_channel_left_in_doubt_is_read_for_the_next_subscriber() -> None:
    """With nobody to serve, no attempts are made; with the first subscriber they go on."""
    async with cluster(1) as (node,):
        client = node.client()
        client.subscribe(DOC)
        await settle()
        client.unsubscribe(DOC)
        reads = Tap(node, "read")
        reads.error = Unavailable("no answer")
        node.hub.channels.doubt(node.channel(DOC))
        await anyio.sleep(6)
        assert len(reads.calls) == 1
        reads.error = None
        view = client.subscribe(DOC)
        await settle()
        assert (view.freshness, len(reads.calls)) == ("live", 2)


async def test_hole_that_closed_does_not_end_another_doubt() -> None:
    """Only a read makes a channel live again."""
    async with cluster(2) as (one, two):
        await two.append(LOG, 0)
        client = one.client()
        client.subscribe(LOG)
        await settle()
        client.unsubscribe(LOG)
        reads = Tap(one, "read")
        reads.error = Unavailable("no answer")
        one.hub.channels.doubt(one.channel(LOG))
        await settle()
        one.backend.plan.reorder_rate, one.backend.plan.reorder_within = 1.0, 1
        for number in range(3):
            await two.append(LOG, number)
        await anyio.sleep(0.2)
        assert one.channel(LOG).doubt is not None


# ---- listening


async def test_every_channel_is_watched_anew_after_the_listener_was_lost() -> None:
    """The backend forgets what was watched together with the listener."""
    async with cluster(2) as (one, two):
        view, log = one.client().subscribe(DOC), one.client().subscribe(LOG)
        await settle()
        line = one.backend._line
        assert line is not None
        line.queue.close()
        await two.set(DOC, {"x": 1})
        await settle()
        assert view.freshness == "stale"
        await anyio.sleep(3)
        assert (view.document, view.freshness) == ({"x": 1}, "live")
        await two.set(DOC, {"x": 2})
        await two.append(LOG, 1)
        await settle()
        assert (view.document, log.events) == ({"x": 2}, [1])


async def test_backend_that_is_not_there_at_the_start_is_waited_for() -> None:
    """The node starts, answers that it cannot serve, and serves once the backend is there."""
    async with cluster(2) as (one, two):
        one.backend.partition(hang=False)
        line = one.backend._line
        assert line is not None
        line.queue.close()
        client = one.client()
        client.subscribe(DOC)
        await anyio.sleep(10)
        assert [error.code for error in client.errors] == ["unavailable"]
        one.backend.heal()
        await anyio.sleep(3)
        view = client.subscribe(DOC)
        await two.set(DOC, {"x": 1})
        await settle()
        assert (view.document, view.freshness) == ({"x": 1}, "live")


async def test_flapping_backend_costs_one_read_a_channel_and_flap(caplog: pytest.LogCaptureFixture) -> None:
    """Health that comes and goes leaves no task behind and converges once it stays."""
    async with cluster(2) as (one, two):
        views = [one.client().subscribe(name) for name in (DOC, Channel("doc:b"), Channel("doc:c"))]
        await settle()
        for number in range(20):
            one.backend.partition(hang=False, notify=True)
            await two.set(DOC, {"x": number})
            await anyio.sleep(1)
            one.backend.heal(notify=True)
            await anyio.sleep(1)
        await until_quiet()
        assert views[0].document == {"x": 19}
        assert all(view.freshness == "live" for view in views)
        assert one.hub.statistics().rereads <= 20 * 3 * 3
        assert len(one.hub.channels._reading) == 0
        assert all(record.levelno <= logging.WARNING for record in caplog.records)


# ---- being forgotten


async def test_idle_channel_is_forgotten_after_its_linger() -> None:
    """A page that reloads finds it warm; later it is gone, here and at the backend."""
    async with cluster(1, channel_linger=30.0) as (node,):
        client = node.client()
        client.subscribe(DOC)
        await settle()
        client.unsubscribe(DOC)
        await anyio.sleep(29)
        assert len(node.hub.channels) == 1
        client.subscribe(DOC)
        await settle()
        client.unsubscribe(DOC)
        await anyio.sleep(29)
        assert len(node.hub.channels) == 1
        await anyio.sleep(2)
        assert (len(node.hub.channels), unwatched(node)) == (0, True)
        first = client[DOC].frames[0]
        client.subscribe(DOC)
        await settle()
        again = client[DOC].frames[-2]
        assert getattr(again, "alias", 0) > getattr(first, "alias", 0), "an alias never stands for two channels"


async def test_thousands_of_channels_leave_nothing_behind() -> None:
    """Neither in the table, nor at the backend, nor in the session."""
    async with cluster(1, channel_linger=0.0, max_subscriptions=100_000) as (node,):
        client = node.client()
        for number in range(2000):
            client.subscribe(f"doc:{number}")
            if number % 2:
                await settle()
            client.unsubscribe(f"doc:{number}")
        await anyio.sleep(2)
        assert (len(node.hub.channels), len(client.subscriptions), unwatched(node)) == (0, 0, True)
        assert not node.hub.channels._reading
        assert not node.hub.channels._retiring


async def test_last_reader_leaves_while_a_new_one_comes_and_letting_go_is_slow() -> None:
    """The new one is served, and receives the next publish."""
    async with cluster(2, channel_linger=0.0) as (one, two):
        unwatches = Tap(one, "unwatch")
        unwatches.hold_questions()
        client = one.client()
        client.subscribe(DOC)
        await settle()
        client.unsubscribe(DOC)
        await anyio.sleep(1)
        assert unwatches.calls == [DOC]
        view = one.client().subscribe(DOC)
        await settle()
        await two.set(DOC, {"x": 1})
        unwatches.let_go()
        await settle()
        assert view.document == {"x": 1}
        await two.set(DOC, {"x": 2})
        await settle()
        assert view.document == {"x": 2}


async def test_channel_in_use_is_not_forgotten() -> None:
    """A publish under way, a read, or somebody who waits keeps it."""
    async with cluster(1, channel_linger=0.0) as (node,):
        appends, reads = Tap(node, "append"), Tap(node, "read")
        channels: list[LiveChannel] = []

        async def publish() -> None:
            await node.set(DOC, {"x": 1})
            channels.append(node.channel(DOC))

        async with anyio.create_task_group() as tasks:
            reads.hold_questions()
            tasks.start_soon(publish)
            await anyio.sleep(1)
            appends.hold_questions()
            reads.let_go()
            await settle()
            channel = node.channel(DOC)
            await anyio.sleep(1)
            appends.let_go()
        assert channels == [channel]
        await anyio.sleep(1)
        assert len(node.hub.channels) == 0


async def test_subscriber_who_leaves_before_the_channel_is_ready_leaves_nothing() -> None:
    """No registration, no data, and the channel goes when its linger is over."""
    async with cluster(1, channel_linger=0.0) as (node,):
        reads = Tap(node, "read")
        reads.hold_answers()
        gone, stays = node.client(), node.client()
        view, other = gone.subscribe(DOC), stays.subscribe(LOG)
        await settle()
        gone.end(None)
        stays.unsubscribe(LOG)
        reads.let_go()
        await anyio.sleep(2)
        assert (view.frames, other.frames, len(node.hub.channels)) == ([], [], 0)


async def test_counts_survive_the_channels_they_were_counted_in() -> None:
    """Statistics count since the start of the node."""
    async with cluster(1, state(), events(window=2), channel_linger=0.0) as (node,):
        for number in range(9):
            await node.append(LOG, number)
        client = node.client()
        client.subscribe(LOG, BEGINNING)
        await settle()
        client.unsubscribe(LOG)
        assert node.hub.statistics().gaps == 1
        await anyio.sleep(1)
        assert (node.hub.statistics().channels, node.hub.statistics().gaps) == (0, 1)
