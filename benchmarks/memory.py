"""
Memory: what an idle connection with 20 subscriptions adds to the server, beside a bare ASGI WebSocket on the same server.

Resident memory of the server process before and after the connections, by their number; each side in a process of its own.

    python -m benchmarks.memory [--clients 1000] [--json]
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import Any

from benchmarks._rig import SideBySide, load, options, report, serving
from rtsync import public

_CHANNELS = 20


def resident_bytes() -> int:
    """Return this process's resident memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


async def grow(side: str, count: int) -> float:
    """Return bytes per connection of one side."""
    subject = SideBySide()
    family = subject.rt.state("state:{name}", access=public)
    names = [f"c{number}" for number in range(_CHANNELS)]
    async with subject.rt.lifespan(), serving(subject) as port, load(port) as clients:
        for name in names:
            await family.channel(name).set({"bid": 1.5, "ask": 2.5})
        path, channels = ("/bare", []) if side == "bare" else ("/ws", [f"state:{name}" for name in names])
        await clients.connect(path, 100, channels)  # warm: pools, caches and lazily built tables
        await asyncio.sleep(1.0)
        before = resident_bytes()
        await clients.connect(path, count, channels)
        await asyncio.sleep(2.0)
        return (resident_bytes() - before) / count


def measure(count: int) -> dict[str, Any]:
    """Measure each side in a fresh process."""
    sizes = {
        side: float(
            subprocess.check_output([sys.executable, "-m", "benchmarks.memory", "--side", side, "--clients", str(count)])
        )
        for side in ("bare", "rtsync")
    }
    return {
        "clients": count,
        "subscriptions": _CHANNELS,
        "bare_kib_per_connection": round(sizes["bare"] / 1024, 2),
        "rtsync_kib_per_connection": round(sizes["rtsync"] / 1024, 2),
        "added_kib_per_connection": round((sizes["rtsync"] - sizes["bare"]) / 1024, 2),
    }


if __name__ == "__main__":
    if "--side" in sys.argv:
        print(asyncio.run(grow(sys.argv[2], int(sys.argv[4]))))
    else:
        chosen = options(__doc__, clients=1000)
        report(measure(chosen.clients), as_json=chosen.json)
