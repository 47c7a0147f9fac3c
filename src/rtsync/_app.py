"""The application object: families and settings in, an ASGI app out."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ._handles import EventFamily, StateFamily
from ._settings import Settings
from .backends import Backend, MemoryBackend, Retention, open_backend
from .core import Code, FamilyPattern, Kind, Limits, SessionRules, UsageError
from .doors import Autostart, ForeignApp, Starter, Wrapped, answer_lifespan, relative_path
from .hub import (
    Access,
    Families,
    Family,
    Hub,
    HubOptions,
    HubStatistics,
    Publisher,
    validator_for,
)
from .security import Authenticator, authenticated
from .transports import Greeting, ServerSocket, WebSocketTransport, advice, current_server, worker_processes

if TYPE_CHECKING:
    from fastapi import APIRouter

    from .doors._litestar import RTSyncPlugin

__all__ = ["RTSync"]

logger = logging.getLogger("rtsync")

_NOT_STARTED: Final = (
    "rtsync is not running: give lifespan=rt.lifespan to the app that the server calls (nobody runs that of a mounted app), "
    "or serve rt.wrap(app); for a server without lifespan, Settings(autostart=True)"
)

_NOT_YET: Final = "rtsync has not started yet, or could not; if so, the reason was logged before this"

_ELSEWHERE: Final = "rtsync runs on another event loop than its requests: make an object for each"

_AUTOSTART_PATIENCE: Final = 10.0
"""Seconds that requests wait for a start that one of them has caused."""


@dataclass(frozen=True, slots=True)
class _Node:
    """What runs between start and stop."""

    hub: Hub
    websockets: WebSocketTransport


class RTSync:
    """
    Realtime channels for an ASGI app.

    Declare families, mount the object under ``settings.path``, and run `lifespan` with the host app::

        rt = RTSync()
        prices = rt.state("prices:{symbol}", access=public)
        app = Starlette(routes=[Mount("/rt", rt)], lifespan=rt.lifespan)

    Args:
        settings: Defaults to `Settings`; see there for units and reasons.
        backend: An own backend object; by default the one of ``settings.backend_url``.
        authenticator: Says whom a connection acts for. Without one everybody is anonymous: only public families are reachable.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        backend: Backend | None = None,
        authenticator: Authenticator | None = None,
        options: HubOptions | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._backend = backend
        self._authenticator = authenticator
        self._options = options or hub_options(self.settings)
        self._families = Families()
        self._endpoints: dict[str, tuple[str, ...]] = {"/ws": ()}
        self._starter = Starter(self._opened)
        self._autostart = Autostart(self._starter, _AUTOSTART_PATIENCE, self._advise)
        self._missing_start_was_logged = False

    # ---- declaring

    def state(
        self,
        pattern: str,
        *,
        access: Access = authenticated,
        model: type | None = None,
        window: int | None = None,
        max_age: float | None = None,
    ) -> StateFamily:
        """
        Declare a family of state channels: each holds one document, and changes travel as patches.

        Args:
            pattern: Such as ``"prices:{symbol}"``.
            access: Who may subscribe; by default whoever authenticated.
            model: Type that every document must fit: a dataclass, TypedDict or pydantic model.
            window: Entries kept, in which clients resume exactly; ``Settings.state_window`` by default.
            max_age: Seconds after the last change when a document may expire; kept by default.
        """
        retention = Retention(True, window or self.settings.state_window, max_age)
        return StateFamily(self._declare(pattern, "state", retention, access, model), self._publisher)

    def events(
        self,
        pattern: str,
        *,
        access: Access = authenticated,
        model: type | None = None,
        window: int | None = None,
        max_age: float | None = None,
    ) -> EventFamily:
        """
        Declare a family of event channels: every event counts, in a window of the latest.

        Args as for `state`; *window* is the number of events kept.
        """
        retention = Retention(False, window or self.settings.events_window, max_age)
        return EventFamily(self._declare(pattern, "events", retention, access, model), self._publisher)

    def endpoint(self, path: str, *, subscribe: Sequence[str] = ()) -> None:
        """
        Add a WebSocket route below the mount whose sessions are subscribed at once to *subscribe*.

        ``{user}`` in a pattern stands for the session's user: ``rt.endpoint("/ws/portfolio", subscribe=["portfolio:{user}"])``.
        """
        if not path.startswith("/"):
            raise UsageError("path", "a route begins with /")
        for pattern in subscribe:
            if not set(FamilyPattern(pattern).parameters) <= {"user"}:
                raise UsageError("subscribe", f"{pattern}: only {{user}} is known when a session opens")
        self._endpoints[path.rstrip("/")] = tuple(subscribe)

    def _declare(self, pattern: str, kind: Kind, retention: Retention, access: Access, model: type | None) -> Family:
        if inspect.iscoroutinefunction(access):
            raise UsageError("access", "a policy decides at once: an async function cannot")
        family = Family(FamilyPattern(pattern), kind, retention, access, validator_for(model), model)
        self._families.add(family)
        return family

    # ---- running

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """
        Open the backend and run the hub for the length of the block. Fits ``Starlette(lifespan=rt.lifespan)``.

        May be entered several times: the first starts, and the end comes when all have left. Errors come out bare, those of the
        block and those of start and stop.

        Raises:
            UsageError: This object runs on another event loop.
        """
        if self._starter.node is None:
            self._advise()
        async with self._starter.held():
            yield

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[_Node]:
        backend = self._backend or open_backend(self.settings.backend_url)
        async with backend:
            hub = Hub(backend, self._families, self._options)
            async with hub.running():
                self._missing_start_was_logged = False
                yield _Node(
                    hub, WebSocketTransport(hub, _greeting(self.settings), self._authenticator, self.settings.close_timeout)
                )

    def _advise(self) -> None:
        """Say what is known to be unsafe about the server that starts us."""
        server = current_server()
        for sentence in advice(server, self.settings.max_frame_bytes):
            logger.warning(sentence)
        workers = worker_processes(server)
        in_memory = isinstance(self._backend, MemoryBackend) or (
            self._backend is None and self.settings.backend_url.startswith("memory:")
        )
        if in_memory and workers > 1:
            logger.warning(
                "%d worker processes cannot share the memory backend: clients of one see nothing of what another publishes; "
                "run one worker, or set RTSYNC_BACKEND_URL (Settings.backend_url) to a broker",
                workers,
            )

    async def _ready(self) -> _Node | None:
        """Return the node if it runs on this event loop, having started it if it may start itself."""
        node = self._starter.node_here
        if node is None and self.settings.autostart and self._starter.node is None:
            await self._autostart.ensure()
            node = self._starter.node_here
        return node

    @property
    def hub(self) -> Hub:
        """The running hub. Raises `UsageError` outside of `lifespan`."""
        node = self._starter.node
        if node is None:
            raise UsageError("lifespan", _NOT_STARTED)
        return node.hub

    def _publisher(self) -> Publisher:
        return self.hub.publisher

    def statistics(self) -> HubStatistics:
        """Return a snapshot of this node's gauges and counters."""
        return self.hub.statistics()

    # ---- doors

    def router(self, path: str | None = None) -> APIRouter:
        """
        Return a FastAPI router for ``app.include_router(rt.router())``, which runs `lifespan`, too.

        The app's ``dependencies`` do not apply to it: rtsync authenticates and authorises by itself.

        Args:
            path: Where it stands, below the prefix it is included with. Default: ``settings.path``.

        Raises:
            ImportError: FastAPI is not installed.
        """
        from .doors._fastapi import build_router

        return build_router(self, self.lifespan, path or self.settings.path)

    def plugin(self, path: str | None = None) -> RTSyncPlugin:
        """
        Return a Litestar plugin for ``Litestar(plugins=[rt.plugin()])``: the route and `lifespan`.

        Args:
            path: Where it stands, below the app's own path. Default: ``settings.path``.

        Raises:
            ImportError: Litestar is not installed.
        """
        from .doors._litestar import RTSyncPlugin

        return RTSyncPlugin(self, self.lifespan, path or self.settings.path)

    def wrap(self, app: ForeignApp, path: str | None = None) -> Wrapped:
        """
        Return *app* with rtsync below *path*, for whatever framework: ``application = rt.wrap(get_asgi_application())``.

        The result is what the server has to call. It runs `lifespan` around that of *app*, or alone where *app* has none.

        Args:
            path: From the root of the server, ``root_path`` not counted. Default: ``settings.path``.
        """
        return Wrapped(app, self, self.lifespan, self._ready, path or self.settings.path)

    # ---- serving

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve an ASGI connection below the mount, or a lifespan. Untyped, as frameworks have types of their own for these."""
        if scope["type"] == "lifespan":
            await answer_lifespan(self.lifespan, scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve_http(scope, receive, send)
        else:
            raise UsageError("scope.type", f"{scope['type']!r} is not served")

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        node = await self._ready()
        subscribe = self._endpoints.get(relative_path(scope).rstrip("/"))
        if node is not None and subscribe is not None:
            await node.websockets.serve(scope, receive, send, subscribe)
            return
        socket = ServerSocket(scope, receive, send)
        if await socket.connected():
            if node is None:
                self._log_missing_start()
                await socket.refuse(Code.UNAVAILABLE, "not running")
            else:
                await socket.deny(404, "not_found", "no WebSocket endpoint is here")

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {}
        if await self._ready() is None:
            self._log_missing_start()
            status, code, message = 503, Code.UNAVAILABLE.text, "not running"
        elif relative_path(scope).rstrip("/") in self._endpoints:
            status, code, message = 426, "upgrade_required", "this is a WebSocket endpoint"
            if scope["http_version"].startswith("1"):  # later versions know no such header, and some servers refuse it
                headers = {"upgrade": "websocket"}
        else:
            status, code, message = 404, "not_found", "nothing is here"
        await JSONResponse({"error": code, "message": message}, status, headers)(scope, receive, send)

    def _log_missing_start(self) -> None:
        """Name the missing call: once, not with every attempt of every client."""
        if not self._missing_start_was_logged:
            self._missing_start_was_logged = True
            if self._starter.node is not None:
                logger.error(_ELSEWHERE)
            else:
                logger.error(_NOT_YET if self.settings.autostart else _NOT_STARTED)


def hub_options(settings: Settings) -> HubOptions:
    """Return the hub's numbers from *settings*, for a node with a fresh random name."""
    limits = Limits(settings.max_frame_bytes, settings.max_depth, settings.max_nodes)
    session = SessionRules(
        hello_timeout=settings.hello_timeout,
        heartbeat_interval=settings.heartbeat_interval,
        heartbeat_timeout=settings.heartbeat_timeout,
        ack_timeout=settings.ack_timeout,
        message_rate=settings.message_rate,
        message_burst=settings.message_burst,
        limits=limits,
        first_window=min(settings.flush_bytes, settings.ack_window_bytes),
        min_window=settings.min_ack_window_bytes,
        max_window=settings.ack_window_bytes,
    )
    return HubOptions(
        node=secrets.token_hex(6),
        session=session,
        **{
            name: getattr(settings, name)
            for name in (
                "max_document_bytes",
                "max_subscriptions",
                "flush_bytes",
                "frame_cache_bytes",
                "channel_linger",
                "source_linger",
                "source_backoff_min",
                "source_backoff_max",
                "lease_ttl",
                "lease_renew",
                "beat_interval",
                "beat_timeout",
                "probe_interval",
                "probe_timeout",
                "head_check_interval",
                "publish_timeout",
                "close_timeout",
                "default_rate",
                "family_intervals",
            )
        },
    )


def _greeting(settings: Settings) -> Greeting:
    return Greeting(
        heartbeat_interval=settings.heartbeat_interval,
        heartbeat_timeout=settings.heartbeat_timeout,
        limits={
            "max_frame_bytes": settings.max_frame_bytes,
            "max_subscriptions": settings.max_subscriptions,
            "message_rate": settings.message_rate,
        },
        reconnect={
            "delay_min": settings.reconnect_delay_min,
            "delay_max": settings.reconnect_delay_max,
            "factor": settings.reconnect_factor,
            "jitter": settings.reconnect_jitter,
            "spread": settings.reconnect_spread,
        },
        default_subscriptions=settings.default_subscriptions,
    )
