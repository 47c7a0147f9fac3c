"""Shells that carry protocol v1: thin, over the session rules and the hub's cursors."""

from ._greeting import Greeting
from ._websocket import WebSocketTransport

__all__ = ["Greeting", "WebSocketTransport"]
