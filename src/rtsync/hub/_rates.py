"""Rates: how often a subscription wants to hear of changes, on a short ladder with shared ticks."""

from __future__ import annotations

from collections.abc import Callable
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
        self._waiting: dict[float, set[Subscription]] = {step: set() for step in LADDER}
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
        self._waiting[rate].add(subscription)
        self._bell.set()
        return False

    def forget(self, subscription: Subscription) -> None:
        """Drop *subscription*, which ended or changes its rate."""
        if subscription.rate:
            self._waiting[subscription.rate].discard(subscription)

    async def run(self) -> None:
        """Serve ticks until cancelled; sleeps while nobody waits."""
        while True:
            waiting = [step for step, subscriptions in self._waiting.items() if subscriptions]
            if not waiting:
                self._bell = anyio.Event()
                await self._bell.wait()
                continue
            # A slower step may ring the bell while a faster one is slept for; it is looked at on waking, never too late.
            now = self._now()
            tick = min(_next_tick(step, now) for step in LADDER if self._waiting[step])
            fastest = _next_tick(LADDER[0], now)
            await anyio.sleep(max(min(tick, fastest) - now, 0))
            self._serve(now, self._now())

    def _serve(self, before: float, now: float) -> None:
        for step, subscriptions in self._waiting.items():
            if subscriptions and _next_tick(step, before) <= now:
                self._waiting[step] = set()
                for subscription in subscriptions:
                    subscription.open_at = _next_tick(step, now)
                    self._wake(subscription)


def _next_tick(rate: float, now: float) -> float:
    """Return the first tick after *now*."""
    period = 1.0 / rate
    tick = (now // period + 1) * period
    return tick if tick > now else tick + period
