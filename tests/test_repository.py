"""The repository's own promises: which package may know which, and metadata that agrees with itself."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"

# A package imports only those to the left of it; modules that stand directly in rtsync (the app, the command line) come last.
LAYERS = ["core", "backends", "hub", "security", "market", "transports", "app"]
MAY_IMPORT = {layer: set(LAYERS[: place + 1]) for place, layer in enumerate(LAYERS)}
MAY_IMPORT["client"] = {"core", "client"}
MAY_IMPORT["testing"] = {*LAYERS, "client", "testing"}
MAY_IMPORT["app"] |= {"client", "testing"}

# {package: what it may import from outside, beside the standard library}. No entry: anything that is installed.
MAY_NEED = {
    "core": {"msgpack"},
    "backends": {"anyio"},
    "hub": {"anyio", "trio"},  # trio only to start a task outside of every nursery, while trio runs
    "client": {"anyio", "httpx2", "httpcore2", "wsproto"},  # the last two are httpx2's own, whose errors it lets through
}
NOT_FOR_CORE = {"asyncio", "select", "selectors", "signal", "socket", "ssl", "threading", "time"}


def package_of(module: str) -> str:
    """Return the layer that a module of rtsync belongs to: ``rtsync.core._frames`` to ``core``, ``rtsync._cli`` to ``app``."""
    first = module.split(".")[1] if "." in module else ""
    return first if first in MAY_IMPORT else "app"


def imports_of(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the full names that *module* imports, wherever in the file, relative ones resolved."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from rtsync import core` and `from .. import core` name the package only after the import.
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def trespasses(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return what *module* imports although its layer may not, one sentence each."""
    package = package_of(module)
    found = []
    for name in imports_of(ast.parse(source), module, is_package=is_package):
        top = name.partition(".")[0]
        if top == "rtsync":
            if package_of(name) not in MAY_IMPORT[package]:
                found.append(f"{module} ({package}) imports {name}")
        elif top in sys.stdlib_module_names:
            if package == "core" and top in NOT_FOR_CORE:
                found.append(f"{module} is pure and imports {name}")
        elif top not in MAY_NEED.get(package, {top}):
            found.append(f"{module} ({package}) needs {name}")
    return found


def test_every_module_imports_only_the_layers_before_its_own() -> None:
    """The package table holds for every module, in the source as it stands."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += trespasses(path.read_text(), module, is_package=is_package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rtsync.core._log", "from ..backends import Backend"),
        ("rtsync.core._log", "from rtsync.hub import Hub"),
        ("rtsync.core._log", "from .. import hub"),
        ("rtsync.core._log", "import rtsync.hub"),
        ("rtsync.core._log", "import anyio"),
        ("rtsync.core._log", "from time import monotonic"),
        ("rtsync.backends._memory", "def late():\n    from ..hub import Hub"),
        ("rtsync.hub._pump", "from starlette.websockets import WebSocket"),
        ("rtsync.transports._websocket", "from .._app import RTSync"),
        ("rtsync.transports._websocket", "from .. import RTSync"),
        ("rtsync.client._view", "from ..hub import Hub"),
        ("rtsync.client._view", "import websockets"),
    ],
)
def test_an_import_across_the_layers_is_found(module: str, source: str) -> None:
    """The check above sees every way to write a forbidden import."""
    assert len(trespasses(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rtsync.core._codec", "import msgpack\nfrom ._values import Value\nfrom . import _patch"),
        ("rtsync.hub._hub", "from ..core import Position\nfrom ..backends import Backend\nimport anyio"),
        ("rtsync.client._view", "from ..core import Position\nimport anyio, httpx2"),
        ("rtsync._app", "from .transports import WebSocketTransport\nfrom .client import connect"),
        ("rtsync.testing._kit", "import pytest\nfrom ..hub import Hub"),
    ],
)
def test_an_import_within_the_layers_passes(module: str, source: str) -> None:
    """The check above forbids nothing that the table allows."""
    assert trespasses(source, module) == []


def test_a_package_resolves_relative_imports_from_itself() -> None:
    """In ``rtsync/core/__init__.py``, ``from ._log`` stays in core and ``from ..hub`` leaves it."""
    assert trespasses("from ._log import Log", "rtsync.core", is_package=True) == []
    assert len(trespasses("from ..hub import Hub", "rtsync.core", is_package=True)) == 1


def test_changelog_opens_with_the_version_of_the_package() -> None:
    """Whoever upgrades finds the version they installed at the top of the changelog."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_constraints_name_versions_and_nothing_else() -> None:
    """No address and no hash ties the tools to one machine's package index."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
