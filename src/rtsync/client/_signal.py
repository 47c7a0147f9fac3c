"""A wake-up for whoever waits."""

from __future__ import annotations

import anyio

__all__ = ["Signal"]


class Signal:
    """
    Wakes everybody who waits, and nobody who comes later.

    Waiters look at the state they wait for, wait, and look again; as long as nothing is awaited between looking and waiting, no
    wake-up is lost.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Wake everybody. Costs nothing while nobody waits."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next `notify`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
