"""Encoded frames of one channel's current head, shared by all who read it."""

from __future__ import annotations

__all__ = ["FrameCache", "FrameCount"]


class FrameCount:
    """Counts encodings across a hub: how many frames were built, how many were shared."""

    __slots__ = ("built", "shared")

    def __init__(self) -> None:
        self.built = 0
        self.shared = 0


class FrameCache:
    """
    Frames by (profile, base), for the current head only.

    Args:
        max_bytes: Most bytes kept; what does not fit is built again for each reader, which the head's movement soon ends.
        count: Where encodings are counted.
    """

    __slots__ = ("_bytes", "_frames", "_max_bytes", "count")

    def __init__(self, max_bytes: int, count: FrameCount) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: dict[tuple[str, int], tuple[bytes, ...]] = {}
        self.count = count

    def clear(self) -> None:
        """Forget everything: the head moved."""
        if self._frames:
            self._frames = {}
            self._bytes = 0

    def get(self, profile: str, base: int) -> tuple[bytes, ...] | None:
        """Return the frames that lead from *base* to the head, if they have been built."""
        frames = self._frames.get((profile, base))
        if frames is not None:
            self.count.shared += 1
        return frames

    def put(self, profile: str, base: int, frames: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Remember and return *frames*."""
        self.count.built += 1
        size = sum(map(len, frames))
        if self._bytes + size <= self._max_bytes:
            self._bytes += size
            self._frames[profile, base] = frames
        return frames
