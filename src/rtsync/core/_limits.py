"""
What a decoder accepts, checked before anything is unpacked.

Unpacking first and looking later is too late: 64 KiB of nested array headers make an unpacker reserve 80 MB. `scan_msgpack` and
`scan_json` look at the bytes, allocate nothing that grows with their claims, and stop at the first excess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ._errors import Code, DecodeError

__all__ = ["Limits", "scan_json", "scan_msgpack"]


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Bounds on one message.

    Attributes:
        max_bytes: Size of the whole message.
        max_depth: Nesting of arrays and maps, empty ones and the tags of JSON included.
        max_nodes: Values of all kinds, keys included. What is dear to read counts for more: a map for three, a frame for four,
            and a Decimal or timestamp for as much as its tag in JSON, five.
    """

    max_bytes: int
    max_depth: int
    max_nodes: int


_FRAME_NODES, _MAP_NODES, _TAGGED_NODES = 4, 3, 5


# ---- msgpack -------------------------------------------------------------------------------------------------------

_FIXED, _SIZED, _EXTENSION, _SMALL, _COUNTED, _FLOAT, _UINT64, _ILLEGAL = range(8)


def _heads() -> tuple[tuple[int, int, int], ...]:
    """
    Return what each first byte announces: ``(kind, a, b)``.

    - ``_FIXED``: *a* bytes in all. ``_FLOAT``, ``_UINT64``: the same, and the bits need a look.
    - ``_SIZED``: *a* bytes of header, the last *b* of which are the size of the body.
    - ``_EXTENSION``: *a* bytes of header, *b* of which after the first are the size of the body; if *b* is 0, *a* is all.
    - ``_COUNTED``: *a* bytes after the first count the children, each of *b* values. ``_SMALL``: *a* children of *b* values.
    """
    table = [(_FIXED, 1, 0)] * 256
    for low in range(16):
        table[0x80 | low] = (_SMALL, low, 2)
        table[0x90 | low] = (_SMALL, low, 1)
    for low in range(32):
        table[0xA0 | low] = (_FIXED, 1 + low, 0)
    table[0xC1] = (_ILLEGAL, 0, 0)
    for power in range(3):
        size = 1 << power
        table[0xC4 + power] = table[0xD9 + power] = (_SIZED, 1 + size, size)  # bin, str
        table[0xC7 + power] = (_EXTENSION, 2 + size, size)  # size, then type
    table[0xCA], table[0xCB] = (_FLOAT, 5, 0), (_FLOAT, 9, 0)
    for power in range(4):
        table[0xCC + power] = table[0xD0 + power] = (_FIXED, 1 + (1 << power), 0)  # uint, int
    table[0xCF] = (_UINT64, 9, 0)
    for power in range(5):
        table[0xD4 + power] = (_EXTENSION, 2 + (1 << power), 0)
    for power in range(2):
        table[0xDC + power] = (_COUNTED, 2 << power, 1)  # array
        table[0xDE + power] = (_COUNTED, 2 << power, 2)  # map
    return tuple(table)


_HEADS: Final = _heads()


def scan_msgpack(data: bytes, limits: Limits) -> int:
    """
    Prove that *data* is a run of complete msgpack values within *limits*, with no number that documents cannot hold.

    Returns:
        How many values stand back to back.

    Raises:
        DecodeError: Too large, too deep, too many values, truncated, a byte msgpack does not use, an integer of 2**63 and more,
            or a float that is not finite.
    """
    size = len(data)
    if size > limits.max_bytes:
        raise _too_large(size, limits)
    try:
        count, end = _scan(data, size, limits)
    except IndexError:
        end = size + 1
    if end > size:
        raise DecodeError(Code.BAD_FRAME, "truncated") from None
    return count


def _scan(data: bytes, size: int, limits: Limits) -> tuple[int, int]:
    """Return how many values there are and where the last one ends, which may be beyond *size*."""
    heads, max_nodes, max_depth = _HEADS, limits.max_nodes, limits.max_depth
    count = 0
    outer: list[int] = []  # values still to come in the containers around the innermost
    at = nodes = 0  # nodes counts what containers promise, so that promises are never added up to more than the limit
    while at < size:
        nodes += _FRAME_NODES
        left = 0  # values still to come in the innermost container
        while True:
            kind, a, b = heads[data[at]]
            if kind == _FIXED:
                at += a
            elif kind == _SIZED:
                at += a + (data[at + 1] if b == 1 else int.from_bytes(data[at + 1 : at + a], "big"))
            elif kind == _EXTENSION:
                at += a + (data[at + 1] if b == 1 else int.from_bytes(data[at + 1 : at + 1 + b], "big"))
                nodes += _TAGGED_NODES - 1
                if nodes > max_nodes:
                    raise _too_many(limits)
            elif kind <= _COUNTED:
                if kind == _SMALL:
                    children = a * b
                    at += 1
                else:
                    children = int.from_bytes(data[at + 1 : at + 1 + a], "big") * b
                    at += 1 + a
                nodes += children if b == 1 else children + _MAP_NODES - 1
                if nodes > max_nodes:
                    raise _too_many(limits)
                if len(outer) >= max_depth:
                    raise _too_deep(limits)
                if children:
                    outer.append(left)
                    left = children
            elif kind == _FLOAT:
                # All bits of the exponent set: eight of them in 32 bits, eleven in 64.
                if data[at + 1] & 0x7F == 0x7F and data[at + 2] >= (0x80 if a == 5 else 0xF0):
                    raise DecodeError(Code.BAD_FRAME, "numbers are finite")
                at += a
            elif kind == _UINT64:
                if data[at + 1] >= 0x80:
                    raise DecodeError(Code.BAD_FRAME, "an integer must fit 64 bits")
                at += a
            else:
                raise DecodeError(Code.BAD_FRAME, "0xc1 is not msgpack")
            while not left and outer:
                left = outer.pop()
            if not left:
                break
            left -= 1
        if nodes > max_nodes:
            raise _too_many(limits)
        count += 1
    return count, at


# ---- JSON ----------------------------------------------------------------------------------------------------------

_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


def scan_json(text: str, limits: Limits) -> None:
    """
    Prove that *text* stays within *limits*, whatever a parser that stops at the first error will make of it.

    Raises:
        DecodeError: Too large, too deep, too many values, brackets that do not match, or lone surrogates.
    """
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode()) if len(text) <= limits.max_bytes else len(text)
        except UnicodeEncodeError:
            raise DecodeError(Code.BAD_FRAME, "text must not hold lone surrogates") from None
    if size > limits.max_bytes:
        raise _too_large(size, limits)
    # A regular expression for strings has to look for the end of one that has none again and again; this is linear always.
    bare = text
    if "\\" in text:
        bare = text.replace("\\\\", "").replace('\\"', "")
    outside = '"'.join(bare.split('"')[::2]).encode()
    lines = outside.count(b"\n") + (not outside.endswith(b"\n"))
    # Every value but the one that is the line follows one of these.
    values = sum(map(outside.count, b"[{,:"))
    if values + lines * _FRAME_NODES + outside.count(b"{") * (_MAP_NODES - 1) > limits.max_nodes:
        raise _too_many(limits)
    # Taking away pairs with nothing between them takes away one level. What is left over would not parse.
    brackets = outside.translate(_SQUARE, _NO_BRACKET)
    depth = 0
    while b"[]" in brackets:
        depth += 1
        if depth > limits.max_depth:
            raise _too_deep(limits)
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise DecodeError(Code.BAD_FRAME, "not JSON: brackets do not match")


def _too_large(size: int, limits: Limits) -> DecodeError:
    return DecodeError(Code.TOO_LARGE, f"a message of {size} bytes; at most {limits.max_bytes} are accepted")


def _too_many(limits: Limits) -> DecodeError:
    return DecodeError(Code.BAD_FRAME, f"more than {limits.max_nodes} values")


def _too_deep(limits: Limits) -> DecodeError:
    return DecodeError(Code.BAD_FRAME, f"nested deeper than {limits.max_depth}")
