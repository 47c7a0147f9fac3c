"""Token buckets: how often something may happen, as arithmetic on a caller's clock."""

from __future__ import annotations

from math import isfinite
from typing import Final

from ._errors import UsageError

__all__ = ["TokenBucket"]

_GRACE_SECONDS: Final = 1e-6
"""Absorbs float rounding, so that whoever waited as long as told is not refused; borrowed from later refill, not given."""


class TokenBucket:
    """
    A budget that refills steadily: at most *burst* at once, and *rate_per_second* in the long run.

    It starts full. Time comes in as an argument, in seconds of any one clock; an argument older than one seen before is
    treated as no time having passed, so calls out of order grant nothing extra.

    Args:
        rate_per_second: Tokens that come back per second.
        burst: Most tokens the bucket holds.
        now: The time of its creation.

    Raises:
        UsageError: If the rate or the burst is not a positive finite number.
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate_per_second: float, burst: float, now: float) -> None:
        self._rate = _positive("rate_per_second", rate_per_second)
        self._burst = _positive("burst", burst)
        self._tokens = self._burst
        self._updated = now

    def take(self, now: float, cost: float = 1.0) -> float:
        """
        Take *cost* tokens if they are there.

        Returns:
            0.0 if they were taken; otherwise nothing was, and the seconds after *now* until the same call would succeed
            (if nobody else takes any).

        Raises:
            UsageError: If *cost* is negative or above the burst, for then waiting would never help.
        """
        if not 0 <= cost <= self._burst:
            raise UsageError("cost", f"must be between 0 and the burst of {self._burst:g}, is {cost:g}")
        if now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
            self._updated = now
        wait = (cost - self._tokens) / self._rate
        if wait <= _GRACE_SECONDS:
            self._tokens -= cost
            return 0.0
        return wait + (self._updated - now)

    def __repr__(self) -> str:
        return f"<TokenBucket {self._tokens:g} of {self._burst:g}, {self._rate:g}/s>"


def _positive(field: str, value: float) -> float:
    if not (isfinite(value) and value > 0):
        raise UsageError(field, f"must be a positive number, is {value:g}")
    return float(value)
