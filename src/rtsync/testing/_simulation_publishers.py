"""The publishers of a simulation, and what they were told."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

import anyio

from .._handles import StateHandle
from ..core import Position, Rejected, Unknown, Value
from ._simulation_plan import ChannelPlan
from ._simulation_sources import Ledger, board, board_patch, event
from ._simulation_world import SETTINGS

if TYPE_CHECKING:
    from ._simulation_nodes import Node
    from ._simulation_world import World

__all__ = ["Publisher"]

_PATIENCE: Final = SETTINGS.publish_timeout + 1.0
"""Seconds after which a publisher must have been told something."""


class Publisher:
    """
    Publishes to one channel, on its own node or the next one that is up, one at a time.

    Args:
        number: Of the channel's publishers.
    """

    def __init__(self, world: World, plan: ChannelPlan, number: int) -> None:
        self.channel = plan.name
        self.name = f"{plan.name}/{number}"
        self._world = world
        self._index = number
        self._interval = world.scenario.publish_interval * plan.writers
        self._random = world.random("publisher", self.name)
        self._ledger = Ledger(self._random)
        self._count = 0
        self._scope = anyio.CancelScope()
        self._resting = 0.0

    async def run(self) -> None:
        """Publish until nobody does any more."""
        due = 0.5 + self._interval * self._random.random()
        while not self._world.hushed:
            await anyio.sleep_until(due)
            with anyio.CancelScope() as self._scope:
                await self._publish()
            if self._resting:
                await anyio.sleep(self._resting)
                self._resting = 0.0
            now = anyio.current_time()
            due = max(due, now) + self._interval * self._random.uniform(0.6, 1.4)

    def crash(self, down_for: float) -> None:
        """End, in the middle of a publish if one is under way, and begin again after some seconds."""
        self._resting = down_for
        self._scope.cancel()

    async def _publish(self) -> None:
        node = self._world.node_near(self._index)
        if node is None or self._world.hushed:
            return
        self._count += 1
        journal, mark = self._world.journal, (self.name, self._count)
        began = anyio.current_time()
        outcome = "abandoned"
        try:
            with node.publishing():
                publish, value = self._next(node)
                position = await publish
                outcome = "acked"
        except Rejected:
            outcome = "rejected"
        except Unknown:
            outcome = "unknown"
        finally:
            seconds = anyio.current_time() - began
            journal.measure(f"publish {outcome}", seconds)
            if seconds > _PATIENCE:
                journal.broken("I6", self.name, f"{mark} was {outcome} after {seconds:.3f} s")
            if outcome == "acked":
                journal.acked(self.name, self.channel, mark, position, value)
            else:
                journal.not_acked(self.name, self.channel, mark, outcome)

    def _next(self, node: Node) -> tuple[Awaitable[Position], Value]:
        """Begin the next publish; return with it what the log must hold then, if that can be told."""
        handle, random = node.handles[self.channel], self._random
        if not isinstance(handle, StateHandle):
            value = event(random, self.name, self._count)
            return handle.append(value), value
        if self.channel.startswith("ledger"):
            return handle.patch(self._ledger.patch(self.name, self._count)), None
        if random.random() < 0.15:
            document = board(random, self.name, self._count)
            return handle.set(document), document
        return handle.patch(board_patch(random, self.name, self._count)), None
