"""The path below the mount, in every style that frameworks and servers have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.doors import below, relative_path


def scope(path: str, root_path: str | None) -> dict[str, Any]:
    return {"type": "websocket", "path": path} | ({} if root_path is None else {"root_path": root_path})


@pytest.mark.parametrize(
    ("path", "root_path", "relative"),
    [
        pytest.param("/rt/ws", "/rt", "/ws", id="the specification: the whole path, and root_path grows"),
        pytest.param("/api/v1/rt/ws", "/api/v1/rt", "/ws", id="nested mounts"),
        pytest.param("/ws", "", "/ws", id="not mounted"),
        pytest.param("/ws", None, "/ws", id="a server without root_path"),
        pytest.param("/ws/", "", "/ws/", id="cut off the path, a slash added"),
        pytest.param("/ws/", "/api", "/ws/", id="cut off the path, below a prefix"),
        pytest.param("/rt/ws", "/api/rt", "/ws", id="a prefix that the proxy has removed"),
        pytest.param("/rt/ws/", "/rt/", "/ws/", id="slashes at the end"),
        pytest.param("/rt", "/rt", "", id="the mount itself"),
        pytest.param("/rt/", "/rt", "/", id="the mount itself, with a slash"),
        pytest.param("/rtsync/ws", "/rt", "/rtsync/ws", id="no part of a segment"),
        pytest.param("/ws/ws", "/ws", "/ws", id="mounted under the name of a route"),
    ],
)
def test_relative_path_is_found_in_every_style(path: str, root_path: str | None, relative: str) -> None:
    assert relative_path(scope(path, root_path)) == relative


segments = st.lists(st.sampled_from(["/a", "/b", "/rt", "/ws"]), max_size=3).map("".join)


@given(root=segments, rest=segments)
def test_what_the_specification_says_is_never_misread(root: str, rest: str) -> None:
    assert relative_path(scope(root + rest, root)) == rest


@given(root=segments, matched=segments, rest=segments)
def test_an_app_below_a_path_finds_the_rest(root: str, matched: str, rest: str) -> None:
    """Mounting further down is the inverse, whatever stood above."""
    assert relative_path(below(scope(root + matched + rest, root), rest)) == rest
