"""What is said about a server at start, and how many workers it is taken to have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rtsync.transports import Server, advice, worker_processes

NEEDED = 65_536


class Sansio:
    __module__ = "uvicorn.protocols.websockets.websockets_sansio_impl"


class Wsproto:
    __module__ = "uvicorn.protocols.websockets.wsproto_impl"


def uvicorn(version: tuple[int, ...] = (0, 54, 0), **config: Any) -> Server:
    well = {
        "loaded": True,
        "ws_protocol_class": Sansio,
        "ws_per_message_deflate": False,
        "ws_max_size": NEEDED,
        "timeout_graceful_shutdown": 10,
        "should_reload": False,
        "workers": 1,
    }
    return Server("uvicorn", version, SimpleNamespace(**{**well, **config}))


def hypercorn(**config: Any) -> Server:
    well = {"websocket_max_message_size": NEEDED, "workers": 1, "use_reloader": False}
    return Server("hypercorn", (0, 18, 0), SimpleNamespace(**{**well, **config}))


@pytest.mark.parametrize("server", [Server(), Server("granian"), uvicorn(), hypercorn()], ids=lambda server: server.name)
def test_a_server_that_is_well_set_gets_no_advice(server: Server) -> None:
    assert advice(server, NEEDED) == []


@pytest.mark.parametrize(
    ("server", "cure"),
    [
        (uvicorn((0, 50, 0)), "install uvicorn 0.52.1 or newer"),
        (uvicorn((0, 52, 0)), "install uvicorn 0.52.1 or newer"),
        (uvicorn(ws_per_message_deflate=True), "--ws-per-message-deflate false"),
        (uvicorn(ws_max_size=16 << 20), "--ws-max-size 65536"),
        (uvicorn(timeout_graceful_shutdown=None), "--timeout-graceful-shutdown 10"),
        (uvicorn(ws_protocol_class=None), "install websockets or wsproto"),
        (hypercorn(websocket_max_message_size=16 << 20), "websocket_max_message_size = 65536"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_danger_is_named_with_its_cure(server: Server, cure: str) -> None:
    (sentence,) = advice(server, NEEDED)
    assert cure in sentence
    assert sentence.startswith(server.name)


@pytest.mark.parametrize(
    "server",
    [
        uvicorn((0, 52, 1)),
        uvicorn((0, 51, 0), ws_protocol_class=Wsproto),
        uvicorn(()),  # run from its source
        uvicorn(ws_max_size=1 << 20),
        hypercorn(websocket_max_message_size=1 << 20),
    ],
)
def test_what_is_harmless_is_not_mentioned(server: Server) -> None:
    assert advice(server, NEEDED) == []


def test_a_limit_that_the_app_needs_is_not_too_large() -> None:
    assert advice(uvicorn(ws_max_size=16 << 20), 16 << 20) == []


@pytest.mark.parametrize(
    ("server", "arguments", "environ", "workers"),
    [
        (Server(), [], {}, 1),
        (Server(), ["app.py", "--workers", "4"], {"WEB_CONCURRENCY": "4"}, 1),  # of whatever that is
        (uvicorn(workers=4), ["app.py"], {}, 4),
        (uvicorn(workers=4, should_reload=True), ["bin/uvicorn", "--workers", "4", "--reload"], {}, 1),
        (hypercorn(workers=3), ["bin/hypercorn", "-w", "3"], {}, 3),
        (hypercorn(workers=3, use_reloader=True), ["bin/hypercorn"], {}, 1),
        (hypercorn(), ["bin/hypercorn"], {"WEB_CONCURRENCY": "4"}, 1),  # which it does not read
        (Server("granian"), ["bin/granian", "--workers", "2", "app:app"], {}, 2),
        (Server("granian"), ["granian/__main__.py", "app:app"], {"GRANIAN_WORKERS": "5"}, 5),
        (uvicorn(), ["bin/gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "4"], {}, 4),
        (uvicorn(), ["bin/gunicorn", "-w4", "app:app"], {}, 4),
        (uvicorn(), ["bin/gunicorn", "app:app"], {"GUNICORN_CMD_ARGS": "--bind x --workers=8"}, 8),
        (uvicorn(), ["bin/gunicorn", "app:app"], {"WEB_CONCURRENCY": "6"}, 6),
        (uvicorn(), ["bin/gunicorn", "app:app"], {"WEB_CONCURRENCY": "many"}, 1),
        (Server(), ["bin/uvicorn", "app:app", "--workers", "2"], {}, 2),  # behind what hides it, such as a dispatcher
        (Server(), ["bin/uvicorn", "app:app"], {"WEB_CONCURRENCY": "2"}, 2),
        (Server(), ["bin/uvicorn", "app:app", "--workers-kill-timeout", "2"], {}, 1),
    ],
)
def test_workers_are_counted_from_what_the_server_goes_by(
    server: Server, arguments: list[str], environ: dict[str, str], workers: int
) -> None:
    assert worker_processes(server, environ, arguments) == workers
