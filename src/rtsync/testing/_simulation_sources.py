"""What is published in a simulation: by the sources of its nodes, and by publishers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Final

import anyio

from ..core import REMOVED, Document, Patch, Replace, Value

if TYPE_CHECKING:
    from ._simulation_world import World

__all__ = ["Ledger", "alerts", "any_value", "board", "board_patch", "event", "feed"]

_MORNING: Final = datetime(2024, 1, 2, 9, 30, tzinfo=UTC)


# Something of every type that documents carry.
_KINDS: Final[tuple[Callable[[int], Value], ...]] = (
    lambda number: None,
    lambda number: number % 2 == 0,
    lambda number: number,
    lambda number: number << 50,
    lambda number: number / 7,
    lambda number: Decimal(number).scaleb(-2),
    lambda number: f"text {number}",
    lambda number: number.to_bytes(2, "big"),
    lambda number: _MORNING + timedelta(milliseconds=number),
    lambda number: [number, None, "x"],
    lambda number: {},
)


def any_value(random: Random) -> Value:
    """Return a value of any type."""
    return random.choice(_KINDS)(random.randrange(1000))


class Ledger:
    """A document of nested rows that come, change and go, as its one publisher keeps it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._rows: list[str] = []

    def patch(self, name: str, number: int) -> Patch:
        """Return the next change."""
        random = self._random
        rows: Patch = {}
        for _ in range(random.choice([1, 1, 2])):
            if len(self._rows) < 3 or (len(self._rows) < 12 and random.random() < 0.15):
                row = f"r{random.randrange(40)}"
                if row not in self._rows:
                    self._rows.append(row)
                rows[row] = Replace({"qty": number, "px": Decimal(number).scaleb(-1), "more": {"note": any_value(random)}})
            elif random.random() < 0.12:
                row = self._rows.pop(random.randrange(len(self._rows)))
                rows[row] = REMOVED
            else:
                more: Patch = {random.choice("abc"): any_value(random)}
                change: Patch = {"qty": number, "more": more}
                rows[random.choice(self._rows)] = change
        return {"rows": rows, "marks": _marks(name, number)}


def board_patch(random: Random, name: str, number: int) -> Patch:
    """Return a change of a document that several write to; now and then of a part that is larger than everything else."""
    cells: Patch = {random.choice("abcd"): any_value(random)}
    mine: Patch = {name: cells}
    patch: Patch = {"cells": mine, "marks": _marks(name, number)}
    chance = random.random()
    if chance < 0.08:
        patch["blob"] = "".join(random.choices("abcdefgh", k=8)) * random.randrange(10, 1500)
    elif chance < 0.12:
        patch["blob"] = REMOVED
    return patch


def _marks(name: str, number: int) -> Patch:
    return {name: number}


def board(random: Random, name: str, number: int) -> Document:
    """Return a whole document for the same channel."""
    return {"cells": {name: {key: any_value(random) for key in "abcd"}}, "marks": {name: number}}


def event(random: Random, name: str, number: int) -> Document:
    """Return an event."""
    return {"mark": [name, number], "px": Decimal(random.randrange(10_000)).scaleb(-2), "what": any_value(random)}


def feed(world: World, node: str) -> Callable[..., AsyncIterator[object]]:
    """Return a source of whole documents."""
    runs = count(1)

    async def run(id: str) -> AsyncIterator[object]:
        name = f"{node}#{next(runs)}"
        random = world.random("feed", name)
        for number in count(1):
            await _wait(world, random)
            rows: Document = {f"r{row}": {"tick": number + row, "px": number / (row + 3)} for row in range(number % 7)}
            yield {"marks": {name: number}, "rows": rows}

    return run


def alerts(world: World, node: str) -> Callable[..., AsyncIterator[object]]:
    """Return a source of events."""
    runs = count(1)

    async def run(id: str) -> AsyncIterator[object]:
        name = f"{node}#{next(runs)}"
        random = world.random("alerts", name)
        for number in count(1):
            await _wait(world, random)
            yield event(random, name, number)

    return run


async def _wait(world: World, random: Random) -> None:
    await anyio.sleep(world.scenario.publish_interval * random.uniform(0.6, 1.4))
    if world.hushed:
        await anyio.sleep_forever()
