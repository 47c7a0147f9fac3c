"""Subscribing, snapshots, updates and resuming over a WebSocket, in both profiles and on every kind of server."""

from __future__ import annotations

import tracemalloc
from contextlib import AsyncExitStack
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any

import anyio
import pytest

from rtsync import InvalidValue, Position, RTSync
from rtsync.backends import MemoryBackend
from rtsync.client import WireClosed
from rtsync.core import JSON, MSGPACK, Code, Profile, document_from_wire, frames, patch_from_wire
from rtsync.testing import SERVER_MODELS, FaultPlan, FaultyBackend, HandshakeRefused, ServerModel, StoreFaults, settle
from tests.transports._site import Peer, site, users

pytestmark = pytest.mark.anyio

PROFILES = pytest.mark.parametrize("profile", [MSGPACK, JSON], ids=["msgpack", "json"])
SERVERS = pytest.mark.parametrize("server", SERVER_MODELS, ids=lambda server: server.name)


def kinds(seen: Any) -> list[str]:
    return [type(frame).__name__ for frame in seen]


# ---- the connection


@PROFILES
@SERVERS
async def test_client_is_welcomed_subscribes_and_receives(server: ServerModel, profile: Profile) -> None:
    """The whole way on every kind of server: hello, welcome, subscribe, keyframe, delta, event, unsubscribe, close."""
    async with site(server=server) as here:
        await here.set("doc:a", {"bid": Decimal("1.5"), "ask": 2})
        async with here.open(profile) as peer:
            assert peer.socket.accepted_subprotocol == profile.name
            welcome = await peer.hello()
            assert (welcome.user, welcome.heartbeat, welcome.timeout) == (None, 20.0, 10.0)
            assert welcome.limits == {"max_frame_bytes": 65536, "max_subscriptions": 128, "message_rate": 50.0}
            assert set(welcome.reconnect) == {"delay_min", "delay_max", "factor", "jitter", "spread"}
            subscribed = await peer.subscribe("doc:a")
            assert (subscribed.kind, subscribed.recovered, subscribed.freshness) == ("state", False, "live")
            keyframe = await peer.next(frames.Keyframe)
            assert (keyframe.alias, keyframe.part, keyframe.parts) == (subscribed.alias, 0, 1)
            await here.set("doc:a", {"bid": Decimal("1.5"), "ask": 3})
            delta = await peer.next(frames.Delta)
            assert delta.offset - delta.span == keyframe.position.offset
            log = await peer.subscribe("log:a")
            await here.append("log:a", "hello")
            await peer.next(frames.Subscribed)  # an empty log got its epoch
            event = await peer.next(frames.Event)
            assert (event.alias, event.value) == (log.alias, "hello")
            await peer.unsubscribe("doc:a")
            await peer.say(frames.Bye("going"))
        await settle()
        assert here.sessions == 0


async def test_frames_may_follow_hello_at_once() -> None:
    """One message is enough to be served: a reconnect costs one round trip."""
    async with site() as here, here.open() as peer:
        await peer.say(
            frames.Hello(None, "test"),
            frames.Subscribe(1, (frames.SubscribeItem("doc:a"), frames.SubscribeItem("log:a"))),
            frames.Rate(2, "doc:a", 0.0),
        )
        await peer.next(frames.Welcome)
        await peer.next(frames.Subscribed)
        await peer.next(frames.Subscribed)


@pytest.mark.parametrize(
    "offer", [[], ["graphql-ws"], ["rtsync.v2.msgpack", "rtsync.v0.json"]], ids=["none", "other", "versions"]
)
@SERVERS
async def test_no_common_subprotocol_is_explained_where_a_browser_can_read_it(server: ServerModel, offer: list[str]) -> None:
    """Accepted without one, told in JSON, and closed with a code that says: do not try again."""
    async with site(server=server) as here, here.open(JSON, offer=offer) as peer:
        assert peer.socket.accepted_subprotocol is None
        error = await peer.next(frames.Error)
        assert (error.request, error.code, error.field, error.retryable) == (None, "bad_frame", "subprotocol", False)
        with pytest.raises(WireClosed) as closed:
            await peer.read()
        assert closed.value.code == 4400
        assert here.sessions == 0


@pytest.mark.parametrize(
    ("offer", "accepted"),
    [
        (["rtsync.v1.json", "rtsync.v1.msgpack"], "rtsync.v1.json"),
        (["graphql-ws", "rtsync.v1.msgpack"], "rtsync.v1.msgpack"),
    ],
)
async def test_client_prefers_and_the_server_chooses_what_it_knows(offer: list[str], accepted: str) -> None:
    """The first one offered that is known."""
    async with site() as here, here.open(offer=offer) as peer:
        assert peer.socket.accepted_subprotocol == accepted


async def test_path_without_an_endpoint_is_refused() -> None:
    """Nothing is accepted where nothing is served; a slash at the end is no different path."""
    async with site() as here:
        with pytest.raises(HandshakeRefused):
            async with here.open(path="/rt/other"):
                pass
        async with here.peer(path="/rt/ws/"):
            pass


async def test_stranger_who_says_nothing_is_ended_and_held_nothing() -> None:
    """The hello deadline ends the connection with its code, whoever keeps it open."""
    async with site(hello_timeout=5.0) as here, here.open() as peer:
        assert await peer.end() == ("hello_timeout", 4408)
        assert anyio.current_time() == pytest.approx(5.0, abs=0.6)
        await settle()
        assert here.sessions == 0


async def test_what_comes_before_hello_ends_the_connection() -> None:
    """And is not acted upon."""
    async with site() as here, here.open() as peer:
        await peer.ask("doc:b")
        assert await peer.end() == ("bad_request", 4422)
        assert not here.holds("doc:b")


# ---- taking over


@SERVERS
async def test_returning_client_ends_the_session_it_left_behind(server: ServerModel) -> None:
    """With the id and secret of its last welcome; the old connection is told if it is still there."""
    async with site(server=server) as here, here.open() as old, here.open() as new:
        welcome = await old.hello()
        await old.subscribe("doc:a")
        again = await new.hello(resume=welcome)
        assert (again.session != welcome.session) and (again.secret != welcome.secret)
        assert here.sessions == 1
        assert await old.end() == ("taken_over", 4409)


async def test_zombie_that_reads_nothing_is_taken_over_just_as_well() -> None:
    """Its blocked send is nobody's business any more, and its teardown does not touch the new session."""
    async with site() as here, here.open() as old, here.open() as new:
        welcome = await old.hello()
        await old.subscribe("doc:a")
        old.socket.stall(way="to_peer")
        for number in range(40):
            await here.set("doc:a", {"x": f"{number:5000}"})
            await anyio.sleep(0.05)
        assert old.socket.blocked or here.rt.statistics().pump_lanes >= 1
        await new.hello(resume=welcome)
        assert here.sessions == 1
        await new.subscribe("doc:a")
        await new.next(frames.Keyframe)
        await anyio.sleep(10)  # whatever the old one still had to do is done
        await here.set("doc:a", {"x": "new"})
        assert (await new.next(frames.Delta)).offset == 42
        assert here.sessions == 1


async def test_wrong_secret_takes_over_nothing() -> None:
    """The client is welcomed all the same, and the session it named goes on."""
    async with site() as here, here.open() as victim, here.open() as other:
        welcome = await victim.hello()
        await victim.subscribe("doc:a")
        await other.say(frames.Hello(None, "test", welcome.session, "wrong"))
        await other.next(frames.Welcome)
        assert here.sessions == 2
        await victim.next(frames.Keyframe)
        await here.set("doc:a", {"x": 1})
        await victim.next(frames.Delta)


@pytest.mark.parametrize("way", ["closed", "vanished", "still open"])
async def test_many_resumes_in_a_row_are_exact(way: str) -> None:
    """Second, third, fourth: whatever became of the connections before, and whenever their deadlines pass."""
    async with site() as here:
        resume: frames.Welcome | None = None
        position: Position | None = None
        document: dict[str, object] = {}
        async with AsyncExitStack() as connections, anyio.create_task_group() as tasks:
            for number in range(6):
                peer = await connections.enter_async_context(here.open())
                resume = await peer.hello(resume=resume)
                subscribed = await peer.subscribe("doc:a", position)
                assert subscribed.recovered == (position is not None)
                for step in range(2):
                    document[f"k{number}.{step}"] = number
                    await here.set("doc:a", document)
                    frame = await peer.any()
                    if isinstance(frame, frames.Keyframe):
                        position = frame.position
                        frame = await peer.any()
                    assert isinstance(frame, frames.Delta)
                    assert position is not None
                    assert frame.offset - frame.span == position.offset
                    position = position.at(frame.offset, frame.link)
                if way == "vanished":
                    peer.socket.vanish()
                elif way == "closed":
                    peer.socket.reset()
                else:
                    tasks.start_soon(peer.keep_reading)
                await here.set("doc:a", {**document, "between": number})
                await anyio.sleep(7)
            assert here.sessions == (0 if way == "closed" else 1)
            tasks.cancel_scope.cancel()


# ---- subscriptions


async def test_batch_is_answered_item_by_item() -> None:
    """One forbidden channel, one of no family and one bad name do not touch the others, and each error names its channel."""
    async with site(authenticator=users) as here, here.peer(token="ann") as peer:
        request = await peer.ask("doc:a", "mine:bob", "nothing:here", "doc:ä", "mine:ann")
        answers = [await peer.any() for _ in range(7)]
        errors = [frame for frame in answers if isinstance(frame, frames.Error)]
        assert [(error.request, error.code, error.channel) for error in errors] == [
            (request, "forbidden", "mine:bob"),
            (request, "forbidden", "nothing:here"),
            (request, "bad_request", "doc:ä"),
        ]
        subscribed = [frame.channel for frame in answers if isinstance(frame, frames.Subscribed)]
        assert sorted(subscribed) == ["doc:a", "mine:ann"]
        assert kinds(answers).count("Keyframe") == 2


async def test_forbidden_and_absent_look_the_same() -> None:
    """Byte by byte but for the name, whether the channel has data, subscribers, or no family at all."""
    async with site(authenticator=users) as here, here.peer(token="bob") as bob, here.peer(token="ann") as ann:
        await here.set("mine:bob", {"secret": 1})
        await bob.subscribe("mine:bob")
        answers = []
        for name in ("mine:bob", "mine:eve", "mine:bo%20", "absent", "absent:bob", "default:bob"):
            request = await ann.ask(name)
            error = await ann.next(frames.Error)
            assert (error.request, error.channel) == (request, name)
            answers.append(
                MSGPACK.encode(frames.Error(0, error.code, error.message, error.field, "", error.retryable, error.retry_after))
            )
        assert len(set(answers)) == 1
        assert anyio.current_time() == 0.0, "nor does one take longer"


async def test_families_are_for_authenticated_users_by_default() -> None:
    """Without an authenticator nobody is, so that only what is declared public can be reached."""
    async with site() as here, here.peer(token="ann") as peer:
        for name in ("default", "private", "mine:ann"):
            await peer.ask(name)
            assert (await peer.next(frames.Error)).code == "forbidden"
        await peer.subscribe("doc:a")
    async with site(authenticator=users) as here, here.peer(token="ann") as peer:
        for name in ("default", "private", "mine:ann"):
            await peer.subscribe(name)
            await peer.next(frames.Keyframe)


async def test_names_that_differ_are_isolated_or_refused() -> None:
    """Case counts; wildcards, commands, spaces and foreign letters are values or nothing; none reaches another channel."""
    legal = ["doc:a", "doc:A", "doc:%2A", "doc:%3E", "doc:a.b", "doc:a%3Ab", "doc:a%20b", "doc:%C3%A4", "doc:a%2Fb", "doc:~"]
    illegal = ["doc:*", "doc:>", "doc:a b", "doc:a\r\nPING", "doc:ä", "doc:%2a", "doc:%0A", "doc:", "doc", ":", "", "$probe:x"]
    async with site() as here, here.peer() as peer:
        aliases = {}
        for name in legal:
            await here.set(name, {"x": 0})
            aliases[name] = (await peer.subscribe(name)).alias
            await peer.next(frames.Keyframe)
        assert len(set(aliases.values())) == len(legal)
        for name in [*illegal, "doc:" + "x" * 10_000, "doc:a:b"]:
            await peer.ask(name)
            error = await peer.next(frames.Error)
            assert error.code in ("bad_request", "forbidden"), name
            assert error.channel == name[:200]
        await here.set("doc:A", {"x": 1})
        assert (await peer.next(frames.Delta)).alias == aliases["doc:A"]
        await settle()
        assert not peer.socket.buffered
        assert here.rt.statistics().channels == len(legal)


async def test_subscribing_twice_is_one_subscription_begun_anew() -> None:
    """Each request is answered, updates come once, and one unsubscribe is enough."""
    async with site() as here, here.peer() as peer:
        first = await peer.subscribe("doc:a")
        await peer.next(frames.Keyframe)
        second = await peer.subscribe("doc:a")
        await peer.next(frames.Keyframe)
        assert first.alias == second.alias
        await here.set("doc:a", {"x": 1})
        await peer.next(frames.Delta)
        assert here.rt.statistics().subscriptions == 1
        await peer.unsubscribe("doc:a")
        assert here.rt.statistics().subscriptions == 0
        await here.set("doc:a", {"x": 2})
        await settle()
        assert not peer.socket.buffered


async def test_unsubscribing_what_is_not_subscribed_leaves_the_connection() -> None:
    """It is answered by an error that can be ignored."""
    async with site() as here, here.peer() as peer:
        await peer.say(frames.Unsubscribe(1, ("doc:a", "nothing")), frames.Rate(2, "doc:a", 1.0))
        for request, channel in ((1, "doc:a"), (1, "nothing"), (2, "doc:a")):
            error = await peer.next(frames.Error)
            assert (error.request, error.code, error.channel) == (request, "not_subscribed", channel)
        peer.requests = iter(range(3, 10))  # type: ignore[assignment]
        await peer.subscribe("doc:a")


async def test_channel_unsubscribed_and_subscribed_again_gets_only_what_is_newer() -> None:
    """What was in transit, or owed, belongs to the instance that ended."""
    async with site() as here, here.peer() as peer:
        await here.append("log:a", 0)
        await peer.subscribe("log:a")
        peer.socket.stall(way="to_peer")
        for number in range(1, 30):
            await here.append("log:a", {"n": number, "x": "y" * 5000})
        await settle()
        await peer.say(frames.Unsubscribe(5, ("log:a",)))
        await settle()
        await here.append("log:a", "between")
        await peer.say(frames.Subscribe(6, (frames.SubscribeItem("log:a"),)))
        await settle()
        await here.append("log:a", "newer")
        peer.socket.resume()
        while not isinstance(await peer.any(), frames.Unsubscribed):
            pass
        await peer.next(frames.Subscribed)
        assert (await peer.next(frames.Event)).value == "newer"
        await settle()
        assert not peer.unread


async def test_subscription_ended_by_the_server_is_told_and_gets_nothing_more() -> None:
    """As when a permission is withdrawn: not even what was owed."""
    async with site() as here, here.peer() as peer:
        await peer.subscribe("doc:a")
        await peer.next(frames.Keyframe)
        await here.set("doc:a", {"x": 1})
        (subscription,) = here.rt.hub.channels.get("doc:a").subscriptions  # type: ignore[arg-type, union-attr]
        here.rt.hub.end_subscription(subscription, Code.FORBIDDEN, "no longer allowed")
        ended = await peer.next(frames.Unsubscribed)
        assert (ended.request, ended.channel, ended.code) == (0, "doc:a", "forbidden")
        await here.set("doc:a", {"x": 2})
        await settle()
        assert not peer.socket.buffered


async def test_default_subscriptions_begin_by_themselves() -> None:
    """Behind the welcome, with request 0; those that name the user only for users."""
    async with site(authenticator=users, default_subscriptions=("doc:news", "mine:{user}")) as here:
        await here.set("mine:ann", {"x": 0})
        async with here.peer(token="ann") as peer:
            begun = await peer.begun(2)
            assert set(begun) == {"doc:news", "mine:ann"}
            assert {answer.request for answer in begun.values()} == {0}
            await settle()
            await _skip_keyframes(peer)
            await here.set("mine:ann", {"x": 1})
            await peer.next(frames.Delta)
            await peer.unsubscribe("doc:news")
    async with site(default_subscriptions=("doc:news", "mine:{user}")) as here, here.peer() as peer:
        assert (await peer.next(frames.Subscribed)).channel == "doc:news"
        await peer.next(frames.Keyframe)
        await settle()
        assert not peer.socket.buffered


async def test_endpoint_subscribes_its_sessions_and_only_those() -> None:
    """A route of one's own brings its channels; permissions hold for it as for everything."""

    def declare(rt: RTSync) -> None:
        rt.endpoint("/ws/portfolio", subscribe=["mine:{user}", "private"])

    async with site(authenticator=users, declare=declare) as here:
        async with here.peer(path="/rt/ws/portfolio", token="ann/1") as peer:
            assert set(await peer.begun(2)) == {"mine:ann%2F1", "private"}
            await _skip_keyframes(peer)
            await peer.subscribe("doc:a")
        async with here.peer(token="ann") as peer:
            await settle()
            assert not peer.socket.buffered
    async with site(declare=declare) as here, here.peer(path="/rt/ws/portfolio") as peer:
        error = await peer.next(frames.Error)
        assert (error.request, error.code, error.channel) == (0, "forbidden", "private")


async def _skip_keyframes(peer: Peer) -> None:
    await settle()
    while peer.unread or peer.socket.buffered:
        await peer.next(frames.Keyframe)


# ---- who it is


async def test_slow_authenticator_holds_up_nobody_and_loses_nothing() -> None:
    """Frames sent meanwhile are acted upon in order once it has answered, and the connection is read all the time."""
    async with site(authenticator=_slow_users) as here, here.open() as slow, here.peer(token="bob") as other:
        await slow.say(frames.Hello("ann-slow"), frames.Subscribe(1, (frames.SubscribeItem("mine:ann-slow"),)))
        for number in range(2, 50):
            await slow.say(frames.Subscribe(number, (frames.SubscribeItem("doc:a"),)))
        await settle()
        assert slow.socket.unread == 0
        await other.subscribe("doc:a")
        assert anyio.current_time() == 0.0
        await slow.next(frames.Welcome)
        assert anyio.current_time() == 5.0
        assert set(await slow.begun(2)) == {"mine:ann-slow", "doc:a"}


async def test_client_that_leaves_during_authentication_leaves_nothing() -> None:
    """The authenticator is cancelled, and nothing is received after the disconnect."""
    async with site(authenticator=_slow_users) as here:
        for way in ("close", "reset"):
            async with here.open() as peer:
                await peer.say(frames.Hello("ann-slow"), frames.Subscribe(1, (frames.SubscribeItem("doc:a"),)))
                await anyio.sleep(1)
                if way == "reset":
                    peer.socket.reset()
        await settle()
        assert (here.connector.serving, here.sessions) == (0, 0)
        assert anyio.current_time() == 2.0


async def test_bad_frame_during_authentication_ends_the_connection_at_once() -> None:
    """With its own code, whatever the authenticator would have said."""
    async with site(authenticator=_slow_users) as here, here.open() as peer:
        await peer.say(frames.Hello("ann-slow"))
        await peer.socket.send(b"\xc1")
        assert await peer.end() == ("bad_frame", 4400)
        assert anyio.current_time() < 1.0
        await settle()
        assert here.sessions == 0


async def test_too_much_during_authentication_ends_the_connection() -> None:
    """A stranger cannot fill our memory while somebody looks up who it is."""
    async with site(authenticator=_slow_users) as here, here.open() as peer:
        await peer.say(frames.Hello("ann-slow"))
        for number in range(1, 10):
            await peer.say(frames.Unsubscribe(number, ("x" * 60_000,)))
        assert await peer.end() == ("too_many", 4429)
        assert anyio.current_time() < 1.0


@SERVERS
async def test_refused_credentials_end_in_a_message_and_a_code(server: ServerModel) -> None:
    """Readable by a browser; nothing of what was asked for behind the hello happens."""
    async with site(server=server, authenticator=users) as here, here.open() as peer:
        await peer.say(frames.Hello("wrong"), frames.Subscribe(1, (frames.SubscribeItem("doc:b"),)))
        assert await peer.end() == ("unauthenticated", 4401)
        assert kinds(peer.seen) == ["Error"]
        assert not here.holds("doc:b")


@pytest.mark.parametrize("defect", ["raises", "hangs"])
async def test_authenticator_that_fails_is_our_fault_and_may_be_tried_again(
    defect: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns nothing of what went wrong; the log does."""

    async def broken(token: str | None) -> Any:
        if defect == "hangs":
            await anyio.sleep_forever()
        raise KeyError("database password is swordfish")

    async with site(authenticator=broken) as here, here.open() as peer:
        await peer.say(frames.Hello("ann"))
        assert await peer.end() == ("unavailable", 4503)
        (error,) = peer.seen
        assert isinstance(error, frames.Error)
        assert error.retryable
        assert "swordfish" not in error.message
        assert anyio.current_time() == (10.0 if defect == "hangs" else 0.0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_policy_that_fails_lets_nobody_in_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Neither one that raises nor one that gives something else than true or false."""

    def declare(rt: RTSync) -> None:
        rt.state("raises", access=lambda principal, params: bool(1 / 0))
        rt.state("odd", access=lambda principal, params: "yes")  # type: ignore[arg-type]

    async with site(declare=declare) as here, here.peer() as peer:
        await peer.ask("raises", "odd", "doc:a")
        first, second = await peer.next(frames.Error), await peer.next(frames.Error)
        assert (first.code, first.channel, first.retryable) == ("unavailable", "raises", True)
        assert (second.code, second.channel) == ("forbidden", "odd")
        assert (await peer.next(frames.Subscribed)).channel == "doc:a"
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


async def _slow_users(token: str | None) -> Any:
    if token is not None and token.endswith("slow"):
        await anyio.sleep(5)
    return await users(token)


# ---- snapshots, changes, resuming


async def test_update_that_changes_nothing_is_not_sent() -> None:
    """And a key that went and came back within one flush is as if it had never gone."""
    async with site() as here, here.peer() as peer:
        await here.set("doc:a", {"x": 1, "y": 2})
        await peer.ask("doc:a", rate=1.0)
        await peer.next(frames.Subscribed)
        keyframe = await peer.next(frames.Keyframe)
        await here.set("doc:a", {"x": 1, "y": 2})
        await anyio.sleep(2.5)
        assert not peer.socket.buffered
        await here.set("doc:a", {"x": 1, "y": 3})
        leading = await peer.next(frames.Delta)
        assert anyio.current_time() == 2.5
        await here.set("doc:a", {"y": 3})
        await here.set("doc:a", {"x": 1, "y": 3})
        await here.set("doc:a", {"x": 1, "y": 4})
        trailing = await peer.next(frames.Delta)
        assert anyio.current_time() == 3.0
        assert leading.offset - leading.span == keyframe.position.offset
        assert (trailing.offset - trailing.span, trailing.span) == (leading.offset, 3), "conflated, and covering all of it"
        assert patch_from_wire(trailing.patch, keyframe.keys) == {"x": 1, "y": 4}


async def test_resume_is_exact() -> None:
    """Inside the window what was missed, at the head nothing, beyond it or from elsewhere the whole document."""
    async with site(state_window=10) as here:
        for case in range(8):
            name = f"doc:case{case}"
            positions = [await here.set(name, {"n": number}) for number in range(30)]
            head = positions[-1]
            position, recovered, behind = [
                (head, True, False),
                (positions[-2], True, True),
                (positions[-5], True, True),
                (positions[0], False, False),
                (Position("other", head.offset, head.link), False, False),
                (head._replace(link=head.link ^ 1), False, False),
                (head.at(head.offset + 5, 1), False, False),
                (Position("", 0, 0), False, False),
            ][case]
            async with here.peer() as peer:
                subscribed = await peer.subscribe(name, position)
                assert subscribed.recovered is recovered, position
                await settle()
                if not recovered:
                    assert (await peer.next(frames.Keyframe)).position == head
                else:
                    assert subscribed.position == position
                if behind:
                    delta = await peer.next(frames.Delta)
                    assert (delta.offset - delta.span, delta.offset) == (position.offset, head.offset)
                await settle()
                assert not peer.socket.buffered
                await here.set(name, {"n": "next"})
                delta = await peer.next(frames.Delta)
                assert delta.offset - delta.span == head.offset


async def test_resume_of_events_is_exact_or_says_what_is_missing() -> None:
    """Those after the position, from the window; a gap where older ones have fallen out or history is another."""
    async with site() as here:
        positions = [await here.append("log:a", number) for number in range(150)]
        head = positions[-1]
        for position, gap, first in [
            (positions[-1], None, None),
            (positions[-3], None, 148),
            (positions[60], None, 61),
            (positions[10], "window", 50),
            (Position("", 0, 0), "window", 50),
            (Position("other", 3, 3), "epoch", None),
            (head.at(head.offset + 1, 5), "epoch", None),
        ]:
            async with here.peer() as peer:
                subscribed = await peer.subscribe("log:a", position)
                assert (subscribed.recovered, subscribed.position) == (gap is None, position)
                if gap is not None:
                    told = await peer.next(frames.Gap)
                    assert (told.start, told.reason) == (position, gap)
                await settle()
                values = []
                while peer.unread or peer.socket.buffered:
                    values.append((await peer.next(frames.Event)).value)
                assert values == ([] if first is None else list(range(first, 150)))


async def test_resume_before_anything_was_sent_succeeds() -> None:
    """A connection that breaks right after the subscribe costs nothing."""
    async with site() as here:
        for name in ("doc:a", "doc:never-written", "log:a"):
            async with here.peer() as peer:
                subscribed = await peer.subscribe(name)
            async with here.peer() as peer:
                events = subscribed.kind == "events"
                again = await peer.subscribe(name, subscribed.position if events else None)
                assert again.recovered is events
                if not events:
                    await peer.next(frames.Keyframe)
        await here.append("log:a", "first")
        async with here.peer() as peer:
            await peer.subscribe("log:a", Position("", 0, 0))
            assert (await peer.next(frames.Event)).value == "first"


async def test_snapshot_larger_than_everything_on_the_way_arrives() -> None:
    """Larger than flush, window and the server's buffer: in parts, without anybody being evicted."""
    async with site() as here, here.peer() as peer:
        await here.set("doc:b", {"blob": Random(1).randbytes(900_000)})
        await peer.subscribe("doc:b")
        parts = [await peer.next(frames.Keyframe)]
        while len(parts) < parts[0].parts:
            parts.append(await peer.next(frames.Keyframe))
        read: Any = MSGPACK.read_keyframe([part.body for part in parts])
        assert document_from_wire(*read) == {"blob": Random(1).randbytes(900_000)}
        assert here.rt.statistics().evictions == 0


async def test_lost_log_never_leaves_a_client_on_old_state() -> None:
    """Whether it is connected or comes back: another epoch is a keyframe, and for events a gap."""
    backend = MemoryBackend()
    faults = StoreFaults(backend.store)
    async with site(backend=backend) as here, here.peer() as peer:
        for number in range(5):
            position = await here.set("doc:a", {"n": number})
            at = await here.append("log:a", number)
        await peer.subscribe("doc:a")
        await peer.next(frames.Keyframe)
        await peer.subscribe("log:a")
        for name in ("doc:a", "log:a"):
            faults.lose_log(name)  # type: ignore[arg-type]
        await anyio.sleep(20)
        await peer.begun(0)
        told = [await peer.any(), await peer.any()]
        assert sorted(kinds(told)) == ["Gap", "Keyframe"]
        for frame in told:
            assert (frame.reason == "epoch") if isinstance(frame, frames.Gap) else (frame.body == {})  # type: ignore[union-attr]
        await here.set("doc:a", {"n": "new"})
        async with here.peer() as again:
            assert not (await again.subscribe("doc:a", position)).recovered
            assert (await again.next(frames.Keyframe)).position.epoch != position.epoch
            assert not (await again.subscribe("log:a", at)).recovered
            assert (await again.next(frames.Gap)).reason == "epoch"


async def test_duplicated_and_reordered_announcements_arrive_once_and_in_order() -> None:
    """What the broker repeats, swaps or delays changes neither what a client sees nor its order."""
    plan = FaultPlan(duplicate_rate=0.3, reorder_rate=0.3, delay_rate=0.2)
    async with site(backend=FaultyBackend(MemoryBackend(), plan, random=Random(5))) as here, here.peer() as peer:
        await here.append("log:a", -1)
        await peer.subscribe("log:a")
        await peer.subscribe("doc:a")
        await peer.next(frames.Keyframe)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.keep_reading)
            for number in range(300):
                await here.append("log:a", number)
                await here.set("doc:a", {"n": number})
                await anyio.sleep(0.01)
            await anyio.sleep(10)
            tasks.cancel_scope.cancel()
        events = [frame.value for frame in peer.seen if isinstance(frame, frames.Event)]
        assert events == list(range(300))
        deltas = [frame for frame in peer.seen if isinstance(frame, frames.Delta)]
        assert all(one.offset == two.offset - two.span for one, two in pairwise(deltas))


@pytest.mark.parametrize("seed", range(5))
async def test_snapshot_and_changes_meet_without_a_gap(seed: int) -> None:
    """A thousand subscribes in the middle of continuous writing: the first delta follows the keyframe, and so on."""
    random = Random(seed)
    async with site(state_window=50) as here:
        writing = True

        async def write() -> None:
            number = 0
            while writing:
                number += 1
                await here.set("doc:a", {"n": number, f"k{number % 7}": number})
                await anyio.sleep(random.choice((0.0, 0.001, 0.003)))

        async def join() -> None:
            await anyio.sleep(random.random())
            async with here.peer(random.choice((MSGPACK, JSON))) as peer:
                for _ in range(4):
                    await peer.subscribe("doc:a")
                    keyframe = await peer.next(frames.Keyframe)
                    offset = keyframe.position.offset
                    for _ in range(random.randrange(5)):
                        delta = await peer.next(frames.Delta)
                        assert delta.offset - delta.span == offset
                        offset = delta.offset
                    if random.random() < 0.5:
                        await _leave(peer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            async with anyio.create_task_group() as joining:
                for _ in range(50):
                    joining.start_soon(join)
            writing = False


async def _leave(peer: Peer) -> None:
    """Unsubscribe, and ignore what was in transit."""
    request = next(peer.requests)
    await peer.say(frames.Unsubscribe(request, ("doc:a",)))
    while not isinstance(await peer.any(), frames.Unsubscribed):
        pass


async def test_profile_may_change_from_one_connection_to_the_next() -> None:
    """Positions mean the same in both: what was missed is neither lost nor repeated."""
    async with site() as here:
        position: Position | None = None
        for number, profile in enumerate([MSGPACK, JSON, MSGPACK, JSON]):
            async with here.peer(profile) as peer:
                subscribed = await peer.subscribe("doc:a", position)
                if position is None:
                    position = (await peer.next(frames.Keyframe)).position
                else:
                    assert subscribed.recovered
                    delta = await peer.next(frames.Delta)
                    assert delta.offset - delta.span == position.offset
                    position = position.at(delta.offset, delta.link)
                await here.set("doc:a", {"n": number})
                delta = await peer.next(frames.Delta)
                position = here.head("doc:a")
                assert position.offset == delta.offset
                await here.set("doc:a", {"n": number, "missed": number})


# ---- what is not the protocol


BAD: dict[str, bytes | str] = {
    "cut off": b"\x94\x02\x01",
    "bytes behind a frame": MSGPACK.encode(frames.Bye("x")) + b"\x01",
    "never used byte": b"\xc1",
    "invalid text": b"\x92\x08\xa2\xff\xfe",
    "number as key": b"\x92\x08\x81\x01\x02",
    "array as key": b"\x92\x08\x81\x90\x02",
    "unknown extension": b"\x92\x08\xd4\x2a\x00",
    "timestamp out of range": b"\x92\x08\xc7\x0c\xff\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
    "deep nesting": b"\x92\x08" + b"\x91" * 1000 + b"\x90",
    "many empty arrays": b"\x92\x08\xdc\xff\xf0" + b"\x90" * 65_520,
    "four thousand million elements": b"\x92\x08\xdd\xff\xff\xff\xff",
    "nested claims": b"\xdd\x00\x01\x00\x00" * 13_000,
    "map claims": b"\xdf\xff\xff\xff\xff" * 13_000,
    "claims of text": b"\x92\x08\xdb\xff\xff\xff\xff",
    "not an array": b"\x01",
    "huge": bytes(65_537),
    "a position of the wrong shape": b"\x93\x02\x01\x91\x92\xa1a\x92\xa0\x00",
    "negative request": b"\x93\x02\xff\x90",
    "text": '[1,null,"x"]\n',
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_message_ends_its_connection_with_a_typed_error_and_costs_little(name: str) -> None:
    """At the earliest point, with less than 2 MiB of memory, and nobody else notices."""
    message = BAD[name]
    async with site() as here, here.peer() as other:
        await other.subscribe("doc:a")
        await other.next(frames.Keyframe)
        async with here.peer() as peer:
            await peer.subscribe("doc:b")
            await settle()
            tracemalloc.start()
            try:
                await peer.socket.send(message)
                await settle()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 2 << 20
            assert await peer.end() == (("too_large", 4413) if name == "huge" else ("bad_frame", 4400))
        await settle()
        assert here.sessions == 1
        await here.set("doc:a", {"x": 1})
        await other.next(frames.Delta)


@pytest.mark.parametrize(
    "message",
    [
        b"[1]\n",
        "[",
        "[1,null]]\n",
        '[8,"\\ud800"]\n',
        '[1,null,"x","s","\\udc00"]\n',
        "[8," * 3000,
        "[" * 65_536,
        '{"a":1}\n',
        "[8,NaN]\n",
        '[8,{"a":1,"a":2}]\n',
        "[8,1e999]\n",
        '[8,{"$d":"x"}]\n',
        '[2,1,[["doc:a",["",1' + "0" * 5000 + ",0]]]]\n",
    ],
    ids=str,
)
async def test_bad_text_ends_its_connection_with_a_typed_error(message: str | bytes) -> None:
    """The same holds in JSON."""
    async with site() as here, here.open(JSON) as peer:
        if not (isinstance(message, str) and message.startswith("[1")):
            await peer.hello()
        await peer.socket.send(message)
        assert await peer.end() == ("bad_frame", 4400)
        await settle()
        assert here.sessions == 0


@SERVERS
async def test_client_that_breaks_a_rule_in_the_midst_of_data_is_still_told(server: ServerModel) -> None:
    """The error comes through although a send may be under way, so that the client does not come back for more."""
    async with site(server=server) as here, here.open() as peer:
        await peer.say(frames.Hello(None), frames.Subscribe(1, (frames.SubscribeItem("doc:a"),)))
        await peer.socket.send(b"\xc1")
        assert await peer.end() == ("bad_frame", 4400)


async def test_request_ids_that_do_not_grow_are_answered_and_the_connection_stays() -> None:
    """Nothing of such a request is done."""
    async with site() as here, here.peer() as peer:
        await peer.subscribe("doc:a")
        await peer.next(frames.Keyframe)
        for request in (1, 0):
            await peer.say(frames.Subscribe(request, (frames.SubscribeItem("doc:b"),)))
            error = await peer.next(frames.Error)
            assert (error.request, error.code, error.field) == (request, "bad_request", "request")
        await peer.say(frames.Unsubscribe(1, ("doc:a",)))
        await peer.next(frames.Error)
        assert here.rt.statistics().subscriptions == 1


async def test_frames_of_a_later_version_are_ignored() -> None:
    """Unknown types and trailing fields change nothing."""
    async with site() as here, here.open(JSON) as peer:
        await peer.socket.send('[77,{"a":[]}]\n[1,null,"x",null,null,"more",{}]\n[2,1,[["doc:a",null,null,"more"]],7]\n')
        await peer.next(frames.Welcome)
        await peer.next(frames.Subscribed)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, 2**64, {"x": object()}, float("inf"), {1: 2}], ids=range(6))
async def test_what_cannot_be_carried_is_refused_where_it_is_published(value: object) -> None:
    """Not in the writer of each client; other publishes go on."""
    async with site() as here, here.peer() as peer:
        await peer.subscribe("doc:a")
        await peer.next(frames.Keyframe)
        with pytest.raises(InvalidValue):
            await here.set("doc:a", {"x": value})
        with pytest.raises(InvalidValue):
            await here.append("log:a", value)
        await here.set("doc:a", {"x": 1})
        await peer.next(frames.Delta)
