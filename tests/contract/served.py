"""
An example's app as the contract tests have it served: with a side door to what the node holds.

``CONTRACT_MODULE`` names the example. The side door is in front of the app, so that no framework knows of it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from rtsync import RTSync, public

_module = import_module(os.environ["CONTRACT_MODULE"])
_inner: ASGIApp = getattr(_module, "application", None) or _module.app
rt: RTSync = _module.rt
log = rt.events("log:{name}", access=public, window=1000)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http" or not scope["path"].startswith("/side/"):
        await _inner(scope, receive, send)
        return
    answer = await _answer(scope["path"], dict(parse_qsl(scope["query_string"].decode())))
    body = json.dumps(answer).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def _answer(path: str, query: dict[str, str]) -> object:
    if path == "/side/ready":
        return True
    if path == "/side/log":
        for number in range(int(query["count"])):
            await log.channel(query["name"]).append({"number": number, "text": "x" * int(query.get("size", "0"))})
        return True
    statistics: dict[str, Any] = dataclasses.asdict(rt.statistics())
    return statistics
