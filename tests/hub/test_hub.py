"""Sessions in a hub: how they come, take over from one another, subscribe and go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import anyio
import pytest

from rtsync.backends import Cut, MemoryBackend, Notice
from rtsync.core import Channel, Code, PeerError, Position, Unavailable, frames
from rtsync.hub._session import DEAD
from rtsync.testing import VIRTUAL_BACKENDS, settle
from tests.hub._node import node, only

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Moody(MemoryBackend):
    """A memory backend that may be slow or out of order, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.delay = 0.0
        self.defect: Exception | None = None
        self.listen_defect: Exception | None = None
        self.watching: set[Channel] = set()
        self.watches = 0
        self.unwatches = 0

    async def _suffer(self) -> None:
        await anyio.sleep(self.delay)
        if self.defect is not None:
            raise self.defect

    async def watch(self, channel: Channel) -> None:
        await self._suffer()
        if not channel.startswith("$"):
            self.watches += 1
            self.watching.add(channel)
        await super().watch(channel)

    async def unwatch(self, channel: Channel) -> None:
        await anyio.sleep(self.delay)
        self.unwatches += 1
        self.watching.discard(channel)
        await super().unwatch(channel)

    async def read(self, channel: Channel) -> Cut:
        await self._suffer()
        return await super().read(channel)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Notice]]:
        if self.listen_defect is not None:
            raise self.listen_defect
        async with super().listen() as notices:
            yield notices


# ---- taking over


async def test_session_with_its_secret_is_taken_over() -> None:
    """A returning client ends the session it left behind, at once."""
    async with node() as hub:
        zombie = hub.reader(secret="s3cret")
        zombie.subscribe("doc:a")
        assert hub.hub.take_over(zombie.id, "s3cret")
        assert (zombie.state, zombie.end_code) == (DEAD, Code.TAKEN_OVER)
        assert hub.hub.statistics().sessions == 0
        assert not hub.hub.take_over(zombie.id, "s3cret"), "it is gone already"


@pytest.mark.parametrize("secret", ["", "wrong", "s3cret ", "S3cret", "ś3cret"])
async def test_session_cannot_be_taken_over_without_its_secret(secret: str) -> None:
    """Ids are no secrets."""
    async with node() as hub:
        victim = hub.reader(secret="s3cret")
        assert not hub.hub.take_over(victim.id, secret)
        assert not hub.hub.take_over("nobody", "s3cret")
        assert victim.state is not DEAD


# ---- coming and going


async def test_session_that_comes_while_the_hub_stops_is_sent_away() -> None:
    """It cannot slip in behind the round in which all are ended."""
    async with node() as hub:
        early = hub.reader()
    assert early.end_code is Code.DRAIN
    late = hub.reader()
    assert late.end_code is Code.DRAIN
    assert hub.hub.statistics().sessions == 0


async def test_block_raises_what_it_raised() -> None:
    """Nobody has to unpack an exception group of one."""
    with pytest.raises(ZeroDivisionError):
        async with node():
            raise ZeroDivisionError


async def test_stopping_hub_does_not_wait_for_a_send_that_cannot_be_cancelled() -> None:
    """Its block ends within the close timeout, and what is left behind does nothing more."""
    async with node(close_timeout=2.0) as hub:
        reader = hub.reader()
        reader.shielded = True
        reader.close()
        reader.push(frames.Bye(""))
        await anyio.sleep(1)
    assert anyio.current_time() == 3.0
    assert hub.hub.statistics().pump_lanes == 1
    reader.open()
    await settle()
    assert hub.hub.statistics().pump_lanes == 0


# ---- subscriptions


async def test_too_many_subscriptions_are_refused_one_by_one() -> None:
    """Those there are stay, and one of them may begin anew."""
    async with node(max_subscriptions=3) as hub:
        reader = hub.reader()
        for name in "abc":
            reader.subscribe(f"doc:{name}")
        with pytest.raises(PeerError) as raised:
            reader.subscribe("doc:d")
        assert raised.value.code is Code.TOO_MANY
        reader.subscribe("doc:a")
        reader.unsubscribe("doc:b")
        reader.subscribe("doc:d")
        assert set(reader.subscriptions) == {"doc:a", "doc:c", "doc:d"}


async def test_unsubscribing_what_is_not_subscribed_is_answered() -> None:
    """By an error that leaves everything as it is."""
    async with node() as hub:
        reader = hub.reader()
        reader.unsubscribe("doc:a")
        reader.set_rate("doc:a", 1.0)
        reader.unsubscribe("x" * 1000)
        await settle()
        errors = list(only(frames.Error, reader.take()))
        assert [(error.request, error.code) for error in errors] == [
            (1, "not_subscribed"),
            (2, "not_subscribed"),
            (3, "not_subscribed"),
        ]
        assert len(errors[2].channel) == 200


async def test_subscribers_of_a_channel_that_loads_slowly_are_answered_together() -> None:
    """Two first subscribers meet in one bring-up; both get what follows, and leave without a trace."""
    backend = Moody()
    async with node(backend, channel_linger=0.0) as hub:
        await hub.set("doc:a", {"x": 0})
        await anyio.sleep(2)
        assert hub.hub.statistics().channels == 0
        backend.watches, backend.delay = 0, 0.1
        one, two = hub.reader(), hub.reader()
        one.subscribe("doc:a")
        await anyio.sleep(0.05)
        two.subscribe("doc:a")
        await anyio.sleep(0.5)
        assert backend.watches == 1
        backend.delay = 0.0
        await hub.set("doc:a", {"x": 1})
        await settle()
        for reader in (one, two):
            assert [type(frame).__name__ for frame in reader.take()] == ["Subscribed", "Keyframe", "Delta"]
            reader.unsubscribe("doc:a")
        await anyio.sleep(2)
        assert backend.watching == set()
        assert hub.hub.statistics().channels == 0


async def test_subscriber_who_comes_while_the_last_one_leaves_gets_the_next_update() -> None:
    """However slowly the backend lets go of a channel, interest that comes back is served."""
    backend = Moody()
    async with node(backend, channel_linger=0.0) as hub:
        for step in range(12):
            leaving, coming = hub.reader(), hub.reader()
            backend.delay = 0.0
            leaving.subscribe("doc:a")
            await settle()
            await hub.set("doc:a", {"x": step})
            leaving.unsubscribe("doc:a")
            backend.delay = 0.3
            await anyio.sleep(step / 10)  # before, while and after it is let go
            coming.subscribe("doc:a")
            await anyio.sleep(2)
            await hub.set("doc:a", {"x": step, "y": 1})
            await anyio.sleep(2)
            taken = coming.take()
            deltas = [frame for frame in taken if isinstance(frame, frames.Delta)]
            assert len(deltas) == 1, step
            coming.unsubscribe("doc:a")
            await anyio.sleep(2)


async def test_session_that_leaves_while_its_channel_loads_leaves_nothing() -> None:
    """At whichever moment of a slow bring-up it goes: no subscription, no channel, nothing watched."""
    random = Random(3)
    backend = Moody()
    async with node(backend, channel_linger=0.0) as hub:
        for number in range(300):
            backend.delay = random.choice((0.0, 0.05, 0.2))
            reader = hub.reader()
            reader.subscribe(f"doc:{number % 7}")
            await anyio.sleep(random.random() * 0.3)
            if number % 2:
                reader.unsubscribe(f"doc:{number % 7}")
                reader.subscribe(f"log:{number % 3}")
                await anyio.sleep(random.random() * 0.3)
            reader.end(None)
        await anyio.sleep(5)
        assert backend.watching == set()
        statistics = hub.hub.statistics()
        assert (statistics.sessions, statistics.subscriptions, statistics.channels, statistics.sources) == (0, 0, 0, 0)


async def test_thousands_of_channels_come_and_go() -> None:
    """Names are forgotten with their last subscriber."""
    backend = Moody()
    async with node(backend, channel_linger=0.0, max_subscriptions=100) as hub:
        reader = hub.reader()
        for number in range(5000):
            reader.subscribe(f"doc:{number}")
            if number >= 50:
                reader.unsubscribe(f"doc:{number - 50}")
            if number % 100 == 0:
                await anyio.sleep(1)
                reader.take()
                reader.pong()
        reader.end(None)
        await anyio.sleep(3)
        assert hub.hub.statistics().channels == 0
        assert backend.watching == set()


async def test_channel_that_cannot_be_read_is_refused_and_may_be_tried_again() -> None:
    """The error says when; the next attempt asks the backend anew."""
    backend = Moody()
    async with node(backend) as hub:
        reader = hub.reader()
        backend.defect = Unavailable("down")
        reader.subscribe("doc:a")
        await settle()
        (error,) = only(frames.Error, reader.take())
        assert (error.code, error.retryable, error.channel, error.request) == ("unavailable", True, "doc:a", 1)
        assert error.retry_after == 1.5
        assert not reader.subscriptions
        backend.defect = None
        reader.subscribe("doc:a")
        await settle()
        assert [type(frame).__name__ for frame in reader.take()] == ["Subscribed", "Keyframe"]


async def test_subscription_that_nobody_asked_for_is_begun_once_its_channel_can_be_read() -> None:
    """The client cannot ask again for what it did not ask for."""
    backend = Moody()
    async with node(backend) as hub:
        await hub.set("doc:a", {"x": 1})
        readers = [hub.reader() for _ in range(3)]
        backend.defect = Unavailable("down")
        for reader in readers:
            hub.hub.subscribe(reader, 0, "doc:b")
        await anyio.sleep(5)
        readers[1].end(None)
        readers[2].subscribe("doc:b")  # who asks meanwhile gets the answer to that
        backend.defect = None
        await anyio.sleep(5)
        (subscribed,) = only(frames.Subscribed, readers[0].take())
        assert (subscribed.request, subscribed.channel) == (0, "doc:b")
        assert not readers[1].subscriptions
        assert hub.hub.statistics().subscriptions == 2


@pytest.mark.parametrize("defect", [Unavailable("down"), ZeroDivisionError("a bug")])
async def test_hub_starts_and_goes_on_while_the_backend_cannot_be_listened_to(
    defect: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients are told that nobody can vouch for what they see, and get it when it comes."""
    backend = Moody()
    backend.listen_defect = defect
    async with node(backend) as hub:
        reader = hub.reader()
        reader.subscribe("doc:a")
        await settle()
        (subscribed,) = only(frames.Subscribed, reader.take())
        assert subscribed.freshness == "stale"
        backend.listen_defect = None
        await anyio.sleep(5)
        (*_, status) = only(frames.Status, reader.take())
        assert status.freshness == "live"
    assert caplog.records


async def test_channel_subscribed_again_continues_from_the_position_given() -> None:
    """Resynchronising is subscribing: the old instance is gone, and the new one begins where the client says."""
    async with node() as hub:
        first = await hub.set("doc:a", {"x": 0})
        reader = hub.reader()
        reader.subscribe("doc:a")
        await settle()
        await hub.set("doc:a", {"x": 1})
        await settle()
        reader.take()
        reader.subscribe("doc:a", first)
        await settle()
        subscribed, delta = reader.take()
        assert isinstance(subscribed, frames.Subscribed)
        assert (subscribed.recovered, subscribed.position) == (True, first)
        assert isinstance(delta, frames.Delta)
        assert hub.hub.statistics().subscriptions == 1
        reader.subscribe("doc:a", Position("elsewhere", 7, 7))
        await settle()
        assert [type(frame).__name__ for frame in reader.take()] == ["Subscribed", "Keyframe"]
