"""The nodes of a simulation: each an app on a way of its own to the one store. They crash, and are restarted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from .._app import RTSync, hub_options
from .._handles import EventsHandle, StateHandle
from ..backends import MemoryBackend
from ..security import public
from ._connector import ASGIConnector, asgi_connector
from ._faults import FaultPlan, FaultyBackend
from ._server_models import HYPERCORN_TRIO, STRICT, UVICORN
from ._simulation_plan import CHANNELS
from ._simulation_sources import alerts, feed
from ._simulation_world import SETTINGS

if TYPE_CHECKING:
    from ._simulation_world import World

__all__ = ["Node"]

_LAST_PUBLISHES = 12.0
"""Seconds that a node which is to stop waits for publishes under way."""


class Node:
    """
    One node, through all its lives.

    Attributes:
        connector: Where clients connect, while it is up.
        backend: Its way to the store, while it is up.
        handles: What publishers on this node use, by channel.
    """

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.life = 0
        self.up = False
        self.connector: ASGIConnector
        self.backend: FaultyBackend
        self.app: RTSync
        self.handles: dict[str, StateHandle | EventsHandle] = {}
        self._publishes: dict[anyio.CancelScope, None] = {}  # in order, so that a crash cancels them in order
        self._idle = anyio.Event()  # no publish is under way
        self._scope = anyio.CancelScope()
        self._stopping = anyio.Event()
        self._down_for: float | None = None

    def __repr__(self) -> str:
        return f"<Node {self.name} {'up' if self.up else 'down'}>"

    @property
    def name(self) -> str:
        """The name of this life: nobody comes back under the old one."""
        return f"n{self.index}.{self.life}"

    @property
    def calm_plan(self) -> FaultPlan:
        """What the way to the store is like without faults: each node's has a latency of its own."""
        return FaultPlan(latency=self._latency)

    async def run(self) -> None:
        """Live, again and again, until `stop` is called without coming back."""
        await anyio.sleep(self.world.random("node", self.index).uniform(0.001, 0.05))
        while True:
            self.life += 1
            self._down_for = None
            await self._live()
            if self._down_for is None:
                return
            await anyio.sleep(self._down_for)

    async def _live(self) -> None:
        world = self.world
        random = world.random("node", self.name)
        skew = random.uniform(-300.0, 300.0)
        self._latency = random.uniform(0.0003, 0.0015)
        options = replace(
            hub_options(SETTINGS),
            node=self.name,
            wall_clock=lambda: 1.7e9 + skew + anyio.current_time(),
            random_bits=world.random("links", self.name).getrandbits,
            jitter=world.random("jitter", self.name).random,
        )
        memory = MemoryBackend(world.store, randbits=world.random("epochs", self.name).getrandbits)
        self.backend = FaultyBackend(memory, self.calm_plan, random=world.random("harm", self.name))
        self.app = RTSync(SETTINGS, backend=self.backend, options=options)
        self._declare()
        self._stopping = anyio.Event()
        server = random.choice([STRICT, UVICORN, HYPERCORN_TRIO])
        with anyio.CancelScope() as self._scope:
            async with asgi_connector(self.app, server=server, grace=4.0) as self.connector, self.app.lifespan():
                self.up = True
                await self._stopping.wait()
                self.connector.refusing = True
                self.up = False
                await self._finish_publishes()
        self.up = False

    def _declare(self) -> None:
        for plan in CHANNELS:
            if plan.events:
                events = self.app.events(plan.pattern, access=public, window=plan.window)
                if not plan.writers:
                    events.source()(alerts(self.world, self.name))
                self.handles[plan.name] = events.channel("main")
            else:
                state = self.app.state(plan.pattern, access=public, window=plan.window)
                if not plan.writers:
                    state.source()(feed(self.world, self.name))
                self.handles[plan.name] = state.channel("main")

    @contextmanager
    def publishing(self) -> Iterator[anyio.CancelScope]:
        """Open a scope for a publish on this node, which a crash cancels."""
        with anyio.CancelScope() as scope:
            self._publishes[scope] = None
            try:
                yield scope
            finally:
                del self._publishes[scope]
                if not self._publishes:
                    self._idle.set()

    async def _finish_publishes(self) -> None:
        if self._publishes:
            self._idle = anyio.Event()
            with anyio.move_on_after(_LAST_PUBLISHES):
                await self._idle.wait()
        for scope in list(self._publishes):
            scope.cancel()

    # ---- its ends

    def stop(self, down_for: float | None = None) -> None:
        """Stop in good order, and come back after some seconds; ``None`` for never."""
        self._down_for = down_for
        self._stopping.set()

    def crash(self, down_for: float, *, silently: bool) -> None:
        """End at once: nothing reaches the store any more. Clients see a reset, or (*silently*) nothing at all."""
        self.up = False
        self._down_for = down_for
        self.backend.partition(hang=False)
        self.connector.kill(silently=silently)
        for scope in list(self._publishes):
            scope.cancel()
        self._scope.cancel()
