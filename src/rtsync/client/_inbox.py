"""What waits for one consumer of a subscription: the newest state, or every event."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import cast

from ..core import Change, Document, Event, Gap, Position, SourceStatus, Update, Value, diff

__all__ = ["EventInbox", "StateInbox"]


class StateInbox:
    """
    The newest state, however slow the consumer: at most one change of the document and one of its freshness wait.

    What was merged is found out when it is taken, by comparing what the consumer saw last with what stands now. So what waits
    cannot grow, as a merged patch would with every key that comes and goes.
    """

    def __init__(self, status: SourceStatus) -> None:
        self.value: Document | None = None
        self.position: Position | None = None
        self.status = status
        self._waiting: Change | None = None
        self._merged = False
        self._seen: Document | None = None  # with the last change taken
        self._seen_status = status

    def put(self, update: Update) -> None:
        """Keep *update* if it is a change, merged with the one that waits."""
        if not isinstance(update, Change):
            return
        self.value, self.position = update.value, update.position
        if self._waiting is None or update.kind == "keyframe":
            self._waiting = update
            self._merged = False
        else:
            self._waiting = replace(update, kind=self._waiting.kind, patch=None)
            self._merged = True

    def catch_up(self, value: Document, position: Position) -> None:
        """Move on to what was not put meanwhile."""
        if value is not self.value:
            continues = self.position is not None and self.position.epoch == position.epoch
            self.put(Change("delta" if continues else "keyframe", value, None, position, self.status))
            self._merged = continues

    def take(self) -> Change | None:
        """Return what waits: the document's change, then the freshness."""
        change, self._waiting = self._waiting, None
        if change is None:
            if self.status == self._seen_status or self.value is None or self.position is None:
                return None
            change = Change("status", self.value, None, self.position, self.status)
        elif self._merged and change.kind == "delta":
            change = replace(change, patch=diff(cast(Document, self._seen), change.value), status=self.status)
        elif change.status != self.status:
            change = replace(change, status=self.status)
        self._seen, self._seen_status = change.value, change.status
        return change


class EventInbox:
    """
    Every event and gap, in order, each once.

    Several consumers may share one subscription on the wire, which may go back for one of them; so an inbox has its own cursor
    and drops what it had before.

    ``position`` lies behind the last update that the consumer was done with.
    """

    def __init__(self, position: Position | None, bound: int) -> None:
        self.position = self.cursor = position
        self.value: Value = None
        self._bound = bound
        self._waiting: deque[Event | Gap] = deque()
        self._taken: Event | Gap | None = None

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self._bound

    def begin(self, position: Position) -> None:
        """Note that what comes continues *position*."""
        self._skip_to(position, "another subscription of this client began later")

    def put(self, update: Update) -> None:
        """Append *update* unless it lies behind the cursor."""
        if isinstance(update, Gap):
            self._skip_to(update.position, update.reason)
        elif isinstance(update, Event) and not self._has(update.position):
            self.value = update.value
            self.cursor = update.position
            self._waiting.append(update)

    def _skip_to(self, position: Position, reason: str) -> None:
        start = self.cursor
        if self._has(position):
            return
        self.cursor = position
        if start is None or start.offset == position.offset == 0:  # an empty log got its epoch
            if not self._waiting and self._taken is None:
                self.position = position
        else:
            self._waiting.append(Gap(start, position, reason))

    def _has(self, position: Position) -> bool:
        cursor = self.cursor
        return cursor is not None and cursor.epoch == position.epoch and cursor.offset >= position.offset

    def take(self) -> Event | Gap | None:
        """Return the next update, which counts as done with at the next `finish`."""
        self._taken = self._waiting.popleft() if self._waiting else None
        return self._taken

    def finish(self) -> None:
        """Note that the consumer is done with what it took last."""
        if self._taken is not None:
            self.position = self._taken.position
            self._taken = None
