"""Which server calls us, and what of its version and flags is known to be unsafe: said at start, with the cure."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Final

__all__ = ["Server", "advice", "current_server", "worker_processes"]

_KNOWN: Final = ("uvicorn", "hypercorn", "granian")

_FIRST_WITH_FLOW_CONTROL: Final = (0, 52, 1)
"""uvicorn's default WebSocket implementation (since 0.50.0) lets a sender wait from here on."""

_AMPLE_MESSAGE: Final = 1 << 20
"""Bytes of an inbound message that no protocol of requests needs more of. Servers collect a message before we see any of it."""

_LAUNCHERS: Final = {
    "gunicorn": ("WEB_CONCURRENCY",),
    "uvicorn": ("WEB_CONCURRENCY", "UVICORN_WORKERS"),
    "hypercorn": (),
    "granian": ("GRANIAN_WORKERS",),
}
"""{command: the variables that say how many workers it runs}"""

_WORKERS_FLAG: Final = re.compile(r"(?:^|\s)(?:--workers[= ]|-w[= ]?)(\d+)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Server:
    """
    A server, as far as it can be told from the task that asks.

    Attributes:
        name: ``uvicorn``, ``hypercorn``, ``granian``, or empty if it is none of these.
        version: Of its package, in numbers.
        config: Its configuration object, or ``None``.
    """

    name: str = ""
    version: tuple[int, ...] = ()
    config: object = None


def current_server() -> Server:
    """
    Return the server that runs the current task, which is that of its lifespan or of a connection.

    There is no official way to ask. Servers start such tasks with a method of an object that has their configuration, so a look
    at the task's outermost frame tells; middleware and frameworks in between stay in the same task.
    """
    frame = _outermost_frame()
    owner = frame.f_locals.get("self") if frame is not None else None
    config = getattr(owner, "config", None)
    for item in (config, owner):
        for kind in type(item).__mro__:
            name = kind.__module__.partition(".")[0]
            if name in _KNOWN:
                return Server(name, _version(name), config)
    return Server()


def _outermost_frame() -> FrameType | None:
    try:
        task = asyncio.current_task()
        coroutine: object = task.get_coro() if task is not None else None
    except RuntimeError:
        from trio.lowlevel import current_task

        coroutine = current_task().coro
    frame = getattr(coroutine, "cr_frame", None)
    return frame if isinstance(frame, FrameType) else None


def _version(package: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in re.findall(r"\d+", version(package))[:3])
    except PackageNotFoundError:  # run from its source
        return ()


# ---- unsafe versions and flags -------------------------------------------------------------------------------------


def advice(server: Server, max_message_bytes: int) -> list[str]:
    """Return what should be changed about *server*, one sentence or two each. *max_message_bytes* is what we read at most."""
    if server.name == "uvicorn":
        return _uvicorn_advice(server, max_message_bytes)
    if server.name == "hypercorn":
        limit = getattr(server.config, "websocket_max_message_size", 0)
        if limit > max(_AMPLE_MESSAGE, max_message_bytes):
            return [_too_large("hypercorn", limit, max_message_bytes, f"websocket_max_message_size = {max_message_bytes}")]
    return []


def _uvicorn_advice(server: Server, max_message_bytes: int) -> list[str]:
    config = server.config
    found = []
    implementation = getattr(config, "ws_protocol_class", None)
    if getattr(config, "loaded", False) and implementation is None:
        found.append("uvicorn serves no WebSockets: install websockets or wsproto, and do not run it with --ws none")
        return found
    sansio = implementation is None or "sansio" in implementation.__module__
    if sansio and () < server.version < _FIRST_WITH_FLOW_CONTROL:
        release = ".".join(map(str, server.version))
        found.append(
            f"uvicorn {release} never slows down a sender, so that a client which reads nothing takes memory without limit: "
            "install uvicorn 0.52.1 or newer, or run it with --ws wsproto"
        )
    if getattr(config, "ws_per_message_deflate", False):
        found.append(
            "uvicorn compresses each frame for each client, which costs more than it saves, as frames are small and shared: "
            "run it with --ws-per-message-deflate false"
        )
    limit = getattr(config, "ws_max_size", 0)
    if limit > max(_AMPLE_MESSAGE, max_message_bytes):
        found.append(_too_large("uvicorn", limit, max_message_bytes, f"run it with --ws-max-size {max_message_bytes}"))
    if getattr(config, "timeout_graceful_shutdown", 0) is None:
        found.append(
            "uvicorn waits for every connection when it stops, and for one that reads nothing for ever: "
            "run it with --timeout-graceful-shutdown 10"
        )
    return found


def _too_large(server: str, limit: int, needed: int, cure: str) -> str:
    return (
        f"{server} collects up to {limit:,} bytes of a message before anybody can refuse it, for each connection; "
        f"{needed:,} are needed: {cure}"
    )


# ---- worker processes ----------------------------------------------------------------------------------------------


def worker_processes(server: Server, environ: Mapping[str, str] = os.environ, arguments: Sequence[str] | None = None) -> int:
    """
    Return how many worker processes the server was told to run, 1 if nothing says so.

    From its configuration where that can be seen, else from the command line and the variables that it reads: workers inherit
    both.
    """
    arguments = sys.argv if arguments is None else arguments
    config = server.config
    if getattr(config, "should_reload", False) or getattr(config, "use_reloader", False):
        return 1
    hints = [str(getattr(config, "workers", 1))]
    place = Path(arguments[0]).parts[-2:] if arguments else ()  # bin/uvicorn, or uvicorn/__main__.py
    launcher = next((name for name in _LAUNCHERS if any(part.startswith(name) for part in place)), server.name)
    if launcher and (launcher != server.name or config is None):  # such as gunicorn, which runs uvicorn in its workers
        line = " ".join([*arguments[1:], environ.get("GUNICORN_CMD_ARGS", "")])
        hints += _WORKERS_FLAG.findall(line)
        hints += [environ.get(name, "") for name in _LAUNCHERS.get(launcher, ())]
    return max(int(hint) if hint.isdecimal() else 1 for hint in hints)
