"""Shells that carry protocol v1: thin, over the session rules and the hub's cursors. And what is known of the servers below."""

from ._greeting import Greeting
from ._server_advice import Server, advice, current_server, worker_processes
from ._server_truths import GONE, ServerSocket, close_reason
from ._websocket import WebSocketTransport

__all__ = [
    "GONE",
    "Greeting",
    "Server",
    "ServerSocket",
    "WebSocketTransport",
    "advice",
    "close_reason",
    "current_server",
    "worker_processes",
]
