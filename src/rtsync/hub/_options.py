"""The numbers a hub works by, and what it needs from outside. The app fills them from its settings."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..core import SessionRules

__all__ = ["HubOptions", "RandomBits"]

RandomBits = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class HubOptions:
    """
    Seconds, bytes and counts, named and explained as in `rtsync.Settings`.

    ``wall_clock`` gives seconds since 1970 for what people read (never for decisions); ``random_bits`` and ``jitter`` are the
    only randomness of a hub.
    """

    node: str
    session: SessionRules
    max_document_bytes: int
    max_subscriptions: int
    flush_bytes: int
    frame_cache_bytes: int
    channel_linger: float
    source_linger: float
    source_backoff_min: float
    source_backoff_max: float
    lease_ttl: float
    lease_renew: float
    beat_interval: float
    beat_timeout: float
    probe_interval: float
    probe_timeout: float
    head_check_interval: float
    publish_timeout: float
    close_timeout: float = 5.0
    default_rate: float | None = None
    family_intervals: Mapping[str, float] = field(default_factory=dict)
    wall_clock: Callable[[], float] = time.time
    random_bits: RandomBits = random.SystemRandom().getrandbits
    jitter: Callable[[], float] = random.random
