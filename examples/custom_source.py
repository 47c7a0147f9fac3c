"""
Data of one's own, fetched only while somebody watches: the three forms of a source::

    uvicorn examples.custom_source:app
    rtsync tail http://127.0.0.1:8000/rt sensor:attic clock:UTC visits:all
"""

import random
from collections.abc import AsyncIterator
from datetime import datetime
from zoneinfo import ZoneInfo

import anyio
from starlette.applications import Starlette
from starlette.routing import Mount

from rtsync import RTSync, Settings, public

rt = RTSync(Settings.from_env())


@rt.state("sensor:{room}", access=public).source()
async def sensor(room: str) -> AsyncIterator[object]:
    """An async generator yields whole documents, at its own pace; what it opens is closed when nobody watches any more."""
    celsius = 19.0
    while True:
        celsius += random.uniform(-0.1, 0.1)
        yield {"room": room, "celsius": round(celsius, 1)}
        await anyio.sleep(0.5)


@rt.state("clock:{zone}", access=public).source(interval=1.0)
def clock(zone: str) -> dict[str, object]:
    """A function is asked on an interval. An error restarts it after a while, and shows the channel as stale until then."""
    return {"time": datetime.now(ZoneInfo(zone)).isoformat(timespec="seconds")}


@rt.state("visits:{page}", access=public).source(interval=2.0)
class Visits:
    """An object keeps what it needs between two questions: here a count, elsewhere a connection to a database."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.count = 0

    async def get_data(self) -> dict[str, object]:
        self.count += random.randint(0, 3)
        return {"page": self.page, "count": self.count}


app = Starlette(routes=[Mount("/rt", rt)], lifespan=rt.lifespan)
