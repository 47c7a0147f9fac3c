"""
Wire size: bytes of one portfolio update, the whole frame, beside the whole document as JSON.

A portfolio of 20 positions; on each update three marks move, and with them their positions' values and the totals.

    python -m benchmarks.wire_size [--updates 500] [--json]
"""

from __future__ import annotations

import json
import random
import statistics
from decimal import Decimal
from typing import Any

from benchmarks._rig import options, report
from rtsync.core import JSON, MSGPACK, Document, KeyTable, Position, diff

_POSITIONS = 20
_MOVES = 3


def portfolio(marks: list[Decimal]) -> Document:
    """Return the document of a portfolio at *marks*."""
    positions = {
        f"SYM{number:02}-USD": {
            "quantity": Decimal(10 + number),
            "cost": Decimal("101.25"),
            "mark": mark,
            "value": mark * (10 + number),
            "unrealised": (mark - Decimal("101.25")) * (10 + number),
        }
        for number, mark in enumerate(marks)
    }
    value = sum((position["value"] for position in positions.values()), Decimal(0))
    return {"totals": {"value": value, "cash": Decimal("2500.00")}, "positions": positions}  # type: ignore[dict-item]


def measure(updates: int) -> dict[str, Any]:
    chance = random.Random(7)
    marks = [Decimal(10000 + number) / 100 for number in range(_POSITIONS)]
    document, keys = portfolio(marks), KeyTable()
    keys.learn_document(document, 1)
    sizes: dict[str, list[float]] = {MSGPACK.name: [], JSON.name: []}
    for offset in range(2, updates + 2):
        for number in chance.sample(range(_POSITIONS), _MOVES):
            marks[number] += Decimal(chance.randint(-50, 50)) / 100
        moved = portfolio(marks)
        patch = diff(document, moved)
        document = moved
        whole = len(json.dumps(moved, default=str, separators=(",", ":")))
        head = Position("0" * 32, offset, chance.getrandbits(48))
        for profile in (MSGPACK, JSON):
            sizes[profile.name].append(len(profile.encode_delta(17, head, offset - 1, patch, keys)) / whole)
    return {
        "json_document_bytes": whole,
        "msgpack_percent": round(100 * statistics.mean(sizes[MSGPACK.name]), 2),
        "json_percent": round(100 * statistics.mean(sizes[JSON.name]), 2),
    }


if __name__ == "__main__":
    chosen = options(__doc__, updates=500)
    report(measure(chosen.updates), as_json=chosen.json)
