"""
Run one seeded simulation and say what came of it: ``python -m rtsync.testing.simulate SEED --backend trio``.

Exit status 1 means that rules were broken.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from ._simulation import run_simulation
from ._simulation_plan import Scenario, faults

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m rtsync.testing.simulate", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--seconds", type=float, default=3600.0, help="virtual seconds (default: an hour)")
    parser.add_argument("--plan", action="store_true", help="only list the faults")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="write down what everybody saw, a line each")
    parser.add_argument("--verbose", action="store_true", help="show what the nodes and clients log")
    options = parser.parse_args(arguments)
    scenario = Scenario(seconds=options.seconds)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.CRITICAL, format="%(name)s %(message)s")
    if options.plan:
        for fault in faults(options.seed, scenario):
            print(fault)
        return 0
    began = time.process_time()
    report = run_simulation(options.seed, backend=options.backend, scenario=scenario)
    seconds = time.process_time() - began
    if options.journal:
        options.journal.write_text("".join(f"{line}\n" for line in report.lines()))
    for what, number in sorted(report.counts.items()):
        print(f"{number:9,} {what}")
    for what, worst in sorted(report.worst.items()):
        print(f"{worst:9.3f} s at most: {what}")
    for violation in report.violations:
        print(violation)
    print(f"seed {report.seed} on {report.backend}: trace {report.trace}, {seconds:.1f} s of CPU")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
