"""
Ten recorded order books, through everything: publisher, hub, a real server, a real socket, the client.

Whatever the link does to a client, it ends with the book that one computes from the file, type for type; and so does whoever
applies the client's patches instead of looking at its documents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from starlette.applications import Starlette
from starlette.routing import Mount

from rtsync import Changes, Position, RTSync, Settings, StateFamily, public
from rtsync.client import Change, Subscription, connect
from rtsync.core import Document, apply, checked_document, same
from rtsync.demo._market import book_document, book_update
from rtsync.demo._recording import load_recording
from rtsync.testing._servers import serve_hypercorn, serve_uvicorn

pytestmark = pytest.mark.anyio

RECORDING = load_recording()
PATIENCE = 20.0
"""Seconds after the last publish for every client to be in sync; a loaded machine may need some."""

FINAL = {
    symbol: checked_document(book_document([step for step in RECORDING.books if step.symbol == symbol]))
    for symbol in RECORDING.symbols
}
"""{symbol: book}, computed from the file alone."""


# ---- the server's side


def books_app() -> tuple[Starlette, StateFamily]:
    """Return an app and its books. Clients that were cut come back soon, and little is on the way to those who read slowly."""
    rt = RTSync(
        Settings(
            ack_window_bytes=16 << 10,
            min_ack_window_bytes=4 << 10,
            reconnect_delay_min=0.05,
            reconnect_delay_max=0.2,
            reconnect_spread=0.0,
        )
    )
    books = rt.state("book:{symbol}", access=public)
    return Starlette(routes=[Mount("/rt", rt)], lifespan=rt.lifespan), books


class Feed:
    """Publishes the file, and knows how far it is."""

    def __init__(self) -> None:
        self.entries = 0
        self.positions: dict[str, Position] = {}  # {channel: of its last entry}
        self.finished = anyio.Event()
        self._advanced = anyio.Event()

    async def publish(self, books: StateFamily, *, speed: float) -> None:
        """Publish *speed* times as fast as it was recorded."""
        began = anyio.current_time()
        for step in RECORDING.books:
            await anyio.sleep_until(began + step.t / speed)
            channel = books.channel(step.symbol)
            update = book_update([step])
            if isinstance(update, Changes):
                self.positions[channel.name] = await channel.patch(update.patch)
            else:
                self.positions[channel.name] = await channel.set(update)
            self.entries += 1
            self._advance()
        self.finished.set()
        self._advance()

    async def reached(self, entries: float) -> None:
        """Wait until that many have been published, or all."""
        while self.entries < entries and not self.finished.is_set():
            await self._advanced.wait()

    def _advance(self) -> None:
        self._advanced.set()
        self._advanced = anyio.Event()


# ---- the clients' side


@dataclass(frozen=True)
class Variant:
    """
    How a client is connected: its profile, the rate it asks for, and what the link does to it.

    ``bytes_per_entry`` bounds what the link carries to the client by what has been published, not by time: so a client is just
    as slow on a slow machine. A delta takes about 30 bytes.
    """

    profile: Literal["msgpack", "json"] = "msgpack"
    rate: float | None = None
    cut_every: float | None = None
    bytes_per_entry: int | None = None


PLAIN = Variant()
IN_JSON = Variant(profile="json")
AT_A_RATE = Variant(rate=1.0)
CUT_EVERY_SECOND = Variant(cut_every=1.0)
READING_SLOWLY = Variant(bytes_per_entry=16)


class Follower:
    """Follows one book: as the client shows it, and once more by applying the patches it tells of."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.patched: Document = {}
        self.position: Position | None = None
        self.changes = 0
        self._moved = anyio.Event()

    async def run(self) -> None:
        async with self.subscription:
            async for change in self.subscription:
                assert isinstance(change, Change)
                self.patched = change.value if change.patch is None else apply(change.patch, self.patched)
                assert same(self.patched, change.value)
                self.position = change.position
                self.changes += 1
                self._moved.set()
                self._moved = anyio.Event()

    async def begun(self) -> None:
        while self.position is None:
            await self._moved.wait()

    async def reached(self, position: Position) -> None:
        while self.position != position:
            await self._moved.wait()


class Watcher:
    """One client with all ten books."""

    def __init__(self, variant: Variant, feed: Feed) -> None:
        self.followers: dict[str, Follower] = {}
        self.cuts = 0
        self._variant = variant
        self._feed = feed

    async def run(self, server: str, *, task_status: TaskStatus[None]) -> None:
        """Follow, started once every book has begun, until all that was published has arrived."""
        async with (
            self._link(server) as url,
            connect(url, profile=self._variant.profile) as client,
            anyio.create_task_group() as tasks,
        ):
            for symbol in FINAL:
                follower = Follower(client.subscribe(f"book:{symbol}", rate=self._variant.rate))
                self.followers[follower.subscription.channel] = follower
                tasks.start_soon(follower.run)
            for follower in self.followers.values():
                await follower.begun()
            task_status.started()
            await self._feed.finished.wait()
            with anyio.fail_after(PATIENCE):
                for channel, follower in self.followers.items():
                    await follower.reached(self._feed.positions[channel])
            tasks.cancel_scope.cancel()

    def check(self) -> None:
        """Compare what is held with the file."""
        for channel, follower in self.followers.items():
            final = FINAL[channel.removeprefix("book:")]
            assert same(follower.subscription.value, final), f"{channel}, {self._variant}"
            assert same(follower.patched, final), f"{channel} by its patches, {self._variant}"

    @property
    def changes(self) -> int:
        """How many changes the client told of."""
        return sum(follower.changes for follower in self.followers.values())

    # ---- the link

    @asynccontextmanager
    async def _link(self, server: str) -> AsyncIterator[str]:
        """Stand between client and server; give the URL to connect to."""
        host, port = server.removeprefix("http://").split(":")

        async def carry(client: SocketStream) -> None:
            with suppress(OSError):  # the server has gone
                async with await anyio.connect_tcp(host, int(port)) as upstream, client, anyio.create_task_group() as tasks:
                    tasks.start_soon(self._forward, client, upstream, tasks.cancel_scope)
                    tasks.start_soon(self._forward, upstream, client, tasks.cancel_scope, self._variant.bytes_per_entry)
                    if self._variant.cut_every is not None:
                        await anyio.sleep(self._variant.cut_every)
                        self.cuts += 1
                        tasks.cancel_scope.cancel()

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, carry)
            yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/rt/ws"
            tasks.cancel_scope.cancel()

    async def _forward(
        self, source: SocketStream, target: SocketStream, both: anyio.CancelScope, bytes_per_entry: int | None = None
    ) -> None:
        """Carry bytes one way until either end closes; then end the other way, too."""
        carried = 0
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await source.receive(1_024)
                await target.send(data)
                carried += len(data)
                if bytes_per_entry is not None:
                    # The greeting and the keyframes of ten empty books pass at once.
                    await self._feed.reached((carried - 8_192) / bytes_per_entry)
        both.cancel()


# ---- the proof


@asynccontextmanager
async def serving(loop: str) -> AsyncIterator[tuple[str, StateFamily]]:
    """Serve books with uvicorn on asyncio, with hypercorn on trio."""
    app, books = books_app()
    async with serve_hypercorn(app) if loop == "trio" else serve_uvicorn(app, thread=False) as url:
        yield url, books


async def test_books_equal_the_file_whatever_the_link_does(anyio_backend_name: str) -> None:
    """Five clients at once: as it comes, in JSON, at a rate of 1/s, cut every second, and reading slowly."""
    feed = Feed()
    watchers = [Watcher(variant, feed) for variant in (PLAIN, IN_JSON, AT_A_RATE, CUT_EVERY_SECOND, READING_SLOWLY)]
    began = anyio.current_time()
    async with serving(anyio_backend_name) as (server, books), anyio.create_task_group() as tasks:
        for watcher in watchers:
            await tasks.start(watcher.run, server)
        await feed.publish(books, speed=10)
    for watcher in watchers:
        watcher.check()
    # Each had the life it was meant to have. Beside its rate, a book comes once when subscribed and once when it begins.
    _, _, at_a_rate, cut, slow = watchers
    assert cut.cuts >= 2
    assert at_a_rate.changes <= (anyio.current_time() - began + 3) * len(FINAL)
    assert slow.changes < len(RECORDING.books) / 2


async def test_books_equal_the_file_for_who_comes_when_all_is_over(anyio_backend_name: str) -> None:
    """In both profiles."""
    feed = Feed()
    watchers = [Watcher(variant, feed) for variant in (PLAIN, IN_JSON)]
    async with serving(anyio_backend_name) as (server, books), anyio.create_task_group() as tasks:
        await feed.publish(books, speed=1e9)
        for watcher in watchers:
            await tasks.start(watcher.run, server)
    for watcher in watchers:
        watcher.check()
        assert watcher.changes == len(FINAL), "one keyframe each"
