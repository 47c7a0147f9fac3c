"""Rates: how often a subscription wants to hear of changes, on a short ladder with shared ticks."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from ._subscription import Subscription

__all__ = ["LADDER", "RateTicker", "step_down"]

LADDER: Final = (10.0, 5.0, 2.0, 1.0, 0.5, 0.2)
"""Updates a second on offer. Few steps, so that subscribers of one step share ticks, bases and thereby encoded frames."""


def step_down(rate: float | None) -> float | None:
    """Return the fastest step not above *rate*: ``None`` for every change, 0.0 for paused."""
    if rate is None or rate > LADDER[0]:
        return None
    if rate <= 0:
        return 0.0
    return next((step for step in LADDER if step <= rate), LADDER[-1])


_TOLERANCE: Final = 1e-6
"""Part of a period by which a clock may be short of a tick: times are sums of floats."""


class RateTicker:
    """
    Wakes rate-limited subscriptions on the ticks they share.

    A change is passed on at once if its subscription heard nothing since the last tick (leading edge); otherwise it waits for
    the next tick (trailing edge, guaranteed). Ticks fall on multiples of the period, so all subscriptions of a step move
    together.
    """

    def __init__(self, now: Callable[[], float], wake: Callable[[Subscription], None]) -> None:
        self._now = now
        self._wake = wake
        self._waiting: dict[float, dict[Subscription, None]] = {step: {} for step in LADDER}  # in order of arrival
        self._due: dict[float, float] = {}  # {step with somebody waiting: its next tick}
        self._bell = anyio.Event()

    def offer(self, subscription: Subscription) -> bool:
        """Return whether *subscription* may be served now; if not, it is woken at its next tick (or never while paused)."""
        rate = subscription.rate
        if rate is None:
            return True
        if rate == 0.0:
            return False
        now = self._now()
        if now >= subscription.open_at:
            subscription.open_at = _next_tick(rate, now)
            return True
        self._waiting[rate][subscription] = None
        if rate not in self._due:
            self._due[rate] = subscription.open_at  # the same for all who wait
            self._bell.set()
        return False

    def forget(self, subscription: Subscription) -> None:
        """Drop *subscription*, which ended or changes its rate."""
        if subscription.rate:
            self._waiting[subscription.rate].pop(subscription, None)

    async def run(self) -> None:
        """Serve ticks until cancelled; sleeps while nobody waits."""
        while True:
            self._bell = anyio.Event()
            if self._due:
                with anyio.move_on_after(min(self._due.values()) - self._now()):
                    await self._bell.wait()
            else:
                await self._bell.wait()
            self._serve(self._now())

    def _serve(self, now: float) -> None:
        for step in [step for step, due in self._due.items() if due <= now]:
            del self._due[step]
            subscriptions, self._waiting[step] = self._waiting[step], {}
            for subscription in subscriptions:
                subscription.open_at = _next_tick(step, now)
                self._wake(subscription)


def _next_tick(rate: float, now: float) -> float:
    """Return the first tick after *now*, which counts as at a tick when it is as good as there."""
    return (floor(now * rate + _TOLERANCE) + 1) / rate
