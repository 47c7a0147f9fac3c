"""The application object: families and settings in, an ASGI app out."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ._handles import EventFamily, StateFamily
from ._settings import Settings
from .backends import Backend, Retention, open_backend
from .core import FamilyPattern, Kind, Limits, SessionRules, UsageError
from .hub import Access, Families, Family, Hub, HubOptions, HubStatistics, Publisher, validator_for
from .security import Authenticator, authenticated
from .transports import Greeting, WebSocketTransport

__all__ = ["RTSync"]


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
        self._hub: Hub | None = None
        self._transport: WebSocketTransport | None = None

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
            FamilyPattern(pattern)
        self._endpoints[path.rstrip("/")] = tuple(subscribe)

    def _declare(self, pattern: str, kind: Kind, retention: Retention, access: Access, model: type | None) -> Family:
        family = Family(FamilyPattern(pattern), kind, retention, access, validator_for(model), model)
        self._families.add(family)
        return family

    # ---- running

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Open the backend and run the hub for the length of the block. Fits ``Starlette(lifespan=rt.lifespan)``."""
        if self._hub is not None:
            raise UsageError("lifespan", "this RTSync object is already running")
        backend = self._backend or open_backend(self.settings.backend_url)
        async with backend:
            hub = Hub(backend, self._families, self._options)
            async with hub.running():
                self._hub = hub
                self._transport = WebSocketTransport(
                    hub, _greeting(self.settings), self._authenticator, self.settings.close_timeout
                )
                try:
                    yield
                finally:
                    self._hub = self._transport = None

    @property
    def hub(self) -> Hub:
        """The running hub. Raises `UsageError` outside of `lifespan`."""
        if self._hub is None:
            raise UsageError("lifespan", "RTSync is not running: pass lifespan=rt.lifespan to the app it is mounted in")
        return self._hub

    def _publisher(self) -> Publisher:
        return self.hub.publisher

    def statistics(self) -> HubStatistics:
        """Return a snapshot of this node's gauges and counters."""
        return self.hub.statistics()

    # ---- serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI connection below the mount."""
        path = _relative_path(scope)
        if scope["type"] == "websocket":
            subscribe = self._endpoints.get(path)
            self.hub  # noqa: B018 - raises the error that names the missing lifespan
            if subscribe is None:
                await receive()
                await send({"type": "websocket.close", "code": 4404})
                return
            assert self._transport is not None
            await self._transport.serve(scope, receive, send, subscribe)
        elif scope["type"] == "http":
            status = 426 if path in self._endpoints else 404
            detail = "this is a WebSocket endpoint" if status == 426 else "nothing is here"
            await JSONResponse({"error": detail}, status)(scope, receive, send)


def _relative_path(scope: Scope) -> str:
    """Return the path below the mount, without a trailing slash."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root):
        path = path[len(root) :]
    return path.rstrip("/")


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
