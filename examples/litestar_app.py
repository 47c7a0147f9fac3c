"""
Live quotes in a Litestar app::

    uvicorn examples.litestar_app:app
    rtsync tail http://127.0.0.1:8000/rt prices:ETH-USD
    curl -X PUT -d '{"bid": "4102.1", "ask": "4102.4"}' http://127.0.0.1:8000/quotes/ETH-USD
"""

from litestar import Litestar, put

from rtsync import RTSync, Settings, public

rt = RTSync(Settings.from_env())
prices = rt.state("prices:{symbol}", access=public)


@put("/quotes/{symbol:str}", status_code=204)
async def put_quote(symbol: str, data: dict[str, str]) -> None:
    await prices.channel(symbol).set(data)


app = Litestar([put_quote], plugins=[rt.plugin()])
