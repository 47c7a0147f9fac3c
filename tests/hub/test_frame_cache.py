"""Frames of the head are shared, within a number of bytes."""

from __future__ import annotations

from rtsync.core import JSON, MSGPACK
from rtsync.hub._frame_cache import FrameCache, FrameCount


def test_frame_is_kept_by_profile_and_base() -> None:
    """Each profile has its own."""
    cache = FrameCache(100, FrameCount())
    assert cache.put(MSGPACK, 5, b"five") == b"five"
    cache.put(JSON, 5, b"[5]")
    assert (cache.of(MSGPACK).get(5), cache.of(JSON).get(5), cache.of(MSGPACK).get(6)) == (b"five", b"[5]", None)


def test_mapping_that_readers_keep_follows_the_head() -> None:
    """It is emptied in place when the head moves, so that nobody is handed an old frame."""
    cache = FrameCache(100, FrameCount())
    frames = cache.of(MSGPACK)
    cache.put(MSGPACK, 1, b"one")
    cache.put_parts(MSGPACK, (b"a", b"b"))
    cache.clear()
    assert (dict(frames), cache.parts(MSGPACK)) == ({}, None)
    cache.put(MSGPACK, 2, b"two")
    assert frames == {2: b"two"}


def test_keyframe_in_parts_is_kept_as_a_whole() -> None:
    """By profile."""
    cache = FrameCache(100, FrameCount())
    assert cache.put_parts(JSON, (b"a", b"b")) == (b"a", b"b")
    assert (cache.parts(JSON), cache.parts(MSGPACK)) == ((b"a", b"b"), None)


def test_what_does_not_fit_is_handed_out_and_not_kept() -> None:
    """The limit is of all profiles together, and free again with the next head."""
    cache = FrameCache(10, FrameCount())
    cache.put(MSGPACK, 1, b"1234567")
    assert cache.put(JSON, 1, b"1234") == b"1234"
    assert cache.put_parts(JSON, (b"12", b"34")) == (b"12", b"34")
    assert (cache.of(JSON).get(1), cache.parts(JSON)) == (None, None)
    cache.put(JSON, 2, b"123")
    assert cache.of(JSON) == {2: b"123"}
    cache.clear()
    cache.put(JSON, 1, b"1234567890")
    assert cache.of(JSON) == {1: b"1234567890"}


def test_nothing_is_kept_without_room() -> None:
    """Zero bytes is a setting that works."""
    cache = FrameCache(0, FrameCount())
    assert cache.put(MSGPACK, 1, b"x") == b"x"
    assert not cache.of(MSGPACK)


def test_each_encoding_counts_once() -> None:
    """Across all channels that share the count, whether it is kept or not."""
    count = FrameCount()
    one, two = FrameCache(2, count), FrameCache(2, count)
    one.put(MSGPACK, 1, b"1")
    one.put(MSGPACK, 2, b"too long")
    two.put_parts(JSON, (b"1", b"2"))
    assert count.built == 3
