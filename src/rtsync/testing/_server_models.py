"""How real ASGI servers treat a WebSocket app, as values that the in-process harness acts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "DAPHNE",
    "GRANIAN",
    "HYPERCORN",
    "HYPERCORN_TRIO",
    "SERVER_MODELS",
    "STRICT",
    "UVICORN",
    "UVICORN_LEGACY",
    "ServerModel",
]

# What a client that reads nothing left between app and wire on loopback, most of it in the kernel, before `send` waited.
_KERNEL_AND_TRANSPORT = 4_063_232


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerModel:
    """
    The habits of one server. The default is a strict server with a small buffer.

    Attributes:
        name: For test ids.
        buffer: Bytes that fit between the app and its peer. At or above it, `send` waits. 0 makes every `send` wait, also while
            the peer reads; ``None`` makes none wait, however much memory that takes.
        write_first: When `send` has to wait, the message is already written: a cancelled send was delivered all the same.
            Otherwise it waits for room, then writes.
        shielded: A send that waits cannot be cancelled.
        yields: A send or receive that need not wait lets other tasks run all the same.
        after_gone: What `send` does once the server knows that the peer is gone: raise `OSError`, `RuntimeError` or Starlette's
            `WebSocketDisconnect`, succeed silently, or (``"legacy"``) raise `OSError` until the app has received the
            disconnect, and `RuntimeError` from then on.
        after_close: Whether a message after the app's own close raises `RuntimeError` or is dropped.
        repeats_disconnect: Whether another receive after the disconnect returns it again, or waits for ever.
        both_keys: A received message has the keys ``bytes`` and ``text`` both, one of them ``None``.
        peer_close_code: What the app is told when the peer closed; ``None`` for the peer's own code.
        reports_reason: Whether the app is told the peer's reason, too.
        reset_code: What the app is told when the connection broke.
        own_close_code: What the app is told after its own close; ``None`` for the code it gave.
        return_code: How the peer sees an app that returned without closing: 1006 for a bare end of the stream, ``None`` for a
            connection that stays open.
        raise_code: How the peer sees an app that raised.
        denial: Offers the extension ``websocket.http.response``.
        any_subprotocol: Accepts a subprotocol that the peer did not offer. Otherwise that raises.
        spec_version: In the scope; ``None`` leaves it out.
    """

    name: str = "strict"
    buffer: int | None = 65_536
    write_first: bool = False
    shielded: bool = False
    yields: bool = False
    after_gone: Literal["oserror", "runtime", "disconnect", "silent", "legacy"] = "oserror"
    after_close: Literal["raise", "silent"] = "raise"
    repeats_disconnect: bool = False
    both_keys: bool = False
    peer_close_code: int | None = None
    reports_reason: bool = True
    reset_code: int = 1006
    own_close_code: int | None = None
    return_code: int | None = 1006
    raise_code: int = 1006
    denial: bool = True
    any_subprotocol: bool = False
    spec_version: str | None = "2.4"


STRICT = ServerModel()
UVICORN = ServerModel(
    name="uvicorn",
    buffer=_KERNEL_AND_TRANSPORT,
    repeats_disconnect=True,
    reset_code=1005,
    any_subprotocol=True,
)
UVICORN_LEGACY = ServerModel(
    name="uvicorn-legacy",
    buffer=_KERNEL_AND_TRANSPORT,
    write_first=True,
    after_gone="legacy",
    repeats_disconnect=True,
    own_close_code=1005,
    any_subprotocol=True,
)
HYPERCORN = ServerModel(
    name="hypercorn",
    buffer=_KERNEL_AND_TRANSPORT,
    write_first=True,
    yields=True,
    after_gone="silent",
    after_close="silent",
    both_keys=True,
    peer_close_code=1006,
    reports_reason=False,
    own_close_code=1000,
    return_code=1011,
    raise_code=1011,
    spec_version="2.3",
)
HYPERCORN_TRIO = ServerModel(
    name="hypercorn-trio",
    buffer=131_072,  # trio keeps the kernel's share small.
    write_first=True,
    shielded=True,
    yields=True,
    after_gone="silent",
    after_close="silent",
    both_keys=True,
    peer_close_code=1006,
    reports_reason=False,
    own_close_code=1000,
    return_code=1011,
    raise_code=1011,
    spec_version="2.3",
)
GRANIAN = ServerModel(
    name="granian",
    buffer=_KERNEL_AND_TRANSPORT,
    yields=True,
    after_gone="silent",
    after_close="silent",
    repeats_disconnect=True,
    reports_reason=False,
    reset_code=1005,
    own_close_code=1005,
    return_code=1005,
    raise_code=1005,
    any_subprotocol=True,
    spec_version="2.3",
)
DAPHNE = ServerModel(
    name="daphne",
    buffer=None,
    after_gone="silent",
    after_close="silent",
    reports_reason=False,
    own_close_code=1006,
    return_code=None,
    raise_code=1011,
    denial=False,
    any_subprotocol=True,
    spec_version=None,
)

SERVER_MODELS = (UVICORN, UVICORN_LEGACY, HYPERCORN, HYPERCORN_TRIO, GRANIAN, DAPHNE)
