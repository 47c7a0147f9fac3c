"""
The means to walk the walks of the protocol page: the rules of the Python client talk to a whole server in memory.

Whatever passes between them is written down in the page's notation, and compared with what the page shows. Names and links
that are random in every run stand for one another if they do so throughout.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import anyio

from rtsync import Authenticator, RTSync, Settings
from rtsync._app import hub_options
from rtsync.backends import MemoryBackend, MemoryStore
from rtsync.client import WireClosed
from rtsync.core import JSON, ClientSession, Limits, ReconnectPolicy
from rtsync.testing import ASGIConnector, ASGIWebSocket, asgi_connector
from tests.docs.pages import unwrapped

__all__ = ["SERVER_TIME", "Connection", "Walker", "server", "serving", "shown_lines", "tell_apart"]

SERVER_TIME = 1_790_000_000.0
"""What every server's wall clock shows, in seconds since 1970."""

INVENTED = {"q7Vd", "Xk3v", "w8Zt", "Lr5n", "y2Qm"}
"""The epochs, sessions and secrets that the page shows."""

_PATIENCE = 10.0
_LIMITS = Limits(1 << 20, 64, 1 << 16)


class Connection:
    """One connection of a walker; *name* stands in front of its lines where there is more than one at a time."""

    def __init__(self, walker: Walker, socket: ASGIWebSocket, name: str) -> None:
        self.socket = socket
        self._walker = walker
        self._name = f"{name} " if name else ""

    async def speak(self) -> None:
        """Send what the client has to say."""
        while (message := self._walker.session.outgoing()) is not None:
            await self._send(message)

    async def say_bye(self) -> None:
        """Say goodbye and close."""
        bye = self._walker.session.bye("closed")
        assert bye is not None
        await self._send(bye)
        await self.socket.close(1000)
        self._walker.lines.append(f"{self._name}→ close 1000")

    async def hear(self, frames_due: int) -> None:
        """Take messages until they have brought so many frames."""
        heard = 0
        while heard < frames_due:
            heard += self._take(await self._receive())

    async def hear_the_end(self) -> None:
        """Take messages until the server closes."""
        try:
            while True:
                self._take(await self._receive(), heed=False)
        except WireClosed as end:
            self._walker.lines.append(f"{self._name}← close {end.code}")

    async def _send(self, message: bytes | str) -> None:
        assert isinstance(message, str)
        self._walker.lines.extend(f"{self._name}→ {line}" for line in message.splitlines())
        await self.socket.send(message)

    async def _receive(self) -> str:
        with anyio.fail_after(_PATIENCE):
            message = await self.socket.receive()
        assert isinstance(message, str)
        return message

    def _take(self, message: str, *, heed: bool = True) -> int:
        lines = message.splitlines()
        self._walker.lines.extend(f"{self._name}← {line}" for line in lines)
        if heed:
            self._walker.session.receive(message, 0.0)
        return len(lines)


class Walker:
    """A client at work, and the record of what passed on its connections."""

    def __init__(self) -> None:
        self.session = ClientSession("walker/1", policy=ReconnectPolicy(jitter=0.0), random=lambda: 0.0)
        self.lines: list[str] = []

    @asynccontextmanager
    async def connect(
        self, connector: ASGIConnector, name: str = "", *, path: str = "/ws", token: str | None = None
    ) -> AsyncIterator[Connection]:
        """Connect and say hello; as after a cut, if there was a connection before."""
        if self.session.state == "live":
            self.session.disconnected(None, "cut", 0.0)
        self.session.connecting(0.0)
        async with connector.open(path, subprotocols=[JSON.name]) as socket:
            self.session.connected(JSON, token)
            yield Connection(self, socket, name)


@asynccontextmanager
async def serving(rt: RTSync) -> AsyncIterator[ASGIConnector]:
    """Run *rt* for the length of the block."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(rt.lifespan())
        yield await stack.enter_async_context(asgi_connector(rt))


def server(store: MemoryStore | None = None, window: int | None = None, authenticator: Authenticator | None = None) -> RTSync:
    """Return an app whose wall clock stands still; *window* is the number of bytes it sends unacknowledged."""
    settings = Settings()
    options = replace(hub_options(settings), wall_clock=lambda: SERVER_TIME)
    if window is not None:
        rules = replace(options.session, first_window=window, min_window=window, max_window=window)
        options = replace(options, session=rules)
    return RTSync(settings, backend=MemoryBackend(store), authenticator=authenticator, options=options)


# ---- comparing -----------------------------------------------------------------------------------------------------


def shown_lines(blocks: list[str]) -> list[str]:
    """Return the lines of a walk's blocks."""
    return unwrapped("\n".join(blocks))


def tell_apart(shown: list[str], seen: list[str]) -> str | None:
    """Return where *shown* and *seen* differ in more than random names, ``None`` if they do not."""
    stands_for: dict[object, object] = {}
    for number, (one, other) in enumerate(zip(shown, seen, strict=False)):
        (way, what), (real_way, really) = _parse(one), _parse(other)
        if way != real_way or not _alike(what, really, stands_for):
            return f"line {number} is shown as\n    {one}\nand was\n    {other}"
    if len(set(stands_for.values())) < len(stands_for):
        return f"two names stand for the same: {stands_for}"
    if len(shown) != len(seen):
        return f"shown are {len(shown)} lines, there were {len(seen)}: {(shown + seen)[min(len(shown), len(seen))]}"
    return None


def _parse(line: str) -> tuple[str, object]:
    way, _, what = line.partition("→" if "→" in line else "←")
    name = f"{way}{'→' if '→' in line else '←'}"
    if what.startswith(" close "):
        return name, what
    profile_reads = JSON.read_client if "→" in line else JSON.read_server
    assert profile_reads(what, _LIMITS), f"not a frame: {what}"
    return name, json.loads(what)


def _alike(shown: object, seen: object, stands_for: dict[object, object]) -> bool:
    if isinstance(shown, list) and isinstance(seen, list):
        return len(shown) == len(seen) and all(_alike(a, b, stands_for) for a, b in zip(shown, seen, strict=True))
    if isinstance(shown, dict) and isinstance(seen, dict):
        return list(shown) == list(seen) and all(_alike(shown[key], seen[key], stands_for) for key in shown)
    if _is_random(shown) and type(shown) is type(seen):
        return stands_for.setdefault(shown, seen) == seen
    return type(shown) is type(seen) and shown == seen


def _is_random(shown: object) -> bool:
    """Return whether the page shows a link, which are the only large numbers, or one of its epochs, sessions and secrets."""
    return shown > 1 << 41 if isinstance(shown, int) else shown in INVENTED
