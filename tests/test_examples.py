"""The examples that the contract tests do not serve run, too."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from rtsync.client import connect
from rtsync.testing import asgi_connector, asgi_lifespan
from tests.contract.servers import free_port

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
PATIENCE = 30.0


async def test_each_form_of_source_brings_data() -> None:
    """A generator, a function and an object, each while somebody is subscribed."""
    example: Any = import_module("examples.custom_source")
    expected = {"sensor:attic": {"room", "celsius"}, "clock:UTC": {"time"}, "visits:all": {"page", "count"}}
    async with (
        asgi_lifespan(example.app),
        asgi_connector(example.app) as server,
        connect("ws://host/rt/ws", connector=server) as client,
    ):
        for channel, keys in expected.items():
            with anyio.fail_after(PATIENCE):
                async with client.subscribe(channel) as view:
                    while not (document := view.value):
                        await anext(view)
                    assert isinstance(document, dict)
                    assert document.keys() == keys


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_script_for_trio_serves_and_stops() -> None:
    port = free_port()
    command = [sys.executable, "-W", "error", "-m", "examples.trio_hypercorn", f"127.0.0.1:{port}"]
    async with await anyio.open_process(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            async with (
                connect(f"ws://127.0.0.1:{port}/rt/ws") as client,
                client.subscribe("prices:A") as prices,
                httpx2.AsyncClient() as http,
            ):
                with anyio.fail_after(PATIENCE):
                    assert (await anext(prices)).value == {}  # type: ignore[union-attr]
                    await http.put(f"http://127.0.0.1:{port}/quotes/A", json={"bid": "1"})
                    assert (await anext(prices)).value == {"bid": "1"}  # type: ignore[union-attr]
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(PATIENCE):
                assert await process.wait() == 0
            assert process.stderr is not None
            complaints = b"".join([part async for part in process.stderr])
            assert b"/rtsync/" not in complaints
        finally:
            if process.returncode is None:
                process.kill()
