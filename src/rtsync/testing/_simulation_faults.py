"""The faults of a simulation, as they are done to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import anyio

from ..core import Channel
from ._faults import FaultPlan
from ._simulation_plan import CHANNELS, Fault

if TYPE_CHECKING:
    from ._simulation_nodes import Node
    from ._simulation_world import World

__all__ = ["inflict"]


async def inflict(world: World, fault: Fault) -> None:
    """Let a fault happen, and end it after its time."""
    world.troubled_until = max(world.troubled_until, fault.at + fault.lasts + fault.recovery)
    world.journal.counts[f"fault: {fault.kind}"] += 1
    node = world.nodes[fault.node]
    channel = Channel(CHANNELS[fault.channel].name)
    match fault.kind:
        case "announcements" | "refused appends" | "unknown appends" | "slow backend":
            await _harm(world, node, fault)
        case "partition":
            await _partition(node, fault)
        case "false gap":
            if node.up:
                node.backend.gap(None if fault.variant < 0.5 else channel)
        case "log rolled back":
            world.store.roll_back(channel, 1 + int(fault.variant * 14))
        case "log lost":
            world.store.lose_log(channel)
        case "store lost":
            world.store.lose(revisions=fault.variant < 0.5)
        case "records lost":
            world.store.lose_records()
        case "node crash":
            if node.up:
                silently = fault.variant < 0.3
                if silently:
                    for client in world.clients:
                        if client.node is node:
                            client.vanish()
                node.crash(fault.lasts, silently=silently)
        case "node restart":
            if node.up:
                node.stop(fault.lasts)
        case "publisher crash":
            for publisher in world.publishers:
                if publisher.channel == channel:
                    publisher.crash(fault.lasts)
        case "clients cut" | "clients vanish" | "clients stall":
            await _break_links(world, fault)


async def _harm(world: World, node: Node, fault: Fault) -> None:
    """Let the way of a node to the store, or in two cases of ten of every node, do harm for a while."""
    assert fault.harm is not None
    harmed = [node] if fault.variant < 0.8 else world.nodes
    backends = [(each, each.backend) for each in harmed if each.up]
    for each, backend in backends:
        harm = fault.harm if fault.kind == "slow backend" else _with_latency(fault.harm, each.calm_plan.latency)
        backend.plan = harm
    await anyio.sleep(fault.lasts)
    for each, backend in backends:
        backend.plan = each.calm_plan


async def _partition(node: Node, fault: Fault) -> None:
    if node.up:
        backend = node.backend
        notify = fault.variant < 0.3
        backend.partition(hang=fault.variant * 10 % 1 < 0.6, notify=notify)
        await anyio.sleep(fault.lasts)
        if node.backend is backend and node.up:
            backend.heal(notify=notify)


async def _break_links(world: World, fault: Fault) -> None:
    ways: tuple[Literal["both", "to_app", "to_peer"], ...] = ("both", "to_app", "to_peer")
    way = ways[int(fault.variant * 3)]
    for index in fault.clients:
        client = world.clients[index]
        await anyio.sleep(0.0013)
        if fault.kind == "clients cut":
            client.cut()
        elif fault.kind == "clients vanish":
            client.vanish()
        else:
            client.stall(fault.lasts, way)


def _with_latency(harm: FaultPlan, latency: float) -> FaultPlan:
    return replace(harm, latency=latency)
