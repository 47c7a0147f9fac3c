"""Events arrive in order and once, or a gap says which ones do not, whatever the log and its announcements suffer."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from rtsync.core import JSON, LIVE, MSGPACK, Channel, DecodeError, Position, Profile, SourceStatus, frames
from rtsync.hub._channel import Verdict
from rtsync.hub._event_channel import EventChannel
from rtsync.hub._frame_cache import FrameCache, FrameCount
from rtsync.testing import VIRTUAL_BACKENDS, settle
from tests.hub.logs import Log
from tests.hub.nodes import BEGINNING, LOG, Client, Cluster, Node, View, cluster, events

STALE = SourceStatus("stale", 5, "slow")
PROFILES = pytest.mark.parametrize("profile", [MSGPACK, JSON], ids=["msgpack", "json"])


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


# ---- the local log, entry by entry


def empty(**family: Any) -> EventChannel:
    return EventChannel(LOG, events(**family), 1, FrameCache(1 << 20, FrameCount()), lambda _: None)


def loaded(log: Log, *, last: int | None = None, **family: Any) -> EventChannel:
    channel = empty(**family)
    assert channel.reconcile(log.cut(last=last), channel.ask()) is Verdict.FINE
    return channel


def written(*values: int) -> Log:
    log = Log()
    for value in values:
        log.event(value)
    return log


def kept(channel: EventChannel) -> list[bytes]:
    return [event.value for event in channel._log.after(channel._log.tail.offset)]


def packed(*values: int) -> list[bytes]:
    return [bytes([value]) for value in values]


def test_held_events_are_not_taken_again_from_the_cut() -> None:
    """A cut that closes a hole holds what was waiting behind it, too; it must not come twice."""
    log = written(1)
    channel = loaded(log)
    asked_at = channel.ask()
    log.event(2)
    for value in (3, 4):
        assert channel.offer("E", log.event(value)) is Verdict.HOLE
    assert channel.reconcile(log.cut(), asked_at) is Verdict.FINE
    assert channel.replay_held() is Verdict.FINE
    assert (kept(channel), channel.head) == (packed(1, 2, 3, 4), log.head)


def test_statuses_take_an_offset_and_are_no_events() -> None:
    """An event names the event before it, wherever statuses stand between them."""
    log = written(1)
    log.say(STALE)
    log.say(LIVE)
    log.event(2)
    log.say(STALE)
    channel = loaded(log)
    assert [(event.offset, event.previous) for event in channel._log.after(0)] == [(1, 0), (4, 1)]
    assert (channel.offset, channel.head.offset, channel.status) == (4, 5, STALE)
    assert channel.offer("E", log.event(3)) is Verdict.FINE
    assert [event.previous for event in channel._log.after(4)] == [4]


def test_channel_of_a_source_whose_status_has_left_the_window_is_live() -> None:
    """Events are only ever appended to a channel that is live."""
    log = Log()
    log.say(LIVE)
    for value in range(5):
        log.event(value)
    source: dict[str, Any] = {"produce": lambda: None}
    assert empty(**source).status.freshness == "stale"
    assert loaded(Log(""), **source).status.freshness == "stale"
    assert loaded(log, last=3, **source).status is LIVE
    log.say(STALE)
    assert loaded(log, last=3, **source).status == STALE


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x09\x00\x00"])
def test_log_that_cannot_be_read_changes_nothing(payload: bytes) -> None:
    """An event that is not understood is not skipped."""
    log = written(1)
    channel = loaded(log)
    head = log.head
    log.raw(payload)
    assert channel.offer("E", log.entries[-1]) is Verdict.DOUBT
    with pytest.raises(DecodeError):
        channel.reconcile(log.cut(), channel.ask())
    with pytest.raises(DecodeError):
        channel.reconcile(log.branch(2, epoch="F").cut(), channel.ask())
    assert (kept(channel), channel.head) == (packed(1), head)


def test_patch_is_no_event() -> None:
    """A family that changed its kind has to be told apart."""
    log = written(1)
    log.patch({"x": 1})
    with pytest.raises(DecodeError, match="is a patch"):
        loaded(log)


def test_log_that_grew_anew_is_found_by_its_links() -> None:
    """Events carry no base: the window is compared with each cut."""
    log = written(1, 2, 3)
    channel = loaded(log)
    other = log.branch(2)
    other.event(7)
    assert channel.reconcile(other.cut(), channel.ask()) is Verdict.REWRITTEN
    other.event(8)
    assert channel.reconcile(other.cut(), channel.ask()) is Verdict.REWRITTEN


def test_cut_that_keeps_nothing_moves_the_window() -> None:
    """A broker may keep fewer events than asked, down to none."""
    log = written(1)
    channel = loaded(log)
    log.event(2)
    log.event(3)
    assert channel.reconcile(log.cut(last=0), channel.ask()) is Verdict.FINE
    assert (kept(channel), channel.head, channel.offset) == ([], log.head, 3)


# ---- what clients see


async def append(node: Node, *values: int) -> None:
    for value in values:
        await node.append(LOG, value)
    await settle()


async def blocked(node: Node) -> Client:
    """Return a client with a message on its way that takes long."""
    client = node.client()
    client.block()
    client.push(frames.Drain("", 0.0, 0.0))
    await settle()
    return client


@pytest.mark.anyio
@PROFILES
async def test_events_reach_every_node_in_order_and_once(profile: Profile) -> None:
    """All nodes publish; each client receives all of it in the log's order."""
    async with cluster(3) as nodes:
        views = [node.client(profile).subscribe(LOG) for node in nodes]
        await settle()
        for number in range(60):
            await nodes[number % 3].append(LOG, number)
        await settle()
        assert [view.events for view in views] == [list(range(60))] * 3
        assert all(view.position == nodes[0].channel(LOG).head for view in views)


@pytest.mark.anyio
@PROFILES
async def test_where_a_client_may_begin(profile: Profile) -> None:
    """Each kind of position begins as the protocol says."""
    async with cluster(2, events(window=5)) as (one, two):
        watching = one.client(profile).subscribe(LOG)
        await settle()
        await append(one, *range(10))
        positions = [update.position for _, update in watching.updates]

        def begin(position: Position | None) -> View:
            return two.client(profile).subscribe(LOG, position)

        fresh, head, inside, edge = begin(None), begin(positions[9]), begin(positions[6]), begin(positions[5])
        oldest, outside, beginning = begin(positions[4]), begin(positions[2]), begin(BEGINNING)
        ahead, other = begin(positions[9].at(99, 5)), begin(positions[9]._replace(epoch="other"))
        wrong = begin(positions[7].at(8, 77))
        await settle()
        assert [view.events for view in (fresh, head, inside, edge)] == [[], [], [7, 8, 9], [6, 7, 8, 9]]
        assert not any(view.gaps for view in (fresh, head, inside, edge))
        for view in (oldest, outside, beginning):  # the link of the entry before the window is not known any more
            assert (view.events, [gap.reason for gap in view.gaps]) == ([5, 6, 7, 8, 9], ["window"])
            assert view.gaps[0].position.offset == positions[4].offset
        for view in (ahead, wrong):
            assert (view.events, [(gap.position, gap.reason) for gap in view.gaps]) == ([], [(positions[9], "epoch")])
        assert (other.events, [(gap.start.epoch, gap.position) for gap in other.gaps]) == ([], [("other", positions[9])])
        await append(one, 10)
        everybody = (fresh, head, inside, edge, oldest, outside, beginning, ahead, other, wrong)
        assert all(view.events[-1] == 10 for view in everybody)
        assert len({view.position for view in everybody}) == 1


@pytest.mark.anyio
async def test_node_that_has_seen_the_window_pass_knows_its_tail() -> None:
    """Where the entry before the window is known, its position is continued without a gap."""
    async with cluster(1, events(window=5)) as (node,):
        watching = node.client().subscribe(LOG)
        await settle()
        await append(node, *range(10))
        tail = watching.updates[4][1].position
        view = node.client().subscribe(LOG, tail)
        await settle()
        assert (view.events, view.gaps) == ([5, 6, 7, 8, 9], [])


@pytest.mark.anyio
async def test_first_events_of_a_channel_never_written_reach_who_wanted_all() -> None:
    """The client's position gets its epoch before the event, so that it can be resumed from elsewhere."""
    async with cluster(2) as (one, two):
        client = one.client()
        everything, fresh = client.subscribe(LOG, BEGINNING), one.client().subscribe(LOG)
        await settle()
        await append(two, 1, 2)
        assert everything.events == fresh.events == [1, 2]
        assert everything.position == fresh.position == two.channel(LOG).head
        client.unsubscribe(LOG)
        await append(two, 3)
        two.client().resume(everything, LOG)
        await settle()
        assert (everything.events, everything.gaps) == ([1, 2, 3], [])


@pytest.mark.anyio
async def test_first_event_found_by_comparing_heads_gives_the_epoch_as_well() -> None:
    """The announcement of the first entry was lost: reading the log tells the same."""
    async with cluster(2) as (one, two):
        client = one.client()
        view = client.subscribe(LOG)
        await settle()
        one.backend.plan.drop_rate = 1.0
        await append(two, 1)
        await anyio.sleep(6)
        assert (view.events, view.position) == ([1], two.channel(LOG).head)
        client.unsubscribe(LOG)
        await append(two, 2)
        two.client().resume(view, LOG)
        await settle()
        assert (view.events, view.gaps) == ([1, 2], [])


@pytest.mark.anyio
@PROFILES
async def test_slow_client_gets_all_events_or_one_gap(profile: Profile) -> None:
    """What the window still holds is delivered; what fell out is announced once, before the events that follow."""
    async with cluster(1, events(window=50), flush_bytes=1024) as (node,):
        client = node.client(profile)
        view = client.subscribe(LOG)
        await settle()
        client.block()
        await append(node, *range(40))
        client.unblock()
        await anyio.sleep(1)
        assert (view.events, view.gaps) == (list(range(40)), [])
        client.block()
        await append(node, *range(40, 140))
        client.unblock()
        await anyio.sleep(1)
        (gap,) = view.gaps
        first = view.events.index(90)
        assert view.events[first:] == list(range(90, 140))
        assert view.events[:first] == list(range(first)), "what had left before the link was blocked"
        assert (gap.start.offset, gap.position.offset, gap.reason) == (first, 90, "window")


@pytest.mark.anyio
async def test_owed_gap_reaches_as_far_as_the_window_has_moved() -> None:
    """Between being owed and being sent, more may fall out; still there is one gap and nothing is skipped in silence."""
    async with cluster(1, events(window=5)) as (node,):
        await append(node, *range(10))
        client = await blocked(node)
        view = client.subscribe(LOG, Position("other", 3, 3))
        await append(node, *range(10, 30))
        client.unblock()
        await settle()
        assert [(gap.start.epoch, gap.position.offset, gap.reason) for gap in view.gaps] == [("other", 25, "epoch")]
        assert view.events == [25, 26, 27, 28, 29]


@pytest.mark.anyio
async def test_events_after_the_head_that_a_gap_was_owed_at_are_delivered() -> None:
    """A slow link does not widen a gap: it ends where the log's head was when the client came."""
    async with cluster(1) as (node,):
        await append(node, *range(10))
        client = await blocked(node)
        view = client.subscribe(LOG, Position("other", 3, 3))
        await append(node, *range(10, 30))
        client.unblock()
        await settle()
        assert [gap.position.offset for gap in view.gaps] == [10]
        assert view.events == list(range(10, 30))


@pytest.mark.anyio
async def test_statuses_between_events_leave_positions_whole() -> None:
    """Nodes that loaded the log before, between and after statuses send frames that continue each other's."""
    async with cluster(3) as (one, two, three):
        publisher = one.hub.publisher
        views = [one.client().subscribe(LOG)]
        await settle()
        await append(one, 1)
        await publisher.say(LOG, STALE)
        views.append(two.client().subscribe(LOG, BEGINNING))
        await settle()
        await publisher.say(LOG, SourceStatus("stale", 6, "slower"))
        await append(two, 2)
        await publisher.say(LOG, LIVE)
        views.append(three.client().subscribe(LOG, BEGINNING))
        await settle()
        await append(three, 3)
        assert [view.events for view in views] == [[1, 2, 3]] * 3
        assert len({view.position for view in views}) == 1
        assert [view.freshness for view in views] == ["live"] * 3
        assert [view.reason for view in views] == [""] * 3


# ---- histories that end


def log_of(nodes: Cluster) -> list[int]:
    """Return the events that the store holds."""
    return [entry.payload[-1] for entry in nodes.store.logs[LOG].entries]


@pytest.mark.anyio
async def test_rolled_back_log_is_one_gap_and_nothing_after_it_is_missing() -> None:
    """Clients keep what they saw, learn that history has changed, and get every event appended since."""
    async with cluster(3) as nodes:
        views = [node.client().subscribe(LOG) for node in nodes[:2]]
        await settle()
        await append(nodes[0], *range(10))
        nodes.faults.roll_back(LOG, 3)
        await append(nodes[2], 100, 101)  # by a node that loads the log only now
        await anyio.sleep(8)
        await append(nodes[0], 102)
        for view in views:
            assert view.events == [*range(10), 100, 101, 102]
            (gap,) = view.gaps
            assert (gap.start.offset, gap.position.offset, gap.reason) == (10, 7, "epoch")
            assert gap.start.epoch != gap.position.epoch
            assert view.position == nodes[1].channel(LOG).head
        assert log_of(nodes) == [*range(7), 100, 101, 102]


@pytest.mark.anyio
async def test_client_that_had_not_seen_what_was_lost_continues_at_its_place() -> None:
    """Events that a slow client lacked and the log still holds are delivered, under the new epoch."""
    async with cluster(1, flush_bytes=1024) as nodes:
        (node,) = nodes
        client = node.client()
        view = client.subscribe(LOG)
        await settle()
        await append(node, *range(5))
        client.block()
        await append(node, 5)  # on its way in the blocked send
        await append(node, *range(6, 12))
        nodes.faults.roll_back(LOG, 2)
        await anyio.sleep(6)
        await append(node, 100)
        client.unblock()
        await anyio.sleep(1)
        assert view.events == [*range(10), 100]
        assert [(gap.start.offset, gap.position.offset) for gap in view.gaps] == [(6, 6)]


@pytest.mark.anyio
async def test_first_events_after_the_log_was_lost_are_delivered() -> None:
    """The broker came back empty: one gap, and then all of the new history, the very first event included."""
    async with cluster(2) as nodes:
        one, two = nodes
        views = [node.client().subscribe(LOG) for node in nodes]
        await settle()
        await append(one, *range(5))
        nodes.faults.lose_log(LOG)
        await append(two, 100, 101)
        await anyio.sleep(6)
        for view in views:
            assert view.events == [*range(5), 100, 101]
            assert [gap.reason for gap in view.gaps] == ["epoch"]
            assert view.position == one.channel(LOG).head


@pytest.mark.anyio
async def test_log_lost_and_found_empty_is_one_gap() -> None:
    """Clients first stand in a log of no epoch, and then get the new one with the first event."""
    async with cluster(1) as nodes:
        (node,) = nodes
        client = node.client()
        view = client.subscribe(LOG)
        await settle()
        await append(node, 1, 2)
        nodes.faults.lose_log(LOG)
        await anyio.sleep(6)
        assert (view.position, [gap.reason for gap in view.gaps]) == (BEGINNING, ["epoch"])
        await append(node, 3)
        assert (view.events, len(view.gaps)) == ([1, 2, 3], 1)
        assert view.position == node.channel(LOG).head


@pytest.mark.anyio
async def test_event_lost_with_its_log_before_anybody_got_it_is_announced() -> None:
    """Although the client stood at the very beginning, before and after."""
    async with cluster(1) as nodes:
        (node,) = nodes
        client = await blocked(node)
        view = client.subscribe(LOG, BEGINNING)
        await append(node, 1)
        nodes.faults.lose_log(LOG)
        await anyio.sleep(6)
        client.unblock()
        await settle()
        assert [gap.reason for gap in view.gaps] == ["epoch"]
        await append(node, 2)
        assert (view.events, len(view.gaps)) == ([2], 1)


@pytest.mark.anyio
async def test_gap_still_owed_when_history_changes_again_stays_one_gap() -> None:
    """What the client is told begins at what it holds and ends where delivery goes on, however much happened in between."""
    async with cluster(2) as nodes:
        one, two = nodes
        before = one.client()
        view = before.subscribe(LOG)
        await append(one, *range(5))
        held = view.position
        before.unsubscribe(LOG)
        client = await blocked(one)
        client.resume(view, LOG)
        for value in (50, 60):
            nodes.faults.lose_log(LOG)
            await anyio.sleep(6)
            await append(two, value)
        nodes.faults.roll_back(LOG, 1)
        await append(two, 70)
        await anyio.sleep(6)
        await append(two, 71)
        client.unblock()
        await settle()
        (gap,) = view.gaps
        assert (gap.start, gap.reason) == (held, "epoch")
        assert view.events == [*range(5), 70, 71]
        assert view.position == two.channel(LOG).head


@pytest.mark.anyio
async def test_position_of_an_entry_that_another_epoch_still_holds_loses_nothing() -> None:
    """A client that resumes after the history was renamed is told so, and gets what followed its position."""
    async with cluster(2) as nodes:
        one, two = nodes
        client = one.client()
        view = client.subscribe(LOG)
        await settle()
        await append(one, *range(5))
        client.unsubscribe(LOG)
        await append(one, *range(5, 10))
        nodes.faults.roll_back(LOG, 2)
        await anyio.sleep(6)
        await append(one, 100)
        two.client().resume(view, LOG)
        await settle()
        assert view.events == [0, 1, 2, 3, 4, 5, 6, 7, 100]
        assert [(gap.start.offset, gap.position.offset, gap.reason) for gap in view.gaps] == [(5, 5, "epoch")]


@pytest.mark.anyio
async def test_node_that_was_away_for_longer_than_the_window_tells_one_gap() -> None:
    """Its clients get what is still kept."""
    async with cluster(2, events(window=10)) as (one, two):
        view = one.client().subscribe(LOG)
        await settle()
        await append(two, *range(5))
        one.backend.partition()
        await append(two, *range(5, 50))
        one.backend.heal()
        await anyio.sleep(6)
        assert view.events == [*range(5), *range(40, 50)]
        assert [(gap.start.offset, gap.position.offset, gap.reason) for gap in view.gaps] == [(5, 40, "window")]


@pytest.mark.anyio
async def test_harmed_announcements_never_harm_the_order() -> None:
    """Lost, late, doubled and shuffled: every client has all events once, in order, and no gap."""
    async with cluster(3, events(window=1000)) as nodes:
        for node in nodes:
            node.backend.plan.drop_rate = node.backend.plan.duplicate_rate = node.backend.plan.reorder_rate = 0.2
            node.backend.plan.delay_rate = 0.2
        views = [node.client().subscribe(LOG) for node in nodes]
        await settle()
        for number in range(300):
            await nodes[number % 3].append(LOG, number % 100)
            await anyio.sleep(0.02)
        await anyio.sleep(8)
        assert [view.events for view in views] == [[number % 100 for number in range(300)]] * 3
        assert not any(view.gaps for view in views)
        assert Channel(LOG) in nodes.store.logs
