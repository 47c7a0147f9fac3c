"""A publish ends acked, rejected or unknown, within its time, and says the truth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict

import anyio
import pytest

from rtsync.backends import Appended
from rtsync.core import (
    LIVE,
    REMOVED,
    Channel,
    Conflict,
    EventEntry,
    Fenced,
    InvalidValue,
    ModelError,
    Position,
    SourceStatus,
    StatusEntry,
    Unavailable,
    Unknown,
    UsageError,
    decode_entry,
    encode_keyframe,
    encode_patch_entry,
)
from rtsync.testing import VIRTUAL_BACKENDS, settle
from tests.hub.nodes import DOC, LOG, Cluster, Node, Tap, cluster, events, state

pytestmark = pytest.mark.anyio

STALE = SourceStatus("stale", 1, "slow")


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def stored(nodes: Cluster, channel: Channel = DOC) -> int:
    """How many entries the store keeps of *channel*."""
    return len(nodes.store.logs[channel].entries)


def events_of(nodes: Cluster) -> list[int]:
    return [entry.payload[-1] for entry in nodes.store.logs[LOG].entries]


@dataclass
class Outcome:
    """What came of a publish, and when."""

    position: Position | None = None
    error: Exception | None = None
    seconds: float = 0.0


async def outcome_of(publish: Callable[[], Awaitable[Position]]) -> Outcome:
    outcome, began = Outcome(), anyio.current_time()
    try:
        outcome.position = await publish()
    except (Conflict, Unavailable, Unknown, Fenced) as error:
        outcome.error = error
    outcome.seconds = anyio.current_time() - began
    return outcome


# ---- what is published


async def test_document_is_set_and_patched_and_what_is_so_is_not_written() -> None:
    """Each returns the position at which the channel holds it."""
    async with cluster(1) as nodes:
        (node,) = nodes
        publisher = node.hub.publisher
        first = await publisher.set(DOC, {"a": 1, "b": {"c": 2}})
        assert await publisher.set(DOC, {"a": 1, "b": {"c": 2}}) == first
        assert await node.patch(DOC, {"b": {"c": 2}}) == first
        second = await node.patch(DOC, {"a": REMOVED, "b": {"d": 3}})
        assert (second.epoch, second.offset) == (first.epoch, first.offset + 1)
        view = node.client().subscribe(DOC)
        await settle()
        assert (view.document, view.position, stored(nodes)) == ({"b": {"c": 2, "d": 3}}, second, 2)
        assert node.hub.statistics().published == 2


async def test_events_of_every_kind_are_appended() -> None:
    """An event is any value, or an instance of a model."""

    @dataclass
    class Trade:
        price: Decimal

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    values: list[Any] = [1, 2.5, "three", None, True, b"4", [5, {"six": 7}], {"n": 8}, Decimal("9.0"), moment]
    async with cluster(1) as (node,):
        view = node.client().subscribe(LOG)
        await settle()
        for value in values:
            await node.append(LOG, value)
        await node.append(LOG, Trade(Decimal("1.50")))
        await node.append(LOG, {"trade": Trade(Decimal("2.50"))})
        await settle()
        assert view.events == [*values, {"price": Decimal("1.50")}, {"trade": {"price": Decimal("2.50")}}]


async def test_wrong_kind_of_channel_is_refused() -> None:
    """The error says what to use instead."""
    async with cluster(1) as (node,):
        publisher = node.hub.publisher
        with pytest.raises(UsageError, match="use append"):
            await publisher.set(LOG, {})
        with pytest.raises(UsageError, match="use append"):
            await publisher.patch(LOG, {})
        with pytest.raises(UsageError, match="use set or patch"):
            await publisher.append(DOC, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, datetime(2026, 1, 1), 2**64, Decimal("NaN"), object()])
async def test_what_cannot_be_carried_is_refused_and_other_publishes_go_on(value: object) -> None:
    """It fails where it was published, and nowhere else."""
    async with cluster(1) as nodes:
        (node,) = nodes
        await node.set(DOC, {"x": 1})
        for publish, channel in ((node.set, DOC), (node.patch, DOC), (node.append, LOG)):
            with pytest.raises(InvalidValue):
                await publish(channel, {"x": value})
        assert (await node.set(DOC, {"x": 2})).offset == 2
        assert LOG not in nodes.store.logs


async def test_model_is_checked_before_anything_is_written() -> None:
    """Also for what a patch would make of the document."""

    class Quote(TypedDict):
        bid: int

    async with cluster(1, state(model=Quote), events(model=Quote)) as (node,):
        await node.set(DOC, {"bid": 1})
        wrong: list[tuple[Callable[[str, Any], Awaitable[Position]], str, object]] = [
            (node.set, DOC, {"bid": "2"}),
            (node.set, DOC, {}),
            (node.patch, DOC, {"ask": 1}),
            (node.patch, DOC, {"bid": REMOVED}),
            (node.append, LOG, {"bid": 1.5}),
            (node.append, LOG, 7),
        ]
        for publish, channel, value in wrong:
            with pytest.raises(ModelError):
                await publish(channel, value)
        assert (await node.patch(DOC, {"bid": 3})).offset == 2
        assert (await node.append(LOG, {"bid": 3})).offset == 1


async def test_mistakes_are_told_even_while_the_backend_is_away() -> None:
    """They do not wait for anything."""
    async with cluster(1) as (node,):
        node.backend.partition()
        began = anyio.current_time()
        with pytest.raises(InvalidValue):
            await node.set(DOC, {"x": {1}})
        with pytest.raises(UsageError):
            await node.append(DOC, 1)
        assert anyio.current_time() == began


async def test_document_may_grow_up_to_its_limit_and_no_further() -> None:
    """The limit is of the whole document, whether it was set at once or patched together."""
    limit = 4096
    room = limit - len(encode_keyframe({"s": "x" * 3000}, LIVE)) + 3000
    async with cluster(1, max_document_bytes=limit) as (node,):
        publisher = node.hub.publisher
        await publisher.set(DOC, {"s": "x" * room})
        with pytest.raises(InvalidValue, match="4097 bytes"):
            await publisher.set(DOC, {"s": "x" * (room + 1)})
        with pytest.raises(InvalidValue, match="at most 4096"):
            await publisher.patch(DOC, {"more": 1})
        await publisher.patch(DOC, {"s": "x" * (room - 100)})
        for number in range(100):
            try:
                await publisher.patch(DOC, {f"k{number}": "0123456789"})
            except InvalidValue:
                break
        assert 3 <= number <= 7
        await publisher.patch(DOC, {"s": "short"})
        await publisher.patch(DOC, {"k": "y" * 3000})
        with pytest.raises(InvalidValue, match="event: "):
            await publisher.append(LOG, "x" * limit)


async def test_refused_publish_does_not_loosen_the_limit() -> None:
    """A small document that was not written in the end says nothing of the one that is there."""
    limit = 4096
    async with cluster(2, max_document_bytes=limit) as (one, two):
        await two.set(DOC, {"s": "x" * 3500})
        await settle()
        appends = Tap(one, "append")
        appends.error = Unavailable("no")
        with pytest.raises(Unavailable):
            await one.set(DOC, {"s": "small"})
        appends.error = None
        with pytest.raises(InvalidValue):
            await one.patch(DOC, {"t": "y" * 1000})


async def test_status_is_said_once_and_by_whom_holds_the_lease() -> None:
    """What is so already is not written, except that a new leader says it in its own name."""
    async with cluster(2) as nodes:
        one, two = nodes
        publisher = one.hub.publisher
        head = await publisher.set(DOC, {"x": 1})
        assert await publisher.say(DOC, LIVE) == head
        await publisher.say(DOC, STALE)
        await publisher.say(DOC, SourceStatus("stale", 99, "slow"))
        assert stored(nodes) == 2
        await two.hub.publisher.say(DOC, STALE, token=7)
        await two.hub.publisher.say(DOC, STALE, token=7)
        await settle()
        assert (stored(nodes), one.channel(DOC).writer) == (3, "n2")


# ---- several writers


async def test_writers_on_three_nodes_lose_nothing_of_each_other() -> None:
    """Each patch is made again for the head that another was first to move; all are in the log exactly once."""
    async with cluster(3) as nodes:
        view = nodes[0].client().subscribe(DOC)
        await settle()

        async def write(node: Node, name: str) -> None:
            for number in range(20):
                await node.patch(DOC, {name: {f"k{number}": number}})

        async with anyio.create_task_group() as tasks:
            for number, node in enumerate(nodes):
                tasks.start_soon(write, node, f"w{number}a")
                tasks.start_soon(write, node, f"w{number}b")
        await settle()
        everything = {f"k{number}": number for number in range(20)}
        assert view.document == {f"w{number}{letter}": everything for number in range(3) for letter in "ab"}
        assert nodes.store.logs[DOC].head.offset == 120
        assert sum(node.hub.statistics().conflicts for node in nodes) > 0


async def test_whole_documents_of_two_writers_end_as_one_of_them() -> None:
    """Nothing of the other one is left."""
    async with cluster(2) as nodes:
        one, two = nodes
        view = one.client().subscribe(DOC)
        await settle()
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(one.set, DOC, {"by": "one", f"one{number}": 1})
                tasks.start_soon(two.set, DOC, {"by": "two", f"two{number}": 2})
        await settle()
        assert view.document is not None
        assert len(view.document) == 2
        assert one.channel(DOC).head == two.channel(DOC).head


async def test_events_of_many_writers_are_stored_once_each() -> None:
    """Events need no head, and so know no conflict."""
    async with cluster(3, events(window=1000)) as nodes:

        async def write(node: Node, first: int) -> None:
            for number in range(first, 120, 6):
                await node.append(LOG, number)

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(write, nodes[number % 3], number)
        assert sorted(events_of(nodes)) == list(range(120))
        assert sum(node.hub.statistics().conflicts for node in nodes) == 0


async def test_writer_that_never_comes_first_gives_up_in_time() -> None:
    """A conflict without end is a rejection."""
    async with cluster(1) as (node,):
        await node.set(DOC, {"x": 0})
        appends = Tap(node, "append")
        appends.error = Conflict(None)
        outcome = await outcome_of(lambda: node.set(DOC, {"x": 1}))
        assert isinstance(outcome.error, Conflict)
        assert outcome.seconds == pytest.approx(5.0)
        appends.error = None
        assert (await node.set(DOC, {"x": 1})).offset == 2


async def test_older_lease_than_the_newest_entry_is_fenced() -> None:
    """The log itself refuses it."""
    async with cluster(2) as (one, two):
        await one.hub.publisher.set(DOC, {"x": 1}, token=5)
        await settle()
        with pytest.raises(Fenced):
            await two.hub.publisher.set(DOC, {"x": 2}, token=4)
        await two.hub.publisher.set(DOC, {"x": 2}, token=6)


# ---- outcomes that are not known


async def test_append_that_happened_without_an_answer_is_acked_once() -> None:
    """It is asked for again under the same link, which cannot store it twice."""
    async with cluster(1, publish_timeout=8.0) as nodes:
        (node,) = nodes
        node.backend.plan.unknown_rate, node.backend.plan.unknown_applied = 1.0, 1.0
        outcomes: list[Outcome] = []

        async def publish() -> None:
            outcomes.append(await outcome_of(lambda: node.append(LOG, 1)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await anyio.sleep(1)
            node.backend.plan.unknown_rate = 0.0
        assert outcomes[0].position is not None
        assert outcomes[0].seconds == pytest.approx(5.1)
        assert events_of(nodes) == [1]


async def test_append_that_got_lost_is_made_again() -> None:
    """An unknown outcome that turns out not to have happened is no loss."""
    async with cluster(1, publish_timeout=8.0) as nodes:
        (node,) = nodes
        await node.set(DOC, {"x": 0})
        node.backend.plan.unknown_rate, node.backend.plan.unknown_applied = 1.0, 0.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.set, DOC, {"x": 1})
            await anyio.sleep(1)
            node.backend.plan.unknown_rate = 0.0
        assert stored(nodes) == 2


async def test_outcome_that_stays_unknown_is_said_to_be() -> None:
    """In time, with the link; and the next publish finds out first what became of it."""
    async with cluster(1) as nodes:
        (node,) = nodes
        view = node.client().subscribe(DOC)
        await settle()
        node.backend.plan.unknown_rate, node.backend.plan.unknown_applied = 1.0, 1.0
        node.backend.plan.drop_rate = 1.0
        outcome = await outcome_of(lambda: node.set(DOC, {"x": 1}))
        assert isinstance(outcome.error, Unknown)
        assert outcome.error.link == nodes.store.logs[DOC].head.link
        assert outcome.seconds <= 5.0
        node.backend.plan.unknown_rate = 0.0
        assert node.channel(DOC).unsettled
        reads = Tap(node, "read")
        position = await node.set(DOC, {"x": 1})
        assert (position.link, set(reads.calls), stored(nodes)) == (outcome.error.link, {DOC}, 1)
        assert not node.channel(DOC).unsettled
        await settle()
        assert view.document == {"x": 1}


async def test_refusal_of_a_second_attempt_does_not_hide_the_first() -> None:
    """While it is not known what became of the first, the outcome is unknown, not rejected."""
    async with cluster(1, publish_timeout=20.0) as (node,):
        node.backend.plan.unknown_rate = 1.0
        async with anyio.create_task_group() as tasks:
            outcomes: list[Outcome] = []

            async def publish() -> None:
                outcomes.append(await outcome_of(lambda: node.append(LOG, 1)))

            tasks.start_soon(publish)
            await anyio.sleep(1)
            node.backend.plan.refuse_rate = 1.0
        assert isinstance(outcomes[0].error, Unknown)
        assert outcomes[0].seconds == pytest.approx(20.0)


async def test_conflict_after_an_unknown_outcome_makes_the_change_again() -> None:
    """The first attempt did not happen, and by now another writer was first."""
    async with cluster(2, publish_timeout=20.0) as nodes:
        one, two = nodes
        await one.set(DOC, {"x": 0})
        await settle()
        one.backend.plan.unknown_rate, one.backend.plan.unknown_applied = 1.0, 0.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.patch, DOC, {"x": 1})
            await anyio.sleep(1)
            await two.patch(DOC, {"y": 2})
            one.backend.plan.unknown_rate = 0.0
        view = two.client().subscribe(DOC)
        await settle()
        assert (view.document, stored(nodes)) == ({"x": 1, "y": 2}, 3)


async def test_unknown_outcome_that_happened_before_another_write_is_acked() -> None:
    """The second attempt finds the first by its link, behind which the log has moved on."""
    async with cluster(2, publish_timeout=20.0) as nodes:
        one, two = nodes
        one.backend.plan.unknown_rate, one.backend.plan.unknown_applied = 1.0, 1.0
        one.backend.plan.drop_rate = 1.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.patch, DOC, {"x": 1})
            await anyio.sleep(1)
            await two.patch(DOC, {"y": 2})
            one.backend.plan.unknown_rate = 0.0
        assert stored(nodes) == 2


async def test_fence_after_an_unknown_outcome_is_a_fence() -> None:
    """The first attempt cannot get there any more."""
    async with cluster(2, publish_timeout=20.0) as (one, two):
        one.backend.plan.unknown_rate, one.backend.plan.unknown_applied = 1.0, 0.0
        outcomes: list[Outcome] = []

        async def publish() -> None:
            outcomes.append(await outcome_of(lambda: one.hub.publisher.append(LOG, 1, token=3)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await anyio.sleep(1)
            await two.hub.publisher.append(LOG, 2, token=4)
            one.backend.plan.unknown_rate = 0.0
        assert isinstance(outcomes[0].error, Fenced)


async def test_append_that_arrives_long_after_its_publisher_gave_up_is_stored_at_most_once() -> None:
    """A state entry that was overtaken is refused by its head; an event comes late, and once."""
    async with cluster(1) as nodes:
        (node,) = nodes
        await node.set(DOC, {"x": 0})
        view, log = node.client().subscribe(DOC), node.client().subscribe(LOG)
        await settle()
        node.backend.plan.unknown_rate, node.backend.plan.unknown_applied, node.backend.plan.unknown_late = 1.0, 0.0, 1.0
        for publish in (lambda: node.set(DOC, {"x": 1}), lambda: node.append(LOG, 1)):
            assert isinstance((await outcome_of(publish)).error, Unknown)
        node.backend.plan.unknown_rate = 0.0
        await node.set(DOC, {"x": 2})
        await node.append(LOG, 2)
        await anyio.sleep(70)
        assert (view.document, stored(nodes)) == ({"x": 2}, 2)
        assert sorted(events_of(nodes)) == sorted(map(int, map(str, log.events))) == [1, 2]


# ---- outages


async def test_publish_during_an_outage_ends_in_time() -> None:
    """Unknown if it had been sent, rejected if it had not; the same for all who wait behind it."""
    async with cluster(1) as nodes:
        (node,) = nodes
        await node.set(DOC, {"x": 0})
        node.backend.partition()
        outcomes: list[Outcome] = []

        async def publish(number: int) -> None:
            outcomes.append(await outcome_of(lambda: node.set(DOC, {"x": number})))

        async with anyio.create_task_group() as tasks:
            for number in range(1, 11):
                tasks.start_soon(publish, number)
        assert all(outcome.seconds <= 5.0 for outcome in outcomes)
        assert [type(outcome.error) for outcome in outcomes].count(Unknown) == 1
        assert [type(outcome.error) for outcome in outcomes].count(Unavailable) == 9
        assert stored(nodes) == 1
        node.backend.heal()
        assert (await node.set(DOC, {"x": 20})).offset == 2


@pytest.mark.parametrize("hang", [True, False])
async def test_publish_to_a_channel_that_cannot_be_loaded_ends_in_time(hang: bool) -> None:
    """Nothing was sent, so it is rejected; and no attempt is left behind."""
    async with cluster(1) as nodes:
        (node,) = nodes
        node.backend.partition(hang=hang)
        outcomes = [await outcome_of(lambda: node.set(DOC, {"x": 1})), await outcome_of(lambda: node.append(LOG, 1))]
        for outcome in outcomes:
            assert isinstance(outcome.error, Unavailable)
            assert outcome.seconds <= 5.0
        node.backend.heal()
        await anyio.sleep(10)
        assert DOC not in nodes.store.logs
        assert (await node.set(DOC, {"x": 1})).offset == 1


async def test_refusing_backend_is_an_immediate_rejection() -> None:
    """Whoever publishes decides what comes next."""
    async with cluster(1) as (node,):
        await node.set(DOC, {"x": 0})
        node.backend.plan.refuse_rate = 1.0
        outcome = await outcome_of(lambda: node.set(DOC, {"x": 1}))
        assert isinstance(outcome.error, Unavailable)
        assert outcome.seconds == 0.0


async def test_order_is_kept_after_an_outage() -> None:
    """What one task publishes in a row is in the log in that order."""
    async with cluster(1) as nodes:
        (node,) = nodes
        acked: list[int] = []

        async def write() -> None:
            for number in range(60):
                outcome = await outcome_of(lambda: node.append(LOG, number))  # noqa: B023
                if outcome.position is not None:
                    acked.append(number)
                await anyio.sleep(0.3)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            for _ in range(3):
                await anyio.sleep(2)
                node.backend.partition(hang=False)
                await anyio.sleep(2)
                node.backend.heal()
        found = events_of(nodes)
        assert found == sorted(found)
        assert set(acked) <= set(found)


async def test_what_is_so_as_far_as_a_doubtful_copy_goes_is_checked() -> None:
    """Another node changed it meanwhile, unheard: the publish is not lost."""
    async with cluster(2) as (one, two):
        await one.set(DOC, {"x": 1})
        view = two.client().subscribe(DOC)
        await settle()
        one.backend.plan.drop_rate = 1.0
        await anyio.sleep(5)
        assert one.channel(DOC).doubt is not None
        await two.set(DOC, {"x": 2})
        await one.set(DOC, {"x": 1})
        await settle()
        assert view.document == {"x": 1}
        one.backend.partition(hang=False)
        with pytest.raises(Unavailable):
            await one.set(DOC, {"x": 1})


# ---- cancellation


async def test_cancelled_publish_leaves_the_channel_fit_for_the_next() -> None:
    """At whatever point it is cancelled: the turn is free, the log is whole, and the next publish succeeds."""
    for latency in (0.07, 0.1):
        async with cluster(2, state(window=8)) as nodes:
            one, two = nodes
            view = two.client().subscribe(DOC)
            await settle()
            for number in range(40):
                one.backend.plan.latency = latency
                with anyio.move_on_after(0.013 * number):
                    await one.patch(DOC, {"x": number, f"k{number % 5}": number})
                one.backend.plan.latency = 0.0
                if number % 3 == 0:
                    await two.patch(DOC, {"y": number})
                if number % 2 == 0:
                    await one.patch(DOC, {"z": number})
                    assert not one.channel(DOC).unsettled
                    assert not one.channel(DOC).turn.locked()
            await one.hub.publisher.set(DOC, {"done": True})
            await settle()
            assert view.document == {"done": True}


async def test_cancelled_publisher_that_waits_for_its_turn_lets_the_others_pass() -> None:
    """Whoever is gone does not hold up the queue."""
    async with cluster(1) as (node,):
        await node.set(DOC, {})
        appends = Tap(node, "append")
        appends.hold_questions()
        done: list[int] = []

        async def publish(number: int, scope: anyio.CancelScope) -> None:
            with scope:
                await node.patch(DOC, {f"k{number}": number})
                done.append(number)

        scopes = [anyio.CancelScope() for _ in range(5)]
        async with anyio.create_task_group() as tasks:
            for number, scope in enumerate(scopes):
                tasks.start_soon(publish, number, scope)
            await settle()
            scopes[0].cancel()
            scopes[2].cancel()
            await settle()
            appends.let_go()
        assert done == [1, 3, 4]


async def test_cancelled_append_that_happened_all_the_same_is_found() -> None:
    """Cancelling abandons the wait only."""
    async with cluster(1) as nodes:
        (node,) = nodes
        await node.append(LOG, 0)
        appends = Tap(node, "append")
        appends.hold_answers()
        with anyio.move_on_after(1):
            await node.append(LOG, 1)
        assert node.channel(LOG).unsettled
        appends.let_go()
        await node.append(LOG, 2)
        assert events_of(nodes) == [0, 1, 2]


# ---- keyframes


async def test_log_is_kept_within_its_window_by_keyframes() -> None:
    """They are saved in the background, long before the window is full."""
    async with cluster(2, state(window=16)) as nodes:
        one, two = nodes
        for number in range(200):
            await one.set(DOC, {"x": number})
        await settle()
        assert stored(nodes) <= 16
        view = two.client().subscribe(DOC)
        await settle()
        assert view.document == {"x": 199}


async def test_writers_on_several_nodes_share_their_keyframes() -> None:
    """Each node knows that another saves one, so that the log keeps its length and appends can be repeated."""
    async with cluster(3, state(window=40)) as nodes:
        saves = [Tap(node, "save_keyframe") for node in nodes]
        for number in range(300):
            await nodes[number % 3].patch(DOC, {f"k{number % 5}": number})
            await settle()
            assert min(number + 1, 10) <= stored(nodes) <= 21
        assert 28 <= sum(len(tap.calls) for tap in saves) <= 31
        late = nodes[1].client().subscribe(DOC)
        await settle()
        assert late.document == {f"k{number % 5}": number for number in range(295, 300)}


async def test_node_that_comes_late_saves_no_keyframe_too_many() -> None:
    """It counts from the keyframes that the log tells of."""
    async with cluster(3, state(window=40)) as nodes:
        one, two, three = nodes
        for number in range(34):
            await one.set(DOC, {"x": number})
            await settle()
        saves = [Tap(node, "save_keyframe") for node in nodes]
        for number in range(100, 160):
            await (two, three)[number % 2].set(DOC, {"x": number})
            await settle()
            assert 10 <= stored(nodes) <= 21
        assert 5 <= sum(len(tap.calls) for tap in saves) <= 7


async def test_full_window_has_a_keyframe_saved_first() -> None:
    """A writer that finds the log full, because others saved none, saves one and goes on."""
    async with cluster(2, state(window=8)) as nodes:
        one, two = nodes
        head = await one.set(DOC, {"x": 0})
        retention = one.channel(DOC).family.retention
        for number in range(1, 8):
            payload = encode_patch_entry("script", head.link, {"x": number})
            head = (await two.backend.append(DOC, payload, link=100 + number, retention=retention, expect=head)).position
        await settle()
        await one.set(DOC, {"x": 8})
        assert one.channel(DOC).head.offset == 9
        view = two.client().subscribe(DOC)
        await settle()
        assert view.document == {"x": 8}


async def test_log_that_stays_full_is_a_rejection_in_time() -> None:
    """A keyframe that the backend does not take cannot be waited for without end."""
    async with cluster(1, state(window=4)) as (node,):
        saves = Tap(node, "save_keyframe")
        saves.error = Unavailable("no")
        for number in range(4):
            await node.set(DOC, {"x": number})
        with pytest.raises(Unavailable):
            await node.set(DOC, {"x": 4})
        saves.error = None
        saves.hold_questions()
        outcome = await outcome_of(lambda: _rejected(node))
        assert outcome.seconds <= 5.0
        saves.let_go()
        assert (await node.set(DOC, {"x": 4})).offset == 5


async def _rejected(node: Node) -> Position:
    """Publish what is refused because the window is full."""
    try:
        return await node.set(DOC, {"x": 4})
    except Exception as error:
        assert type(error).__name__ == "KeyframeNeeded"
        raise Unavailable("as expected") from error


async def test_keyframe_of_a_head_that_is_gone_is_not_taken_for_saved() -> None:
    """The log went back: what the publisher holds is read anew before it tries again."""
    async with cluster(1, state(window=4)) as nodes:
        (node,) = nodes
        saves = Tap(node, "save_keyframe")
        saves.error = Unavailable("not now")
        for number in range(4):
            await node.set(DOC, {"x": number})
        await settle()
        saves.error = None
        log = nodes.store.logs[DOC]
        nodes.faults.roll_back(DOC, 1)
        other = encode_patch_entry("script", log.head.link, {"y": 1})
        retention = node.channel(DOC).family.retention
        await node.backend.append(DOC, other, link=999, retention=retention, expect=log.head)
        await node.set(DOC, {"x": 9})
        view = node.client().subscribe(DOC)
        await settle()
        assert view.document == {"x": 9}


@pytest.mark.parametrize("error", [Unavailable("no"), ZeroDivisionError("a bug")])
async def test_keyframe_that_cannot_be_saved_in_the_background_harms_nobody(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and tried again with the next publish."""
    async with cluster(1, state(window=8)) as nodes:
        (node,) = nodes
        saves = Tap(node, "save_keyframe")
        saves.error = error
        for number in range(3):
            await node.set(DOC, {"x": number})
            await settle()
        assert (len(saves.calls), nodes.store.logs[DOC].keyframes) == (2, [])
        saves.error = None
        await node.set(DOC, {"x": 3})
        await settle()
        assert len(nodes.store.logs[DOC].keyframes) == 1
    assert "no keyframe of doc:a saved" in caplog.text
    caplog.clear()


async def test_status_is_kept_by_the_keyframe() -> None:
    """A node that loads from there shows what the source said last."""
    async with cluster(2, state(window=8)) as (one, two):
        await one.hub.publisher.say(DOC, STALE)
        for number in range(20):
            await one.set(DOC, {"x": number})
            await settle()
        view = two.client().subscribe(DOC)
        await settle()
        assert (view.document, view.freshness, view.reason) == ({"x": 19}, "stale", "slow")


# ---- what an entry holds


async def test_entries_name_their_writer() -> None:
    """So that a dead writer can be found out."""
    async with cluster(2) as nodes:
        await nodes[0].append(LOG, 1)
        await nodes[1].append(LOG, 2)
        await nodes[1].hub.publisher.say(LOG, STALE)
        bodies = [decode_entry(entry.payload) for entry in nodes.store.logs[LOG].entries]
        assert [body.writer for body in bodies] == ["n1", "n2", "n2"]
        assert [type(body) for body in bodies] == [EventEntry, EventEntry, StatusEntry]


async def test_answer_of_the_backend_is_where_the_entry_stands() -> None:
    """An append that answers with an older place, because its link was known, returns that."""
    async with cluster(1) as (node,):
        await node.append(LOG, 1)
        appends = Tap(node, "append")
        seen: list[Appended] = []
        call = appends._call

        async def twice(*args: Any, **keywords: Any) -> Appended:
            seen.append(await call(*args, **keywords))
            await call(LOG, b"\x94\x01\x01\xa1w\x09", link=5, retention=keywords["retention"])
            return await call(*args, **keywords)  # type: ignore[no-any-return]

        appends._call = twice
        position = await node.append(LOG, 2)
        assert position == seen[0].position
        await settle()
        assert node.channel(LOG).head.offset == 3
