"""The quickstarts show the examples, and the shortest of them runs as it stands."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import anyio
import httpx2
import pytest

from rtsync.client import connect
from rtsync.testing import serve_uvicorn
from tests.docs.pages import ROOT, Page

pytestmark = pytest.mark.anyio

SHOWN = {
    "starlette": "starlette_app",
    "fastapi": "fastapi_app",
    "litestar": "litestar_app",
    "quart": "quart_app",
    "django": "django_app",
    "asgi": "asgi_app",
    "sources": "custom_source",
}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: str) -> list[str]:
    return BLOCK.findall(Page(path).text)


def code_of(example: str) -> str:
    """Return an example without its docstring."""
    text = (ROOT / "examples" / f"{example}.py").read_text()
    docstring = ast.parse(text).body[0]
    assert docstring.end_lineno is not None
    return "\n".join(text.splitlines()[docstring.end_lineno :]).strip() + "\n"


@pytest.mark.parametrize("page", SHOWN)
def test_a_page_shows_the_example_that_is_tested(page: str) -> None:
    assert code_of(SHOWN[page]) in blocks(f"docs/how-to/{page}.md")


def test_every_example_is_shown_or_named() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "how-to").glob("*.md"))
    examples = [path.stem for path in (ROOT / "examples").glob("*.py")]
    assert examples
    assert [name for name in examples if f"examples/{name}.py" not in pages and f"examples.{name}:" not in pages] == []


# ---- a live channel in one's own FastAPI app -----------------------------------------------------------------------


def fastapi_blocks() -> list[str]:
    """Return what the README and the quickstart show of FastAPI as whole programs."""
    return [block for path in ("README.md", "docs/how-to/fastapi.md") for block in blocks(path) if "import FastAPI" in block]


def module_of(block: str, folder: Path) -> ModuleType:
    path = folder / "shown.py"
    path.write_text(block)
    spec = importlib.util.spec_from_file_location("shown", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_quickstart_is_among_them() -> None:
    assert fastapi_blocks()


@pytest.mark.parametrize("block", fastapi_blocks())
async def test_a_live_channel_takes_at_most_fifteen_lines_and_runs_as_it_stands(block: str, tmp_path: Path) -> None:
    """Imports included; served by a real server, published to over HTTP, watched by a client."""
    assert len([line for line in block.splitlines() if line]) <= 15
    async with (
        serve_uvicorn(module_of(block, tmp_path).app) as url,
        connect(url.replace("http", "ws") + "/rt/ws") as client,
        client.subscribe("prices:ETH-USD") as prices,
        httpx2.AsyncClient() as http,
    ):
        with anyio.fail_after(20):
            assert (await anext(prices)).value == {}  # type: ignore[union-attr]
            quote = {"bid": "4102.1", "ask": "4102.4"}
            answer = await http.put(url + "/quotes/ETH-USD", json=quote)
            assert answer.status_code == 204
            assert (await anext(prices)).value == quote  # type: ignore[union-attr]
