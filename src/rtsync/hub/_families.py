"""Families: channels declared together by a pattern, with everything that is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..backends import Retention
from ..core import Channel, FamilyPattern, InvalidName, Kind, UsageError
from ._models import Validator

__all__ = ["Access", "Families", "Family", "Principal", "SourceSpec"]


@dataclass(frozen=True, slots=True)
class Principal:
    """
    Who a session acts for.

    Attributes:
        user: Stable identifier; ``None`` for somebody who did not authenticate.
        claims: What else the authenticator vouches for.
    """

    user: str | None = None
    claims: Mapping[str, object] = field(default_factory=dict)


class Access(Protocol):
    """An access policy: asked with the parameters of the canonical name, before anything else is looked at."""

    def __call__(self, principal: Principal, params: Mapping[str, str]) -> bool: ...


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """
    What feeds a family: *produce* is called with the channel's parameters. ``interval`` is in seconds, for polled sources.
    """

    produce: Callable[..., object]
    interval: float | None = None
    stale_after: float | None = None


@dataclass(slots=True)
class Family:
    """
    One declared family.

    Attributes:
        retention: How much of each channel's log is kept.
        access: Who may subscribe.
        validate: Checks each document or event against the declared model.
        source: What feeds it; ``None`` for a family the application publishes to.
    """

    pattern: FamilyPattern
    kind: Kind
    retention: Retention
    access: Access
    validate: Validator
    model: type | None = None
    source: SourceSpec | None = None


class Families:
    """The declared families of a hub; every channel belongs to exactly one."""

    def __init__(self) -> None:
        self._families: list[Family] = []

    def add(self, family: Family) -> None:
        """
        Declare *family*.

        Raises:
            UsageError: If one of its channels could belong to a family already declared.
        """
        for other in self._families:
            if family.pattern.overlaps(other.pattern):
                raise UsageError("family", f"{family.pattern} overlaps {other.pattern}: a channel must belong to one family")
        self._families.append(family)

    def find(self, channel: Channel) -> tuple[Family, dict[str, str]] | None:
        """Return the family of *channel* and its parameters, or ``None`` if no family declares it."""
        for family in self._families:
            params = family.pattern.match(channel)
            if params is not None:
                return family, params
        return None

    def of(self, channel: Channel) -> Family:
        """Return the family of *channel*. Raises `InvalidName` if none declares it."""
        found = self.find(channel)
        if found is None:
            raise InvalidName("channel", f"no declared family matches {channel}")
        return found[0]

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families)
