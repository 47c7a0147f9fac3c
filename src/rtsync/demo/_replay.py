"""
Playing records again and again, at the times they were recorded.

All that plays in one demo looks at one clock, and what has been played by now follows from the clock alone. So channels that
somebody began to watch at different times still agree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, Self, TypeVar

import anyio

__all__ = ["Batch", "Clock", "Player", "Timeline"]


class Timed(Protocol):
    """A record that was made ``t`` seconds into its recording."""

    @property
    def t(self) -> float: ...


R = TypeVar("R", bound=Timed)


class Timeline(Generic[R]):
    """
    Records in order of time, repeated for ever: the record with number ``i``, counted over all laps, is due at ``due(i)``.

    Args:
        records: One lap; at least one record.
        period: Seconds from one lap to the next, longer than the last record takes.
    """

    def __init__(self, records: Sequence[R], period: float) -> None:
        if not records or not records[-1].t < period:
            raise ValueError(f"a lap of {period:g} s cannot hold these {len(records)} records")
        self.period = period
        self._records = records
        self._times = [record.t for record in records]

    def due(self, number: int) -> float:
        """Return the seconds at which record *number* is played."""
        lap, index = divmod(number, len(self))
        return lap * self.period + self._times[index]

    def __len__(self) -> int:
        return len(self._records)

    def played(self, seconds: float) -> int:
        """Return how many records have been played by then."""
        lap, left = divmod(seconds, self.period)
        return int(lap) * len(self) + bisect_right(self._times, left)

    def latest_lap(self, played: int) -> int:
        """Return the number of the record that began the lap of the latest one played."""
        latest = max(played - 1, 0)
        return latest - latest % len(self)

    def part(self, start: int, end: int) -> Sequence[R]:
        """Return the records from number *start* up to *end* or to the end of their lap."""
        index = start % len(self)
        return self._records[index : index + end - start]


class Clock:
    """
    Seconds of replay since it was first looked at.

    Args:
        speed: Seconds of replay in one real second.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._began = 0.0
        self._began_wall: datetime | None = None

    def now(self) -> float:
        """Return the seconds played."""
        if self._began_wall is None:
            self._began, self._began_wall = anyio.current_time(), datetime.now(UTC)
        return (anyio.current_time() - self._began) * self._speed

    async def until(self, seconds: float) -> None:
        """Wait until that many have been played."""
        await anyio.sleep(max(seconds - self.now(), 0.0) / self._speed)

    def wall(self, seconds: float) -> datetime:
        """Return the time of day at which that many have been played."""
        self.now()
        assert self._began_wall is not None
        return self._began_wall + timedelta(seconds=seconds / self._speed)


@dataclass(frozen=True, slots=True)
class Batch(Generic[R]):
    """
    Records that are due at the same moment, for all the reader can tell.

    Attributes:
        times: The time of day at which each was due.
        first: Whether a lap begins with them: the state that the lap before left no longer counts.
    """

    records: Sequence[R]
    times: Sequence[datetime]
    first: bool


class Player(Generic[R]):
    """
    Plays a timeline by a clock: iterate over it to get each batch when it is due.

    It begins with all that the lap of the latest record has played, as one batch, so that the reader's state is right at
    once. A reader that falls behind gets more at once; by more than a lap, and it misses what no longer counts.

    Args:
        history: Whether to begin with what has been played. Otherwise with what comes next.
    """

    def __init__(self, timeline: Timeline[R], clock: Clock, *, history: bool = True) -> None:
        self._timeline = timeline
        self._clock = clock
        played = timeline.played(clock.now())
        self._next = timeline.latest_lap(played) if history else played

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch[R]:
        timeline = self._timeline
        await self._clock.until(timeline.due(self._next))
        # What was waited for is due, whatever rounding says.
        played = max(timeline.played(self._clock.now()), self._next + 1)
        start = self._next if played - self._next <= len(timeline) else timeline.latest_lap(played)
        records = timeline.part(start, played)
        self._next = start + len(records)
        times = [self._clock.wall(timeline.due(number)) for number in range(start, self._next)]
        return Batch(records, times, start % len(timeline) == 0)
