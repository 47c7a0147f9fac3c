"""The key table of a state channel: small integers in place of document keys, on the msgpack wire."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final, cast

from ._patch import REMOVED, Patch, Replace
from ._values import Document, Value

__all__ = ["MAX_KEYS", "KeyTable"]

MAX_KEYS: Final = 512
"""Most keys a table defines; later ones travel as text."""


class KeyTable:
    """
    Keys in the order in which the log first showed them, numbered from 0.

    Each key remembers the offset at which it was defined. A client whose cursor stands at an offset knows every key defined up
    to there, so a frame brings exactly the definitions its base lacked, and one encoded frame serves all cursors at that base.
    """

    __slots__ = ("_keys", "_offsets", "numbers")

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._offsets: list[int] = []
        self.numbers: dict[str, int] = {}

    def learn_document(self, document: Document, offset: int) -> None:
        """Define the keys of *document* that are new. *offset* must not be lower than one learned before."""
        for key, value in document.items():
            if key not in self.numbers and not self._define(key, offset):
                return
            if type(value) is dict:
                self.learn_document(value, offset)

    def learn_patch(self, patch: Patch, offset: int) -> None:
        """Define the keys of *patch* that are new. *offset* must not be lower than one learned before."""
        for key, change in patch.items():
            if change is REMOVED:  # a key that may never come back is not worth a number
                continue
            if key not in self.numbers and not self._define(key, offset):
                return
            if type(change) is dict:
                self.learn_patch(cast(Patch, change), offset)
            elif type(change) is Replace and type(change.value) is dict:
                self.learn_document(change.value, offset)

    def defined_by(self, offset: int) -> Sequence[str]:
        """Return the keys a cursor at *offset* knows, in order of their numbers."""
        return self._keys[: bisect_right(self._offsets, offset)]

    def defined_after(self, offset: int) -> Sequence[str]:
        """Return the keys a cursor at *offset* does not know yet, in order of their numbers."""
        return self._keys[bisect_right(self._offsets, offset) :]

    def _define(self, key: str, offset: int) -> bool:
        """Number *key*, which is new; return whether there was room."""
        if len(self._keys) >= MAX_KEYS:
            return False
        self.numbers[key] = len(self._keys)
        self._keys.append(key)
        self._offsets.append(offset)
        return True


def number_keys(value: Value, numbers: Mapping[str, int]) -> object:
    """Return *value* with the keys of its maps (lists are atomic and keep their keys) numbered where the table has them."""
    if type(value) is not dict:
        return value
    return {numbers.get(key, key): number_keys(item, numbers) if type(item) is dict else item for key, item in value.items()}
