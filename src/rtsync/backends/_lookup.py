"""
From a URL to a backend.

A distribution offers a backend by an entry point in the group ``rtsync.backends``: its name is the URL scheme, its object a
class with ``from_url(url, **options)`` or a callable of that shape. Error texts name schemes and nothing else of a URL, which
may carry a password anywhere.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from ..core import SettingsError
from ._memory import MemoryBackend
from ._protocol import Backend

__all__ = ["ENTRY_POINT_GROUP", "open_backend"]

ENTRY_POINT_GROUP: Final = "rtsync.backends"

_FIELD: Final = "settings.backend"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

_EXTRAS: Final[Mapping[str, str]] = {  # scheme: extra of the distribution that brings it
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "redis+sentinel": "redis",
    "redis+cluster": "redis",
    "nats": "nats",
    "tls": "nats",
}


def open_backend(url: str, *, options: Mapping[str, object] | None = None) -> Backend:
    """
    Return the backend for *url*, not yet entered.

    Args:
        url: ``memory://``, or a URL whose scheme an installed distribution registers.
        options: Keyword arguments for the backend's ``from_url``, beyond what the URL says.

    Raises:
        SettingsError: The URL has no scheme, nobody registers the scheme, two distributions register it differently, the
            distribution cannot be imported, or it does not take *options*.
    """
    match = _SCHEME.match(url)
    if match is None:
        raise SettingsError(_FIELD, "needs a URL with a scheme, such as memory:// or redis://localhost:6379/0")
    scheme = match[1].lower()
    factory = _factory(scheme)
    if options:
        try:
            inspect.signature(factory).bind(url, **options)
        except TypeError as error:
            raise SettingsError(_FIELD, f"{scheme}:// does not take these options: {error}") from None
    return factory(url, **(options or {}))


def _factory(scheme: str) -> Callable[..., Backend]:
    # The memory backend must be found in a checkout without metadata, too.
    loaded = MemoryBackend if scheme == "memory" else _load(scheme)
    factory = getattr(loaded, "from_url", loaded)
    if not callable(factory):
        raise SettingsError(_FIELD, f"what is registered for {scheme}:// is neither callable nor has from_url")
    return cast("Callable[..., Backend]", factory)


def _load(scheme: str) -> object:
    found = {point.value: point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name.lower() == scheme}
    if not found:
        raise SettingsError(_FIELD, _unknown(scheme))
    if len(found) > 1:
        rivals = ", ".join(sorted(found))
        raise SettingsError(_FIELD, f"{scheme}:// is registered more than once: {rivals}; uninstall all but one")
    point = next(iter(found.values()))
    try:
        return cast("object", point.load())
    except (ImportError, AttributeError) as error:
        raise SettingsError(_FIELD, f"{_origin(point)}, which serves {scheme}://, cannot be imported: {error}") from error


def _unknown(scheme: str) -> str:
    known = {"memory", *(point.name.lower() for point in entry_points(group=ENTRY_POINT_GROUP))}
    text = f"no backend for {scheme}://; installed: {', '.join(f'{name}://' for name in sorted(known))}"
    extra = _EXTRAS.get(scheme)
    return text if extra is None else f'{text}. To add it: pip install "rtsync[{extra}]"'


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
