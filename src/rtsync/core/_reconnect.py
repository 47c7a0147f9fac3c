"""When a client comes back after a connection ended, and when it had better not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final, Literal, TypeGuard, cast

from ._errors import Code, SettingsError

__all__ = ["Outlook", "ReconnectPolicy", "outlook"]

Outlook = Literal["reconnect", "stop", "fail"]
"""What the end of a connection means: come back, stay away because another took over, or stay away because it is hopeless."""


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """
    Delays between a lost connection and the next attempts: 1, 2, 4, 8, 15, 15 … seconds unless you say otherwise.

    Advice of the server wins over these numbers.

    Attributes:
        first: Seconds before the first attempt.
        factor: Growth from one attempt to the next; 1 keeps the delay constant.
        cap: Most seconds between two attempts.
        jitter: Fraction of each delay that is left to chance. The random share is taken off, so a delay lies between
            ``d × (1 − jitter)`` and ``d`` and never exceeds the table. Half by default: clients cut together do not return
            together, and none of them hammers a server that is down. 0 makes delays exact.
        spread: Seconds over which the first attempt is spread in addition, for clients that lost the same node.
        max_attempts: Attempts in a row after which the client gives up. ``None``, the default, means never: the lid of a
            laptop stays closed longer than any number of attempts.
    """

    first: float = 1.0
    factor: float = 2.0
    cap: float = 15.0
    jitter: float = 0.5
    spread: float = 0.0
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high:
                raise SettingsError(f"reconnect.{name}", f"must be a number from {low:g} to {high:g}, is {value!r}")
        if self.max_attempts is not None and (type(self.max_attempts) is not int or self.max_attempts < 0):
            raise SettingsError("reconnect.max_attempts", f"must be None or a count, is {self.max_attempts!r}")

    def next_delay(self, attempt: int, random: Callable[[], float]) -> float | None:
        """
        Return the seconds to wait before the next attempt, or ``None`` to give up.

        Args:
            attempt: How many attempts in a row have failed since the last connection that worked.
            random: Gives a number from 0 up to 1.
        """
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        delay = min(self.first, self.cap)
        for _ in range(attempt):
            if delay >= self.cap or self.factor == 1.0:
                break
            delay = min(delay * self.factor, self.cap)
        if self.jitter:
            delay *= 1.0 - self.jitter * random()
        if self.spread and attempt == 0:
            delay += self.spread * random()
        return delay

    def advised(self, advice: Mapping[str, object]) -> ReconnectPolicy:
        """Return this policy with what a welcome advises in place of its own numbers. What is not usable is left out."""
        numbers = {
            name: float(value)
            for name, key in _ADVICE.items()
            if _is_number(value := advice.get(key)) and _BOUNDS[name][0] <= value <= _BOUNDS[name][1]
        }
        return replace(self, **numbers)  # type: ignore[arg-type]


_YEAR: Final = 366 * 86_400.0
_BOUNDS: Final = {
    "first": (0.0, _YEAR),
    "factor": (1.0, 1000.0),
    "cap": (0.0, _YEAR),
    "jitter": (0.0, 1.0),
    "spread": (0.0, _YEAR),
}
_ADVICE: Final = {
    "first": "delay_min",
    "factor": "factor",
    "cap": "delay_max",
    "jitter": "jitter",
    "spread": "spread",
}


def outlook(close: int | None, code: str | None = None, retryable: bool = False) -> Outlook:
    """
    Return what the end of a connection means for the next one.

    Args:
        close: The WebSocket close code; ``None`` when there was none.
        code: What an error frame just before the end named, if there was one. It counts more than the close code, which
            does not survive every server and proxy.
        retryable: What that frame said about trying again.
    """
    if code is not None:
        known = Code.from_text(code)
        if known is Code.TAKEN_OVER:
            return "stop"
        return "reconnect" if retryable or (known is not None and known.retryable) else "fail"
    if close is None or not 4400 <= close < 4500:
        return "reconnect"
    known = Code.from_close(close)
    if known is Code.TAKEN_OVER:
        return "stop"
    return "reconnect" if known is not None and known.retryable else "fail"


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float) and isfinite(cast(float, value))
