"""
Patches: what changed between two documents.

A patch is a nested map. A value stands for itself; `REMOVED` takes a key away; ``Replace(value)`` puts a whole value, whatever
stood before; a plain map is a patch of the map below (or replaces what is not a map). So *unchanged* (absent), *null*
(``None``), *empty* (``{}`` in a `Replace`) and *removed* stay distinct. Lists are atomic.

Law: ``apply(diff(a, b), a)`` is the same as ``b``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias, cast

from ._errors import InvalidValue
from ._values import Document, Refusal, Value, check_depth, check_key, check_value, same

__all__ = ["REMOVED", "Patch", "PatchValue", "Replace", "apply", "checked_patch", "diff", "narrow"]


class _Marker(Enum):
    REMOVED = "removed"

    def __repr__(self) -> str:
        return "REMOVED"


REMOVED: Final = _Marker.REMOVED
"""In a patch: this key is no longer there."""


@dataclass(frozen=True, slots=True)
class Replace:
    """In a patch: this whole value stands here now, whatever stood before."""

    value: Value


PatchValue: TypeAlias = "Value | Literal[_Marker.REMOVED] | Replace | Patch"
Patch: TypeAlias = "dict[str, PatchValue]"

_ABSENT: Final = object()


def diff(a: Document, b: Document) -> Patch:
    """Return the patch that makes *a* the same as *b*; empty if they are."""
    patch: Patch = {key: REMOVED for key in a if key not in b}
    for key, new in b.items():
        old = a.get(key, _ABSENT)
        if old is new:  # documents share what did not change
            continue
        if type(new) is dict:
            if type(old) is not dict:
                patch[key] = Replace(new)
            elif inner := diff(old, new):
                patch[key] = inner
        elif old is _ABSENT or not same(cast(Value, old), new):
            patch[key] = new
    return patch


def apply(patch: Patch, document: Document) -> Document:
    """Return *document* with *patch* applied. Shares what did not change; *document* itself stays as it was."""
    result = dict(document)
    for key, change in patch.items():
        if change is REMOVED:
            result.pop(key, None)
        elif type(change) is Replace:
            result[key] = change.value
        elif type(change) is dict:
            standing = result.get(key)
            result[key] = apply(cast(Patch, change), standing if type(standing) is dict else {})
        else:
            result[key] = cast(Value, change)
    return result


def narrow(patch: Patch, document: Document) -> Patch:
    """Return the part of *patch* that changes *document*; empty if nothing would. Its cost is that of the patch."""
    result: Patch = {}
    for key, change in patch.items():
        standing = document.get(key, _ABSENT)
        if change is REMOVED:
            if standing is not _ABSENT:
                result[key] = REMOVED
        elif type(change) is dict and type(standing) is dict:
            if inner := narrow(cast(Patch, change), standing):
                result[key] = inner
        else:
            whole = _whole(change)
            if standing is _ABSENT or not same(cast(Value, standing), whole):
                result[key] = Replace(whole) if type(whole) is dict else whole
    return result


def checked_patch(patch: object, field: str = "patch", depth: int = 0) -> Patch:
    """Return *patch* deep-copied and proven to hold only carried types. Raises `InvalidValue` naming the path."""
    if not isinstance(patch, Mapping):
        raise InvalidValue(field, f"a patch is a map with text keys, not {type(patch).__name__}")
    try:
        return _checked_patch(patch, depth)
    except Refusal as refusal:
        raise refusal.at(field) from None


def _checked_patch(patch: Mapping[object, object], depth: int) -> Patch:
    check_depth(depth)
    result: Patch = {}
    for key, change in patch.items():
        text = check_key(key)
        try:
            result[text] = _checked_change(change, depth + 1)
        except Refusal as refusal:
            raise refusal.within(text) from None
    return result


def _checked_change(change: object, depth: int) -> PatchValue:
    if change is REMOVED:
        return REMOVED
    if type(change) is Replace:
        return Replace(check_value(change.value, depth))
    if type(change) is dict:
        return _checked_patch(change, depth)
    return check_value(change, depth)


def _whole(change: PatchValue) -> Value:
    """What stands at a key after *change*, where no map stood before."""
    if type(change) is Replace:
        return change.value
    if type(change) is dict:
        return apply(cast(Patch, change), {})
    return cast(Value, change)
