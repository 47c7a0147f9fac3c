"""Token buckets never grant more than they promise, and their waits are exact."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core._buckets import TokenBucket
from rtsync.core._errors import UsageError


def test_new_bucket_grants_its_whole_burst_at_once() -> None:
    """A bucket starts full."""
    bucket = TokenBucket(1.0, 3, now=100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(100.0) == pytest.approx(1.0)


def test_refused_take_costs_nothing() -> None:
    """Asking too often does not push the next success further away."""
    bucket = TokenBucket(2.0, 1, now=0.0)
    assert bucket.take(0.0) == 0.0
    assert [bucket.take(0.0) for _ in range(5)] == [pytest.approx(0.5)] * 5
    assert bucket.take(0.25) == pytest.approx(0.25)
    assert bucket.take(0.5) == 0.0


def test_refill_stops_at_the_burst() -> None:
    """An hour of silence buys one burst, not an hour's worth."""
    bucket = TokenBucket(10.0, 2, now=0.0)
    assert [bucket.take(3600.0) for _ in range(2)] == [0.0, 0.0]
    assert bucket.take(3600.0) > 0.0


def test_cost_is_taken_whole_or_not_at_all() -> None:
    """A dear request waits for all its tokens while a cheap one still passes."""
    bucket = TokenBucket(1.0, 10, now=0.0)
    assert bucket.take(0.0, cost=8) == 0.0
    assert bucket.take(0.0, cost=5) == pytest.approx(3.0)
    assert bucket.take(0.0, cost=2) == 0.0


def test_zero_cost_always_passes() -> None:
    """What is free is granted by an empty bucket too."""
    bucket = TokenBucket(1.0, 1, now=0.0)
    assert bucket.take(0.0) == 0.0
    assert bucket.take(0.0, cost=0.0) == 0.0


def test_time_going_backwards_grants_and_loses_nothing() -> None:
    """An older `now` counts as no time passed, and the wait is still right as seen from it."""
    bucket = TokenBucket(1.0, 1, now=10.0)
    assert bucket.take(10.0) == 0.0
    assert bucket.take(4.0) == pytest.approx(7.0)
    assert bucket.take(11.0) == 0.0
    assert bucket.take(4.0) > 0.0
    assert bucket.take(11.0) > 0.0


@pytest.mark.parametrize("cost", [-0.1, 5.1, math.nan, math.inf])
def test_impossible_cost_is_a_usage_error(cost: float) -> None:
    """A cost that no wait could pay is a mistake, not a refusal."""
    bucket = TokenBucket(1.0, 5, now=0.0)
    with pytest.raises(UsageError) as caught:
        bucket.take(0.0, cost)
    assert caught.value.field == "cost"
    assert bucket.take(0.0, 5) == 0.0


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf])
def test_bucket_without_positive_rate_or_burst_is_refused(bad: float) -> None:
    """The error names the argument."""
    with pytest.raises(UsageError) as caught:
        TokenBucket(bad, 1, now=0.0)
    assert caught.value.field == "rate_per_second"
    with pytest.raises(UsageError) as caught:
        TokenBucket(1, bad, now=0.0)
    assert caught.value.field == "burst"


def test_repr_shows_level_burst_and_rate() -> None:
    """A bucket can be read in a log."""
    assert repr(TokenBucket(50, 100, now=0.0)) == "<TokenBucket 100 of 100, 50/s>"


_rates = st.floats(0.01, 1e6)
_bursts = st.floats(0.5, 1e6)


@given(_rates, _bursts, st.floats(0, 2e9), st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), max_size=20))
def test_waiting_as_told_always_succeeds(rate: float, burst: float, start: float, steps: list[tuple[float, float]]) -> None:
    """Whatever the clock's magnitude, the returned wait is enough."""
    bucket, now = TokenBucket(rate, burst, start), start
    for pause, share in steps:
        now += pause
        wait = bucket.take(now, cost := share * burst)
        if wait:
            assert bucket.take(now + wait, cost) == 0.0
            now += wait


@given(_rates, _bursts, st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), max_size=50))
def test_grants_never_exceed_burst_plus_refill(rate: float, burst: float, steps: list[tuple[float, float]]) -> None:
    """The long-run promise holds for any order of times and costs, but for the microsecond of grace."""
    bucket = TokenBucket(rate, burst, 0.0)
    now = latest = granted = 0.0
    for step, share in steps:
        now += step
        latest = max(latest, now)
        cost = share * burst
        if bucket.take(now, cost) == 0.0:
            granted += cost
    assert granted <= (burst + latest * rate) * (1 + 1e-9) + rate * 1e-5
