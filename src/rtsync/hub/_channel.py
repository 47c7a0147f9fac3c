"""
One channel as one node holds it: the local log, who reads it, and how it is kept equal to the backend's.

Nothing here awaits. A channel takes cuts, entries and doubts, says what it needs (a re-read, a new epoch), and hands out
frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final

import anyio

from ..backends import Cut, Entry
from ..core import LIVE, Channel, DecodeError, Position, Profile, SourceStatus
from ._families import Family
from ._frame_cache import FrameCache
from ._subscription import Subscription

__all__ = ["NOWHERE", "LiveChannel", "Phase", "Verdict"]

NOWHERE: Final = Position("", 0, 0)
"""The head of a log that does not exist, and the position of a client that holds nothing."""

_MAX_HELD: Final = 1000
"""Most announcements kept while a cut is read or a hole is open; beyond it the next cut brings them."""

_NO_DATA_YET: Final = SourceStatus("stale", 0, "no data yet")

_RANK: Final = {"live": 0, "closed": 1, "stale": 2}


class Phase(Enum):
    """Where a channel is in its life on this node."""

    LOADING = "loading"
    READY = "ready"
    RETIRED = "retired"


class Verdict(Enum):
    """What an entry or a cut means for the local log."""

    FINE = "fine"
    HOLE = "hole"
    DOUBT = "doubt"
    """It contradicts what this node holds: only a cut can tell."""
    REWRITTEN = "rewritten"
    """Entries this node has verified are no longer in the log, under the same epoch."""


class LiveChannel(ABC):
    """Base of state and event channels."""

    def __init__(
        self, name: Channel, family: Family, alias: int, cache: FrameCache, changed: Callable[[LiveChannel], None]
    ) -> None:
        self.name = name
        self.family = family
        self.alias = alias
        self.phase = Phase.LOADING
        self.subscriptions: dict[Subscription, None] = {}  # in order of arrival
        self.waiting: dict[Subscription, None] = {}  # until the channel is ready
        self.source_status = self.status = self.unsaid
        self.doubt: SourceStatus | None = None
        self.writer_lost: SourceStatus | None = None
        self.writer = ""
        self.token = 0
        self.used_at = 0.0
        self.turn = anyio.Lock()  # of this node's publishers
        self.unsettled: int | None = None  # link of an append whose outcome this node does not know
        self.since_keyframe = 0
        self.offset = 0  # where a cursor stands that has read everything
        self.gaps = 0
        self._cache = cache
        self._changed = changed
        self._held: dict[int, tuple[str, Entry]] = {}  # {previous offset: (epoch, entry)}

    # ---- the local log against the backend's

    @property
    @abstractmethod
    def head(self) -> Position:
        """Position of the newest entry this node has applied."""

    @abstractmethod
    def link_at(self, offset: int) -> int | None:
        """Return the link of an applied entry still in the window."""

    @abstractmethod
    def _put(self, entry: Entry) -> bool:
        """Apply *entry*, whose predecessor is the head; ``False`` if it was made for another head. Raises `DecodeError`."""

    @abstractmethod
    def _rebuild(self, cut: Cut) -> None:
        """Replace the log by *cut*, and bring every subscription to it honestly. Raises `DecodeError`."""

    def offer(self, epoch: str, entry: Entry) -> Verdict:
        """Take one announced or own entry. Duplicates are harmless; out of order ones are held for a moment."""
        if self.phase is not Phase.READY:
            self._hold(epoch, entry)
            return Verdict.FINE
        head = self.head
        if epoch != head.epoch and not (head.epoch == "" and entry.previous == 0):
            return Verdict.DOUBT
        if entry.offset <= head.offset:
            known = self.link_at(entry.offset)
            return Verdict.FINE if known == entry.link or known is None else Verdict.DOUBT
        if entry.previous != head.offset:
            self._hold(epoch, entry)
            return Verdict.HOLE if entry.previous > head.offset else Verdict.DOUBT
        verdict = self._advance(epoch, entry)
        self._changed(self)
        return verdict

    def _advance(self, epoch: str, entry: Entry) -> Verdict:
        """Apply *entry* and whatever held entries follow it."""
        following: tuple[str, Entry] | None = (epoch, entry)
        while following is not None:
            epoch, entry = following
            if self.head.epoch == "":
                self._adopt(epoch)
            try:
                if epoch != self.head.epoch or not self._put(entry):
                    return Verdict.DOUBT
            except DecodeError:
                return Verdict.DOUBT
            self.token = entry.token
            self.since_keyframe += 1
            following = self._held.pop(entry.offset, None)
        if self._held:
            self._held = {at: held for at, held in self._held.items() if at > entry.offset}
        return Verdict.FINE

    @abstractmethod
    def _adopt(self, epoch: str) -> None:
        """Give the empty log of no epoch its first one."""

    def reconcile(self, cut: Cut) -> Verdict:
        """
        Take a cut of the backend's log: load it, catch up from it, or find that history was rewritten.

        Returns:
            ``FINE`` when the local log now equals the cut or is ahead of it by announced entries; ``DOUBT`` when the cut's head
            lies below ours (confirm it, then call `rewrite`); ``REWRITTEN`` when entries we verified are gone under the same
            epoch.

        Raises:
            DecodeError: The log holds something this node cannot read.
        """
        if self.phase is Phase.LOADING:
            self._rebuild(cut)
            self.phase = Phase.READY
            self._replay_held()
            return Verdict.FINE
        head = self.head
        if cut.head.epoch != head.epoch:
            self.rewrite(cut)
            return Verdict.FINE
        if cut.head.offset < head.offset:
            return Verdict.DOUBT
        for entry in cut.entries:
            known = self.link_at(entry.offset) if entry.offset <= head.offset else None
            if known is not None and known != entry.link:
                return Verdict.REWRITTEN
        missing = [entry for entry in cut.entries if entry.offset > head.offset]
        if (missing and missing[0].previous != head.offset) or (not missing and cut.head != head):
            self.rewrite(cut)  # the log moved on by more than it keeps
            return Verdict.FINE
        for entry in missing:
            if self._advance(cut.head.epoch, entry) is not Verdict.FINE:
                self.rewrite(cut)
                break
        if missing:
            self._changed(self)
        self._replay_held()
        return Verdict.FINE

    def rewrite(self, cut: Cut) -> None:
        """Take *cut* as the truth whatever was held before. Raises `DecodeError`."""
        self._rebuild(cut)
        self._replay_held()
        self._changed(self)

    def _hold(self, epoch: str, entry: Entry) -> None:
        if len(self._held) < _MAX_HELD:
            self._held[entry.previous] = (epoch, entry)

    def _replay_held(self) -> None:
        held, self._held = self._held, {}
        for epoch, entry in sorted(held.values(), key=lambda pair: pair[1].offset):
            self.offer(epoch, entry)

    @property
    def has_hole(self) -> bool:
        """Whether announced entries wait for one that has not come."""
        return bool(self._held)

    # ---- freshness

    @property
    def unsaid(self) -> SourceStatus:
        """What holds while the log says nothing: a channel fed by a source is not live before its source says so."""
        return LIVE if self.family.source is None else _NO_DATA_YET

    def _say(self, status: SourceStatus) -> None:
        """Take over what the source says."""
        self.source_status = status
        self._judge()

    def _judge(self) -> None:
        """Show the worst of what the source says, whether its writer still beats, and whether this node can vouch for the head."""
        worst = self.source_status
        for status in (self.writer_lost, self.doubt):
            if status is not None and _RANK[status.freshness] > _RANK[worst.freshness]:
                worst = status
        self.status = worst

    def set_doubt(self, doubt: SourceStatus | None) -> None:
        """Say that this node cannot confirm the head (or, with ``None``, can again)."""
        if (doubt is None) != (self.doubt is None):
            self.doubt = doubt
            self._judge()
            self._changed(self)

    def set_writer_lost(self, lost: SourceStatus | None) -> None:
        """Say that the writer of this channel has stopped beating (or, with ``None``, beats)."""
        if (lost is None) != (self.writer_lost is None):
            self.writer_lost = lost
            self._judge()
            self._changed(self)

    # ---- reading

    def frames_for(self, profile: Profile) -> Mapping[int, bytes]:
        """Return the live mapping from bases to the encoded frame that leads to the head."""
        return self._cache.of(profile)

    @abstractmethod
    def establish(self, subscription: Subscription) -> tuple[Position, bool, Sequence[str]]:
        """
        Put the cursor where the client's position allows; return the position to tell, recovered or not, and the key table.
        """

    @abstractmethod
    def read(self, subscription: Subscription, profile: Profile, budget: int) -> bytes:
        """
        Return frames that bring *subscription* nearer to the head, and move its cursor past them.

        At least one frame if it is behind, then no more than about *budget* bytes. Shared with every other cursor at that base.
        """

    @abstractmethod
    def is_behind(self, subscription: Subscription) -> bool:
        """Return whether there is anything to read."""
