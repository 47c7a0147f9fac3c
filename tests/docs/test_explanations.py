"""The explanations tell no tales: files they point to exist, and the examples they compute come out as they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rtsync.core import REMOVED, Document, Patch, Position, StateLog
from tests.docs.pages import ROOT, Page

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
SOURCES = ROOT / "src" / "rtsync"


@pytest.mark.parametrize("path", PAGES)
def test_files_that_a_page_names_exist(path: str) -> None:
    """A pointer into the repository leads somewhere."""
    named = re.findall(r"`((?:\w+/)*\w+\.(?:py|md|json))`", Page(path).text)
    places = (ROOT, SOURCES, Path(ROOT / path).parent)
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_layers_are_those_that_the_repository_keeps() -> None:
    """The table of layers has every package there is, in the order that imports follow."""
    rows = Page("docs/explanation/architecture.md").tables("Layers")[0]
    shown = [name for row in rows for name in re.findall(r"rtsync\.(\w+)", row[0])]
    packages = {path.parent.name for path in SOURCES.glob("*/__init__.py")}
    assert set(shown) == packages - {"client", "testing"}
    order = ["core", "backends", "hub", "security", "market", "transports", "doors", "demo"]
    assert shown == [layer for layer in order if layer in shown]


def test_since_gives_what_the_story_says() -> None:
    """The quote's six entries, and what readers at offsets 5, 4 and 2 lack."""
    log = StateLog(10, Position("q7Vd", 0, 0), {})
    venue: Document = {"name": "dydx", "open": True}
    venue_closes: Patch = {"open": False}
    entries: list[Patch] = [
        {"bid": 4100, "ask": 4101, "venue": venue},
        {"bid": 4099},
        {"halted": True},
        {"bid": 4102},
        {"halted": REMOVED},
        {"venue": venue_closes},
    ]
    for offset, patch in enumerate(entries, 1):
        log.put(offset, offset, patch)
    assert log.since(5) == {"venue": {"open": False}}
    assert log.since(4) == {"venue": {"open": False}, "halted": REMOVED}
    assert log.since(2) == {"venue": {"open": False}, "halted": REMOVED, "bid": 4102}
