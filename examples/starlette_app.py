"""
Live quotes in a Starlette app::

    uvicorn examples.starlette_app:app
    rtsync tail http://127.0.0.1:8000/rt prices:ETH-USD
    curl -X PUT -d '{"bid": "4102.1", "ask": "4102.4"}' http://127.0.0.1:8000/quotes/ETH-USD
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from rtsync import RTSync, Settings, public

rt = RTSync(Settings.from_env())
prices = rt.state("prices:{symbol}", access=public)


async def put_quote(request: Request) -> Response:
    await prices.channel(request.path_params["symbol"]).set(await request.json())
    return Response(status_code=204)


routes = [Route("/quotes/{symbol}", put_quote, methods=["PUT"]), Mount("/rt", rt)]
app = Starlette(routes=routes, lifespan=rt.lifespan)
