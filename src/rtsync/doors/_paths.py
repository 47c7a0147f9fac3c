"""Where below its mount a request goes, however the framework above says so."""

from __future__ import annotations

from starlette.types import Scope

__all__ = ["below", "relative_path"]


def relative_path(scope: Scope) -> str:
    """
    Return the path below the mount: ``/ws``, with its trailing slash if there is one; empty for the mount itself.

    Frameworks that follow the ASGI specification leave the whole path and let ``root_path`` grow; some cut what they matched
    off the path; and where a server is told of a prefix that its proxy has already removed, ``root_path`` begins with more than
    the path does. So the longest end of ``root_path`` goes that the path begins with, on the boundary of a segment.
    """
    path: str = scope["path"]
    root: str = (scope.get("root_path") or "").rstrip("/")
    while root:
        if path == root or path.startswith(root + "/"):
            return path[len(root) :]
        cut = root.find("/", 1)
        root = root[cut:] if cut > 0 else ""
    return path


def below(scope: Scope, rest: str) -> Scope:
    """Return a copy of *scope* for an app below its path: *rest* is what remains of the path there."""
    path: str = scope["path"]
    return {**scope, "root_path": path[: len(path) - len(rest)]}
