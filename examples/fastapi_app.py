"""
Live quotes in a FastAPI app::

    uvicorn examples.fastapi_app:app
    rtsync tail http://127.0.0.1:8000/rt prices:ETH-USD
    curl -X PUT -H 'content-type: application/json' -d '{"bid": "4102.1", "ask": "4102.4"}' \
        http://127.0.0.1:8000/quotes/ETH-USD
"""

from fastapi import FastAPI

from rtsync import RTSync, Settings, public

rt = RTSync(Settings.from_env())
prices = rt.state("prices:{symbol}", access=public)

app = FastAPI()
app.include_router(rt.router())


@app.put("/quotes/{symbol}", status_code=204)
async def put_quote(symbol: str, quote: dict[str, str]) -> None:
    await prices.channel(symbol).set(quote)
