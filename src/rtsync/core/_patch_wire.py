"""
The wire form of a patch: ``[set, inner, removed]``, trailing empties left out.

``set`` maps keys to whole values, ``inner`` maps keys to the wire patches of maps below, ``removed`` lists keys. An empty patch
is ``[]``. The form needs no markers, so nothing a document holds can be mistaken for one, in msgpack or in JSON.

Source: docs/reference/protocol.md, "Patches".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from ._errors import Code, DecodeError
from ._keys import number_keys
from ._patch import REMOVED, Patch, Replace
from ._values import MAX_DEPTH, Value

__all__ = ["WirePatch", "document_from_wire", "patch_from_wire", "patch_to_wire", "prove_text_keys"]

WirePatch = list[object]

_NO_NUMBERS: Final[Mapping[str, int]] = {}


def patch_to_wire(patch: Patch, numbers: Mapping[str, int] = _NO_NUMBERS) -> WirePatch:
    """Return the wire form of *patch*, with keys replaced by their *numbers* where they have one."""
    whole: dict[object, object] = {}
    inner: dict[object, object] = {}
    removed: list[object] = []
    for key, change in patch.items():
        name = numbers.get(key, key)
        if change is REMOVED:
            removed.append(name)
        elif type(change) is dict:
            inner[name] = patch_to_wire(cast(Patch, change), numbers)
        else:
            value = change.value if type(change) is Replace else cast(Value, change)
            whole[name] = number_keys(value, numbers) if numbers else value
    if removed:
        return [whole, inner, removed]
    if inner:
        return [whole, inner]
    return [whole] if whole else []


def patch_from_wire(wire: object, keys: Sequence[str] = (), depth: int = 0) -> Patch:
    """
    Return the patch of a wire form, with numbered keys looked up in *keys*.

    Raises:
        DecodeError: If it has another shape, is nested too deep, names a key twice, or a number is not in the table.
    """
    if type(wire) is not list or len(wire) > 3:
        raise _bad("a patch is [set, inner, removed]")
    whole, inner, removed = cast("list[object]", wire) + [{}, {}, []][len(wire) :]
    if type(whole) is not dict or type(inner) is not dict or type(removed) is not list:
        raise _bad("a patch is [map, map, list]")
    _check_depth(depth)
    patch: Patch = {}
    for name, value in whole.items():
        key = name if type(name) is str else _key(name, keys)
        kind = type(value)
        if kind is dict:
            patch[key] = Replace(document_from_wire(value, keys, depth + 1))
        elif kind is list:
            patch[key] = document_from_wire(value, keys, depth + 1)
        else:
            patch[key] = value
    for name, below in inner.items():
        patch[name if type(name) is str else _key(name, keys)] = patch_from_wire(below, keys, depth + 1)
    for name in removed:
        patch[name if type(name) is str else _key(name, keys)] = REMOVED
    if len(patch) != len(whole) + len(inner) + len(removed):
        raise _named_twice()
    return patch


def document_from_wire(value: object, keys: Sequence[str] = (), depth: int = 0) -> Value:
    """
    Return *value* with the numbered keys of its maps looked up in *keys*.

    Maps inside lists have text keys only, since lists are atomic.

    Raises:
        DecodeError: If it is nested too deep, names a key twice, or a number is not in the table.
    """
    kind = type(value)
    if kind is list:
        prove_text_keys(value, depth)
    if kind is not dict:
        return cast(Value, value)
    _check_depth(depth)
    document: dict[str, Value] = {}
    items = cast("dict[object, object]", value).items()
    for name, item in items:
        key = name if type(name) is str else _key(name, keys)
        kind = type(item)
        document[key] = document_from_wire(item, keys, depth + 1) if kind is dict or kind is list else cast(Value, item)
    if len(document) != len(items):
        raise _named_twice()
    return document


def prove_text_keys(value: object, depth: int = 0, field: str = "patch") -> None:
    """Prove that no map in *value* has numbers for keys, and that it is not nested too deep. Raises `DecodeError`."""
    if type(value) is dict:
        if any(type(key) is not str for key in value):
            raise _bad("a number where only text names a key", field)
        items = list(value.values())
    elif type(value) is list:
        items = value
    else:
        return
    _check_depth(depth, field)
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:
            prove_text_keys(item, depth + 1, field)


def _key(name: object, keys: Sequence[str]) -> str:
    if type(name) is int and 0 <= name < len(keys):
        return keys[name]
    raise _bad("a key that is not in the table of this channel")


def _check_depth(depth: int, field: str = "patch") -> None:
    if depth >= MAX_DEPTH:
        raise _bad(f"nested deeper than {MAX_DEPTH}", field)


def _named_twice() -> DecodeError:
    return _bad("a patch or map names a key twice")


def _bad(problem: str, field: str = "patch") -> DecodeError:
    return DecodeError(Code.BAD_FRAME, problem, field=field)
