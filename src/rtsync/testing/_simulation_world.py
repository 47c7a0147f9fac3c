"""What the actors of a simulation share."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

import anyio

from .._settings import Settings
from ._history import RecordingStore
from ._journal import Journal
from ._simulation_plan import Scenario, actor_random

if TYPE_CHECKING:
    from ._simulation_clients import SimulatedClient
    from ._simulation_nodes import Node
    from ._simulation_publishers import Publisher

__all__ = ["SETTINGS", "World"]

SETTINGS: Final = Settings(
    hello_timeout=5.0,
    heartbeat_interval=10.0,
    heartbeat_timeout=5.0,
    ack_timeout=10.0,
    close_timeout=1.0,
    flush_bytes=4096,
    ack_window_bytes=16_384,
    min_ack_window_bytes=2048,
    channel_linger=3.0,
    source_linger=2.0,
    source_backoff_max=4.0,
    reconnect_delay_min=0.5,
    reconnect_delay_max=4.0,
    reconnect_spread=0.5,
)
"""
The defaults, but for what takes longer than the time between two faults, and for small flushes and windows of bytes, so that
large documents travel in parts and slow readers are noticed.
"""


class World:
    """
    One simulation under way.

    Attributes:
        calm: The faults are over: clients stay where they are and take their time no more.
        hushed: Nobody publishes any more.
        troubled_until: When nothing may be noticed any more of the faults so far.
    """

    def __init__(self, seed: int, scenario: Scenario) -> None:
        self.seed = seed
        self.scenario = scenario
        # Every other seed numbers the entries of all channels in one sequence, so that offsets have holes.
        self.store = RecordingStore(anyio.current_time, shared_offsets=seed % 2 == 1)
        self.journal = Journal(self.store, anyio.current_time)
        self.nodes: list[Node] = []
        self.clients: list[SimulatedClient] = []
        self.publishers: list[Publisher] = []
        self.calm = False
        self.hushed = False
        self.troubled_until = 0.0

    def random(self, *name: object) -> Random:
        """Return the stream of random numbers of one actor."""
        return actor_random(self.seed, *name)

    def node_near(self, index: int) -> Node | None:
        """Return the node of this number, or the next one that is up."""
        count = len(self.nodes)
        return next((node for step in range(count) if (node := self.nodes[(index + step) % count]).up), None)
