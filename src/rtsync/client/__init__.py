"""
The Python client, for asyncio and trio::

    async with connect("ws://127.0.0.1:8000/rt/ws") as client:
        async with client.subscribe("prices:ETH-USD") as prices:
            async for change in prices:
                print(prices.value)
"""

from ..core import Change, ConnectionState, Event, Gap, ReconnectPolicy
from ._client import Client, connect
from ._errors import ConnectionFailed, SubscriptionRefused, WireClosed
from ._httpx import httpx_connector
from ._subscription import Subscription
from ._wire import Connector, Wire

__all__ = [
    "Change",
    "Client",
    "ConnectionFailed",
    "ConnectionState",
    "Connector",
    "Event",
    "Gap",
    "ReconnectPolicy",
    "Subscription",
    "SubscriptionRefused",
    "Wire",
    "WireClosed",
    "connect",
    "httpx_connector",
]
