"""Real servers in processes of their own, which is how they are told to stop."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

__all__ = ["COMBINATIONS", "Combination", "Running", "free_port", "serve"]

ROOT = Path(__file__).parents[2]
TARGET = "tests.contract.served:app"
GRACE = 2
"""Seconds that each server gives connections when it stops."""

START_SECONDS = 60.0

COMMANDS: Mapping[str, list[str]] = {
    "uvicorn": ["-m", "uvicorn", TARGET, "--port", "{port}", "--ws", "websockets-sansio"],
    "uvicorn-wsproto": ["-m", "uvicorn", TARGET, "--port", "{port}", "--ws", "wsproto"],
    "hypercorn": ["-m", "hypercorn", TARGET, "--bind", "127.0.0.1:{port}", "--graceful-timeout", str(GRACE)],
    "granian": ["-m", "granian", TARGET, "--port", "{port}", "--interface", "asgi", "--workers-kill-timeout", str(GRACE)],
    "daphne": ["-m", "daphne", TARGET, "--port", "{port}", "--application-close-timeout", str(GRACE)],
}
for name in ("uvicorn", "uvicorn-wsproto"):
    COMMANDS[name].extend(["--timeout-graceful-shutdown", str(GRACE), "--ws-per-message-deflate", "false"])
    COMMANDS[name].extend(["--ws-max-size", "65536"])

_ports = itertools.count(20_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))


@dataclass(frozen=True)
class Combination:
    """
    An example on a server.

    Attributes:
        example: Of the folder of that name, or of this one.
        close_codes: What connected clients may be told when the server stops, ``None`` for nothing. Our own code where the
            server cancels us, and so may let us say it.
        send_waits: Whether a send ever waits for a client that does not read.
        survives_blocked_send: Whether the server can stop while it still holds bytes for a client that reads nothing.
    """

    example: str
    server: str
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    close_codes: tuple[int | None, ...] = (1012,)
    send_waits: bool = True
    survives_blocked_send: bool = True

    def __str__(self) -> str:
        return "-".join([self.example, self.server, *(option for option in self.options if option[0] != "-")])


EXAMPLES = ("starlette", "fastapi", "litestar", "quart", "django", "asgi")

COMBINATIONS = [
    *(Combination(example, "uvicorn") for example in EXAMPLES),
    Combination("plain", "uvicorn"),
    Combination("starlette", "uvicorn-wsproto"),
    Combination("starlette", "hypercorn", ("--worker-class", "asyncio"), close_codes=(4512,), survives_blocked_send=False),
    Combination("starlette", "hypercorn", ("--worker-class", "trio"), close_codes=(4512,)),
    Combination("starlette", "granian", close_codes=(4512, None)),
    Combination("starlette", "daphne", settings={"RTSYNC_AUTOSTART": "true"}, close_codes=(4512, None), send_waits=False),
]

# Everything that the tests wait for is short. A window of 8 MB lets a send block, which acknowledgements otherwise prevent.
SETTINGS = {
    "RTSYNC_HEARTBEAT_INTERVAL": "2",
    "RTSYNC_HEARTBEAT_TIMEOUT": "2",
    "RTSYNC_ACK_TIMEOUT": "2",
    "RTSYNC_SEND_TIMEOUT": "1",
    "RTSYNC_CLOSE_TIMEOUT": "1",
    "RTSYNC_CHANNEL_LINGER": "60",
    "RTSYNC_FLUSH_BYTES": str(8 << 20),
    "RTSYNC_ACK_WINDOW_BYTES": str(8 << 20),
    "RTSYNC_RECONNECT_DELAY_MIN": "0.05",
    "RTSYNC_RECONNECT_DELAY_MAX": "0.2",
    "RTSYNC_RECONNECT_SPREAD": "0",
}


class Running:
    """A server at work."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], output: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.websocket_url = f"ws://127.0.0.1:{port}/rt/ws"
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        """What it has written."""
        return self._output.read_text(errors="replace")

    def stop(self, seconds: float) -> float:
        """Tell it to stop, and return after how many it has. Fails after *seconds*."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(seconds)
        return time.monotonic() - began

    async def request(self, method: str, path: str, body: object = None) -> Any:
        async with httpx2.AsyncClient(base_url=self.url, timeout=30, verify=False) as http:
            answer = await http.request(method, path, json=body)
            answer.raise_for_status()
            return answer.json() if answer.content else None

    async def statistics(self) -> dict[str, int]:
        found: dict[str, int] = await self.request("GET", "/side/statistics")
        return found

    async def publish(self, symbol: str, quote: dict[str, str]) -> None:
        """Publish as a user of the example does: through a route of the app."""
        await self.request("PUT", f"/quotes/{symbol}", quote)

    async def log(self, name: str, count: int, size: int = 0) -> None:
        """Append *count* events of *size* bytes to a log."""
        await self.request("POST", f"/side/log?name={name}&count={count}&size={size}")


@contextmanager
def serve(combination: Combination, **settings: str) -> Iterator[Running]:
    """Serve a combination for the length of the block. *settings* are variables beside those of all tests."""
    port = free_port()
    command = [part.format(port=port) for part in COMMANDS[combination.server]] + list(combination.options)
    folder = "examples" if combination.example in EXAMPLES else "tests.contract"
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RTSYNC_", "PYTEST_"))},
        **SETTINGS,
        **combination.settings,
        **settings,
        "CONTRACT_MODULE": f"{folder}.{combination.example}_app",
        "PYTHONUNBUFFERED": "1",
    }
    with tempfile.TemporaryDirectory() as place:
        output = Path(place, "output")
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=environ, stdout=file, stderr=file, start_new_session=True
            )
        running = Running(port, process, output)
        try:
            _await_ready(running)
            yield running
        except BaseException:
            print(running.output[-20_000:])
            raise
        finally:
            if process.poll() is None:
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the server and the workers it has started: they share its session."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def _await_ready(running: Running) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx2.get(running.url + "/side/ready", timeout=5).raise_for_status()
            assert httpx2.get(running.url + "/rt/ws").status_code == 426  # and if nothing has started yet, this does
            return
        except httpx2.HTTPError:
            if running.process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def free_port() -> int:
    """Return a port of this test process's own range, below those that the kernel gives to connections."""
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
