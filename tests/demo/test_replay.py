"""The planner with plain numbers, the player in virtual time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.demo._replay import Batch, Clock, Player, Timeline
from rtsync.testing._virtual import VIRTUAL_BACKENDS


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@dataclass(frozen=True)
class Note:
    t: float
    name: str = ""


TUNE = (Note(1, "a"), Note(2, "b"), Note(2, "c"), Note(5, "d"))


def tune() -> Timeline[Note]:
    return Timeline(TUNE, period=10)


def names(batch: Batch[Note]) -> str:
    return "".join(note.name for note in batch.records)


# ---- the plan


def test_records_come_again_lap_after_lap() -> None:
    timeline = tune()
    assert [timeline.due(number) for number in range(9)] == [1, 2, 2, 5, 11, 12, 12, 15, 21]


def test_played_counts_over_all_laps() -> None:
    timeline = tune()
    assert [timeline.played(seconds) for seconds in (0, 0.9, 1, 2, 4.9, 5, 10, 11, 25)] == [0, 0, 1, 3, 3, 4, 4, 5, 12]


def test_the_latest_lap_is_that_of_the_latest_record() -> None:
    """Between the last record of a lap and the first of the next, what was played last still counts."""
    timeline = tune()
    assert [timeline.latest_lap(played) for played in (0, 1, 4, 5, 8, 9)] == [0, 0, 0, 4, 4, 8]


def test_a_part_ends_with_its_lap() -> None:
    timeline = tune()
    assert [note.name for note in timeline.part(5, 12)] == ["b", "c", "d"]
    assert [note.name for note in timeline.part(4, 6)] == ["a", "b"]


@given(
    times=st.lists(st.floats(0, 30.99), min_size=1, max_size=20),
    number=st.integers(0, 10_000),
)
def test_a_record_has_not_been_played_before_it_is_due(times: list[float], number: int) -> None:
    timeline = Timeline([Note(t) for t in sorted(times)], period=31)
    due = timeline.due(number)
    assert timeline.played(due - 0.001) <= number
    assert timeline.played(due + 0.001) > number


@pytest.mark.parametrize(("records", "period"), [((), 10.0), (TUNE, 5.0), (TUNE, 4.0)])
def test_a_lap_that_cannot_hold_its_records_is_refused(records: tuple[Note, ...], period: float) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        Timeline(records, period)


# ---- the player


@pytest.mark.anyio
async def test_batches_come_when_they_are_due() -> None:
    """What is due at once comes at once; the first of a lap says so, and times of day go on from lap to lap."""
    clock = Clock()
    player = Player(tune(), clock)
    seen = []
    async for batch in player:
        seen.append((anyio.current_time(), names(batch), batch.first))
        assert [time - clock.wall(0) for time in batch.times] == [timedelta(seconds=seen[-1][0])] * len(batch.records)
        if len(seen) == 5:
            break
    assert seen == [(1, "a", True), (2, "bc", False), (5, "d", False), (11, "a", True), (12, "bc", False)]


@pytest.mark.anyio
async def test_speed_is_replay_per_real_second() -> None:
    player = Player(tune(), Clock(speed=4))
    for due in (0.25, 0.5, 1.25, 2.75):
        batch = await anext(player)
        assert anyio.current_time() == pytest.approx(due)
    assert names(batch) == "a"


@pytest.mark.anyio
async def test_latecomers_begin_with_what_the_lap_has_played() -> None:
    """So their state is that of whoever watched from the beginning."""
    clock = Clock()
    clock.now()
    await anyio.sleep(12.5)
    batch = await anext(Player(tune(), clock))
    assert (anyio.current_time(), names(batch), batch.first) == (12.5, "abc", True)


@pytest.mark.anyio
async def test_latecomers_between_two_laps_begin_with_the_lap_that_ended() -> None:
    clock = Clock()
    clock.now()
    await anyio.sleep(10.5)
    player = Player(tune(), clock)
    assert names(await anext(player)) == "abcd"
    assert anyio.current_time() == 10.5
    assert names(await anext(player)) == "a"


@pytest.mark.anyio
async def test_without_history_the_next_record_is_the_first() -> None:
    clock = Clock()
    clock.now()
    await anyio.sleep(12.5)
    batch = await anext(Player(tune(), clock, history=False))
    assert (anyio.current_time(), names(batch), batch.first) == (15, "d", False)


@pytest.mark.anyio
async def test_slow_readers_get_more_at_once_but_never_two_laps() -> None:
    """A batch never crosses into the next lap, where what stood before no longer counts."""
    player = Player(tune(), Clock())
    assert names(await anext(player)) == "a"
    await anyio.sleep(10.2)
    assert names(await anext(player)) == "bcd"
    batch = await anext(player)
    assert (names(batch), batch.first, anyio.current_time()) == ("a", True, 11.2)


@pytest.mark.anyio
async def test_readers_behind_by_more_than_a_lap_go_on_with_the_lap_of_now() -> None:
    player = Player(tune(), Clock())
    assert names(await anext(player)) == "a"
    await anyio.sleep(61.5)
    batch = await anext(player)
    assert (names(batch), batch.first) == ("abc", True)
    assert names(await anext(player)) == "d"
    assert anyio.current_time() == 65


@pytest.mark.anyio
async def test_rounding_neither_skips_nor_repeats_records() -> None:
    """An hour of a tune whose times no float holds exactly, at a speed that no float holds either."""
    timeline = Timeline([Note(index / 30, str(index)) for index in range(29)], period=1)
    player = Player(timeline, Clock(speed=1.1))
    played = [note.name async for batch in _take(player, 29 * 600) for note in batch.records]
    assert played == [str(number % 29) for number in range(29 * 600)]
    assert anyio.current_time() == pytest.approx(600 / 1.1, abs=0.1)


async def _take(player: Player[Note], count: int) -> Any:
    while count > 0:
        batch = await anext(player)
        count -= len(batch.records)
        yield batch
