"""A state channel on one node equals the backend's log, whatever way its entries come, and says what it cannot vouch for."""

from __future__ import annotations

from random import Random
from typing import Any

import anyio
import pytest

from rtsync.core import JSON, LIVE, MSGPACK, Channel, DecodeError, Position, Profile, SourceStatus, frames
from rtsync.hub._channel import LiveChannel, Phase, Verdict
from rtsync.hub._frame_cache import FrameCache, FrameCount
from rtsync.hub._state_channel import StateChannel
from rtsync.testing import VIRTUAL_BACKENDS, settle
from tests.hub.logs import Log
from tests.hub.nodes import BEGINNING, DOC, Tap, cluster, state

STALE = SourceStatus("stale", 5, "slow")
PROFILES = pytest.mark.parametrize("profile", [MSGPACK, JSON], ids=["msgpack", "json"])


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


# ---- the local log, entry by entry


class Channels(list[LiveChannel]):
    """Notes each change of a channel."""


def loaded(log: Log, *, window: int = 100) -> StateChannel:
    """Return a channel that has loaded *log*."""
    channel = StateChannel(DOC, state(window=window), 1, FrameCache(1 << 20, FrameCount()), lambda _: None, 1 << 16)
    assert channel.reconcile(log.cut(), channel.ask()) is Verdict.FINE
    assert channel.phase is Phase.READY
    return channel


def reread(channel: StateChannel, log: Log) -> Verdict:
    return channel.reconcile(log.cut(), channel.ask())


def written(*values: int, step: int = 1) -> Log:
    log = Log(step=step)
    for value in values:
        log.patch({"x": value})
    return log


def test_cut_with_a_keyframe_is_loaded_from_there() -> None:
    """What lies before the keyframe is not needed."""
    log = written(1, 2, 3)
    channel = StateChannel(DOC, state(), 1, FrameCache(1 << 20, FrameCount()), lambda _: None, 1 << 16)
    channel.reconcile(log.cut(keyframe_at=1), channel.ask())
    assert (channel.document, channel.head, channel.writer, channel.since_keyframe) == ({"x": 3}, log.head, "w", 1)


def test_writer_is_known_when_only_the_keyframe_is_left() -> None:
    """The keyframe's own entry says who wrote it, so that a dead writer is found out."""
    log = written(1)
    channel = StateChannel(DOC, state(), 1, FrameCache(1 << 20, FrameCount()), lambda _: None, 1 << 16)
    channel.reconcile(log.cut(keyframe_at=0), channel.ask())
    assert (channel.document, channel.writer) == ({"x": 1}, "w")


def test_entries_announced_while_loading_follow_the_cut() -> None:
    """What was appended between the read and its answer is not lost, and what is in both counts once."""
    log = written(1, 2)
    channel = StateChannel(DOC, state(), 1, FrameCache(1 << 20, FrameCount()), lambda _: None, 1 << 16)
    cut = log.cut()
    later = log.patch({"x": 3})
    for entry in (log.entries[1], later):
        assert channel.offer("E", entry) is Verdict.FINE
    channel.reconcile(cut, channel.ask())
    assert channel.replay_held() is Verdict.FINE
    assert (channel.document, channel.head) == ({"x": 3}, log.head)


def test_entry_of_another_epoch_announced_while_loading_is_a_doubt() -> None:
    """The log was renamed between the read and its answer."""
    log = written(1)
    channel = StateChannel(DOC, state(), 1, FrameCache(1 << 20, FrameCount()), lambda _: None, 1 << 16)
    channel.offer("F", log.branch(1, epoch="F").patch({"x": 2}))
    channel.reconcile(log.cut(), channel.ask())
    assert channel.replay_held() is Verdict.DOUBT


def test_entries_out_of_order_are_applied_in_order() -> None:
    """Announcements that overtake each other change nothing; nor do copies."""
    log = written(1)
    channel = loaded(log)
    second, third, fourth = (log.patch({"x": value}) for value in (2, 3, 4))
    assert channel.offer("E", fourth) is Verdict.HOLE
    assert channel.offer("E", third) is Verdict.HOLE
    assert channel.document == {"x": 1}
    assert channel.offer("E", second) is Verdict.FINE
    assert (channel.document, channel.head, channel.has_hole) == ({"x": 4}, log.head, False)
    assert [channel.offer("E", entry) for entry in log.entries] == [Verdict.FINE] * 4
    assert channel.document == {"x": 4}


def test_held_entries_are_not_applied_again_from_the_cut() -> None:
    """A cut that closes a hole holds what was waiting behind it, too."""
    log = written(1)
    channel = loaded(log)
    log.patch({"x": 2})
    channel.ask()
    channel.offer("E", log.patch({"x": 3}))
    channel.offer("E", log.patch({"x": 4}))
    assert channel.reconcile(log.cut(), Position("E", 1, log.entries[0].link)) is Verdict.FINE
    assert (channel.document, channel.head) == ({"x": 4}, log.head)
    assert channel.replay_held() is Verdict.FINE
    assert not channel.has_hole


def test_announcement_that_never_was_in_the_log_is_forgotten_with_the_next_cut() -> None:
    """It cannot leave a hole open for ever."""
    log = written(1)
    channel = loaded(log)
    ghost = log.branch(1)
    ghost.patch({"x": 8})
    assert channel.offer("E", ghost.patch({"x": 9})) is Verdict.HOLE
    assert reread(channel, log) is Verdict.FINE
    assert channel.replay_held() is Verdict.FINE
    assert not channel.has_hole


def test_entry_that_was_not_made_for_the_head_is_a_doubt_and_changes_nothing() -> None:
    """Offsets may meet where histories differ; the link of the base tells."""
    log = written(1, 2)
    channel = loaded(log)
    other = log.branch(1)
    other.patch({"x": 7})
    assert channel.offer("E", other.patch({"x": 8})) is Verdict.DOUBT
    assert (channel.document, channel.head) == ({"x": 2}, log.head)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x94\x01\x01\xa1w\x01", b"\x93\x09\x00\x00"])
def test_entry_that_cannot_be_read_is_a_doubt_and_changes_nothing(payload: bytes) -> None:
    """A log that this node cannot read is never shown in part."""
    log = written(1)
    channel = loaded(log)
    head = log.head
    assert channel.offer("E", log.raw(payload)) is Verdict.DOUBT
    with pytest.raises(DecodeError):
        reread(channel, log)
    assert (channel.document, channel.head) == ({"x": 1}, head)


def test_cut_of_a_log_that_went_on_is_caught_up_with() -> None:
    """Only what is missing is applied."""
    log = written(1)
    channel = loaded(log)
    log.patch({"y": 2})
    log.say(STALE)
    assert reread(channel, log) is Verdict.FINE
    assert (channel.document, channel.head, channel.status) == ({"x": 1, "y": 2}, log.head, STALE)


def test_cut_older_than_what_came_in_since_it_was_asked_for_is_fine() -> None:
    """A slow answer under constant publishing is no sign of a log that went back."""
    log = written(1, 2)
    channel = loaded(log)
    asked_at, cut = channel.ask(), log.cut()
    channel.offer("E", log.patch({"x": 3}))
    assert channel.reconcile(cut, asked_at) is Verdict.FINE
    assert (channel.document, channel.head) == ({"x": 3}, log.head)


def test_first_epoch_that_came_in_meanwhile_is_not_taken_back_by_a_cut_of_the_empty_log() -> None:
    """The same, where the log is only just beginning."""
    channel = loaded(Log(""))
    asked_at, empty = channel.ask(), Log("").cut()
    log = Log()
    channel.offer("E", log.patch({"x": 1}))
    assert channel.reconcile(empty, asked_at) is Verdict.FINE
    first = log.cut()
    channel.offer("E", log.patch({"x": 2}))
    assert channel.reconcile(first, asked_at) is Verdict.FINE
    assert (channel.document, channel.head) == ({"x": 2}, log.head)


def test_cut_that_ends_below_our_head_is_a_doubt() -> None:
    """It may be a lagging replica's, so it changes nothing before it is confirmed."""
    log = written(1, 2, 3)
    channel = loaded(log)
    assert reread(channel, log.branch(2)) is Verdict.DOUBT
    assert channel.document == {"x": 3}


@pytest.mark.parametrize("regrown", [1, 2, 3])
def test_log_that_grew_anew_under_the_same_epoch_is_found_by_its_links(regrown: int) -> None:
    """Offsets that meet prove nothing."""
    log = written(1, 2, 3)
    channel = loaded(log)
    other = log.branch(2)
    for value in range(regrown):
        other.patch({"x": 10 + value})
    assert reread(channel, other) is Verdict.REWRITTEN


def test_log_that_grew_anew_beside_our_offsets_is_found_by_the_missing_entry() -> None:
    """Where offsets have holes, another history may share none of them."""
    log = written(1, 2, 3, step=10)
    channel = loaded(log)
    other = log.branch(2, step=7)
    other.patch({"x": 7})
    other.patch({"x": 8})
    assert other.head.offset > log.head.offset
    assert reread(channel, other) is Verdict.REWRITTEN


def test_log_that_moved_on_by_more_than_it_keeps_is_loaded_anew() -> None:
    """There is a keyframe to go on from."""
    log = written(1)
    channel = loaded(log)
    for value in range(2, 9):
        log.patch({"x": value})
    assert channel.reconcile(log.cut(keyframe_at=5), channel.ask()) is Verdict.FINE
    assert (channel.document, channel.head) == ({"x": 8}, log.head)


def test_log_without_its_beginning_is_refused() -> None:
    """Entries that do not follow a keyframe or the empty log are no document."""
    log = written(1, 2, 3)
    channel = StateChannel(DOC, state(), 1, FrameCache(1 << 20, FrameCount()), lambda _: None, 1 << 16)
    with pytest.raises(DecodeError):
        channel.reconcile(log.cut(last=2), channel.ask())


def test_another_epoch_is_another_history() -> None:
    """Nothing of the old one is kept."""
    log = written(1, 2)
    channel = loaded(log)
    other = log.branch(1, epoch="F")
    assert reread(channel, other) is Verdict.FINE
    assert (channel.document, channel.head) == ({"x": 1}, other.head)
    assert channel.link_at(2) is None


def test_status_that_says_the_same_is_the_same() -> None:
    """Sessions compare by identity, so that nobody is told again what holds anyway."""
    log = written(1)
    log.say(STALE)
    channel = loaded(log)
    before = channel.status
    other = log.branch(2, epoch="F")
    assert reread(channel, other) is Verdict.FINE
    assert channel.status is before


def test_worst_of_source_and_node_is_shown() -> None:
    """A closed channel is shown as stale while this node cannot vouch for it."""
    log = written(1)
    channel = loaded(log)
    doubt = SourceStatus("stale", 9, "no link")
    assert channel.status is LIVE
    channel.set_doubt(doubt)
    assert channel.status is doubt
    channel.offer("E", log.say(SourceStatus("closed", 3, "over")))
    assert channel.status is doubt
    channel.set_doubt(None)
    assert channel.status.freshness == "closed"


def test_whoever_writes_next_is_not_lost() -> None:
    """A new writer's entry ends the loss of the one before it at once."""
    log = written(1)
    channel = loaded(log)
    lost = SourceStatus("stale", 9, "its writer has stopped")
    channel.set_writer_lost(lost)
    assert channel.status is lost
    channel.offer("E", log.patch({"x": 2}, writer="v"))
    assert channel.status is LIVE
    channel.set_writer_lost(lost)
    assert channel.status is lost
    channel.set_writer_lost(None)
    assert channel.status is LIVE


# ---- what clients see


@pytest.mark.anyio
@PROFILES
async def test_channel_never_written_is_empty_until_its_first_document(profile: Profile) -> None:
    """Its subscribers hold the empty document of no epoch, and then the first one."""
    async with cluster(2) as (one, two):
        views = [node.client(profile).subscribe(DOC) for node in (one, two)]
        await settle()
        assert [(view.document, view.position) for view in views] == [({}, BEGINNING)] * 2
        position = await one.set(DOC, {"x": 1})
        await settle()
        assert [(view.document, view.position) for view in views] == [({"x": 1}, position)] * 2


@pytest.mark.anyio
async def test_own_entries_are_applied_once_and_all_nodes_agree() -> None:
    """An append is known to its node at once, and its announcement adds nothing."""
    async with cluster(3) as nodes:
        views = [node.client().subscribe(DOC) for node in nodes]
        await settle()
        for number in range(30):
            await nodes[number % 3].set(DOC, {"number": number})
            assert nodes[number % 3].channel(DOC).head.offset == number + 1
            await settle()
        assert all(view.document == {"number": 29} for view in views)
        assert all(view.position == nodes[0].channel(DOC).head for view in views)
        assert [node.hub.statistics().rereads for node in nodes] == [0, 0, 0]


@pytest.mark.anyio
@PROFILES
async def test_resume_brings_what_changed_or_a_keyframe(profile: Profile) -> None:
    """A position inside the window is continued; any other, however plausible, begins with a keyframe."""
    async with cluster(2, state(window=10)) as (one, two):
        await one.set(DOC, {"x": 0, "pad": "p" * 600})
        client = one.client(profile)
        view = client.subscribe(DOC)
        await settle()
        for x in range(1, 5):
            await one.set(DOC, {"x": x, "pad": "p" * 600})
        client.unsubscribe(DOC)
        await settle()
        assert view.keyframes == 1
        held = view.position
        assert held is not None

        again = two.client(profile).resume(view, DOC)
        await settle()
        assert again.document == {"x": 4, "pad": "p" * 600}
        assert again.keyframes == 1, "held nothing but the head: nothing came"

        for x in range(5, 8):
            await one.set(DOC, {"x": x, "pad": "p" * 600})
        await settle()
        assert (again.document["x"] if again.document else None, again.keyframes) == (7, 1)

        wrong = [
            held.at(held.offset, held.link ^ 1),
            held.at(held.offset + 100, held.link),
            held._replace(epoch="other"),
            held.at(0, 0),
        ]
        for position in wrong:
            asking = two.client(profile).subscribe(DOC, position)
            await settle()
            assert (asking.keyframes, asking.document) == (1, again.document)

        for x in range(8, 30):
            await one.set(DOC, {"x": x, "pad": "p" * 600})
        late = one.client(profile).subscribe(DOC, held)
        await settle()
        assert (late.keyframes, late.document) == (1, {"x": 29, "pad": "p" * 600})


@pytest.mark.anyio
@PROFILES
async def test_keyframe_in_parts_is_pinned_while_the_document_goes_on(profile: Profile) -> None:
    """A client that takes its parts slowly ends up with the newest document, by one delta behind them."""
    random = Random(7)
    async with cluster(1, flush_bytes=4096) as (node,):
        big = {f"k{number}": random.randbytes(300).hex() for number in range(200)}
        await node.set(DOC, big)
        client = node.client(profile)
        client.block()
        view = client.subscribe(DOC)
        await settle()
        for number in range(5):
            big = {**big, f"k{number}": "changed"}
            await node.set(DOC, big)
            await settle()
        client.unblock()
        await anyio.sleep(1)
        assert view.document == big
        assert view.keyframes > 1
        assert len(view.documents) == 2, "the keyframe, and one delta for all that came since"


@pytest.mark.anyio
async def test_delta_as_large_as_the_keyframe_is_the_keyframe() -> None:
    """Whoever would be sent more than the document is sent the document."""
    async with cluster(1) as (node,):
        await node.set(DOC, {f"key{number}": number for number in range(300)})
        client = node.client(JSON)
        view = client.subscribe(DOC)
        await settle()
        await node.set(DOC, {"key0": 0, "new": "n" * 100})
        await settle()
        assert (view.document, view.keyframes) == ({"key0": 0, "new": "n" * 100}, 2)


@pytest.mark.anyio
async def test_frame_is_encoded_once_for_all_its_readers() -> None:
    """A hundred readers in two profiles cost two encodings."""
    async with cluster(1) as (node,):
        await node.set(DOC, {"x": 0})
        views = [node.client((MSGPACK, JSON)[number % 2]).subscribe(DOC) for number in range(100)]
        await settle()
        before = node.hub.statistics().frames_built
        await node.set(DOC, {"x": 1})
        await settle()
        assert all(view.document == {"x": 1} for view in views)
        assert node.hub.statistics().frames_built == before + 2


@pytest.mark.anyio
async def test_subscribing_while_somebody_publishes_misses_and_repeats_nothing() -> None:
    """Whenever the subscriber comes, whatever the backend's latency: the document, and then each change once."""
    random = Random(3)
    async with cluster(2, channel_linger=1000.0, max_subscriptions=10_000) as (one, two):
        client = one.client()
        plan = one.backend.plan
        views = []

        async def publish(name: str, log: str) -> None:
            for number in range(8):
                await two.patch(name, {f"k{number % 3}": number})
                await two.append(log, number)
                await anyio.sleep(random.uniform(0, 0.004))

        for number in range(200):
            name, log = f"doc:{number}", f"log:{number}"
            plan.latency = random.choice([0, 0.001, 0.003])
            plan.delay_rate, plan.delay_seconds = random.choice([0, 0.5]), 0.003
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish, name, log)
                await anyio.sleep(random.uniform(0, 0.02))
                views.append((client.subscribe(name), client.subscribe(log, BEGINNING)))
        await anyio.sleep(1)
        for view, events in views:
            assert view.document == {"k0": 6, "k1": 7, "k2": 5}
            assert (events.events, events.gaps) == (list(range(8)), [])


# ---- histories that end


@pytest.mark.anyio
@pytest.mark.parametrize("nodes", [1, 3])
async def test_rolled_back_log_gets_one_new_epoch_and_all_clients_its_document(nodes: int) -> None:
    """Nobody is told: heads are compared, the loss is confirmed, and one node renames the history for all."""
    async with cluster(nodes) as members:
        views = [node.client().subscribe(DOC) for node in members]
        await settle()
        for x in range(5):
            await members[0].set(DOC, {"x": x})
        await settle()
        before = members[0].channel(DOC).head
        assert members.faults.roll_back(DOC, 2) == 2
        await anyio.sleep(7)
        head = members[0].channel(DOC).head
        assert (head.epoch != before.epoch, head.offset) == (True, 3)
        assert all(node.channel(DOC).head == head for node in members)
        assert all((view.document, view.position) == ({"x": 2}, head) for view in views)
        assert all(view.keyframes <= 3 for view in views), "of the empty log, the first entry, and the new epoch"


@pytest.mark.anyio
@pytest.mark.parametrize("lost", [1, 2, 3])
@pytest.mark.parametrize("regrown", [1, 2, 3, 5])
async def test_log_that_went_back_and_on_ends_with_everybody_at_its_head(lost: int, regrown: int) -> None:
    """A writer that knows nothing of the loss goes on in the same epoch; no client is left with what is gone."""
    async with cluster(3) as nodes:
        one, two, writer = nodes
        views = [node.client().subscribe(DOC) for node in (one, two)]
        await settle()
        for x in range(5):
            await one.set(DOC, {"x": x, f"old{x}": True})
        await settle()
        assert nodes.faults.roll_back(DOC, lost) == lost
        document: dict[str, object] = {"x": 4 - lost, **{f"old{x}": True for x in range(5 - lost)}}
        for number in range(regrown):  # its first publish loads the log as it is now
            document = {**document, "x": 100 + number}
            await writer.set(DOC, document)
        await anyio.sleep(8)
        head = writer.channel(DOC).head
        assert all((view.document, view.position) == (document, head) for view in views)
        assert one.channel(DOC).head == two.channel(DOC).head == head


@pytest.mark.anyio
async def test_two_nodes_that_race_for_a_new_epoch_agree() -> None:
    """The history is renamed by compare-and-set: the second node takes what the first has set."""
    async with cluster(2) as nodes:
        one, two = nodes
        views = [node.client().subscribe(DOC) for node in nodes]
        await settle()
        for x in range(3):
            await one.set(DOC, {"x": x})
        await settle()
        taps = [Tap(node, "new_epoch") for node in (one, two)]
        for tap in taps:
            tap.hold_questions()
        nodes.faults.roll_back(DOC, 1)
        for node in (one, two):
            node.hub.channels.doubt(node.channel(DOC))
        await settle()
        assert [tap.calls for tap in taps] == [[DOC], [DOC]], "both have found it out"
        for tap in taps:
            tap.let_go()
        await settle()
        await two.set(DOC, {"x": 10})
        await settle()
        assert one.channel(DOC).head == two.channel(DOC).head
        assert [view.document for view in views] == [{"x": 10}] * 2


@pytest.mark.anyio
async def test_log_that_is_lost_becomes_empty_and_starts_anew() -> None:
    """Every client sees that the document is gone, and then the next one, in one new epoch."""
    async with cluster(2) as nodes:
        one, two = nodes
        views = [node.client().subscribe(DOC) for node in nodes]
        await settle()
        await one.set(DOC, {"x": 1})
        await settle()
        nodes.faults.lose_log(DOC)
        await anyio.sleep(7)
        assert [(view.document, view.position) for view in views] == [({}, BEGINNING)] * 2
        position = await two.set(DOC, {"x": 2})
        await settle()
        assert [(view.document, view.position) for view in views] == [({"x": 2}, position)] * 2


@pytest.mark.anyio
async def test_publish_on_a_lost_log_is_made_for_what_is_there() -> None:
    """A publisher that still holds the old document writes all of the new one."""
    async with cluster(2) as nodes:
        one, two = nodes
        view = two.client().subscribe(DOC)
        await one.set(DOC, {"x": 1, "y": 1})
        await settle()
        nodes.faults.lose_log(DOC)
        await one.set(DOC, {"x": 2, "y": 1})
        await settle()
        assert view.document == {"x": 2, "y": 1}


@pytest.mark.anyio
async def test_channel_whose_log_cannot_be_read_any_more_stays_as_it_is_and_stale() -> None:
    """A log entry of another version of the software leaves the document as it was, and says that it may be old."""
    async with cluster(2) as (one, two):
        view = one.client().subscribe(DOC)
        await settle()
        position = await one.set(DOC, {"x": 1})
        retention = one.channel(DOC).family.retention
        await two.backend.append(DOC, b"\x91\x63", link=77, retention=retention, expect=position)
        await anyio.sleep(10)
        assert (view.document, view.freshness, view.reason) == ({"x": 1}, "stale", "the log cannot be read")
        assert (view.keyframes, len(view.documents)) == (2, 2), "of the empty log and of the first entry"
        late = one.client().subscribe(DOC)
        await settle()
        assert (late.document, late.freshness) == ({"x": 1}, "stale")
        other = two.client()
        other.subscribe(DOC)
        await settle()
        assert [error.code for error in other.errors] == ["unavailable"]


@pytest.mark.anyio
async def test_positions_never_go_back_within_an_epoch() -> None:
    """Whatever the announcements suffer, what a client holds only moves on."""
    async with cluster(3) as nodes:
        for node in nodes:
            node.backend.plan.drop_rate = node.backend.plan.duplicate_rate = node.backend.plan.reorder_rate = 0.2
            node.backend.plan.delay_rate = 0.2
        views = [node.client().subscribe(DOC) for node in nodes]
        await settle()
        for number in range(200):
            await nodes[number % 3].hub.publisher.patch(DOC, {f"k{number % 7}": number})
            await anyio.sleep(0.02)
        await anyio.sleep(8)
        for view in views:
            assert view.position == nodes[0].channel(DOC).head
            assert view.document == {f"k{number % 7}": number for number in range(193, 200)}
            assert view.keyframes == 2, "of the empty log and the first entry"
            assert isinstance(view.frames[0], frames.Subscribed)


@pytest.mark.anyio
async def test_names_that_differ_by_case_or_kind_are_other_channels() -> None:
    """No channel receives what another is sent."""
    async with cluster(1) as (node,):
        names = [Channel("doc:a"), Channel("doc:A"), Channel("doc:%2A"), Channel("doc:%3E"), Channel("doc:a.b")]
        client = node.client()
        views = [client.subscribe(name) for name in names]
        for number, name in enumerate(names):
            await node.set(name, {"number": number})
        await settle()
        assert [view.document for view in views] == [{"number": number} for number in range(len(names))]
