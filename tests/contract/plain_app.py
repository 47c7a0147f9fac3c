"""An app made with nothing: one callable, which hands rtsync its connections and the lifespan."""

from __future__ import annotations

import json
from typing import Any

from rtsync import RTSync, Settings, public

rt = RTSync(Settings.from_env())
prices = rt.state("prices:{symbol}", access=public)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan" or scope["path"].startswith("/rt/"):
        await rt({**scope, "root_path": "/rt"}, receive, send)
        return
    body = (await receive())["body"]
    await prices.channel(scope["path"].rsplit("/", 1)[1]).set(json.loads(body))
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
