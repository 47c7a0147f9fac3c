"""What the parts of the backend kit share: the hooks that a backend fills in, and helpers that read well in a test."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final, Generic, TypeVar

import anyio

from ..backends import TTL, Announcement, Appended, Backend, Cut, Entry, GapNotice, Health, Notice, Retention
from ..core import LINK_BITS, Channel, Position

__all__ = [
    "ABSENT",
    "CHANNEL",
    "EVENTS",
    "STATE",
    "KitBase",
    "append",
    "assert_sound",
    "head_of",
    "new_link",
    "next_announcement",
    "next_notice",
    "payloads",
    "raises",
]

CHANNEL: Final = Channel("kit:one")
STATE: Final = Retention(keyframed=True, window=1000)
EVENTS: Final = Retention(keyframed=False, window=1000)
ABSENT: Final = Position("", 0, 0)

E = TypeVar("E", bound=BaseException)


class KitBase:
    """What a backend tells the kit about itself. See `rtsync.testing._backend_kit.BackendKit`."""

    patience: float = 10.0
    """Seconds that something expected may take."""

    lifetimes: dict[TTL, float] = {ttl: ttl.value for ttl in TTL}  # noqa: RUF012 - a subclass replaces it
    """Seconds by lifetime class, as the backend under test is set up."""

    expiry_slack: float = 2.0
    """Seconds after the end of its lifetime when a record is gone at the latest."""

    listener_capacity: int | None = None
    """Announcements that a listener holds at most, 64 or more; ``None`` if nobody knows, which leaves the overflow test out."""

    def nodes(self, count: int) -> AbstractAsyncContextManager[Sequence[Backend]]:
        """
        Provide *count* nodes that share one fresh, empty store. Called once by each test.

        Returns:
            A context manager that yields the backends, not yet entered; the store must live until it is left.
        """
        raise NotImplementedError

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass for the store. Waits by default; override it where the clock can be moved."""
        await anyio.sleep(seconds)

    @asynccontextmanager
    async def opened(self, count: int) -> AsyncIterator[Sequence[Backend]]:
        """Provide *count* nodes, entered."""
        async with self.nodes(count) as nodes, AsyncExitStack() as stack:
            for node in nodes:
                await stack.enter_async_context(node)
            with anyio.fail_after(self.patience * 6):
                yield nodes


class Caught(Generic[E]):
    """The error that `raises` has caught, once its block is left."""

    error: E


@contextmanager
def raises(kind: type[E]) -> Iterator[Caught[E]]:
    """Assert that the block raises *kind*. (The kit imports without pytest.)"""
    caught = Caught[E]()
    try:
        yield caught
    except kind as error:
        caught.error = error
    else:
        raise AssertionError(f"{kind.__name__} was expected, nothing was raised")


def new_link() -> int:
    """Return a fresh link."""
    return random.getrandbits(LINK_BITS) or 1


async def append(
    node: Backend,
    payload: bytes | str,
    *,
    channel: Channel = CHANNEL,
    retention: Retention = STATE,
    link: int | None = None,
    expect: Position | None = None,
    token: int = 0,
) -> Appended:
    """Append with defaults that suit most tests."""
    return await node.append(
        channel,
        payload.encode() if isinstance(payload, str) else payload,
        link=new_link() if link is None else link,
        retention=retention,
        expect=expect,
        token=token,
    )


async def head_of(node: Backend, channel: Channel = CHANNEL) -> Position:
    """Return the head of one log."""
    (head,) = await node.heads([channel])
    return head


def payloads(entries: Sequence[Entry]) -> list[str]:
    """Return the payloads as text."""
    return [entry.payload.decode() for entry in entries]


def assert_sound(cut: Cut, *, keyframed: bool = True) -> None:
    """Assert what every cut promises: a chain without a hole, from the keyframe or from nothing to the head."""
    offset = cut.entries[0].previous if cut.entries else 0
    for entry in cut.entries:
        assert entry.previous == offset, f"a hole before {entry.offset}: {entry.previous} instead of {offset}"
        assert entry.offset > entry.previous
        offset = entry.offset
    if cut.entries:
        assert (cut.head.offset, cut.head.link) == (cut.entries[-1].offset, cut.entries[-1].link)
        assert cut.head.epoch
    else:
        assert (cut.head.offset, cut.head.link) == (0, 0)
    if cut.keyframe is not None:
        assert cut.keyframe.position == cut.head.at(cut.entries[0].offset, cut.entries[0].link)
    elif keyframed and cut.entries:
        assert cut.entries[0].previous == 0


async def next_notice(notices: AsyncIterator[Notice], patience: float = 10.0) -> Announcement | GapNotice:
    """Return the next notice that is not about health."""
    with anyio.fail_after(patience):
        while True:
            notice = await anext(notices)
            if not isinstance(notice, Health):
                return notice


async def next_announcement(notices: AsyncIterator[Notice], patience: float = 10.0) -> Announcement:
    """Return the next announcement; a gap on the way fails the test."""
    notice = await next_notice(notices, patience)
    assert isinstance(notice, Announcement), f"an announcement was expected, not {notice}"
    return notice
