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
        self.writer = ""
        self.lost_writer: tuple[str, SourceStatus] | None = None
        self.used_at = 0.0
        self.fed = False  # a source runner of this node holds it
        self.watched = 0  # which of this node's listeners is told of it
        self.turn = anyio.Lock()  # of this node's publishers
        self.unsettled = False  # the outcome of an append is not known to this node
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
    def _put(self, entry: Entry) -> None:
        """
        Apply *entry*, whose predecessor is the head. Raises `DecodeError`, with nothing changed, if it was not made for it.
        """

    @abstractmethod
    def _rebuild(self, cut: Cut) -> None:
        """
        Replace the log by *cut*, and bring every subscription to it honestly. Raises `DecodeError`, with nothing changed.
        """

    @abstractmethod
    def _adopt(self, epoch: str) -> None:
        """Give the empty log of no epoch its first one."""

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
        if entry.previous < head.offset:
            return Verdict.DOUBT
        if entry.previous > head.offset:
            self._hold(epoch, entry)
            return Verdict.HOLE
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
            if epoch != self.head.epoch:
                return Verdict.DOUBT
            try:
                self._put(entry)
            except DecodeError:
                return Verdict.DOUBT
            self._judge()
            following = self._held.pop(entry.offset, None)
        if self._held:
            self._held = {at: held for at, held in self._held.items() if at > entry.offset}
        return Verdict.FINE

    def ask(self) -> Position:
        """
        Prepare for a cut that is about to be asked for; return the head, which `reconcile` wants to know.

        What is held by now is in that cut, or is not in the log.
        """
        if self.phase is Phase.READY:
            self._held.clear()
        return self.head

    def reconcile(self, cut: Cut, asked_at: Position) -> Verdict:
        """
        Take a cut of the backend's log: load it, catch up from it, or find that history was rewritten.

        Args:
            cut: What the backend said.
            asked_at: The head when it was asked, see `ask`. What came in since may or may not be in the cut.

        Returns:
            ``FINE`` when the local log now equals the cut or is ahead of it by what came in meanwhile; ``DOUBT`` when the cut
            ends below *asked_at* (confirm it, then call `rewrite`); ``REWRITTEN`` when entries we verified are gone under the
            same epoch.

        Raises:
            DecodeError: The log holds something this node cannot read. Nothing was changed.
        """
        if self.phase is Phase.LOADING:
            self._rebuild(cut)
            self.phase = Phase.READY
            return Verdict.FINE
        if asked_at.epoch == "" and cut.head.epoch == self.head.epoch:
            asked_at = Position.start(cut.head.epoch)  # the empty log got its epoch meanwhile
        if cut.head.epoch != asked_at.epoch:
            self.rewrite(cut)
            return Verdict.FINE
        if cut.head.offset < asked_at.offset:
            return Verdict.DOUBT
        if self._contradicts(cut, asked_at):
            return Verdict.REWRITTEN
        head = self.head
        if cut.head.offset > head.offset:
            self._catch_up(cut, [entry for entry in cut.entries if entry.offset > head.offset])
        return Verdict.FINE

    def _contradicts(self, cut: Cut, asked_at: Position) -> bool:
        """Return whether *cut*, of the epoch that was ours, lacks or differs from entries that this node has applied."""
        if cut.head.offset == asked_at.offset and cut.head.link != asked_at.link:
            return True
        for entry in cut.entries:
            if entry.offset <= self.head.offset and self.link_at(entry.offset) not in (None, entry.link):
                return True
        reaches_back = bool(cut.entries) and cut.entries[0].offset <= asked_at.offset
        return reaches_back and all(entry.offset != asked_at.offset for entry in cut.entries)

    def _catch_up(self, cut: Cut, missing: Sequence[Entry]) -> None:
        """Apply what is *missing*, or take the whole of *cut* if that does not follow the head."""
        try:
            if not missing or missing[0].previous != self.head.offset:
                self._rebuild(cut)  # the log moved on by more than it keeps
                return
            for entry in missing:
                # Entries that were held may have been applied with the one before.
                if entry.offset > self.head.offset and self._advance(cut.head.epoch, entry) is not Verdict.FINE:
                    self._rebuild(cut)
                    return
        finally:
            self._changed(self)

    def rewrite(self, cut: Cut) -> None:
        """Take *cut* as the truth whatever was held before. Raises `DecodeError`, with nothing changed."""
        self._rebuild(cut)
        self._changed(self)

    def _hold(self, epoch: str, entry: Entry) -> None:
        if len(self._held) < _MAX_HELD:
            self._held[entry.previous] = (epoch, entry)

    def replay_held(self) -> Verdict:
        """Offer again what had to be held, now that a cut was taken; return the gravest verdict."""
        held, self._held = self._held, {}
        gravest = Verdict.FINE
        for epoch, entry in sorted(held.values(), key=lambda pair: pair[1].offset):
            verdict = self.offer(epoch, entry)
            if gravest is not Verdict.DOUBT and verdict is not Verdict.FINE:
                gravest = verdict
        return gravest

    @property
    def has_hole(self) -> bool:
        """Whether announced entries wait for one that has not come."""
        return bool(self._held)

    # ---- freshness

    @property
    def unsaid(self) -> SourceStatus:
        """What holds while the log says nothing: a channel fed by a source is not live before its source says so."""
        return LIVE if self.family.source is None else _NO_DATA_YET

    def _judge(self) -> None:
        """Show the worst of what the source says, whether its writer beats, and whether this node can vouch for the head."""
        worst = self.source_status
        lost = self.lost_writer
        for status in (None if lost is None or lost[0] != self.writer else lost[1], self.doubt):
            if status is not None and _RANK[status.freshness] > _RANK[worst.freshness]:
                worst = status
        if worst != self.status:  # sessions compare by identity
            self.status = worst

    def set_doubt(self, doubt: SourceStatus | None) -> None:
        """Say that this node cannot confirm the head (or, with ``None``, can again)."""
        if (doubt is None) != (self.doubt is None):
            self.doubt = doubt
            self._judge()
            self._changed(self)

    def set_writer_lost(self, lost: SourceStatus | None) -> None:
        """Say that the writer of this channel has stopped beating (or, with ``None``, beats). Whoever writes next is alive."""
        if (lost is None) != (self.lost_writer is None or self.lost_writer[0] != self.writer):
            self.lost_writer = None if lost is None else (self.writer, lost)
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
