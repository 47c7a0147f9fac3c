"""The client against a server whose every frame is written by the test; in virtual time, on both loops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import anyio
import pytest

from rtsync.client import (
    Change,
    Client,
    ConnectionFailed,
    Event,
    Gap,
    ReconnectPolicy,
    Subscription,
    SubscriptionRefused,
    WireClosed,
    connect,
)
from rtsync.core import REMOVED, InvalidName, KeyTable, Position, SourceStatus, UsageError, frames
from rtsync.testing._virtual import settle
from tests.client._peer import NOWHERE, SERVER_TIME, Server, at, delta, event

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with Server() as server:
        yield server


async def waiting(sub: Subscription) -> list[object]:
    """Take all that waits."""
    taken: list[object] = []
    while True:
        await settle()
        with anyio.move_on_after(0.001) as scope:
            taken.append(await anext(sub))
        if scope.cancelled_caught:
            return taken


def values(updates: list[object]) -> list[object]:
    return [cast(Event, update).value for update in updates]


# ---- entering and leaving ------------------------------------------------------------------------------------------


async def test_entering_does_not_wait_for_the_connection(server: Server) -> None:
    server.hang = True
    async with server.connect() as client:
        assert client.state == "connecting"
        async with client.subscribe("prices:A") as sub:
            assert (sub.value, sub.position, sub.kind) == (None, None, None)
            assert sub.status == SourceStatus("stale", 0, "connecting")
    assert anyio.current_time() == 0


async def test_connected_waits_for_the_welcome(server: Server) -> None:
    async with server.connect() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(server.welcome)
        await client.connected()
        assert (client.state, client.reason, client.user) == ("live", "", "ann")
        await client.connected()


async def test_leaving_says_goodbye_and_leaves_nothing_running(server: Server) -> None:
    async with server.connect(name="tester") as client:
        peer = await server.welcome()
        await client.connected()
    assert peer.hello == frames.Hello(None, "tester", None, None)
    assert peer.unread() == [frames.Bye("leaving")]
    assert (peer.closed_with, peer.left) == (1000, True)
    assert (client.state, client.reason) == ("disconnected", "closed")
    with pytest.raises(ConnectionFailed, match="closed"):
        await client.connected()


async def test_leaving_while_an_attempt_is_under_way_or_awaited_is_immediate(server: Server) -> None:
    server.refusals.append(OSError("nobody there"))
    async with server.connect() as client:
        await settle()
        assert (client.state, client.reason) == ("disconnected", "nobody there")
    server.hang = True
    async with server.connect():
        await settle()
    assert anyio.current_time() == 0


async def test_cancelled_client_says_goodbye_too(server: Server) -> None:
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            async with server.connect():
                await anyio.sleep_forever()

        tasks.start_soon(run)
        peer = await server.welcome()
        await settle()
        tasks.cancel_scope.cancel()
    assert peer.unread() == [frames.Bye("leaving")]
    assert peer.closed_with == 1000


async def test_link_that_takes_no_goodbye_delays_leaving_by_a_second_at_most(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(self: object, code: int) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr("tests.client._peer._MemoryWire.close", hang)
    async with server.connect():
        await server.welcome()
    assert anyio.current_time() == 1


async def test_plain_exception_of_the_block_stays_plain(server: Server) -> None:
    with pytest.raises(ZeroDivisionError):
        async with server.connect():
            await server.welcome()
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with server.connect() as client, client.subscribe("a"):
            raise ZeroDivisionError


async def test_group_of_the_block_stays_a_group(server: Server) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with server.connect():
            raise ExceptionGroup("mine", [ValueError(), KeyError()])
    assert caught.value.message == "mine"


async def test_error_in_a_connector_is_raised_plainly(server: Server) -> None:
    """A programming mistake is no lost connection."""
    server.refusals.append(KeyError("bug"))
    with pytest.raises(KeyError):
        async with server.connect():
            await anyio.sleep_forever()


async def test_two_errors_at_once_are_both_raised(server: Server) -> None:
    server.refusals.append(KeyError("bug"))
    with pytest.raises(ExceptionGroup) as caught:
        async with server.connect():
            try:
                await anyio.sleep_forever()
            finally:
                raise ZeroDivisionError
    assert {type(error) for error in caught.value.exceptions} == {KeyError, ZeroDivisionError}


async def test_link_that_fails_at_the_goodbye_is_left_all_the_same(server: Server) -> None:
    async with server.connect():
        peer = await server.welcome()
        peer.send_fails = True
    assert peer.left


async def test_client_and_subscription_are_entered_once(server: Server) -> None:
    client = server.connect()
    with pytest.raises(UsageError, match="async with"):
        async with client.subscribe("a"):
            pass
    async with client:
        with pytest.raises(UsageError, match="once"):
            async with client:
                pass
        sub = client.subscribe("a")
        async with sub:
            with pytest.raises(UsageError, match="once"):
                await sub.__aenter__()
    assert "disconnected" in repr(client)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"url": "http://x"}, "url"),
        ({"url": "test"}, "url"),
        ({"profile": "xml"}, "profile"),
        ({"open_timeout": 0}, "open_timeout"),
        ({"open_timeout": float("nan")}, "open_timeout"),
    ],
)
async def test_impossible_option_is_refused_at_once(server: Server, options: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(**{"url": "ws://test", "connector": server, **options})
    assert caught.value.field == field


async def test_impossible_subscription_is_refused_at_once(server: Server) -> None:
    client = server.connect()
    with pytest.raises(InvalidName):
        client.subscribe("no spaces")
    with pytest.raises(UsageError, match="rate"):
        client.subscribe("a", rate=-1)
    with pytest.raises(UsageError, match="rate"):
        client.subscribe("a", rate=float("nan"))
    with pytest.raises(UsageError, match="max_queued"):
        client.subscribe("a", max_queued=0)
    with pytest.raises(UsageError, match="since_start"):
        client.subscribe("a", position=at(1), since_start=True)


# ---- state channels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["msgpack", "json"])
async def test_iteration_gives_keyframe_then_deltas(server: Server, profile: str) -> None:
    async with server.connect(profile=profile) as client, client.subscribe("book:A", rate=5) as sub:
        peer = await server.welcome()
        assert server.offered == [f"rtsync.v1.{profile}"]
        assert await peer.state(10, {"a": 1}) == frames.SubscribeItem("book:A", None, 5.0)
        first = await anext(sub)
        assert first == Change("keyframe", {"a": 1}, None, at(10), SourceStatus())
        await peer.send(delta(11, {"b": 2}))
        assert await anext(sub) == Change("delta", {"a": 1, "b": 2}, {"b": 2}, at(11), SourceStatus())
        assert (sub.value, sub.position, sub.kind) == ({"a": 1, "b": 2}, at(11), "state")
        assert repr(sub) == f"<Subscription book:A live at {at(11)}>"


async def test_slow_consumer_gets_the_newest_with_all_that_changed_between(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {"a": 1, "b": {"x": 1}})
        await anext(sub)
        for offset in range(11, 500):
            await peer.send(delta(offset, {"b": {"x": offset}, f"k{offset}": 1, f"k{offset - 1}": REMOVED}))
        assert await waiting(sub) == [
            Change(
                "delta",
                {"a": 1, "b": {"x": 499}, "k499": 1},
                cast(Any, {"b": {"x": 499}, "k499": 1}),
                at(499),
                SourceStatus(),
            )
        ]


async def test_keyframe_among_merged_changes_makes_the_change_a_keyframe(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await peer.send(delta(11, {"a": 2}))
        assert await waiting(sub) == [Change("keyframe", {"a": 2}, None, at(11), SourceStatus())]
        await peer.send(delta(12, {"a": 3}), frames.Keyframe(1, at(1, "F"), 0, 1, {"z": 1}), delta(2, {"z": 2}))
        assert await waiting(sub) == [Change("keyframe", {"z": 2}, None, at(2, "F"), SourceStatus())]


async def test_change_of_freshness_is_a_change(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await anext(sub)
        await peer.send(frames.Status(1, "stale", 5, "source died"))
        stale = SourceStatus("stale", 5, "source died")
        assert await anext(sub) == Change("status", {"a": 1}, None, at(10), stale)
        assert sub.status == stale
        await peer.send(delta(11, {"a": 2}), frames.Status(1, "live", 6))
        assert await waiting(sub) == [Change("delta", {"a": 2}, {"a": 2}, at(11), SourceStatus("live", 6))]
        await peer.send(frames.Status(1, "stale", 7), frames.Status(1, "live", 6))
        assert await waiting(sub) == []


async def test_parts_and_key_tables_arrive_as_a_document(server: Server) -> None:
    big = {f"key{number}": {"n": number, "text": "x" * 30} for number in range(100)}
    keys = KeyTable()
    keys.learn_document(cast(Any, big), 7)
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.subscribed("state")
        parts = peer.profile.encode_keyframe(1, at(7), cast(Any, big), keys, 512)
        assert len(parts) > 5
        for part in parts:
            assert sub.value is None
            await peer.send_bytes(part)
        assert cast(Change, await anext(sub)).value == big
        patch = cast(Any, {"key5": {"n": -1}, "new": 1})
        keys.learn_patch(patch, 8)
        await peer.send_bytes(peer.profile.encode_delta(1, at(8), 7, patch, keys))
        change = cast(Change, await anext(sub))
        assert change.patch == patch
        assert change.value == {**big, "key5": {"n": -1, "text": "x" * 30}, "new": 1}


async def test_wrong_base_resynchronises_one_channel_and_shows_nothing_of_it(server: Server) -> None:
    async with server.connect() as client, client.subscribe("a") as one, client.subscribe("b") as two:
        peer = await server.welcome()
        asked = await peer.next(frames.Subscribe)
        for alias, item in enumerate(asked.items, 1):
            answer = frames.Subscribed(asked.request, item.channel, alias, "state", NOWHERE, False, None, "live", 0)
            await peer.send(answer, frames.Keyframe(alias, at(10), 0, 1, {"n": 0}))
        await peer.send(delta(15, {"n": 1}, alias=1), delta(11, {"n": 1}, alias=2))
        assert (one.value, two.value) == ({"n": 0}, {"n": 1})
        assert await peer.subscribed("state", at(10), True, 1, delta(15, {"n": 2}, 5)) == frames.SubscribeItem("a", at(10))
        await settle()
        assert (one.value, one.position) == ({"n": 2}, at(15))
        assert len(server.attempts) == 1


# ---- event channels ------------------------------------------------------------------------------------------------


async def test_every_event_comes_in_order_however_slow_the_consumer(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A") as sub:
        peer = await server.welcome()
        await peer.subscribed("events", at(10))
        for offset in range(11, 200):
            await peer.send(event(offset, f"e{offset}"))
        await settle()
        assert sub.value == "e199"
        assert sub.position == at(10)
        taken = await waiting(sub)
        assert taken == [Event(f"e{offset}", at(offset)) for offset in range(11, 200)]
        assert sub.kind == "events"


async def test_gap_comes_between_the_events_it_separates(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A", position=at(3, "OLD")) as sub:
        peer = await server.welcome()
        gap = frames.Gap(1, at(3, "OLD"), at(20), "too old")
        await peer.subscribed("events", at(30), False, 1, gap, event(21, "x"))
        assert await waiting(sub) == [Gap(at(3, "OLD"), at(20), "too old"), Event("x", at(21))]


async def test_everything_still_kept_can_be_asked_for(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A", since_start=True) as sub:
        peer = await server.welcome()
        item = await peer.subscribed("events", Position.start("E"), True, 1, event(4, "x", 4))
        assert item.position == Position("", 0, 0)
        assert await anext(sub) == Event("x", at(4))


async def test_full_queue_stops_the_reading_and_loses_nothing(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A", max_queued=3) as sub:
        peer = await server.welcome()
        await peer.subscribed("events", at(0))
        sent = 0
        for offset in range(1, 20):
            with anyio.move_on_after(1):
                await peer.send(event(offset, f"e{offset}"))
                sent = offset
        assert sent == 3
        for offset in range(1, 4):
            assert await anext(sub) == Event(f"e{offset}", at(offset))
        await peer.send(event(4, "e4"))
        assert await anext(sub) == Event("e4", at(4))
        assert peer.unread() == []


async def test_one_message_may_overfill_the_queue_but_no_second(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A", max_queued=2) as sub:
        peer = await server.welcome()
        await peer.subscribed("events", at(0))
        await peer.send(*[event(offset, f"e{offset}") for offset in range(1, 10)])
        with anyio.move_on_after(1) as scope:
            await peer.send(event(10, "e10"))
        assert scope.cancelled_caught
        assert len(await waiting(sub)) == 9


async def test_consumer_that_leaves_frees_the_reader(server: Server) -> None:
    async with server.connect() as client:
        async with client.subscribe("trades:A", max_queued=1):
            peer = await server.welcome()
            await peer.subscribed("events", at(0))
            await peer.send(event(1, "x"))
        await peer.send(frames.Ping(1))
        assert await peer.next(frames.Unsubscribe) == frames.Unsubscribe(2, ("trades:A",))
        assert await peer.next(frames.Pong) == frames.Pong(1, 4)


async def test_consumer_that_never_catches_up_makes_the_client_stalled_but_no_reconnect(server: Server) -> None:
    """What is not read is not known: other channels must not look live."""
    async with (
        server.connect() as client,
        client.subscribe("trades:A", max_queued=1) as sub,
        client.subscribe("book:A") as book,
    ):
        peer = await server.welcome()
        asked = await peer.next(frames.Subscribe)
        for alias, (kind, position) in enumerate([("events", at(0)), ("state", NOWHERE)], 1):
            channel = asked.items[alias - 1].channel
            await peer.send(frames.Subscribed(asked.request, channel, alias, cast(Any, kind), position, False, None, "live", 0))
        await peer.send(frames.Keyframe(2, at(1), 0, 1, {}), event(1, "x"))
        await anyio.sleep(24.9)
        assert (client.state, book.status.freshness) == ("live", "live")
        await anyio.sleep(0.2)
        assert (client.state, book.status.freshness) == ("stalled", "stale")
        await anyio.sleep(1000)
        await anext(sub)
        await peer.send(frames.Ping(1))
        await settle()
        assert (client.state, book.status.freshness) == ("live", "live")
        assert len(server.attempts) == 1


# ---- exact positions -----------------------------------------------------------------------------------------------


async def test_event_counts_as_done_when_the_next_is_asked_for(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A") as sub:
        peer = await server.welcome()
        await peer.subscribed("events", at(10), False, 1, event(11, "a"), event(12, "b"))
        await anext(sub)
        assert sub.position == at(10)
        await anext(sub)
        assert sub.position == at(11)
    assert sub.position == at(12)  # left without an exception: done with it


async def test_event_whose_handling_failed_comes_again(server: Server) -> None:
    async with server.connect() as client:
        seen = []
        with pytest.raises(ZeroDivisionError):
            async with client.subscribe("trades:A") as sub:
                peer = await server.welcome()
                await peer.subscribed("events", at(10), False, 1, event(11, "a"), event(12, "b"), event(13, "c"))
                async for update in sub:
                    seen.append(cast(Event, update).value)
                    if seen[-1] == "b":
                        raise ZeroDivisionError
        assert seen == ["a", "b"]
        assert sub.position == at(11)
        assert await peer.next(frames.Unsubscribe) == frames.Unsubscribe(2, ("trades:A",))
        async with client.subscribe("trades:A", position=sub.position) as again:
            item = await peer.subscribed("events", at(11), True, 1, event(12, "b"), event(13, "c"))
            assert item.position == at(11)
            assert values(await waiting(again)) == ["b", "c"]


async def test_cancelled_wait_loses_no_event(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A") as sub:
        peer = await server.welcome()
        await peer.subscribed("events", at(0))
        taken: list[object] = []
        for offset in range(1, 30):
            with anyio.move_on_after(0.5 if offset % 2 else 0):
                if offset % 3 == 0:
                    await peer.send(event(len(taken) + 1, "x"))
                taken.append(await anext(sub))
        assert [cast(Event, update).position.offset for update in taken] == list(range(1, len(taken) + 1))
        assert len(taken) > 3


async def test_state_whose_handling_failed_comes_again_whole(server: Server) -> None:
    async with server.connect() as client:
        with pytest.raises(ZeroDivisionError):
            async with client.subscribe("book:A") as sub:
                peer = await server.welcome()
                await peer.state(10, {"a": 1})
                async for _ in sub:
                    raise ZeroDivisionError
        await peer.next(frames.Unsubscribe)
        async with client.subscribe("book:A") as again:
            await peer.state(10, {"a": 1})
            assert cast(Change, await anext(again)).kind == "keyframe"


# ---- sharing -------------------------------------------------------------------------------------------------------


async def test_subscriptions_to_one_channel_share_one_on_the_wire(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as one:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await anext(one)
        async with client.subscribe("book:A") as two:
            assert two.value == {"a": 1}
            assert await anext(two) == Change("keyframe", {"a": 1}, None, at(10), SourceStatus())
            await peer.send(delta(11, {"a": 2}))
            assert await anext(one) == await anext(two)
        await settle()
        assert peer.unread() == []
        assert client.channels == ("book:A",)
    assert peer.unread() == [frames.Bye("leaving")]


async def test_each_consumer_of_events_gets_each_event_once_wherever_it_begins(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A") as live:
        peer = await server.welcome()
        await peer.subscribed("events", at(10), False, 1, event(11, "a"), event(12, "b"))
        async with (
            client.subscribe("trades:A") as later,
            client.subscribe("trades:A", position=at(8)) as earlier,
        ):
            item = await peer.subscribed("events", at(8), True)
            assert item.position == at(8)
            await peer.send(*[event(offset, text) for offset, text in [(9, "y"), (10, "z"), (11, "a"), (12, "b"), (13, "c")]])
            assert values(await waiting(live)) == ["a", "b", "c"]
            assert values(await waiting(earlier)) == ["y", "z", "a", "b", "c"]
            assert values(await waiting(later)) == ["c"]
        assert live.position == earlier.position == later.position == at(13)


async def test_gap_of_one_consumer_is_no_gap_of_the_other(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A") as live:
        peer = await server.welcome()
        await peer.subscribed("events", at(10), False, 1, event(11, "a"))
        async with client.subscribe("trades:A", position=at(5, "OLD")) as late:
            gap = frames.Gap(1, at(5, "OLD"), at(9), "epoch")
            await peer.subscribed("events", at(11), False, 1, gap, event(10, "z"), event(11, "a"), event(12, "b"))
            assert await waiting(late) == [
                Gap(at(5, "OLD"), at(9), "epoch"),
                Event("z", at(10)),
                Event("a", at(11)),
                Event("b", at(12)),
            ]
            assert values(await waiting(live)) == ["a", "b"]


async def test_gap_after_sharing_names_what_each_consumer_misses(server: Server) -> None:
    async with (
        server.connect() as client,
        client.subscribe("trades:A", position=at(5)) as one,
        client.subscribe("trades:A", position=at(7)) as two,
    ):
        peer = await server.welcome()
        await peer.subscribed("events", at(30), False, 1, frames.Gap(1, at(5), at(20), "too old"), event(21, "x"))
        assert await waiting(one) == [Gap(at(5), at(20), "too old"), Event("x", at(21))]
        assert await waiting(two) == [Gap(at(7), at(20), "too old"), Event("x", at(21))]


async def test_highest_rate_that_any_consumer_wants_is_asked_for(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A", rate=1) as one:
        peer = await server.welcome()
        await peer.state(10, {})
        async with client.subscribe("book:A", rate=5) as two:
            assert await peer.next(frames.Rate) == frames.Rate(2, "book:A", 5.0)
            await one.set_rate(None)
            assert await peer.next(frames.Rate) == frames.Rate(3, "book:A", None)
            await two.set_rate(2)
            await one.pause()
            assert await peer.next(frames.Rate) == frames.Rate(4, "book:A", 2.0)
            await two.pause()
            assert await peer.next(frames.Rate) == frames.Rate(5, "book:A", 0.0)
            await one.resume()
            assert await peer.next(frames.Rate) == frames.Rate(6, "book:A", None)
        assert (one.rate, two.rate, two.paused) == (None, 2.0, True)
        with pytest.raises(UsageError):
            await one.set_rate(-1)
    assert peer.unread() == [frames.Bye("leaving")]


# ---- pause ---------------------------------------------------------------------------------------------------------


async def test_paused_view_stands_still_and_resumes_with_all_that_changed(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub, client.subscribe("book:A") as other:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await anext(sub)
        await anext(other)
        await sub.pause()
        await sub.pause()
        await peer.send(delta(11, {"a": 2}), delta(12, {"b": 1}))
        assert await waiting(sub) == []
        assert (sub.value, sub.position) == ({"a": 1}, at(10))
        assert other.value == {"a": 2, "b": 1}
        await sub.resume()
        await sub.resume()
        assert await waiting(sub) == [Change("delta", {"a": 2, "b": 1}, {"a": 2, "b": 1}, at(12), SourceStatus())]


async def test_view_that_slept_through_a_new_history_resumes_with_a_keyframe(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await anext(sub)
        await sub.pause()
        assert await peer.next(frames.Rate) == frames.Rate(2, "book:A", 0.0)
        await peer.send(frames.Keyframe(1, at(1, "F"), 0, 1, {"z": 1}))
        await sub.resume()
        assert await waiting(sub) == [Change("keyframe", {"z": 1}, None, at(1, "F"), SourceStatus())]
        await sub.pause()
        await sub.resume()
        assert await waiting(sub) == []


async def test_paused_consumer_of_events_misses_none(server: Server) -> None:
    async with (
        server.connect() as client,
        client.subscribe("trades:A", max_queued=2) as sub,
        client.subscribe("trades:A") as other,
    ):
        peer = await server.welcome()
        await peer.subscribed("events", at(10), False, 1, event(11, "a"), event(12, "b"))
        await settle()
        await sub.pause()  # its queue is full, but it must not hold up the reading now
        await peer.send(event(13, "c"), event(14, "d"))
        assert await waiting(sub) == []
        assert values(await waiting(other)) == ["a", "b", "c", "d"]
        await sub.resume()
        item = await peer.subscribed("events", at(12), True, 1, event(13, "c"), event(14, "d"), event(15, "e"))
        assert item.position == at(12)
        assert values(await waiting(sub)) == ["a", "b", "c", "d", "e"]
        assert values(await waiting(other)) == ["e"]


async def test_pause_before_the_server_has_answered(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A") as events, client.subscribe("book:A") as state:
        await events.pause()
        await state.pause()
        peer = await server.welcome()
        asked = await peer.next(frames.Subscribe)
        assert [item.rate for item in asked.items] == [0.0, 0.0]
        await peer.send(
            frames.Subscribed(asked.request, "trades:A", 1, "events", at(10), False, 0.0, "live", 0),
            frames.Subscribed(asked.request, "book:A", 2, "state", NOWHERE, False, 0.0, "live", 0),
            frames.Keyframe(2, at(1), 0, 1, {"a": 1}),
        )
        await events.resume()
        await state.resume()
        assert cast(Change, await anext(state)).value == {"a": 1}
        assert events.position == at(10)
        await peer.send(event(11, "x"))
        assert await waiting(events) == [Event("x", at(11))]


async def test_refused_rate_is_logged_and_nothing_more(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {})
        await sub.set_rate(3)
        rate = await peer.next(frames.Rate)
        await peer.send(frames.Error(rate.request, "bad_request", "no such rate", channel="book:A"))
        await peer.send(delta(11, {"a": 1}))
        await settle()
        assert sub.value == {"a": 1}
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "book:A: request refused, bad_request: no such rate"
    ]


async def test_ended_subscription_takes_wishes_without_effect(server: Server) -> None:
    async with server.connect() as client:
        peer = await server.welcome()
        async with client.subscribe("book:A") as sub:
            await peer.state(10, {"a": 1})
            await anext(sub)
            await sub.pause()
        await sub.resume()
        await sub.set_rate(1)
        await sub.pause()
        assert [type(frame) for frame in peer.unread()] == [frames.Rate, frames.Unsubscribe]
        assert (sub.value, sub.position) == ({"a": 1}, at(10))


# ---- resume --------------------------------------------------------------------------------------------------------


async def test_resume_is_exact_for_state_and_events(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as book, client.subscribe("trades:A") as trades:
        peer = await server.welcome()
        asked = await peer.next(frames.Subscribe)
        await peer.send(
            frames.Subscribed(asked.request, "book:A", 1, "state", NOWHERE, False, None, "live", 0),
            frames.Keyframe(1, at(10), 0, 1, {"a": 1}),
            frames.Subscribed(asked.request, "trades:A", 2, "events", at(20), False, None, "live", 0),
            delta(11, {"a": 2}),
            event(21, "x", alias=2),
        )
        await anext(book)
        for cut in range(3):
            await peer.close()
            peer = await server.accept()
            await peer.welcome(session=f"s{cut + 2}", secret=f"x{cut + 2}")
            assert peer.hello == frames.Hello(None, "", f"s{cut + 1}", f"x{cut + 1}")
            asked = await peer.next(frames.Subscribe)
            assert asked.items == (
                frames.SubscribeItem("book:A", at(11 + cut)),
                frames.SubscribeItem("trades:A", at(21 + cut)),
            )
            await peer.send(
                frames.Subscribed(asked.request, "book:A", 1, "state", at(11 + cut), True, None, "live", 0),
                frames.Subscribed(asked.request, "trades:A", 2, "events", at(21 + cut), True, None, "live", 0),
                delta(12 + cut, {"n": cut}),
                event(22 + cut, f"x{cut}", alias=2),
            )
        assert await waiting(trades) == [
            Event("x", at(21)),
            Event("x0", at(22)),
            Event("x1", at(23)),
            Event("x2", at(24)),
        ]
        assert (book.value, book.position) == ({"a": 2, "n": 2}, at(14))
        assert values(await waiting(book)) == [{"a": 2, "n": 2}]


async def test_position_to_resume_from_is_read_when_the_link_is_there(server: Server) -> None:
    """Not when it was lost: a consumer may have moved it since."""
    async with server.connect() as client, client.subscribe("trades:A") as sub:
        peer = await server.welcome()
        await peer.subscribed("events", at(10), False, 1, event(11, "x"))
        await peer.close()
        async with client.subscribe("trades:A", position=at(5)):
            peer = await server.welcome()
            assert (await peer.next(frames.Subscribe)).items == (frames.SubscribeItem("trades:A", at(5)),)
        assert values(await waiting(sub)) == ["x"]


async def test_what_was_in_transit_for_an_ended_subscription_never_shows(server: Server) -> None:
    async with server.connect() as client:
        async with client.subscribe("book:A"):
            peer = await server.welcome()
            await peer.state(10, {"a": 1})
        async with client.subscribe("book:A") as again:
            unsubscribe = await peer.next(frames.Unsubscribe)
            await peer.send(delta(11, {"in": "transit"}))
            await peer.send(frames.Unsubscribed(unsubscribe.request, "book:A"), delta(12, {"in": "transit"}))
            await settle()
            assert again.value is None
            item = await peer.state(30, {"new": 1})
            assert item == frames.SubscribeItem("book:A")
            assert await waiting(again) == [Change("keyframe", {"new": 1}, None, at(30), SourceStatus())]


async def test_subscription_of_the_server_is_attached_to_without_a_word(server: Server) -> None:
    async with server.connect() as client:
        peer = await server.welcome()
        given = frames.Subscribed(0, "portfolio:ann", 7, "state", NOWHERE, False, None, "live", 0)
        await peer.send(given, frames.Keyframe(7, at(1), 0, 1, {"cash": 1}))
        assert client.channels == ("portfolio:ann",)
        async with client.subscribe("portfolio:ann") as sub:
            assert cast(Change, await anext(sub)).value == {"cash": 1}
            await peer.send(delta(2, {"cash": 2}, alias=7))
            assert cast(Change, await anext(sub)).value == {"cash": 2}
        await settle()
        assert peer.unread() == []


# ---- freshness and connection --------------------------------------------------------------------------------------


async def test_lost_connection_makes_the_view_stale_since_the_loss(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await anext(sub)
        await anyio.sleep(5)
        await peer.close()
        lost = SourceStatus("stale", SERVER_TIME + 5000, "disconnected")
        assert await anext(sub) == Change("status", {"a": 1}, None, at(10), lost)
        assert (sub.status, sub.value) == (lost, {"a": 1})
        peer = await server.welcome()
        await settle()
        assert (client.state, sub.status) == ("live", lost)
        await peer.subscribed("state", at(10), True)
        assert await anext(sub) == Change("status", {"a": 1}, None, at(10), SourceStatus())


async def test_states_are_told_in_order(server: Server) -> None:
    async with server.connect() as client, anyio.create_task_group() as tasks:
        told: list[str] = []

        async def listen() -> None:
            async for state in client.states():
                told.append(state)

        tasks.start_soon(listen)
        await settle()
        assert told == ["connecting"]
        peer = await server.welcome()
        await anyio.sleep(25)
        await settle()
        await peer.send(frames.Ping(1))
        await anyio.sleep(30)
        peer = await server.welcome()
        await settle()
        assert told == ["connecting", "live", "stalled", "live", "stalled", "disconnected", "connecting", "live"]
        await peer.close(4401)
    assert told[-1] == "failed"


async def test_reader_of_states_that_is_far_behind_gets_the_newest(server: Server) -> None:
    async with server.connect() as client:
        states = client.states()
        assert await anext(states) == "connecting"
        for _ in range(20):
            peer = await server.welcome()
            await peer.close()
        peer = await server.welcome()
        await peer.close(4401)
        await settle()
        rest = [state async for state in states]
        assert len(rest) == 32
        assert rest[-3:] == ["connecting", "live", "failed"]


async def test_reconnect_delays_are_1_2_4_8_15_15(server: Server) -> None:
    server.refusals.extend(OSError("nobody there") for _ in range(7))
    async with server.connect() as client:
        await server.welcome()
        await client.connected()
    assert server.attempts == [0, 1, 3, 7, 15, 30, 45, 60]


async def test_delays_begin_anew_after_a_connection_that_worked(server: Server) -> None:
    async with server.connect():
        for _ in range(3):
            peer = await server.welcome()
            await peer.close()
        await server.accept()
    assert server.attempts == [0, 1, 2, 3]


async def test_default_delays_are_jittered_by_the_random_that_was_given(server: Server) -> None:
    server.refusals.extend(WireClosed(None, "nobody there") for _ in range(5))
    async with server.connect(reconnect=ReconnectPolicy()):
        await server.accept()
    pauses = [later - sooner for sooner, later in zip(server.attempts, server.attempts[1:], strict=False)]
    for pause, full in zip(pauses, [1, 2, 4, 8, 15], strict=True):
        assert full / 2 <= pause <= full
    again = Server()
    again.refusals.extend(WireClosed(None, "nobody there") for _ in range(5))
    start = anyio.current_time()
    with again:
        async with again.connect(reconnect=ReconnectPolicy()):
            await again.accept()
    assert [round(attempt - start, 6) for attempt in again.attempts] == [round(attempt, 6) for attempt in server.attempts]


async def test_advice_of_the_server_wins(server: Server) -> None:
    async with server.connect():
        peer = await server.welcome(reconnect={"delay_min": 3, "delay_max": 3, "jitter": 0})
        await peer.close()
        peer = await server.welcome()
        await peer.send(frames.Error(None, "unavailable", "later", retryable=True, retry_after=10))
        await peer.close(4503)
        peer = await server.welcome()
        await peer.send(frames.Drain("deploy", 20, 0))
        await peer.close(1012)
        await server.welcome()
    assert server.attempts == [0, 3, 13, 33]


async def test_attempts_that_run_out_are_a_failure(server: Server) -> None:
    server.refusals.extend(OSError("nobody there") for _ in range(3))
    async with server.connect(reconnect=ReconnectPolicy(jitter=0, max_attempts=2)) as client:
        with pytest.raises(ConnectionFailed, match="nobody there"):
            await client.connected()
        assert client.state == "failed"
    assert server.attempts == [0, 1, 3]


async def test_attempt_that_leads_nowhere_is_given_up(server: Server) -> None:
    server.hang = True
    async with server.connect(open_timeout=4.0) as client:
        await anyio.sleep(4.5)
        assert (client.state, client.reason) == ("disconnected", "no welcome in time")
        await anyio.sleep(1)
    assert server.attempts == [0, 5]


async def test_server_that_never_welcomes_is_given_up(server: Server) -> None:
    async with server.connect(open_timeout=4.0) as client:
        peer = await server.accept()
        await anyio.sleep(4.5)
        assert client.reason == "no welcome in time"
        assert peer.left
        assert [type(frame) for frame in peer.unread()] == [frames.Hello]


async def test_silent_server_is_stalled_then_left_then_sought_again(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await anyio.sleep(24.9)
        assert client.state == "live"
        await anyio.sleep(0.2)
        assert (client.state, sub.status) == ("stalled", SourceStatus("stale", SERVER_TIME, "stalled"))
        await anyio.sleep(5)
        assert (client.state, client.reason) == ("disconnected", "no sign of life")
        assert peer.left
        assert peer.unread() == []  # no goodbye into the void
        await anyio.sleep(1)
        peer = await server.welcome()
        assert (await peer.next(frames.Subscribe)).items == (frames.SubscribeItem("book:A", at(10)),)
    assert server.attempts == [0, 31]


async def test_undecodable_message_ends_in_an_exact_resume(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await peer.send_bytes(b"\xc1")
        await settle()
        assert client.reason.startswith("cannot be decoded")
        peer = await server.welcome()
        item = await peer.subscribed("state", at(10), True)
        assert item.position == at(10)
        assert sub.value == {"a": 1}


async def test_link_that_breaks_while_sending_is_left_when_the_reader_learns_of_it(server: Server) -> None:
    async with server.connect() as client:
        peer = await server.welcome()
        peer.send_fails = True
        await peer.send(frames.Ping(1))
        await settle()
        await peer.close(None, "reset")
        await settle()
        assert (client.state, client.reason) == ("disconnected", "reset")
        await server.welcome()


async def test_wire_that_raises_the_systems_errors_is_understood(server: Server) -> None:
    async with server.connect() as client:
        peer = await server.welcome()
        await peer.fail(ConnectionResetError("reset by peer"))
        await settle()
        assert (client.state, client.reason) == ("disconnected", "reset by peer")
        await server.welcome()


async def test_pings_are_answered_at_once_and_count_messages(server: Server) -> None:
    async with server.connect():
        peer = await server.welcome()
        await peer.send(frames.Drain("x", 1, 1))
        await peer.send(frames.Ping(1))
        assert await peer.next(frames.Pong) == frames.Pong(1, 3)
    assert anyio.current_time() == 0


async def test_consumer_that_sleeps_delays_no_pong(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub, anyio.create_task_group() as tasks:
        peer = await server.welcome()
        await peer.state(10, {})

        async def consume() -> None:
            async for _ in sub:
                await anyio.sleep(3600)

        tasks.start_soon(consume)
        await settle()
        for offset in range(11, 50):
            await peer.send(delta(offset, {"n": offset}))
        await peer.send(frames.Ping(1))
        assert await peer.next(frames.Pong) == frames.Pong(1, 42)
        assert anyio.current_time() == 0
        tasks.cancel_scope.cancel()


# ---- tokens --------------------------------------------------------------------------------------------------------


async def test_token_travels_in_the_hello(server: Server) -> None:
    async with server.connect(token="secret"):
        peer = await server.welcome()
    assert peer.hello is not None and peer.hello.token == "secret"


async def test_token_function_is_asked_at_each_attempt(server: Server) -> None:
    asked: list[float] = []

    async def fetch() -> str:
        asked.append(anyio.current_time())
        return f"token{len(asked)}"

    server.refusals.append(OSError())
    async with server.connect(token=fetch):
        peer = await server.welcome()
        assert peer.hello is not None and peer.hello.token == "token2"
        await peer.close()
        peer = await server.welcome()
        assert peer.hello is not None and peer.hello.token == "token3"
    assert asked == [0, 1, 2]


async def test_token_function_that_raises_fails_the_attempt_only(server: Server) -> None:
    asked: list[float] = []

    async def fetch() -> str:
        asked.append(anyio.current_time())
        if len(asked) < 3:
            raise LookupError("the login service is down; password=hunter2")
        return "token"

    async with server.connect(token=fetch) as client:
        await settle()
        assert (client.state, client.reason) == ("disconnected", "no token: LookupError")
        await server.welcome()
    assert asked == [0, 1, 3]


async def test_token_function_that_hangs_is_given_up_with_the_attempt(server: Server) -> None:
    async with server.connect(token=anyio.sleep_forever, open_timeout=2.0) as client:
        await anyio.sleep(2.5)
        assert (client.state, client.reason) == ("disconnected", "no welcome in time")
    assert server.attempts == []


# ---- ends ----------------------------------------------------------------------------------------------------------


async def refuse(server: Server, code: str, close: int) -> None:
    peer = await server.accept()
    await peer.next(frames.Hello)
    await peer.send(frames.Error(None, code, "not you"))
    await peer.close(close)


@pytest.mark.parametrize(("code", "close"), [("unauthenticated", 4401), ("forbidden", 4403), ("bad_frame", 4400)])
async def test_refused_client_fails_and_says_why(server: Server, code: str, close: int) -> None:
    async with server.connect(token="wrong") as client, client.subscribe("book:A") as sub:
        await refuse(server, code, close)
        for attempt in (client.connected, sub.__anext__):
            with pytest.raises(ConnectionFailed) as caught:
                await attempt()
            assert (caught.value.code, caught.value.reason) == (code, "not you")
        assert (client.state, client.reason) == ("failed", "not you")
        assert sub.status.freshness == "stale"
        async with client.subscribe("book:B") as late:
            with pytest.raises(ConnectionFailed):
                await anext(late)
        await anyio.sleep(1000)
    assert server.attempts == [0]


async def test_client_that_was_taken_over_stays_away(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A") as sub:
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await anext(sub)
        await peer.send(delta(11, {"a": 2}))
        await peer.close(4409, "taken_over")
        assert cast(Change, await anext(sub)).value == {"a": 2}  # what arrived before comes first
        with pytest.raises(ConnectionFailed):
            while True:
                await anext(sub)
        assert client.state == "disconnected"
        with pytest.raises(ConnectionFailed) as caught:
            await client.connected()
        assert caught.value.code == "taken_over"
        assert (sub.value, sub.status.freshness) == ({"a": 2}, "stale")
        await anyio.sleep(1000)
    assert server.attempts == [0]


async def test_evicted_client_learns_why_and_resumes(server: Server) -> None:
    async with server.connect() as client, client.subscribe("book:A"):
        peer = await server.welcome()
        await peer.state(10, {"a": 1})
        await peer.send(frames.Error(None, "slow", "does not acknowledge", retryable=True))
        await peer.close(4509)
        await settle()
        assert (client.state, client.reason) == ("disconnected", "does not acknowledge")
        peer = await server.welcome()
        item = await peer.subscribed("state", at(10), True)
        assert item.position == at(10)
        await client.connected()
        assert client.reason == ""


async def test_refused_subscription_raises_and_leaves_the_others(server: Server) -> None:
    async with server.connect() as client, client.subscribe("mine") as mine, client.subscribe("yours") as yours:
        peer = await server.welcome()
        asked = await peer.next(frames.Subscribe)
        await peer.send(
            frames.Error(asked.request, "forbidden", "not yours", "channel", "yours"),
            frames.Subscribed(asked.request, "mine", 1, "events", at(0), False, None, "live", 0),
            event(1, "x"),
        )
        with pytest.raises(SubscriptionRefused) as caught:
            await anext(yours)
        refusal = caught.value
        assert (refusal.channel, refusal.code, refusal.message, refusal.field) == ("yours", "forbidden", "not yours", "channel")
        assert str(refusal) == "yours: forbidden: not yours"
        assert await anext(mine) == Event("x", at(1))
    assert peer.unread() == [frames.Bye("leaving")]


async def test_refused_channel_may_be_asked_for_again(server: Server) -> None:
    async with server.connect() as client:
        peer = await server.welcome()
        for attempt in range(2):
            async with client.subscribe("a") as sub:
                asked = await peer.next(frames.Subscribe)
                if attempt == 0:
                    await peer.send(frames.Error(asked.request, "forbidden", channel="a"))
                    with pytest.raises(SubscriptionRefused, match="a: forbidden"):
                        await anext(sub)
                else:
                    await peer.send(frames.Subscribed(asked.request, "a", 1, "events", at(0), False, None, "live", 0))
                    await peer.send(event(1, "x"))
                    assert await anext(sub) == Event("x", at(1))


async def test_subscription_that_the_server_ends_raises_after_what_came_before(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A") as sub:
        peer = await server.welcome()
        await peer.subscribed("events", at(0), False, 1, event(1, "x"))
        await peer.send(frames.Unsubscribed(0, "trades:A", "forbidden", "revoked"))
        assert await anext(sub) == Event("x", at(1))
        for _ in range(2):
            with pytest.raises(SubscriptionRefused, match="revoked"):
                await anext(sub)


async def test_subscription_that_ends_in_peace_ends_the_loop(server: Server) -> None:
    async with server.connect() as client, client.subscribe("trades:A") as sub:
        peer = await server.welcome()
        await peer.subscribed("events", at(0), False, 1, event(1, "x"))
        await peer.send(frames.Unsubscribed(0, "trades:A"))
        assert [cast(Event, update).value async for update in sub] == ["x"]


async def test_leaving_a_subscription_ends_a_loop_over_it_elsewhere(server: Server) -> None:
    async with server.connect() as client, anyio.create_task_group() as tasks:
        ended = anyio.Event()

        async def loop(sub: Subscription) -> None:
            async for _ in sub:
                pass
            ended.set()

        async with client.subscribe("trades:A") as sub:
            tasks.start_soon(loop, sub)
            await settle()
            with pytest.raises(anyio.BusyResourceError):
                await anext(sub)
        await ended.wait()


async def test_leaving_the_client_fails_loops_elsewhere(server: Server) -> None:
    async with anyio.create_task_group() as tasks:
        failed = anyio.Event()

        async def loop(client: Client) -> None:
            async with client.subscribe("trades:A") as sub:
                with pytest.raises(ConnectionFailed, match="closed"):
                    async for _ in sub:
                        pass
                failed.set()

        async with server.connect() as client:
            tasks.start_soon(loop, client)
            await settle()
        await failed.wait()


async def test_a_thousand_subscriptions_come_and_go_and_leave_nothing(server: Server) -> None:
    async with server.connect() as client:
        peer = await server.welcome()
        for number in range(1000):
            with suppress(ZeroDivisionError):
                async with client.subscribe(f"c:{number}"):
                    if number % 3 == 0:
                        await settle()
                    if number % 5 == 0:
                        raise ZeroDivisionError
        await settle()
        assert client.channels == ()
        assert client._subscriptions == {}
        kinds = [type(frame) for frame in peer.unread()]
        assert kinds.count(frames.Subscribe) == kinds.count(frames.Unsubscribe) == 334


# ---- the link ------------------------------------------------------------------------------------------------------


async def test_reader_is_never_cancelled_into_losing_a_message(server: Server) -> None:
    """Deadlines pass beside the reading, not around it."""
    async with server.connect() as client, client.subscribe("trades:A") as sub:
        peer = await server.welcome(heartbeat=1.0, timeout=1.0)
        await peer.subscribed("events", at(0))
        for offset in range(1, 50):
            await anyio.sleep(1.45)
            await peer.send(event(offset, "x"))
        assert len(await waiting(sub)) == 49
        assert len(server.attempts) == 1
