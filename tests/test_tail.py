"""What `rtsync tail` makes of a URL, and what it tells its reporter."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from rtsync import RTSync, UsageError, public
from rtsync._tail import TailOptions, tail, websocket_url
from rtsync.client import Change, Client, Event, Gap, Subscription
from rtsync.testing._servers import serve_uvicorn


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000/rt", "ws://127.0.0.1:8000/rt/ws"),
        ("http://127.0.0.1:8000/rt/", "ws://127.0.0.1:8000/rt/ws"),
        ("http://127.0.0.1:8000/rt/ws", "ws://127.0.0.1:8000/rt/ws"),
        ("ws://127.0.0.1:8000/rt/ws/", "ws://127.0.0.1:8000/rt/ws"),
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/rt/ws"),
        ("http://127.0.0.1:8000/", "ws://127.0.0.1:8000/rt/ws"),
        ("https://example.com/api/rt", "wss://example.com/api/rt/ws"),
        ("wss://example.com/rt/ws/portfolio", "wss://example.com/rt/ws/portfolio"),
        ("HTTP://[::1]:8000/rt?tenant=7", "ws://[::1]:8000/rt/ws?tenant=7"),
        ("https://example.com/news", "wss://example.com/news/ws"),
    ],
)
def test_a_url_is_understood_however_it_is_written(text: str, url: str) -> None:
    assert websocket_url(text) == url


@pytest.mark.parametrize(
    "text", ["", "localhost:8000/rt", "ftp://x/rt", "http://", "http:///rt", "http://x:port/rt", "http://[::1/rt"]
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="url"):
        websocket_url(text)


class Notes:
    """A reporter that takes notes."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.updates: list[tuple[str, object]] = []
        self.endings: dict[str, str] = {}
        self.updated = anyio.Event()
        self.refused = anyio.Event()

    def running(self, client: Client) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    def state(self, client: Client) -> None:
        self.states.append(client.state)

    def began(self, subscription: Subscription) -> None:
        assert subscription.channel not in self.endings

    def update(self, subscription: Subscription, update: Change | Event | Gap) -> None:
        self.updates.append((subscription.channel, subscription.value))
        self.updated.set()

    def ended(self, channel: str, reason: str) -> None:
        self.endings[channel] = reason
        self.refused.set()


def app() -> Starlette:
    rt = RTSync()
    rt.state("open:{name}", access=public)
    rt.state("closed:{name}")
    return Starlette(routes=[Mount("/rt", rt)], lifespan=rt.lifespan)


@pytest.mark.anyio
async def test_a_refused_channel_leaves_the_others_alone() -> None:
    notes = Notes()
    async with serve_uvicorn(app()) as url, anyio.create_task_group() as tasks:
        tasks.start_soon(tail, TailOptions(f"{url}/rt", ("closed:a", "open:b")), notes)
        with anyio.fail_after(10):
            await notes.updated.wait()
            await notes.refused.wait()
        tasks.cancel_scope.cancel()
    assert notes.updates == [("open:b", {})]
    assert list(notes.endings) == ["closed:a"]
    assert "live" in notes.states


@pytest.mark.anyio
async def test_it_ends_when_every_channel_is_refused() -> None:
    notes = Notes()
    async with serve_uvicorn(app()) as url:
        with anyio.fail_after(10):
            assert await tail(TailOptions(f"{url}/rt", ("closed:a", "closed:b")), notes) == "there is nothing left to follow"
    assert sorted(notes.endings) == ["closed:a", "closed:b"]


@pytest.mark.anyio
async def test_names_are_checked_before_anything_is_opened() -> None:
    notes = Notes()
    with pytest.raises(UsageError, match="channel"):
        await tail(TailOptions("http://127.0.0.1:1/rt", ("open:b", "not a name")), notes)
    assert notes.states == []


@pytest.mark.anyio
async def test_a_server_that_does_not_answer_in_time_is_a_failure() -> None:
    with anyio.fail_after(10):
        problem = await tail(TailOptions("http://127.0.0.1:1/rt", ("open:b",), seconds=0.2), Notes())
    assert problem is not None
    assert problem.startswith("no answer from http://127.0.0.1:1/rt within 0.2 s")
