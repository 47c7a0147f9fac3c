"""
A document whose leaves know the offset of their last change.

`VersionedDocument.since` is the patch from any earlier state to now, in time proportional to what changed: no patch is stored
or merged. Law: ``apply(since(p), state_at(p))`` is the same as ``state_at(head)`` for every offset ``p`` not yet forgotten.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias, cast

from ._patch import REMOVED, Patch, PatchValue, Replace
from ._values import Document, Value

__all__ = ["VersionedDocument"]

_Kid: TypeAlias = "tuple[int, Value | _Node | object]"


class _Node:
    """A map. ``born`` is the offset at which it appeared; ``kids`` are in order of change, the newest last."""

    __slots__ = ("born", "kids")

    def __init__(self, born: int) -> None:
        self.born = born
        self.kids: dict[str, _Kid] = {}  # {key: (offset of last change, value | REMOVED | _Node)}


class VersionedDocument:
    """One document with the offset of every change still in reach."""

    __slots__ = ("_root", "_tombstones")

    def __init__(self, document: Document, offset: int) -> None:
        self._root = _build(document, offset)
        self._tombstones: deque[tuple[int, _Node, str]] = deque()  # in order of offset

    def put(self, patch: Patch, offset: int) -> None:
        """Apply *patch* as the change of *offset*, which must be greater than every offset before."""
        self._put(self._root, patch, offset)

    def since(self, offset: int) -> Patch:
        """Return the patch that leads from the state at *offset* to now. *offset* must not have been forgotten."""
        return _since(self._root, offset)

    def value(self) -> Document:
        """Return the document as a plain map."""
        return _value(self._root)

    def forget(self, offset: int) -> None:
        """Drop the tombstones of *offset* and before: states older than *offset* can no longer be led to now."""
        tombstones = self._tombstones
        while tombstones and tombstones[0][0] <= offset:
            removed_at, node, key = tombstones.popleft()
            kid = node.kids.get(key)
            if kid is not None and kid[1] is REMOVED and kid[0] == removed_at:
                del node.kids[key]

    def _put(self, node: _Node, patch: Patch, offset: int) -> None:
        kids = node.kids
        for key, change in patch.items():
            standing = kids.pop(key, None)  # re-inserting keeps the map in order of change
            if change is REMOVED:
                if standing is None:
                    continue
                self._tombstones.append((offset, node, key))
                kids[key] = (offset, REMOVED)
            elif type(change) is Replace:
                kids[key] = (offset, _grown(change.value, offset))
            elif type(change) is dict:
                inner = standing[1] if standing is not None else None
                if type(inner) is not _Node:
                    inner = _Node(offset)
                self._put(inner, cast(Patch, change), offset)
                kids[key] = (offset, inner)
            else:
                kids[key] = (offset, change)


def _build(document: Document, offset: int) -> _Node:
    node = _Node(offset)
    node.kids = {key: (offset, _grown(value, offset)) for key, value in document.items()}
    return node


def _grown(value: Value, offset: int) -> Value | _Node:
    return _build(value, offset) if type(value) is dict else value


def _value(node: _Node) -> Document:
    return {
        key: _value(kid) if type(kid) is _Node else cast(Value, kid)
        for key, (_, kid) in node.kids.items()
        if kid is not REMOVED
    }


def _since(node: _Node, offset: int) -> Patch:
    patch: Patch = {}
    for key, (changed, kid) in reversed(node.kids.items()):
        if changed <= offset:
            break
        if type(kid) is _Node:
            patch[key] = Replace(_value(kid)) if kid.born > offset else _since(kid, offset)
        else:
            patch[key] = cast(PatchValue, kid)
    return patch
