"""
What will happen in a simulation, drawn from its seed before it begins: the faults, when, to whom and for how long.

Every actor has a stream of random numbers of its own, named after it. So what one of them draws does not depend on when another
one had its turn, and a fault is the same whether the hour before it was simulated or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Final, Literal

from ._faults import FaultPlan

__all__ = ["CHANNELS", "DECK", "ChannelPlan", "Fault", "FaultKind", "Scenario", "actor_random", "faults"]


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """
    One channel of a simulation.

    Attributes:
        pattern: Of its family; the channel's parameter is always ``main``.
        events: Whether it is an event channel.
        window: Entries kept: small, so that trimming, gaps and keyframes happen all the time.
        writers: How many publish to it, on different nodes; 0 for a channel that a source feeds.
    """

    pattern: str
    events: bool
    window: int
    writers: int

    @property
    def name(self) -> str:
        return self.pattern.replace("{id}", "main")


CHANNELS: Final = (
    ChannelPlan("ledger:{id}", events=False, window=48, writers=1),
    ChannelPlan("board:{id}", events=False, window=40, writers=3),
    ChannelPlan("feed:{id}", events=False, window=48, writers=0),
    ChannelPlan("tape:{id}", events=True, window=60, writers=2),
    ChannelPlan("alerts:{id}", events=True, window=40, writers=0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """
    How large a simulation is. Times are virtual seconds.

    Attributes:
        seconds: From the start to the last check. The last fault begins 60 s before, publishing ends 10 s before.
        nodes: Hubs that share one store.
        clients: Each with one to three subscriptions at a time.
        publish_interval: Between two publishes to a channel, on average.
        fault_interval: Between two faults, on average.
    """

    seconds: float = 3600.0
    nodes: int = 3
    clients: int = 20
    publish_interval: float = 0.5
    fault_interval: float = 30.0

    @property
    def faults_end(self) -> float:
        """When the last fault may begin. Until then a longer simulation of the same seed does exactly the same."""
        return self.seconds - 60.0

    @property
    def calm_at(self) -> float:
        """When every fault is over and every node up: clients stay where they are from now on."""
        return self.seconds - 35.0

    @property
    def hushed_at(self) -> float:
        """When publishing ends."""
        return self.seconds - 10.0


FaultKind = Literal[
    "announcements",
    "partition",
    "refused appends",
    "unknown appends",
    "slow backend",
    "false gap",
    "log rolled back",
    "log lost",
    "store lost",
    "records lost",
    "node crash",
    "node restart",
    "clients cut",
    "clients vanish",
    "clients stall",
    "publisher crash",
]

DECK: Final[tuple[FaultKind, ...]] = (
    *("announcements", "announcements", "partition", "partition", "refused appends", "unknown appends", "unknown appends"),
    *("slow backend", "false gap", "log rolled back", "log rolled back", "log lost", "store lost", "records lost"),
    *("node crash", "node crash", "node restart", "clients cut", "clients cut", "clients vanish", "clients stall"),
    *("clients stall", "publisher crash"),
)
"""Shuffled anew each time it is used up, so that every simulation meets every kind within twelve minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    One fault.

    Attributes:
        at: Second at which it begins.
        lasts: Seconds; a node that crashed is down for so long.
        recovery: Seconds after its end until nothing of it may be noticed any more.
        node: Which node, where it concerns one.
        channel: Index into `CHANNELS`, where it concerns one.
        clients: Indices of the clients concerned.
        variant: What else was drawn, a number from 0 up to 1.
        harm: What the node's backend does meanwhile.
    """

    number: int
    at: float
    kind: FaultKind
    lasts: float
    recovery: float
    node: int
    channel: int
    clients: tuple[int, ...]
    variant: float
    harm: FaultPlan | None

    def __str__(self) -> str:
        whom = f"node {self.node}"
        if self.kind.startswith("clients"):
            whom = "clients " + " ".join(map(str, self.clients))
        elif self.kind.startswith(("log", "publisher")):
            whom = CHANNELS[self.channel].name
        elif self.kind.endswith("lost"):
            whom = "all"
        return f"{self.at:9.3f} s  {self.kind}, {whom}, {self.lasts:.1f} s, variant {self.variant:.2f}"


def actor_random(seed: int, *name: object) -> Random:
    """Return the stream of random numbers of one actor."""
    return Random("/".join(map(str, (seed, *name))))


def faults(seed: int, scenario: Scenario) -> Iterator[Fault]:
    """Yield the faults of a simulation in order."""
    for number in count():
        fault = _fault(seed, number, scenario)
        if fault.at >= scenario.faults_end:
            return
        yield fault


def _fault(seed: int, number: int, scenario: Scenario) -> Fault:
    deck = list(DECK)
    actor_random(seed, "deck", number // len(deck)).shuffle(deck)
    kind = deck[number % len(deck)]
    random = actor_random(seed, "fault", number)
    at = scenario.fault_interval * (number + 0.5 + 0.5 * random.random())
    node, channel = random.randrange(scenario.nodes), random.randrange(len(CHANNELS))
    variant, share = random.random(), random.random()
    everybody = range(scenario.clients)
    clients = tuple(sorted(random.sample(everybody, max(1, int(share * share * scenario.clients)))))
    low, high, recovery = _TIMES[kind]
    return Fault(
        number=number,
        at=at,
        kind=kind,
        lasts=random.uniform(low, high),
        recovery=recovery,
        node=node,
        channel=channel,
        clients=clients,
        variant=variant,
        harm=_harm(kind, random),
    )


# {kind: (shortest, longest, recovery)}. A lease is free again after ten seconds, and a dead link noticed after fifteen.
_TIMES: Final[dict[FaultKind, tuple[float, float, float]]] = {
    "announcements": (3.0, 15.0, 8.0),
    "partition": (2.0, 18.0, 16.0),
    "refused appends": (2.0, 10.0, 16.0),
    "unknown appends": (2.0, 10.0, 16.0),
    "slow backend": (3.0, 12.0, 16.0),
    "false gap": (0.0, 0.1, 6.0),
    "log rolled back": (0.0, 0.1, 10.0),
    "log lost": (0.0, 0.1, 10.0),
    "store lost": (0.0, 0.1, 16.0),
    "records lost": (0.0, 0.1, 16.0),
    "node crash": (0.5, 12.0, 18.0),
    "node restart": (0.5, 4.0, 10.0),
    "clients cut": (0.0, 0.1, 10.0),
    "clients vanish": (0.0, 0.1, 24.0),
    "clients stall": (1.0, 25.0, 10.0),
    "publisher crash": (0.5, 8.0, 6.0),
}


def _harm(kind: FaultKind, random: Random) -> FaultPlan | None:
    match kind:
        case "announcements":
            return FaultPlan(
                drop_rate=random.choice([0.0, 0.1, 0.5, 1.0]),
                duplicate_rate=random.choice([0.0, 0.3, 1.0]),
                reorder_rate=random.choice([0.0, 0.2, 0.6]),
                delay_rate=random.choice([0.0, 0.3, 0.9]),
                reorder_seconds=random.uniform(0.1, 3.0),
                delay_seconds=random.uniform(0.1, 4.0),
            )
        case "refused appends":
            return FaultPlan(
                refuse_rate=random.choice([0.3, 0.7, 1.0]),
                fail_rate=random.choice([0.0, 0.5]),
                refuse_seconds=random.uniform(0.01, 0.5),
            )
        case "unknown appends":
            # A lost append never arrives after its link has left the window: no backend could tell that it was stored before.
            return FaultPlan(
                unknown_rate=random.choice([0.2, 0.6]),
                unknown_applied=random.uniform(0.2, 0.6),
                unknown_late=random.uniform(0.1, 0.4),
                late_seconds=random.uniform(0.5, 4.0),
                deadline=random.uniform(0.3, 2.0),
            )
        case "slow backend":
            return FaultPlan(latency=random.choice([0.05, 0.2, 1.0]) * random.uniform(0.8, 1.2))
        case _:
            return None
