"""
A seeded simulation: several hubs over one faulty store, clients that come and go, publishers, and a fault every so often.

Everything runs in virtual time on the real stack: client, WebSocket transport, hub, publisher, sources, leases. Only the
sockets and the store are in memory. What everybody saw is checked against what the store held, all along and at the end. A seed
gives the same run every time, on asyncio and on trio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Literal

import anyio
from anyio.abc import TaskGroup

from ..backends import TTL
from ..core import same
from ._journal import Journal, Line, Violation
from ._simulation_clients import SimulatedClient, View
from ._simulation_faults import inflict
from ._simulation_nodes import Node
from ._simulation_plan import CHANNELS, Scenario, faults
from ._simulation_publishers import Publisher
from ._simulation_world import SETTINGS, World
from ._virtual import run_virtual

__all__ = ["BrokenRules", "SimulationReport", "run_simulation"]

_LOOK: Final = 1.0
"""Seconds between two looks at what clients show."""

_CONFIRMED: Final = 5.0
"""Seconds within which a node confirms what it shows as live."""

_SILENCE: Final = SETTINGS.heartbeat_interval + SETTINGS.heartbeat_timeout / 2
"""Seconds of silence after which a client doubts its link."""

_PROMPT: Final = 3.0
"""Seconds within which everybody holds the head when nothing is wrong."""


class BrokenRules(AssertionError):
    """A simulation in which rules were broken."""


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """
    What came of a simulation.

    Attributes:
        trace: A hash of everything that clients saw and publishers were told.
        violations: The rules that were broken.
        counts: How often what happened.
        worst: The longest seconds of what is measured.
        lines: What was seen, by whom and when.
    """

    seed: int
    backend: str
    scenario: Scenario
    trace: str
    violations: Sequence[Violation]
    counts: Mapping[str, int]
    worst: Mapping[str, float]
    journal: Journal

    def trace_until(self, seconds: float) -> str:
        """Return the hash of what came before a second."""
        return self.journal.trace(seconds)

    def lines(self) -> Sequence[Line]:
        """Return everything that was seen, in order."""
        return sorted(self.journal.lines)

    def check(self) -> None:
        """Raise `BrokenRules` if any were broken."""
        if self.violations:
            text = "\n".join(map(str, self.violations[:20]))
            again = (
                f"python -m rtsync.testing.simulate {self.seed} --backend {self.backend} --seconds {self.scenario.seconds:g}"
            )
            raise BrokenRules(f"{self.counts['violations']} violations; again with: {again}\n{text}")


def run_simulation(
    seed: int, *, backend: Literal["asyncio", "trio"] = "asyncio", scenario: Scenario | None = None
) -> SimulationReport:
    """
    Run a simulation and return what came of it.

    Args:
        seed: What is drawn from. The same seed gives the same run.
        backend: The event loop.
        scenario: How large; an hour by default.

    Raises:
        Exception: Whatever was raised where nothing should be, with the seed and the second in its notes.
    """
    world: World | None = None

    async def run() -> World:
        nonlocal world
        world = World(seed, scenario or Scenario())
        try:
            await _run(world)
        except BaseException as error:
            error.add_note(f"in the simulation of seed {seed} on {backend}, at second {anyio.current_time():.6f}")
            raise
        return world

    world = run_virtual(run, backend=backend)
    journal = world.journal
    return SimulationReport(
        seed, backend, world.scenario, journal.trace(), tuple(journal.violations), journal.counts, journal.worst, journal
    )


async def _run(world: World) -> None:
    scenario = world.scenario
    world.nodes = [Node(world, index) for index in range(scenario.nodes)]
    world.clients = [SimulatedClient(world, index) for index in range(scenario.clients)]
    world.publishers = [Publisher(world, plan, number) for plan in CHANNELS for number in range(plan.writers)]
    tasks_before = len(anyio.get_running_tasks())
    async with anyio.create_task_group() as servers:
        for node in world.nodes:
            servers.start_soon(node.run)
        async with anyio.create_task_group() as tasks:
            for publisher in world.publishers:
                tasks.start_soon(publisher.run)
            for client in world.clients:
                tasks.start_soon(client.run)
            tasks.start_soon(_watch, world)
            await _live_through(world, tasks)
            tasks.cancel_scope.cancel()
        await anyio.sleep(SETTINGS.lease_ttl + SETTINGS.channel_linger + 2 * SETTINGS.source_linger + 3.0)
        for node in world.nodes:
            _check_empty(world, node)
            node.stop()
    if (left := len(anyio.get_running_tasks()) - tasks_before) > 0:
        world.journal.broken("I18", "everybody", f"{left} tasks are left")
    world.journal.check_outcomes()


async def _live_through(world: World, tasks: TaskGroup) -> None:
    """Let the faults come, then the calm, then the hush; check where that led."""
    scenario = world.scenario
    for fault in faults(world.seed, scenario):
        await anyio.sleep_until(fault.at)
        tasks.start_soon(inflict, world, fault)
    await anyio.sleep_until(scenario.calm_at)
    world.calm = True
    for client in world.clients:
        client.settle()
    await anyio.sleep_until(scenario.hushed_at)
    world.hushed = True
    await anyio.sleep_until(scenario.seconds)
    for client in world.clients:
        _check_converged(world, client)


# ---- checks --------------------------------------------------------------------------------------------------------


async def _watch(world: World) -> None:
    """Look at what every client shows, time and again."""
    while True:
        await anyio.sleep(_LOOK)
        quiet = anyio.current_time() > world.troubled_until
        for client in world.clients:
            live = client.client is not None and client.client.state == "live"
            client.live_for = client.live_for + 1 if live else 0
            if live and not _dawdles(client):
                for slot, view in client.views.items():
                    _check_shown(world, client, slot, view, quiet)


def _dawdles(client: SimulatedClient) -> bool:
    """Whether a slow consumer of events keeps the client from reading."""
    return any(view.slow and view.subscription.kind != "state" for view in client.views.values())


def _check_shown(world: World, client: SimulatedClient, slot: int, view: View, quiet: bool) -> None:
    now = anyio.current_time()
    subscription, journal = view.subscription, world.journal
    period = 1.0 / subscription.rate if subscription.rate else 0.0
    if subscription.paused:
        return
    behind = view.behind() - period
    status = subscription.status
    who = f"{client.name}.{slot}"
    if status.freshness == "live":
        limit = _CONFIRMED + world.scenario.publish_interval
        if now < client.link_fails_until:
            limit += _SILENCE
        else:
            journal.measure("live but behind", behind)
        if behind > limit:
            journal.broken("I9", who, f"{view.subscription} is shown as live and {behind:.3f} s behind")
    if quiet and client.live_for * _LOOK > _CONFIRMED and now - view.moved_at > _CONFIRMED:
        journal.counts["views looked at in quiet times"] += 1
        journal.measure("behind in quiet times", behind)
        if status.freshness != "live":
            journal.broken("I8", who, f"{view.subscription} is {status} though nothing is wrong")
        elif behind > _PROMPT:
            journal.broken("I8", who, f"{view.subscription} is {behind:.3f} s behind though nothing is wrong")


def _check_converged(world: World, client: SimulatedClient) -> None:
    """Check that a client holds the head of each of its channels, and says so."""
    journal = world.journal
    if client.client is None or client.client.state != "live":
        journal.broken("I8", client.name, f"not connected at the end: {client.client}")
        return
    for slot, view in client.views.items():
        who, subscription = f"{client.name}.{slot}", view.subscription
        history = journal.history(subscription.channel)
        if history is None:
            continue
        head, position = history.head, view.position
        if subscription.status.freshness != "live":
            journal.broken("I8", who, f"{subscription} is {subscription.status} at the end")
        if subscription.kind == "events":
            past = None if position is None else view.journal.past(position)
            if position is not None and (past is None or past.passed_at != inf) and position.offset < head.offset:
                journal.broken("I8", who, f"{subscription} is at {position} at the end; the head is {head}")
        elif position is None or view.journal.past(position) is not head:
            journal.broken("I8", who, f"{subscription} is at {position} at the end; the head is {head}")
        elif not same(subscription.value, head.value):
            journal.broken("I8", who, f"{subscription} holds {subscription.value!r} at the end, the log {head.value!r}")


def _check_empty(world: World, node: Node) -> None:
    """Check that nothing is left of anybody who was there."""
    journal = world.journal
    statistics = node.app.statistics()
    journal.counts["rereads"] += statistics.rereads
    for what in ("sessions", "channels", "subscriptions", "sources"):
        if number := getattr(statistics, what):
            journal.broken("I18", node.name, f"{number} {what} are left")
    if statistics.pump_lanes != 1:
        journal.broken("I18", node.name, f"{statistics.pump_lanes} lanes are left")
    if node.connector.serving:
        journal.broken("I18", node.name, f"{node.connector.serving} connections are left")
    watched = [channel for channel in world.store._watchers if not channel.startswith("$")]
    if watched:
        journal.broken("I18", node.name, f"{watched} are still watched")
    leases = world.store.list(TTL.LEASE, "", anyio.current_time())
    if leases:
        journal.broken("I18", node.name, f"{[record.key for record in leases]} are still held")
