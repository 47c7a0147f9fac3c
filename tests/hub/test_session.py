"""What a session is owed, in which order, and how much of it at a time."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from random import Random
from typing import Any

import anyio
import pytest

from rtsync.core import (
    JSON,
    MSGPACK,
    Change,
    ClientSession,
    Code,
    Document,
    Event,
    Gap,
    Position,
    Profile,
    ProtocolError,
    ReconnectPolicy,
    SourceStatus,
    apply,
    client_events,
    document_from_wire,
    frames,
    patch_from_wire,
)
from rtsync.hub._session import DEAD, IDLE, WAITING
from rtsync.testing import VIRTUAL_BACKENDS, run_virtual, settle
from tests.hub._node import Node, Reader, node, only

pytestmark = pytest.mark.anyio

PROFILES = pytest.mark.parametrize("profile", [MSGPACK, JSON], ids=["msgpack", "json"])
STALE = SourceStatus("stale", 1, "in doubt")


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def kinds(taken: Sequence[frames.ServerFrame]) -> list[str]:
    return [type(frame).__name__ for frame in taken]


def blob(size: int, seed: int = 0) -> dict[str, object]:
    """Return a document of about *size* bytes that nothing makes smaller."""
    return {"blob": Random(seed).randbytes(size)}


async def held_up(reader: Reader) -> None:
    """Have a message of the reader's under way, and everything else wait behind it."""
    reader.close()
    reader.push(frames.Drain("first", 0.0, 0.0))
    await settle()


# ---- answers


@PROFILES
async def test_answer_comes_before_the_data_of_its_subscription(profile: Profile) -> None:
    """A client learns the alias before any frame that uses it."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 1})
        reader = hub.reader(profile)
        reader.subscribe("doc:a")
        reader.subscribe("log:a")
        await settle()
        taken = reader.take()
        assert kinds(taken) == ["Subscribed", "Keyframe", "Subscribed"]
        subscribed, keyframe, _ = taken
        assert isinstance(subscribed, frames.Subscribed)
        assert isinstance(keyframe, frames.Keyframe)
        assert subscribed.alias == keyframe.alias


async def test_many_answers_go_out_piece_by_piece_and_data_behind_them() -> None:
    """Answers do not make a flush any larger than data would."""
    async with node(flush_bytes=4096) as hub:
        await hub.set("doc:a", {"x": 1})
        reader = hub.reader()
        reader.subscribe("doc:a")
        for number in range(100):
            reader.push(frames.Error(number, "bad_request", "x" * 200))
        messages = await reader.take_all_messages()
        assert len(messages) > 5
        assert max(len(message) for message in messages) < 25
        taken = [frame for message in messages for frame in message]
        assert kinds(taken)[0] == "Subscribed"
        assert kinds(taken)[-1] == "Keyframe"


async def test_answer_of_a_subscription_that_was_overtaken_is_left_out() -> None:
    """Whoever subscribes again before the answer left gets the answer to the last request only."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 1})
        reader = hub.reader()
        await held_up(reader)
        for _ in range(3):
            last = reader.subscribe("doc:a")
        reader.open()
        await settle()
        assert [frame.request for frame in only(frames.Subscribed, reader.take())] == [last]


async def test_answer_of_a_subscription_that_was_ended_is_left_out() -> None:
    """Nothing begins that has already ended."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 1})
        reader = hub.reader()
        await held_up(reader)
        reader.subscribe("doc:a")
        reader.unsubscribe("doc:a")
        reader.open()
        await settle()
        assert kinds(reader.take()) == ["Drain", "Unsubscribed"]


async def test_client_that_asks_and_does_not_read_is_owed_too_much() -> None:
    """Answers are the one thing stored for a client, and they are bounded."""
    async with node() as hub:
        reader = hub.reader()
        await held_up(reader)
        asked = 0
        while not reader.is_owed_too_much:
            reader.push(frames.Error(1, "bad_request", "x" * 1000))
            asked += 1
        assert 500 < asked < 530
        reader.open()
        await settle()
        assert not reader.is_owed_too_much


async def test_resuming_everything_at_once_is_not_too_much() -> None:
    """However large key tables are, a client may resume all it may subscribe to."""
    async with node(state_window=10) as hub:
        positions = {}
        for number in range(128):
            document = {f"{key:>60}": number for key in range(512)}
            positions[f"doc:{number}"] = await hub.set(f"doc:{number}", document)
        reader = hub.reader()
        await held_up(reader)
        for name, position in positions.items():
            reader.subscribe(name, position)
        assert not reader.is_owed_too_much
        reader.open()
        subscribed = list(only(frames.Subscribed, await reader.take_all()))
        assert len(subscribed) == 128
        assert sum(len(frame.keys) * 60 for frame in subscribed) > 2 << 20


# ---- statuses, events, state


async def test_bad_news_overtakes_data() -> None:
    """What is stale is said at once, however much of it is still to come."""
    async with node(flush_bytes=2048) as hub:
        await hub.append("log:a", 0)
        reader = hub.reader()
        reader.subscribe("log:a")
        await settle()
        reader.take()
        await held_up(reader)
        for number in range(50):
            await hub.append("log:a", {"n": number, "x": "y" * 500})
        hub.channel("log:a").set_doubt(STALE)
        reader.open()
        messages = await reader.take_all_messages()
        assert kinds(messages[1])[0] == "Status"
        assert sum(kinds(message).count("Event") for message in messages[2:]) > 40


async def test_live_is_said_behind_the_data_that_makes_it_true() -> None:
    """A client is told that it is up to date when it is, not when the server is."""
    async with node(flush_bytes=2048) as hub:
        await hub.append("log:a", 0)
        reader = hub.reader()
        reader.subscribe("log:a")
        await settle()
        hub.channel("log:a").set_doubt(STALE)
        await settle()
        reader.take()
        await held_up(reader)
        for number in range(50):
            await hub.append("log:a", {"n": number, "x": "y" * 500})
        hub.channel("log:a").set_doubt(None)
        reader.open()
        taken = [frame for frame in await reader.take_all() if not isinstance(frame, frames.Ping)]
        status = taken[-1]
        assert isinstance(status, frames.Status)
        assert status.freshness == "live"
        assert kinds(taken).count("Event") == 50
        assert kinds(taken).count("Status") == 1


async def test_status_alone_is_sent_alone() -> None:
    """Freshness changes without data."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 1})
        reader = hub.reader()
        reader.subscribe("doc:a")
        await settle()
        reader.take()
        for doubt, freshness in ((STALE, "stale"), (None, "live")):
            hub.channel("doc:a").set_doubt(doubt)
            await settle()
            (status,) = reader.take()
            assert isinstance(status, frames.Status)
            assert status.freshness == freshness


async def test_events_come_before_state() -> None:
    """An event counts by itself; a document can wait and conflate."""
    async with node() as hub:
        for name in ("doc:a", "doc:b"):
            await hub.set(name, {"x": 0})
        await hub.append("log:a", 0)
        reader = hub.reader()
        for name in ("doc:a", "doc:b", "log:a"):
            reader.subscribe(name)
        await settle()
        reader.take()
        await held_up(reader)
        await hub.set("doc:a", {"x": 1})
        await hub.append("log:a", 1)
        await hub.set("doc:b", {"x": 1})
        reader.open()
        await settle()
        assert kinds(reader.take()) == ["Drain", "Event", "Delta", "Delta"]


async def test_flood_of_events_does_not_starve_state() -> None:
    """What a flush had no room for is first in the next one."""
    async with node(flush_bytes=1024) as hub:
        await hub.set("doc:a", {"x": 0})
        await hub.append("log:a", 0)
        reader = hub.reader()
        reader.subscribe("doc:a")
        reader.subscribe("log:a")
        await settle()
        reader.take()
        flushes: list[list[str]] = []
        for number in range(1, 30):
            await held_up(reader)  # a link that takes a message, and then one more, while more than that happens
            for _ in range(10):
                await hub.append("log:a", "x" * 300)
            await hub.set("doc:a", {"x": number})
            reader.open()
            reader.close()
            await settle()
            flushes += [kinds(message) for message in reader.take_messages()]
            reader.pong()
            reader.open()
        flushes = [flush for flush in flushes if "Event" in flush or "Delta" in flush]
        assert sum("Delta" in flush for flush in flushes) >= len(flushes) // 2
        assert sum("Event" in flush for flush in flushes) >= len(flushes) // 2


# ---- the budget of a flush


async def test_flush_carries_its_budget_and_one_frame_at_most() -> None:
    """However much is owed, one client holds up the others for no longer than this takes."""
    async with node() as hub:
        names = [f"doc:{number}" for number in range(20)]
        for number, name in enumerate(names):
            await hub.set(name, blob(20_000, number))
        reader = hub.reader()
        for name in names:
            reader.subscribe(name)
        sizes = []
        for _ in range(20):
            await settle()
            sizes += [len(message) for message in reader.inbox]
            reader.take()
            reader.pong()
        assert sum(sizes) > 400_000
        assert max(sizes) <= 65536 + 21_000
        assert len(sizes) >= 5


async def test_large_keyframe_travels_in_parts_of_one_position_with_others_in_between() -> None:
    """Other channels do not wait for it, and what changes meanwhile follows as one delta."""
    async with node() as hub:
        await hub.set("doc:small", {"x": 0})
        document: Document = {**blob(400_000), "n": 0}  # type: ignore[dict-item]
        began_at = await hub.set("doc:large", document)
        reader = hub.reader()
        reader.subscribe("doc:small")
        await settle()
        reader.take()
        reader.subscribe("doc:large")
        taken: list[frames.ServerFrame] = []
        for number in range(1, 20):
            await settle()
            arrived = reader.take()
            taken += arrived
            await hub.set("doc:small", {"x": number})
            await hub.set("doc:large", {**document, "n": number})
            if not reader.pong() and reader.state is IDLE:
                break
        subscribed = next(only(frames.Subscribed, taken))
        large = [frame for frame in taken if getattr(frame, "alias", None) == subscribed.alias and frame is not subscribed]
        parts = list(only(frames.Keyframe, large))
        assert kinds(large)[: len(parts)] == ["Keyframe"] * len(parts), "no frame of that channel comes in between"
        assert [part.part for part in parts] == list(range(parts[0].parts))
        assert {part.position for part in parts} == {began_at}
        between = taken[taken.index(parts[0]) : taken.index(parts[-1])]
        assert any(isinstance(frame, frames.Delta) for frame in between), "the small channel goes on"
        read: Any = MSGPACK.read_keyframe([part.body for part in parts])
        assert document_from_wire(*read) == document
        deltas = [frame for frame in large if isinstance(frame, frames.Delta)]
        assert deltas[0].offset - deltas[0].span == began_at.offset
        assert deltas[0].span > 1, "several changes as one"


async def test_keyframe_in_parts_is_abandoned_with_its_subscription() -> None:
    """No part follows the end of an instance, and a new instance begins with part 0."""
    async with node() as hub:
        await hub.set("doc:large", blob(400_000))
        reader = hub.reader()
        reader.subscribe("doc:large")
        await settle()
        first = reader.take()
        assert kinds(first)[1:2] == ["Keyframe"]
        reader.unsubscribe("doc:large")
        second = reader.subscribe("doc:large")
        reader.pong()
        await settle()
        taken = reader.take()
        assert kinds(taken)[:2] == ["Unsubscribed", "Subscribed"]
        assert [frame.request for frame in only(frames.Subscribed, taken)] == [second]
        assert next(only(frames.Keyframe, taken)).part == 0


async def test_ended_subscription_is_never_delivered() -> None:
    """What was owed when a subscription ended is not sent any more, to the one that replaces it neither."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 0})
        await hub.append("log:a", 0)
        reader = hub.reader()
        for name in ("doc:a", "log:a"):
            reader.subscribe(name)
        await settle()
        reader.take()
        await held_up(reader)
        await hub.set("doc:a", {"x": 1})
        await hub.append("log:a", 1)
        reader.unsubscribe("doc:a")
        reader.unsubscribe("log:a")
        await hub.append("log:a", 2)
        reader.subscribe("log:a")
        await hub.append("log:a", 3)
        reader.open()
        await settle()
        taken = reader.take()
        assert kinds(taken) == ["Drain", "Unsubscribed", "Unsubscribed", "Subscribed", "Event"]
        assert [frame.value for frame in only(frames.Event, taken)] == [3]


# ---- the window


async def test_window_holds_data_back_where_it_still_conflates() -> None:
    """Beyond the window nothing is sent; the acknowledgement brings the sum of what changed, once."""
    async with node(window=2000) as hub:
        await hub.set("doc:a", {"n": 0, "x": "y" * 300})
        reader = hub.reader()
        reader.subscribe("doc:a")
        await settle()
        for number in range(1, 200):
            await hub.set("doc:a", {"n": number, "x": f"{number:300}"})
            await settle()
        assert reader.state is WAITING
        sent = sum(map(len, reader.inbox))
        assert 2000 <= sent < 2500
        taken = reader.take()
        assert kinds(taken).count("Ping") == 1
        assert reader.pong()
        await settle()
        (delta,) = only(frames.Delta, reader.take())
        assert delta.offset == hub.channel("doc:a").offset
        assert delta.span > 100
        assert patch_from_wire(delta.patch, ("n", "x")) == {"n": 199, "x": f"{199:300}"}


async def test_other_messages_do_not_open_a_full_window() -> None:
    """Only the pong does; a client that talks is not a client that reads."""
    async with node(window=2000) as hub:
        await hub.set("doc:a", {"x": ""})
        reader = hub.reader()
        reader.subscribe("doc:a")
        for number in range(20):
            await hub.set("doc:a", {"x": f"{number:300}"})
            await settle()
        reader.take()
        for number in range(100, 120):
            reader.hear(frames.Rate(number, "doc:a", None))
        await settle()
        assert reader.take() == []
        assert reader.pong()
        await settle()
        assert reader.take() != []


@PROFILES
async def test_honest_client_can_always_acknowledge(profile: Profile) -> None:
    """Whatever mix of answers, data, pings and blocked sends: the count of messages is that of the ping's own message."""
    async with node(window=4096, flush_bytes=1024) as hub:
        random = Random(7)
        await hub.set("doc:a", {"x": ""})
        reader = hub.reader(profile)
        reader.subscribe("doc:a")
        reader.subscribe("log:a")
        pings = 0
        for number in range(300):
            chance = random.random()
            if chance < 0.3:
                await hub.set("doc:a", {"x": f"{number:500}"})
            elif chance < 0.5:
                await hub.append("log:a", f"{number:200}")
            elif chance < 0.6:
                for request in range(random.randrange(20)):
                    reader.push(frames.Error(request, "bad_request", "x" * 100))
            elif chance < 0.7:
                reader.close()
            elif chance < 0.9:
                reader.open()
            else:
                await anyio.sleep(random.choice((0.1, 3)))
                reader.hear(frames.Rate(number, "doc:a", None))
            await settle()
            reader.take()
            pings += reader.pong()
        reader.open()
        for _ in range(20):
            await settle()
            reader.take()
            reader.pong()
        assert reader.state is IDLE
        assert pings > 20


# ---- heartbeats


async def test_idle_client_is_pinged_and_a_busy_one_with_its_data() -> None:
    """A heartbeat travels alone when nothing else does, and with the next message when there is one."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 0})
        quiet, busy = hub.reader(), hub.reader()
        busy.subscribe("doc:a")
        for second in range(1, 60):
            await anyio.sleep(1)
            await hub.set("doc:a", {"x": second})
            await settle()
            for reader in (quiet, busy):
                taken = reader.take()
                pinged = reader.pong()
                assert pinged == (second in (20, 40)), (second, kinds(taken))
        assert (quiet.state, busy.state) == (IDLE, IDLE)


async def test_heartbeat_is_sent_after_the_message_that_held_it_up() -> None:
    """A link that blocked when it was due takes it as soon as it can."""
    async with node() as hub:
        reader = hub.reader()
        await held_up(reader)
        await anyio.sleep(25)
        reader.hear(frames.Rate(1, "doc:a", None))
        reader.open()
        await anyio.sleep(1)
        taken = reader.take()
        assert kinds(taken) == ["Drain", "Ping"]
        assert reader.pong()


async def test_silent_client_is_ended_for_its_silence_and_a_talkative_one_for_not_reading() -> None:
    """Both within the time their rules allow, and both are counted."""
    async with node() as hub:
        silent, deaf = hub.reader(), hub.reader()
        await held_up(deaf)
        for second in range(1, 60):
            await anyio.sleep(1)
            if deaf.state is not DEAD:
                deaf.hear(frames.Rate(second, "doc:a", None))
            assert (silent.state is DEAD) == (second >= 30) or second == 30
        assert (silent.end_code, deaf.end_code) == (Code.NO_PONG, Code.SLOW)
        assert hub.hub.statistics().evictions == 2
        assert hub.hub.statistics().sessions == 0


# ---- pauses


async def test_paused_subscription_is_sent_nothing_and_goes_on_where_it_stood() -> None:
    """Pausing takes effect at once, also for what was already owed."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 0})
        reader = hub.reader()
        reader.subscribe("doc:a")
        await settle()
        reader.take()
        await hub.set("doc:a", {"x": 1})
        reader.set_rate("doc:a", 0)  # before the pump's turn
        await settle()
        await hub.set("doc:a", {"x": 2})
        await settle()
        assert reader.take() == []
        reader.set_rate("doc:a", None)
        await settle()
        (delta,) = reader.take()
        assert isinstance(delta, frames.Delta)
        assert delta.span == 2


async def test_subscription_may_begin_paused() -> None:
    """Its keyframe comes when it goes on."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 0})
        first, reader = hub.reader(), hub.reader()
        first.subscribe("doc:a")  # so that the keyframe is built
        await settle()
        reader.subscribe("doc:a", rate=0.0)
        await settle()
        await hub.set("doc:a", {"x": 1})
        await settle()
        (subscribed,) = reader.take()
        assert isinstance(subscribed, frames.Subscribed)
        assert subscribed.rate == 0.0
        reader.set_rate("doc:a", None)
        await settle()
        assert kinds(reader.take()) == ["Keyframe"]


async def test_pause_does_not_hide_bad_news_and_going_on_brings_the_good() -> None:
    """A paused view that became stale is told; that it is live again comes with what it then shows."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 0})
        reader = hub.reader()
        reader.subscribe("doc:a")
        await settle()
        reader.set_rate("doc:a", 0)
        reader.take()
        hub.channel("doc:a").set_doubt(STALE)
        await settle()
        hub.channel("doc:a").set_doubt(None)
        await settle()
        (status,) = only(frames.Status, reader.take())
        assert status.freshness == "stale"
        reader.set_rate("doc:a", None)
        await settle()
        (status,) = only(frames.Status, reader.take())
        assert status.freshness == "live"


# ---- many sessions


@pytest.mark.parametrize("publishes", [1, 10])
async def test_frame_is_encoded_once_for_a_thousand_sessions(publishes: int) -> None:
    """However many read a channel, and whatever their request ids, its bytes are built once per profile."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 0})
        readers = [hub.reader(JSON if number % 10 == 0 else MSGPACK) for number in range(1000)]
        for number, reader in enumerate(readers):
            for _ in range(number % 7):
                next(reader.requests)
            reader.subscribe("doc:a")
        await settle()
        for reader in readers:
            reader.take()
        before = hub.hub.statistics().frames_built
        for number in range(1, publishes + 1):
            await hub.set("doc:a", {"x": number})
            await settle()
        assert hub.hub.statistics().frames_built == before + 2 * publishes
        for profile in (MSGPACK, JSON):
            assert len({b"".join(reader.inbox) for reader in readers if reader.profile is profile}) == 1


async def test_publishing_waits_for_none_of_a_thousand_sessions() -> None:
    """With every link blocked, a publish is acknowledged in the same instant, and costs memory once."""
    async with node() as hub:
        await hub.set("doc:a", {"x": 0})
        readers = [hub.reader() for _ in range(1000)]
        for reader in readers:
            reader.subscribe("doc:a")
        await settle()
        for reader in readers:
            reader.close()
        began = anyio.current_time()
        for number in range(1, 100):
            await hub.set("doc:a", {"x": number})
        assert anyio.current_time() == began
        for reader in readers:
            reader.open()
        await anyio.sleep(30)
        for reader in readers:
            assert list(only(frames.Delta, reader.take()))[-1].offset == hub.channel("doc:a").offset


async def test_nothing_is_left_of_sessions_that_ended() -> None:
    """Neither in any table nor in memory: no circle of references has to wait for the garbage collector."""
    async with node(channel_linger=0.0, source_linger=0.0) as hub:
        await hub.set("doc:a", {"x": 0})
        for _ in range(3):
            readers = [hub.reader() for _ in range(100)]
            for reader in readers:
                reader.subscribe("doc:a")
                reader.subscribe("log:a")
                reader.subscribe("log:b", rate=5.0)
            await settle()
            statistics = hub.hub.statistics()
            assert (statistics.sessions, statistics.subscriptions, statistics.channels) == (100, 300, 3)
            await hub.set("doc:a", {"x": 0})
            for reader in readers:
                reader.end(Code.DRAIN)
                reader.end(Code.SLOW)
            statistics = hub.hub.statistics()
            assert (statistics.sessions, statistics.subscriptions) == (0, 0)
            assert all(not reader.subscriptions and reader.dirty is None for reader in readers)
            assert {reader.end_code for reader in readers} == {Code.DRAIN}, "what came first counts"
            reader.push(frames.Bye(""))
            reader.subscribe("log:a")
            assert not reader.answers
            assert hub.hub.statistics().subscriptions == 0, "nothing begins for one that has ended"
            await anyio.sleep(2)
            assert hub.hub.statistics().channels == 0
            del reader, readers
        assert sum(isinstance(item, Reader) for item in gc.get_objects()) == 0


# ---- together


class Client:
    """A client by the rules of the protocol, at the other end of a reader's link, that reads when it likes."""

    def __init__(self, hub: Node, profile: Profile, random: Random) -> None:
        self.reader = hub.reader(profile)
        self.session = ClientSession("test", policy=ReconnectPolicy(), random=random.random)
        self.session.connecting(0.0)
        self.session.connected(profile, None)
        self.documents: dict[str, Document] = {}
        self.events: list[object] = []
        self.gaps = 0
        self.resynchronised = 0
        self._profile = profile
        self.reader.inbox.append(profile.encode(frames.Welcome("s", "x", None, 20.0, 10.0, 1, {}, {})))
        self.reader.rules.sent(0)
        self.session.outgoing()  # the hello, which the reader has said

    def read(self) -> None:
        inbox, self.reader.inbox = self.reader.inbox, []
        for message in inbox:
            for happened in self.session.receive(self._profile.message(message), anyio.current_time()):
                self._note(happened)
        self.say()

    def say(self) -> None:
        while (message := self.session.outgoing()) is not None:
            for frame in self.reader.rules.receive(message, self._profile, anyio.current_time()):
                if isinstance(frame, frames.Subscribe):
                    for item in frame.items:
                        self.reader.hub.subscribe(self.reader, frame.request, item.channel, item.position, item.rate)
                elif isinstance(frame, frames.Unsubscribe):
                    for name in frame.channels:
                        self.reader.hub.unsubscribe(self.reader, frame.request, name)
            self.reader.acknowledged()

    def _note(self, happened: client_events.ClientEvent) -> None:
        if isinstance(happened, client_events.Resynchronising):
            self.resynchronised += 1
        if not isinstance(happened, client_events.Changed):
            return
        update = happened.update
        if isinstance(update, Change):
            before = self.documents.get(happened.channel)
            if update.patch is not None and before is not None:
                assert apply(update.patch, before) == update.value
            self.documents[happened.channel] = update.value
        elif isinstance(update, Event):
            self.events.append(update.value)
        elif isinstance(update, Gap):
            self.gaps += 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_clients_that_read_as_they_like_end_up_with_everything(backend: Any, seed: int) -> None:
    """Documents converge without a resynchronisation, and events arrive in order, each once, or behind a gap."""
    random = Random(seed)

    async def run() -> None:
        async with node(flush_bytes=2048, min_ack_window_bytes=1024, ack_window_bytes=8192) as hub:
            documents: dict[str, dict[str, object]] = {f"doc:{number}": {} for number in range(4)}
            clients = [Client(hub, profile, random) for profile in (MSGPACK, JSON) for _ in range(5)]
            for client in clients:
                for name in (*documents, "log:a"):
                    client.session.subscribe(name, 0.0, position=Position.start("") if name == "log:a" else None)
                client.say()
            sent: list[object] = []
            for turn in range(400):
                name = random.choice(list(documents))
                document = documents[name]
                if random.random() < 0.2 and document:
                    document.pop(random.choice(list(document)))
                else:
                    document[f"k{random.randrange(20)}"] = random.choice((turn, "x" * random.randrange(300), None, 1.5))
                await hub.set(name, document)
                if random.random() < 0.5:
                    sent.append(turn)
                    await hub.append("log:a", turn)
                for client in random.sample(clients, 2):
                    choice = random.random()
                    if choice < 0.1:
                        client.reader.close()
                    elif choice < 0.4:
                        client.reader.open()
                    elif choice < 0.45:
                        name = random.choice(list(documents))
                        client.session.unsubscribe(name)
                        client.documents.pop(name, None)
                        client.say()
                        client.session.subscribe(name, anyio.current_time())
                        client.say()
                    else:
                        client.read()
                if random.random() < 0.3:
                    await anyio.sleep(random.choice((0.001, 0.02, 0.5)))
            for _ in range(100):
                for client in clients:
                    client.reader.open()
                    client.read()
                await anyio.sleep(0.05)
            for client in clients:
                assert client.reader.state is IDLE
                assert client.documents == documents
                assert client.resynchronised == 0
                if client.gaps == 0:
                    assert client.events == sent
                else:
                    assert client.events == sorted(set(client.events))  # type: ignore[type-var]
                    assert client.events[-100:] == sent[-100:]

    try:
        run_virtual(run, backend=backend, seed=seed, limit=3600)
    except ProtocolError as error:
        pytest.fail(str(error))
