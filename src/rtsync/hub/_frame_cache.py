"""Encoded frames of one channel's current head, shared by all who read it."""

from __future__ import annotations

from collections.abc import Mapping

from ..core import PROFILES, Profile

__all__ = ["FrameCache", "FrameCount"]


class FrameCount:
    """Counts, across a hub, how many frames were encoded. However many readers a frame has, it counts once."""

    __slots__ = ("built",)

    def __init__(self) -> None:
        self.built = 0


class FrameCache:
    """
    Frames by profile and base, for the current head only.

    Args:
        max_bytes: Most bytes kept; what does not fit is built again for each reader, which the head's movement soon ends.
        count: Where encodings are counted.
    """

    __slots__ = ("_bytes", "_count", "_frames", "_max_bytes", "_parts")

    def __init__(self, max_bytes: int, count: FrameCount) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: dict[str, dict[int, bytes]] = {name: {} for name in PROFILES}
        self._parts: dict[str, tuple[bytes, ...]] = {}  # {profile: keyframe in parts}
        self._count = count

    def of(self, profile: Profile) -> Mapping[int, bytes]:
        """Return the live mapping from bases to the frame that leads to the head; readers keep it and look frames up."""
        return self._frames[profile.name]

    def parts(self, profile: Profile) -> tuple[bytes, ...] | None:
        """Return the keyframe in parts, if it has been built and is too large for one frame."""
        return self._parts.get(profile.name)

    def clear(self) -> None:
        """Forget everything: the head moved."""
        for frames in self._frames.values():
            frames.clear()
        self._parts.clear()
        self._bytes = 0

    def put(self, profile: Profile, base: int, frame: bytes) -> bytes:
        """Remember and return *frame*, which was just built."""
        if self._fits(len(frame)):
            self._frames[profile.name][base] = frame
        return frame

    def put_parts(self, profile: Profile, parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Remember and return the *parts* of a keyframe, which were just built."""
        if self._fits(sum(map(len, parts))):
            self._parts[profile.name] = parts
        return parts

    def _fits(self, size: int) -> bool:
        self._count.built += 1
        if self._bytes + size > self._max_bytes:
            return False
        self._bytes += size
        return True
