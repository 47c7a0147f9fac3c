"""
Latency: from publish to receive, 1,000 clients of one channel at 20 updates a second, one server process.

Each document carries the time it was published at, on the clock both processes share; every fiftieth client decodes what it
receives and takes the difference.

    python -m benchmarks.latency [--clients 1000] [--rate 20] [--seconds 10] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from benchmarks._rig import SideBySide, load, options, report, serving
from rtsync import public


async def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    subject = SideBySide()
    channel = subject.rt.state("state:{name}", access=public).channel("c")
    async with subject.rt.lifespan(), serving(subject) as port, load(port) as clients:
        await channel.set({"published_ns": 0, "price": 0.0})
        await clients.connect("/ws", chosen.clients, ["state:c"])
        await asyncio.sleep(1.0)
        await clients.latencies()
        began = time.monotonic()
        for number in range(int(chosen.rate * chosen.seconds)):
            await channel.set({"published_ns": time.monotonic_ns(), "price": 4215.5 + number})
            await asyncio.sleep(max(began + (number + 1) / chosen.rate - time.monotonic(), 0))
        await asyncio.sleep(0.5)
        measured = sorted(await clients.latencies())
    return {
        "clients": chosen.clients,
        "updates_per_second": chosen.rate,
        "samples": len(measured),
        "p50_ms": round(measured[len(measured) // 2] * 1e3, 2),
        "p99_ms": round(measured[len(measured) * 99 // 100] * 1e3, 2),
        "max_ms": round(measured[-1] * 1e3, 2),
    }


if __name__ == "__main__":
    chosen = options(__doc__, clients=1000, rate=20.0, seconds=10.0)
    report(asyncio.run(measure(chosen)), as_json=chosen.json)
