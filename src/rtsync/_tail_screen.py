"""Channels shown in place on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TextIO

import anyio

from ._tail_view import ChannelView, ConnectionView, paint, render
from .client import Change, Client, Event, Gap, Subscription

__all__ = ["ScreenReporter", "is_screen"]

_REDRAW: Final = 0.1
"""Seconds between two pictures: eyes follow no faster."""

_PATIENCE: Final = 1.0
"""Seconds after which ages are drawn anew though nothing has changed."""

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[2K", "\x1b[J"


def is_screen(output: TextIO) -> bool:
    """Return whether *output* is a terminal on which text can be put in place."""
    return output.isatty() and os.environ.get("TERM", "") != "dumb"


class ScreenReporter:
    """
    Draws all channels on the terminal's second screen, and leaves the last picture on the first.

    Colours are left out where ``NO_COLOR`` is set.
    """

    def __init__(self, shown_url: str) -> None:
        self._url = shown_url
        self._output = sys.stdout
        self._colours = not os.environ.get("NO_COLOR")
        self._views: dict[str, ChannelView] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._changed = anyio.Event()
        self._changes = 0
        self._counted_at = 0.0
        self._per_second = 0.0

    # ---- what a client sees

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncIterator[None]:
        """Draw for the length of the block."""
        self._counted_at = anyio.current_time()
        with self._second_screen(client):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._draw_for_ever, client)
                yield
                tasks.cancel_scope.cancel()

    def state(self, client: Client) -> None:
        """Draw soon."""
        self._changed.set()

    def began(self, subscription: Subscription) -> None:
        """Show the channel, though it holds nothing yet."""
        self._subscriptions[subscription.channel] = subscription
        self._views[subscription.channel] = ChannelView(subscription.channel)
        self._changed.set()

    def update(self, subscription: Subscription, update: Change | Event | Gap) -> None:
        """Show what changed."""
        view = self._views[subscription.channel]
        if isinstance(update, Change):
            if update.kind != "status":
                view.before, view.value = view.value, update.value
        else:
            view.events.append(update)
        view.changed_at = anyio.current_time()
        self._changes += 1
        self._changed.set()

    def ended(self, channel: str, reason: str) -> None:
        """Show the reason in the channel's place."""
        self._views[channel].ended = reason.removeprefix(f"{channel}: ")
        self._changed.set()

    # ---- drawing

    @contextmanager
    def _second_screen(self, client: Client) -> Iterator[None]:
        self._output.write(_ENTER)
        try:
            yield
        finally:
            self._output.write(_LEAVE + "\n".join(self._picture(client)) + "\n")
            self._output.flush()

    async def _draw_for_ever(self, client: Client) -> None:
        while True:
            # A line is cleared before it is written: behind a full one, the cursor still stands on its last character.
            picture = f"\r\n{_CLEAR_LINE}".join(self._picture(client))
            self._output.write(_HOME + _CLEAR_LINE + picture + _CLEAR_BELOW)
            self._output.flush()
            self._changed = anyio.Event()
            await anyio.sleep(_REDRAW)
            with anyio.move_on_after(_PATIENCE):
                await self._changed.wait()

    def _picture(self, client: Client) -> list[str]:
        now = anyio.current_time()
        if now - self._counted_at >= 1:
            self._per_second = self._changes / (now - self._counted_at)
            self._changes, self._counted_at = 0, now
        for channel, view in self._views.items():
            view.status = self._subscriptions[channel].status
        connection = ConnectionView(self._url, client.state, client.reason, self._per_second)
        width, height = shutil.get_terminal_size()
        lines = render(connection, list(self._views.values()), now, height)
        return [paint(line, width, colours=self._colours) for line in lines]
