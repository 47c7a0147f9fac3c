"""One channel as a client holds it: a cursor, the document or the last event at it, and what may be applied next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from ._changes import Change, Event, Gap, worse
from ._entries import LIVE, SourceStatus
from ._errors import DecodeError
from ._frames import Delta, Keyframe, Kind, Status, Subscribed
from ._frames import Event as EventFrame
from ._frames import Gap as GapFrame
from ._patch import apply
from ._patch_wire import document_from_wire, patch_from_wire
from ._position import Position
from ._profiles import Profile
from ._values import Document, Value

__all__ = ["ClientSubscription", "OutOfStep", "earlier"]

_MAX_KEYFRAME: Final = 64 << 20
"""Most bytes of a keyframe in parts."""


class OutOfStep(Exception):
    """What arrived does not continue what is held: this one channel has to be subscribed anew."""


class ClientSubscription:
    """
    A subscription across connections.

    ``position`` moves together with ``value`` and only when something was applied, so it is exact at any moment. ``alias`` is
    that of the instance under way, ``None`` while there is none. ``request`` is the subscribe that has not been answered.
    ``in_step`` says that what is held was continued by the server on this connection; else ``doubt`` may say since when and why
    it is not.
    """

    __slots__ = (
        "_keys",
        "_parts",
        "_parts_size",
        "_pinned",
        "alias",
        "at_server",
        "channel",
        "document",
        "doubt",
        "given",
        "in_step",
        "kind",
        "position",
        "rate",
        "refusals",
        "request",
        "retry_at",
        "shown",
        "source",
        "stumbles",
        "value",
        "wanted",
    )

    def __init__(self, channel: str, *, position: Position | None, rate: float | None, doubt: SourceStatus | None) -> None:
        self.channel = channel
        self.kind: Kind | None = None  # unknown until the server has answered once
        self.position = position
        self.document: Document | None = None
        self.value: Value = None
        self.rate = rate
        self.source = LIVE
        self.doubt = doubt
        self.shown = self.status
        self.wanted = False  # by the user; else only given by the server
        self.given = False  # by the server, unasked
        self.stumbles = 0  # in a row, without a change applied in between
        self.refusals = 0  # in a row
        self._keys: list[str] = []
        self._parts: list[object] = []
        self.lose(None)

    def __repr__(self) -> str:
        return f"<ClientSubscription {self.channel} at {self.position}{'' if self.in_step else ', out of step'}>"

    @property
    def status(self) -> SourceStatus:
        """Return the freshness to show: the worse of what the server says and what the client doubts."""
        return worse(self.source, self.doubt)

    @property
    def resume_position(self) -> Position | None:
        """
        Return the position to subscribe with.

        A document that could not be continued twice is fetched anew. Events never are: without their position, some would go
        missing unannounced.
        """
        if self.kind == "state" and (self.document is None or self.stumbles > 1):
            return None
        return self.position

    # ---- instances

    def lose(self, doubt: SourceStatus | None) -> None:
        """Forget everything that belonged to the connection. A doubt that stands already is older and stays."""
        self.request: int | None = None
        self.retry_at: float | None = None
        self.at_server = False  # a subscribe was sent and not refused
        self.pause(self.doubt or doubt)

    def pause(self, doubt: SourceStatus | None) -> None:
        """End the instance: nothing is applied until the next one begins."""
        self.alias: int | None = None
        self.in_step = False
        self.doubt = doubt
        self._restart_parts(None)

    def begin(self, frame: Subscribed) -> None:
        """Begin an instance. Raises `OutOfStep` when the server continues something that is not held."""
        self.request = self.retry_at = None
        self.refusals = 0
        self.at_server = True
        self.alias = frame.alias
        self.kind = frame.kind
        self.source = SourceStatus(frame.freshness, frame.since, frame.reason)
        self._keys = list(frame.keys)
        self._restart_parts(None)
        if frame.kind == "events":
            if self.position is None or frame.recovered:
                self.position = frame.position
            self._in_step()
        elif frame.recovered:
            if self.document is None or self.position is None or self.position.offset != frame.position.offset:
                raise OutOfStep("the server continues what is not held")
            self.position = frame.position
            self._in_step()
        else:
            self.in_step = False  # until the keyframe

    def _in_step(self) -> None:
        self.in_step = True
        self.doubt = None

    # ---- what arrives in an instance; each raises OutOfStep when it does not fit

    def take_keyframe(self, frame: Keyframe, profile: Profile) -> Change | None:
        """Apply a keyframe, or keep its part. Returns the change once the document is complete."""
        if self.kind != "state":
            raise OutOfStep("a keyframe of an event channel")
        if frame.parts == 1 and frame.part == 0 and type(frame.body) is dict:
            self._restart_parts(None)
            return self._replace(frame.body, frame.keys, frame.position)
        self._keep_part(frame)
        if len(self._parts) < frame.parts:
            return None
        pieces = self._parts
        self._restart_parts(None)
        try:
            document, keys = cast("tuple[object, list[str]]", profile.read_keyframe(pieces))
        except DecodeError as error:
            raise OutOfStep(f"a keyframe that cannot be decoded: {error}") from error
        return self._replace(document, keys, frame.position)

    def _keep_part(self, frame: Keyframe) -> None:
        if frame.part == 0:
            self._restart_parts((frame.position, frame.parts))
        if frame.part != len(self._parts) or self._pinned != (frame.position, frame.parts) or frame.part >= frame.parts:
            raise OutOfStep(f"part {frame.part} of {frame.parts} after {len(self._parts)} parts")
        self._parts_size += len(frame.body) if isinstance(frame.body, bytes | str) else 1
        if self._parts_size > _MAX_KEYFRAME:
            raise OutOfStep(f"a keyframe of more than {_MAX_KEYFRAME} bytes")
        self._parts.append(frame.body)

    def _restart_parts(self, pinned: tuple[Position, int] | None) -> None:
        self._parts = []
        self._parts_size = 0
        self._pinned = pinned

    def _replace(self, body: object, keys: Sequence[str], position: Position) -> Change:
        try:
            document = cast(Document, document_from_wire(body, keys))
        except DecodeError as error:
            raise OutOfStep(f"a keyframe that cannot be decoded: {error}") from error
        self._keys = list(keys)
        self.document = self.value = document
        self.position = position
        self._in_step()
        return Change("keyframe", document, None, position, self.status)

    def take_delta(self, frame: Delta) -> Change:
        """Apply a delta to the very base it was made for."""
        document, position = self.document, self.position
        if not self.in_step or document is None or position is None or self._parts:
            raise OutOfStep("a delta without a base")
        if frame.offset - frame.span != position.offset or frame.span == 0:
            raise OutOfStep(f"a delta from {frame.offset - frame.span} to {frame.offset}; held is {position.offset}")
        keys = [*self._keys, *frame.keys] if frame.keys else self._keys
        try:
            patch = patch_from_wire(frame.patch, keys)
        except DecodeError as error:
            raise OutOfStep(f"a delta that cannot be decoded: {error}") from error
        self._keys = keys
        self.document = self.value = document = apply(patch, document)
        self.position = position = position.at(frame.offset, frame.link)
        self.stumbles = 0
        return Change("delta", document, patch, position, self.status)

    def take_event(self, frame: EventFrame) -> Event | None:
        """Take the event that follows what is held. Returns ``None`` for one that was taken before."""
        position = self.position
        if self.kind != "events" or position is None:
            raise OutOfStep("an event of a state channel")
        if frame.offset <= position.offset:
            return None
        if frame.offset - frame.span != position.offset:
            raise OutOfStep(f"an event that follows {frame.offset - frame.span}; held is {position.offset}")
        self.position = position = position.at(frame.offset, frame.link)
        self.value = frame.value
        self.stumbles = 0
        return Event(frame.value, position)

    def take_gap(self, frame: GapFrame) -> Gap | None:
        """Go on behind a gap. Returns ``None`` when an empty log only got its epoch, so that nothing is missing."""
        start = self.position
        if self.kind != "events" or start is None:
            raise OutOfStep("a gap in a state channel")
        self.position = frame.position
        if not start.epoch and frame.position.offset == 0:
            return None
        return Gap(start, frame.position, frame.reason)

    def take_status(self, frame: Status) -> None:
        """Note what the server says of the channel's freshness."""
        self.source = SourceStatus(frame.freshness, frame.since, frame.reason)


def earlier(held: Position | None, asked: Position) -> Position:
    """Return where to subscribe so that both positions are served: the earlier one, where that can be told."""
    if held is not None and held.epoch == asked.epoch and held.offset < asked.offset:
        return held
    return asked
