"""What the application holds of its families and channels: declared once, published to by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from .core import Channel, FamilyPattern, Position, UsageError
from .hub import Family, Publisher, SourceSpec

__all__ = ["ChannelHandle", "EventFamily", "EventsHandle", "StateFamily", "StateHandle"]

_Source = TypeVar("_Source", bound=Callable[..., object])
_PublisherGetter = Callable[[], Publisher]


class ChannelHandle:
    """One channel of the application, by its canonical name."""

    def __init__(self, name: Channel, publisher: _PublisherGetter) -> None:
        self.name = name
        self._publisher = publisher

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class StateHandle(ChannelHandle):
    """A channel that holds one document."""

    async def set(self, document: object) -> Position:
        """Make *document* what the channel holds; only what changed travels. See `rtsync.hub.Publisher.set`."""
        return await self._publisher().set(self.name, document)

    async def patch(self, patch: Mapping[str, object]) -> Position:
        """Change parts of the document. See `rtsync.hub.Publisher.patch`."""
        return await self._publisher().patch(self.name, patch)


class EventsHandle(ChannelHandle):
    """A channel of events, each of which counts."""

    async def append(self, event: object) -> Position:
        """Append *event*. See `rtsync.hub.Publisher.append`."""
        return await self._publisher().append(self.name, event)


class _FamilyHandle:
    def __init__(self, family: Family, publisher: _PublisherGetter) -> None:
        self._family = family
        self._publisher = publisher

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pattern}>"

    @property
    def pattern(self) -> FamilyPattern:
        """The pattern the family was declared with."""
        return self._family.pattern

    def source(self, *, interval: float | None = None, stale_after: float | None = None) -> Callable[[_Source], _Source]:
        """
        Declare what feeds the channels of this family, while somebody is subscribed.

        The decorated thing is called with the channel's parameters by name: an async generator function that yields documents
        (or `Changes`, or events), a class with ``async get_data()``, or a function that returns one. The latter two are asked
        every *interval* seconds.

        Args:
            interval: Seconds between two questions; ``Settings.family_intervals`` overrides it. Default 1.
            stale_after: Seconds without an update after which the channel is shown as stale; ``None`` for never.
        """

        def declare(produce: _Source) -> _Source:
            if self._family.source is not None:
                raise UsageError("source", f"{self.pattern} already has a source")
            if not callable(produce):
                raise UsageError("source", "expected an async generator function, a class with get_data(), or a function")
            self._family.source = SourceSpec(produce, interval, stale_after)
            return produce

        return declare


class StateFamily(_FamilyHandle):
    """A declared family of state channels."""

    def channel(self, *values: str, **params: str) -> StateHandle:
        """Return the channel with these parameter values, in the pattern's order or by name."""
        return StateHandle(self.pattern.channel(*values, **params), self._publisher)


class EventFamily(_FamilyHandle):
    """A declared family of event channels."""

    def channel(self, *values: str, **params: str) -> EventsHandle:
        """Return the channel with these parameter values, in the pattern's order or by name."""
        return EventsHandle(self.pattern.channel(*values, **params), self._publisher)
