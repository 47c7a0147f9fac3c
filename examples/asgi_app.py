"""
Live quotes beside any ASGI app, whatever it was made with: Falcon, BlackSheep, or nothing, as here::

    uvicorn examples.asgi_app:app
    rtsync tail http://127.0.0.1:8000/rt prices:ETH-USD
    curl -X PUT -d '{"bid": "4102.1", "ask": "4102.4"}' http://127.0.0.1:8000/quotes/ETH-USD
"""

import json
from typing import Any

from rtsync import RTSync, Settings, public

rt = RTSync(Settings.from_env())
prices = rt.state("prices:{symbol}", access=public)


async def quotes(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await prices.channel(scope["path"].rsplit("/", 1)[1]).set(json.loads(body))
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


app = rt.wrap(quotes)
