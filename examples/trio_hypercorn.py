"""
Live quotes on trio: the Starlette app of the other example, served by hypercorn::

    python -m examples.trio_hypercorn
    rtsync tail http://127.0.0.1:8000/rt prices:ETH-USD
    curl -X PUT -d '{"bid": "4102.1", "ask": "4102.4"}' http://127.0.0.1:8000/quotes/ETH-USD

An address may follow, such as ``0.0.0.0:9000``.
"""

import signal
import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from examples.starlette_app import app


async def main(address: str) -> None:
    config = Config()
    config.bind = [address]
    config.graceful_timeout = 10  # seconds that connections get at the end
    config.websocket_max_message_size = 64 * 1024  # as much as rtsync reads
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def stop() -> None:
            await anext(signals)

        await serve(app, config, shutdown_trigger=stop)  # type: ignore[arg-type]


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000")
