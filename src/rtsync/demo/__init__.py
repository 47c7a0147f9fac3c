"""The demo: a recorded market and a portfolio valued from it, playing for ever. ``rtsync demo`` serves it."""

from ._app import build_app, demo_channels

__all__ = ["build_app", "demo_channels"]
