"""Values as text for people and for other programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

from .client import Change, Event, Gap
from .core import REMOVED, Patch, PatchValue, Replace, SourceStatus, Value, patch_to_wire

__all__ = ["json_line", "leaves", "number_text", "plain_line", "printable", "value_text"]

_MAX_LEAVES = 8


# ---- for people ----------------------------------------------------------------------------------------------------


def plain_line(channel: str, update: Change | Event | Gap, time: datetime) -> str:
    """Return one line that says what changed: ``12:30:00 prices:ETH-USD bid=4215.5 ask=4215.6``."""
    if isinstance(update, Gap):
        what = f"events are missing: {update.reason}"
    elif isinstance(update, Event):
        what = _summary(update.value) if isinstance(update.value, dict) else value_text(update.value)
    elif update.kind == "status" or update.patch == {}:
        what = f"is {update.status.freshness}" + (f": {update.status.reason}" if update.status.reason else "")
    else:
        what = _summary(update.value if update.patch is None else update.patch)
        if update.status.freshness != "live":
            what += f" ({update.status.freshness})"
    return printable(f"{time.astimezone():%H:%M:%S} {channel} {what}")


def _summary(tree: Mapping[str, PatchValue]) -> str:
    found = [f"{path}={value_text(value)}" for path, value in leaves(tree)]
    more = [f"… {len(found) - _MAX_LEAVES} more"] if len(found) > _MAX_LEAVES else []
    return " ".join(found[:_MAX_LEAVES] + more) or "is empty"


def leaves(tree: Mapping[str, PatchValue], prefix: str = "") -> Iterator[tuple[str, PatchValue]]:
    """Yield the path and value of everything in a document or patch that is no map with something in it."""
    for key, item in tree.items():
        value = item.value if isinstance(item, Replace) else item
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(cast(Patch, value), f"{path}.")
        else:
            yield path, value


def value_text(value: PatchValue) -> str:
    """Return a short text for any value; ``-`` for what was removed."""
    if value is REMOVED:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone():%H:%M:%S}"
    if isinstance(value, str):
        return value
    return number_text(cast(Value, value))


def number_text(value: Value) -> str:
    """Return a number with all its digits and without an exponent; nothing for ``None``."""
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def printable(text: str) -> str:
    """Return *text* with a dot for each character that a terminal might obey. Channels hold whatever their publisher put in."""
    return text if text.isprintable() else "".join(character if character.isprintable() else "·" for character in text)


# ---- for other programs --------------------------------------------------------------------------------------------


def json_line(channel: str, update: Change | Event | Gap, status: SourceStatus) -> str:
    """
    Return a change as one line of JSON.

    ``{"channel", "kind", "position": [epoch, offset, link], …, "status": {"freshness", "since", "reason"}}``, where a
    ``keyframe`` and an ``event`` have a ``value``, a ``delta`` has a ``patch``, ``[set, inner, removed]`` as on the wire, and
    a ``gap`` has ``start`` and ``reason``. Decimals are text, timestamps ISO 8601, bytes base64.
    """
    line: dict[str, object] = {"channel": channel}
    if isinstance(update, Change):
        status = update.status
        line |= {"kind": update.kind, "position": list(update.position)}
        if update.kind == "delta" and update.patch is not None:
            line["patch"] = patch_to_wire(update.patch)
        elif update.kind != "status":
            line["value"] = update.value
    elif isinstance(update, Event):
        line |= {"kind": "event", "position": list(update.position), "value": update.value}
    else:
        line |= {"kind": "gap", "position": list(update.position), "start": list(update.start), "reason": update.reason}
    line["status"] = {"freshness": status.freshness, "since": status.since, "reason": status.reason}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=_json_value)


def _json_value(value: object) -> str:
    match value:
        case Decimal():
            return str(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case bytes():
            return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is not carried")
