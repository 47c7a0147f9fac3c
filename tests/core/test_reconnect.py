"""When a client comes back: exact delays, what the server's advice changes, and which ends are final."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import Code, ReconnectPolicy, SettingsError
from rtsync.core._reconnect import Outlook, outlook

EXACT = ReconnectPolicy(jitter=0.0)


def no_chance() -> float:
    raise AssertionError("nothing is left to chance")


# ---- delays --------------------------------------------------------------------------------------------------------


def test_delays_follow_the_table() -> None:
    """1, 2, 4, 8, 15, 15 … seconds."""
    assert [EXACT.next_delay(attempt, no_chance) for attempt in range(7)] == [1, 2, 4, 8, 15, 15, 15]


def test_attempts_never_run_out_by_default() -> None:
    assert EXACT.next_delay(1_000_000_000, no_chance) == 15


def test_attempts_run_out_when_a_maximum_is_set() -> None:
    policy = ReconnectPolicy(jitter=0.0, max_attempts=2)
    assert [policy.next_delay(attempt, no_chance) for attempt in range(4)] == [1, 2, None, None]


def test_no_attempts_means_none() -> None:
    assert ReconnectPolicy(max_attempts=0).next_delay(0, no_chance) is None


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (ReconnectPolicy(first=0.5, factor=3, cap=10, jitter=0), [0.5, 1.5, 4.5, 10, 10]),
        (ReconnectPolicy(factor=1, jitter=0), [1, 1, 1, 1, 1]),
        (ReconnectPolicy(first=20, jitter=0), [15, 15, 15, 15, 15]),
        (ReconnectPolicy(first=0, jitter=0), [0, 0, 0, 0, 0]),
        (ReconnectPolicy(spread=2, jitter=0), [2, 2, 4, 8, 15]),
        (ReconnectPolicy(), [0.75, 1.5, 3, 6, 11.25]),
        (ReconnectPolicy(jitter=1), [0.5, 1, 2, 4, 7.5]),
    ],
)
def test_options_change_the_table(policy: ReconnectPolicy, delays: list[float]) -> None:
    assert [policy.next_delay(attempt, lambda: 0.5) for attempt in range(5)] == delays


@given(st.integers(0, 20), st.floats(0, 1, exclude_max=True))
def test_chance_takes_at_most_half_off_and_adds_nothing(attempt: int, chance: float) -> None:
    exact = EXACT.next_delay(attempt, no_chance)
    delay = ReconnectPolicy().next_delay(attempt, lambda: chance)
    assert exact is not None and delay is not None
    assert exact / 2 <= delay <= exact


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("first", -1),
        ("first", float("nan")),
        ("first", float("inf")),
        ("factor", 0.5),
        ("factor", True),
        ("cap", "15"),
        ("jitter", 1.1),
        ("spread", None),
        ("max_attempts", -1),
        ("max_attempts", 1.5),
    ],
)
def test_impossible_option_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        ReconnectPolicy(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == f"reconnect.{field}"


# ---- advice --------------------------------------------------------------------------------------------------------


def test_advice_of_the_server_wins() -> None:
    advice = {"delay_min": 3, "delay_max": 9.0, "factor": 1.5, "jitter": 0.25, "spread": 1, "later": "more"}
    advised = ReconnectPolicy(max_attempts=7).advised(advice)
    assert advised == ReconnectPolicy(first=3, cap=9, factor=1.5, jitter=0.25, spread=1, max_attempts=7)


@pytest.mark.parametrize("value", ["1", None, True, -1, float("nan"), 1e300, {}])
def test_unusable_advice_is_left_out(value: object) -> None:
    assert EXACT.advised({"delay_min": value, "delay_max": 5}) == ReconnectPolicy(cap=5, jitter=0.0)


# ---- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(Code))
def test_every_code_means_the_same_by_frame_and_by_close_code(code: Code) -> None:
    expected = "stop" if code is Code.TAKEN_OVER else "reconnect" if code.retryable else "fail"
    assert outlook(code.close) == expected
    assert outlook(1006, code.text, code.retryable) == expected
    assert outlook(None, code.text, code.retryable) == expected


@pytest.mark.parametrize(
    ("close", "expected"),
    [
        (None, "reconnect"),
        (1000, "reconnect"),
        (1001, "reconnect"),
        (1005, "reconnect"),
        (1006, "reconnect"),
        (1008, "reconnect"),
        (1009, "reconnect"),
        (1011, "reconnect"),
        (1012, "reconnect"),
        (1013, "reconnect"),
        (4000, "reconnect"),
        (4399, "reconnect"),
        (4400, "fail"),
        (4401, "fail"),
        (4403, "fail"),
        (4408, "reconnect"),
        (4409, "stop"),
        (4413, "fail"),
        (4422, "fail"),
        (4429, "reconnect"),
        (4499, "fail"),
        (4500, "reconnect"),
        (4512, "reconnect"),
        (4599, "reconnect"),
    ],
)
def test_close_code_decides_without_a_frame(close: int | None, expected: Outlook) -> None:
    assert outlook(close) == expected


def test_frame_counts_more_than_the_close_code() -> None:
    """Close codes get lost on the way; the frame before them does not."""
    assert outlook(1006, "unauthenticated") == "fail"
    assert outlook(4401, "unavailable", True) == "reconnect"


def test_unknown_code_is_taken_at_its_word() -> None:
    assert outlook(1006, "from_the_future", True) == "reconnect"
    assert outlook(1006, "from_the_future", False) == "fail"
