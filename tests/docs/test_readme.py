"""The README's example runs as it stands."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from types import ModuleType

import anyio
import httpx2
import pytest
from anyio.streams.text import TextReceiveStream

from rtsync.testing import serve_uvicorn
from tests.docs.pages import Page

pytestmark = pytest.mark.anyio

README = Page("README.md")
PATIENCE = 30.0
ADDRESS = "127.0.0.1:8000"
CURL = re.compile(r"^curl -X (\w+) -d '([^']*)' http://" + re.escape(ADDRESS) + r"(\S+)$", re.MULTILINE)


def files() -> dict[str, str]:
    """Return the example's files by the names that the README gives them."""
    names = re.findall(r"`(\w+\.py)`:\n\n```python", README.section("Use it"))
    blocks = README.blocks("Use it", "python")
    assert len(names) == len(blocks)
    return dict(zip(names, blocks, strict=True))


@pytest.fixture
def server(tmp_path: Path) -> ModuleType:
    """The server's module, imported from its file."""
    path = tmp_path / "app.py"
    path.write_text(files()["app.py"])
    spec = importlib.util.spec_from_file_location("readme_app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[AsyncIterator[str]]:
    """Run a Python file, and give the lines it prints."""
    command = [sys.executable, "-u", "-W", "error", str(path)]
    async with await anyio.open_process(command, stdout=PIPE, stderr=None) as process:
        assert process.stdout is not None
        try:
            async with aclosing(lines_of(TextReceiveStream(process.stdout))) as lines:
                yield lines
        finally:
            process.kill()


async def lines_of(stream: TextReceiveStream) -> AsyncGenerator[str, None]:
    """Yield what comes, line by line."""
    rest = ""
    async for text in stream:
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield line


async def test_client_prints_what_is_published(server: ModuleType, tmp_path: Path) -> None:
    """Server and client run from their files; each `curl` of the README shows up in what the client prints."""
    requests = CURL.findall("\n".join(README.blocks("Use it", "sh")))
    assert requests
    async with serve_uvicorn(server.app) as url:
        watch = tmp_path / "watch.py"
        watch.write_text(files()["watch.py"].replace(ADDRESS, url.removeprefix("http://")))
        async with running(watch) as lines, httpx2.AsyncClient() as http:
            with anyio.fail_after(PATIENCE):
                assert await anext(lines) == "{}"  # nothing has been published yet
                for method, body, path in requests:
                    answer = await http.request(method, url + path, content=body)
                    assert answer.status_code == 204
                    assert await anext(lines) == str(json.loads(body))


def test_links_lead_somewhere() -> None:
    """What the README links to in the repository is there."""
    targets = re.findall(r"\]\(([^)#:]+)\)", README.text)
    assert targets
    root = Path(__file__).parents[2]
    assert [target for target in targets if not (root / target).exists()] == []
