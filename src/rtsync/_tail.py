"""The terminal client: follows channels and tells a reporter what happens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import anyio

from ._tail_text import json_line, plain_line, printable
from .client import Change, Client, ConnectionFailed, Event, Gap, Subscription, SubscriptionRefused, connect
from .core import UsageError

__all__ = ["LineReporter", "Reporter", "TailOptions", "tail", "websocket_url"]


@dataclass(frozen=True, slots=True)
class TailOptions:
    """
    What to follow, and how.

    Attributes:
        rate: Most updates per second and channel; ``None`` for all.
        seconds: Seconds after which to end; ``None`` for never.
    """

    url: str
    channels: tuple[str, ...]
    rate: float | None = None
    token: str | None = None
    seconds: float | None = None


class Reporter(Protocol):
    """Tells somebody what a client sees."""

    def running(self, client: Client) -> AbstractAsyncContextManager[object]:
        """Report for the length of the block."""
        ...

    def state(self, client: Client) -> None:
        """The connection's state has changed."""
        ...

    def began(self, subscription: Subscription) -> None:
        """A channel is being followed."""
        ...

    def update(self, subscription: Subscription, update: Change | Event | Gap) -> None:
        """A channel has changed."""
        ...

    def ended(self, channel: str, reason: str) -> None:
        """The server refused a channel, or ended it: nothing more will come of it."""
        ...


def websocket_url(text: str) -> str:
    """
    Return the WebSocket URL that somebody means.

    ``http`` and ``https`` stand for ``ws`` and ``wss``. A path without a segment ``ws`` is taken for the mount point; without
    a path, for the usual one, ``/rt``. Raises `UsageError` for anything else.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError("url", f"{error}: {text!a}") from None
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not host:
        raise UsageError("url", f"must look like http://127.0.0.1:8000/rt, is {text!a}")
    path = parts.path.rstrip("/") or "/rt"
    if "ws" not in path.split("/"):
        path += "/ws"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


async def tail(options: TailOptions, reporter: Reporter) -> str | None:
    """
    Follow channels until the time is up or none of them goes on.

    Returns:
        What went wrong, if nothing came, or nothing more can come.

    Raises:
        UsageError: If the URL, a channel's name or the rate makes no sense.
    """
    failures: list[str] = []
    client = connect(websocket_url(options.url), token=options.token, name="rtsync tail")
    subscriptions = [client.subscribe(channel, rate=options.rate) for channel in options.channels]
    async with client, reporter.running(client), anyio.create_task_group() as tasks:
        tasks.start_soon(_tell_states, client, reporter)
        with anyio.move_on_after(options.seconds) as limit:
            async with anyio.create_task_group() as followers:
                for subscription in subscriptions:
                    followers.start_soon(_follow, subscription, reporter, failures.append)
        reason = client.reason
        tasks.cancel_scope.cancel()
    if failures:
        return failures[0]
    if not limit.cancelled_caught:
        return "there is nothing left to follow"
    if all(subscription.kind is None for subscription in subscriptions):
        return f"no answer from {options.url} within {options.seconds:g} s" + (f": {reason}" if reason else "")
    return None


async def _tell_states(client: Client, reporter: Reporter) -> None:
    async for _ in client.states():
        reporter.state(client)


async def _follow(subscription: Subscription, reporter: Reporter, failed: Callable[[str], object]) -> None:
    try:
        async with subscription:
            reporter.began(subscription)
            async for update in subscription:
                reporter.update(subscription, update)
        reporter.ended(subscription.channel, "the server ended this subscription")
    except SubscriptionRefused as error:
        reporter.ended(subscription.channel, str(error))
    except ConnectionFailed as error:
        failed(str(error))


class LineReporter:
    """
    One line on standard output for each change; what concerns the connection goes to standard error.

    Args:
        as_json: JSON for other programs, instead of text for people.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def running(self, client: Client) -> AbstractAsyncContextManager[object]:
        """Nothing to be done but at a change."""
        return nullcontext()

    def state(self, client: Client) -> None:
        """Write the state to standard error."""
        self._note(client.state + (f": {client.reason}" if client.reason else ""))

    def began(self, subscription: Subscription) -> None:
        """Keep quiet until there is something to tell."""

    def update(self, subscription: Subscription, update: Change | Event | Gap) -> None:
        """Write a line."""
        if self._as_json:
            line = json_line(subscription.channel, update, subscription.status)
        else:
            line = plain_line(subscription.channel, update, datetime.now(UTC))
        print(line, flush=True)

    def ended(self, channel: str, reason: str) -> None:
        """Write the reason to standard error."""
        self._note(reason if channel in reason else f"{channel}: {reason}")

    def _note(self, text: str) -> None:
        print(f"rtsync: {printable(text)}", file=sys.stderr, flush=True)
