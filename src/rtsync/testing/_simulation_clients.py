"""The clients of a simulation: they come and go, change their minds, dawdle, and lose their links."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf
from random import Random
from typing import TYPE_CHECKING, Final, Literal

import anyio

from ..client import Client, ConnectionFailed, Subscription, SubscriptionRefused, connect
from ..core import Position
from ._asgi import ASGIWebSocket, HandshakeRefused
from ._journal import ViewJournal
from ._owned import owned_tasks
from ._simulation_plan import CHANNELS, ChannelPlan

if TYPE_CHECKING:
    from ._simulation_nodes import Node
    from ._simulation_world import World

__all__ = ["SimulatedClient", "View"]

_RATES: Final = (None, 1.0, 0.5, 0.5, 0.2, 0.2, 0.2, 0.2, 0.2)
_SINCE_START: Final = Position.start("")


class View:
    """
    One subscription of a client, from one `Client.subscribe` until it leaves.

    Attributes:
        slow: Whether its consumer is slower than the channel.
        scope: Ends it at its time.
        moved_at: When it last began, was resumed or got another rate.
    """

    def __init__(self, subscription: Subscription, journal: ViewJournal, *, slow: bool, scope: anyio.CancelScope) -> None:
        self.subscription = subscription
        self.journal = journal
        self.slow = slow
        self.scope = scope
        self.moved_at = anyio.current_time()

    @property
    def position(self) -> Position | None:
        """Where it stands; of events, behind the last that its consumer has taken."""
        return self.journal.held if self.subscription.kind == "events" else self.subscription.position

    def behind(self) -> float:
        """Return for how many seconds the log has been further than the view, since that last moved by itself."""
        past = None if (position := self.position) is None else self.journal.past(position)
        return 0.0 if past is None or past.passed_at == inf else anyio.current_time() - max(past.passed_at, self.moved_at)


class SimulatedClient:
    """
    One client, through all its connections.

    Attributes:
        views: Its subscriptions at this moment, by slot.
        node: Where it is connected.
        link_fails_until: Until when its link carries nothing, or not everything; infinity for a link that vanished.
        live_for: For how many looks in a row it was connected.
    """

    def __init__(self, world: World, index: int) -> None:
        self.name = f"c{index:02}"
        self.views: dict[int, View] = {}
        self.client: Client | None = None
        self.node: Node | None = None
        self.link_fails_until = 0.0
        self.live_for = 0
        self._world = world
        self._random = random = world.random(self.name)
        self._links = world.random(self.name, "links")
        self._home = index % world.scenario.nodes
        self._slots = random.choice([1, 1, 1, 1, 1, 2, 3])
        self._profile: Literal["json", "msgpack"] = random.choice(["json", "msgpack", "msgpack"])
        self._positions: dict[str, Position] = {}  # {event channel: where the last view of it ended}
        self._socket: ASGIWebSocket | None = None
        self._visit = anyio.CancelScope()
        self._visits = 0

    async def run(self) -> None:
        """Connect, stay for a while, leave, and come back, until cancelled."""
        world, random = self._world, self._random
        await anyio.sleep(random.uniform(0.2, 5.0))
        while True:
            self._visits += 1
            async with connect(
                "ws://rtsync.test/ws",
                connector=self._open,
                profile=self._profile,
                name=self.name,
                open_timeout=4.0,
                random=world.random(self.name, "reconnect", self._visits),
            ) as self.client:
                with anyio.CancelScope(deadline=self._until(random.expovariate(1 / 900))) as self._visit:
                    async with anyio.create_task_group() as tasks:
                        for slot in range(self._slots):
                            tasks.start_soon(self._fill, slot, world.random(self.name, slot, self._visits))
            self.client = None
            await anyio.sleep(random.uniform(0.5, 6.0))

    def settle(self) -> None:
        """Stay connected and subscribed from now on."""
        self._visit.deadline = inf
        for view in self.views.values():
            view.scope.deadline = inf

    def _until(self, seconds: float) -> float:
        return inf if self._world.calm else anyio.current_time() + seconds

    # ---- subscriptions

    async def _fill(self, slot: int, random: Random) -> None:
        """Keep one slot filled with views, one after the other."""
        await anyio.sleep(random.uniform(0.0, 2.0))
        while True:
            try:
                await self._view(slot, self._any_channel(random), random)
            except (SubscriptionRefused, ConnectionFailed) as error:
                self._world.journal.broken("I6", f"{self.name}.{slot}", repr(error))
            await anyio.sleep(random.uniform(0.2, 4.0))

    def _any_channel(self, random: Random) -> ChannelPlan:
        """Draw a channel. Each node's neighbours have favourites, so that nodes hold different channels and let go of them."""
        favourites = [CHANNELS[(self._home + step) % len(CHANNELS)] for step in range(3)]
        plan = random.choice(favourites if random.random() < 0.7 else CHANNELS)
        return plan if not plan.events or random.random() < 0.6 else random.choice(CHANNELS)

    async def _view(self, slot: int, plan: ChannelPlan, random: Random) -> None:
        """Subscribe to a channel for a while and write down what it shows."""
        assert self.client is not None
        where, slow = random.random(), random.random() < 0.1
        rate, max_queued = random.choice(_RATES), random.choice([10, 1000])
        position: Position | None = None
        if plan.events:
            rate = None
            if where < 0.2:
                position = _SINCE_START
            elif where < 0.7:
                position = self._positions.get(plan.name)
        subscription = self.client.subscribe(plan.name, rate=rate, position=position, max_queued=max_queued)
        journal = ViewJournal(self._world.journal, f"{self.name}.{slot}", plan.name, position)
        scope = anyio.CancelScope(deadline=self._until(random.expovariate(1 / 240)))
        view = View(subscription, journal, slow=slow, scope=scope)
        fickle = random.random() < 0.3
        async with subscription:
            self.views[slot] = view
            try:
                with scope:
                    if fickle:
                        async with owned_tasks() as tasks:
                            tasks.start_soon(self._change_mind, view, Random(random.random()))
                            await self._read(view, random)
                            tasks.cancel_scope.cancel()
                    else:
                        await self._read(view, random)
            finally:
                del self.views[slot]
        if plan.events and subscription.position is not None:
            self._positions[plan.name] = subscription.position

    async def _read(self, view: View, random: Random) -> None:
        async for update in view.subscription:
            view.journal.take(update)
            if view.slow and not self._world.calm:
                await anyio.sleep(random.uniform(0.1, 3.0))

    async def _change_mind(self, view: View, random: Random) -> None:
        """Pause and resume, and ask for other rates."""
        subscription = view.subscription
        while True:
            await anyio.sleep(random.expovariate(1 / 40))
            if self._world.calm:
                return
            if random.random() < 0.6:
                await subscription.pause()
                await anyio.sleep(random.uniform(0.5, 15.0))
                await subscription.resume()
            elif subscription.kind == "state":
                await subscription.set_rate(random.choice(_RATES))
            view.moved_at = anyio.current_time()

    # ---- the link

    @asynccontextmanager
    async def _open(self, url: str, subprotocols: Sequence[str]) -> AsyncIterator[ASGIWebSocket]:
        """Connect to the node nearby, or to another."""
        random = self._links
        away, other, latency = random.random() < 0.3, random.randrange(self._world.scenario.nodes), random.uniform(0.001, 0.03)
        node = self._world.nodes[other if away else self._home]
        await anyio.sleep(random.uniform(0.001, 0.01))
        if not node.up:
            raise HandshakeRefused(0)
        async with node.connector.open("/ws", subprotocols=subprotocols, latency=latency) as self._socket:
            self.node = node
            self.link_fails_until = 0.0
            try:
                yield self._socket
            finally:
                self._socket = self.node = None

    def cut(self) -> None:
        """Break the link; both ends learn of it."""
        if self._socket is not None:
            self._socket.reset()

    def vanish(self) -> None:
        """Break the link; neither end learns of it."""
        if self._socket is not None:
            self._socket.vanish()
            self.link_fails_until = inf

    def stall(self, seconds: float, way: Literal["both", "to_app", "to_peer"]) -> None:
        """Let nothing arrive for a while."""
        if self._socket is not None:
            self._socket.stall(seconds, way=way)
            self.link_fails_until = max(self.link_fails_until, anyio.current_time() + seconds)
