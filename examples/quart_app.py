"""
Live quotes in a Quart app::

    uvicorn examples.quart_app:app
    rtsync tail http://127.0.0.1:8000/rt prices:ETH-USD
    curl -X PUT -d '{"bid": "4102.1", "ask": "4102.4"}' http://127.0.0.1:8000/quotes/ETH-USD
"""

from quart import Quart, request

from rtsync import RTSync, Settings, public

rt = RTSync(Settings.from_env())
prices = rt.state("prices:{symbol}", access=public)

app = Quart(__name__)
app.asgi_app = rt.wrap(app.asgi_app)  # type: ignore[method-assign]


@app.put("/quotes/<symbol>")
async def put_quote(symbol: str) -> tuple[str, int]:
    await prices.channel(symbol).set(await request.get_json(force=True))
    return "", 204
