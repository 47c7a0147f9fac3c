"""
Tools for testing rtsync and what is built on it: kits for backends, virtual time, an ASGI harness, faults, real servers.

They need the packages of the ``dev`` extra that they drive (trio, uvicorn, hypercorn), and those only when used.
"""

from ._asgi import ASGIWebSocket, HandshakeRefused
from ._backend_kit import BackendKit
from ._connector import ASGIConnector, asgi_connector, asgi_websocket
from ._faults import FaultPlan, FaultyBackend, StoreFaults
from ._lifespan import LifespanFailed, asgi_lifespan
from ._server_models import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    HYPERCORN_TRIO,
    SERVER_MODELS,
    STRICT,
    UVICORN,
    UVICORN_LEGACY,
    ServerModel,
)
from ._servers import serve_hypercorn, serve_uvicorn
from ._virtual import VIRTUAL_BACKENDS, Deadlock, Runaway, VirtualTimeError, run_virtual, settle

__all__ = [
    "DAPHNE",
    "GRANIAN",
    "HYPERCORN",
    "HYPERCORN_TRIO",
    "SERVER_MODELS",
    "STRICT",
    "UVICORN",
    "UVICORN_LEGACY",
    "VIRTUAL_BACKENDS",
    "ASGIConnector",
    "ASGIWebSocket",
    "BackendKit",
    "Deadlock",
    "FaultPlan",
    "FaultyBackend",
    "HandshakeRefused",
    "LifespanFailed",
    "Runaway",
    "ServerModel",
    "StoreFaults",
    "VirtualTimeError",
    "asgi_connector",
    "asgi_lifespan",
    "asgi_websocket",
    "run_virtual",
    "serve_hypercorn",
    "serve_uvicorn",
    "settle",
]
