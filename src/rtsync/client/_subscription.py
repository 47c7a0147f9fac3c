"""A live view of one channel."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio
from anyio.lowlevel import checkpoint

from ..core import Channel, ClientSubscription, Kind, Position, SourceStatus, Update, UsageError, Value
from ._inbox import EventInbox, StateInbox
from ._signal import Signal

if TYPE_CHECKING:
    from ._client import Client

__all__ = ["Subscription", "checked_rate"]


class Subscription:
    """
    A live view of one channel, for the length of an ``async with`` block::

        async with client.subscribe("prices:ETH-USD") as prices:
            async for change in prices:
                print(change.value)

    Iterating over a state channel gives `Change`: first a keyframe, then what changed. A consumer slower than the channel gets
    several changes as one, so it always goes on from the newest and nothing piles up.

    Iterating over an event channel gives every `Event`, and a `Gap` where some are missing. When ``max_queued`` of them wait,
    the client stops reading from the server until the consumer has caught up, for all its channels; so consume them, or
    unsubscribe.

    Iteration raises `SubscriptionRefused` when the server refuses or ends the subscription for good, `ConnectionFailed` when
    the client gives up; whatever arrived before comes first.
    """

    def __init__(
        self, client: Client, channel: Channel, *, position: Position | None, rate: float | None, max_queued: int
    ) -> None:
        self.channel = channel
        self._client = client
        self._start = position
        self._rate = rate
        self._paused = False
        self._max_queued = max_queued
        self._status = SourceStatus("stale", 0, "not subscribed")
        self._inbox: StateInbox | EventInbox | None = None  # None until the kind is known
        self._problem: Exception | None = None
        self._signal = Signal()
        self._guard = anyio.ResourceGuard("iterating over this subscription")
        self._joined = False

    def __repr__(self) -> str:
        return f"<Subscription {self.channel} {self._status.freshness} at {self.position}>"

    # ---- the view

    @property
    def kind(self) -> Kind | None:
        """``state`` or ``events``, ``None`` until the server has said so."""
        if self._inbox is None:
            return None
        return "state" if isinstance(self._inbox, StateInbox) else "events"

    @property
    def value(self) -> Value:
        """The document as it is now, or the last event that arrived; ``None`` before the first. Shared: never modify it."""
        return None if self._inbox is None else self._inbox.value

    @property
    def position(self) -> Position | None:
        """
        Where to resume from, ``None`` before anything is known.

        For a state channel, the position of `value`. For an event channel, behind the last event that the consumer is done
        with: it took the next one, or left the ``async with`` block without an exception. An event whose handling failed
        therefore comes again when one subscribes with this position.
        """
        return self._start if self._inbox is None else self._inbox.position

    @property
    def status(self) -> SourceStatus:
        """
        How fresh `value` is: the worse of what the server says of the channel and what the client has to doubt.

        While the connection is not live, ``stale`` since it was lost. Times are the server's, in ms since 1970.
        """
        return self._status

    @property
    def rate(self) -> float | None:
        """The most updates per second asked for; ``None`` for all."""
        return self._rate

    @property
    def paused(self) -> bool:
        """Whether the view stands still."""
        return self._paused

    async def set_rate(self, rate: float | None) -> None:
        """
        Ask for at most *rate* updates per second, ``None`` for all. The server may round down.

        Subscriptions of one client to one channel share what arrives, at the highest rate any of them asks for.
        """
        self._rate = checked_rate(rate)
        self._client._rates_changed(self.channel)
        await checkpoint()

    async def pause(self) -> None:
        """Let the view stand still until `resume`; the server sends nothing unless another subscription wants it."""
        if not self._paused:
            self._paused = True
            self._client._made_room(self)
            self._client._rates_changed(self.channel)
        await checkpoint()

    async def resume(self) -> None:
        """Go on: a state channel with what changed meanwhile, an event channel with every event since."""
        if self._paused:
            self._paused = False
            self._client._resumed(self)
        await checkpoint()

    # ---- its life

    async def __aenter__(self) -> Self:
        if self._joined:
            raise UsageError("subscription", "can be entered once; subscribe again")
        self._client._join(self)
        self._joined = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._client._leave(self)
        self._fail(StopAsyncIteration())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        with self._guard:
            self._finish()
            await checkpoint()
            while True:
                # Nothing is awaited after an update was taken: a cancelled wait loses none.
                if self._inbox is not None and not self._paused and (update := self._inbox.take()) is not None:
                    if isinstance(self._inbox, EventInbox) and not self._inbox.full:
                        self._client._made_room(self)
                    return update
                if self._problem is not None:
                    raise self._problem
                await self._signal.wait()

    def _finish(self) -> None:
        if isinstance(self._inbox, EventInbox):
            self._inbox.finish()

    # ---- what the client tells

    def _attach(self, held: ClientSubscription) -> None:
        """Begin with what the client holds already."""
        self._status = held.status
        if held.kind is not None:
            self._begin(held.kind, None)
        if isinstance(self._inbox, EventInbox):
            if self._start is None and held.position is not None:
                self._inbox.begin(held.position)
        elif isinstance(self._inbox, StateInbox) and held.document is not None and held.position is not None:
            self._inbox.catch_up(held.document, held.position)

    def _begin(self, kind: Kind, position: Position | None) -> None:
        if self._inbox is None:
            self._inbox = StateInbox(self._status) if kind == "state" else EventInbox(self._start, self._max_queued)
        if isinstance(self._inbox, EventInbox) and position is not None and not self._paused:
            self._inbox.begin(position)
            self._signal.notify()

    def _put(self, update: Update) -> bool:
        """Take an update in; return whether the client should stop reading."""
        if self._inbox is None or self._paused:
            return False
        self._inbox.put(update)
        self._signal.notify()
        return isinstance(self._inbox, EventInbox) and self._inbox.full

    def _put_status(self, status: SourceStatus) -> None:
        self._status = status
        if isinstance(self._inbox, StateInbox):
            self._inbox.status = status
            self._signal.notify()

    def _missed_from(self) -> Position | None:
        """Return the position from which events were missed during a pause."""
        return self._inbox.cursor if isinstance(self._inbox, EventInbox) else None

    def _fail(self, problem: Exception) -> None:
        self._problem = self._problem or problem
        self._signal.notify()

    @property
    def _wanted_rate(self) -> float | None:
        return 0.0 if self._paused else self._rate


def checked_rate(rate: float | None) -> float | None:
    """Return *rate* as a number. Raises `UsageError`."""
    if rate is None:
        return None
    if type(rate) not in (int, float) or not 0 <= rate <= 1e6:
        raise UsageError("rate", f"must be None or updates per second, 0 to pause, is {rate!r}")
    return float(rate)
