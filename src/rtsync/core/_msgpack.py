"""Values as msgpack: one extension for Decimal, the standard timestamp for datetime."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Final, cast

import msgpack

from ._errors import Code, DecodeError
from ._limits import Limits, scan_msgpack
from ._values import MAX_DECIMAL_DIGITS

__all__ = ["DECIMAL_EXT", "pack", "prove_one_value", "unpack", "unpack_many"]

DECIMAL_EXT: Final = 1
"""Extension type of a Decimal: one signed byte of exponent, then the integer as big-endian two's complement."""

_MAX_INTEGER: Final = 10**MAX_DECIMAL_DIGITS
_MAX_EXT_BYTES: Final = 1 + _MAX_INTEGER.bit_length() // 8 + 1

_EXPONENTS: Final = {exponent: exponent.to_bytes(1, "big", signed=True) for exponent in range(-128, 128)}

_EXACT: Final = Context(prec=MAX_DECIMAL_DIGITS, Emin=-999, Emax=999, clamp=0, traps=[])
"""Wide enough for any Decimal that is carried, whatever the context of the thread."""


def pack(value: object) -> bytes:
    """Return *value*, which is in the type table (tuples stand for lists), as msgpack."""
    # A packer of its own for each call is safe in any thread; one with the default buffer would allocate 256 KiB.
    return cast(bytes, msgpack.Packer(default=_pack_extension, datetime=True, buf_size=1024).pack(value))


def unpack(data: bytes, *, numbered_keys: bool = False) -> object:
    """Return the one value in *data*, which a node of ours wrote. Raises `DecodeError`."""
    prove_one_value(data)
    return _unpack_one(data, numbered_keys)


def unpack_many(data: bytes, limits: Limits, *, numbered_keys: bool = False) -> list[object]:
    """
    Return the values in *data*, from a peer, after proving that they stay within *limits*.

    Args:
        data: Values back to back.
        limits: Bounds, checked before anything is unpacked.
        numbered_keys: Accept integers as map keys beside text (server to client, where key tables are in use).

    Raises:
        DecodeError: Over a limit, not msgpack, or holding something the type table does not carry.
    """
    count = scan_msgpack(data, limits)
    # Under the header of an array they are one value, and one call reads them all.
    return cast("list[object]", _unpack_one(b"\xdd" + count.to_bytes(4, "big") + data, numbered_keys))


def prove_one_value(data: bytes) -> None:
    """
    Prove that *data* is one complete msgpack value, which keeps the promises of its headers.

    Costs little and allocates nothing, where unpacking headers that lie would reserve what they promise. Raises `DecodeError`.
    """
    try:
        size = len(data) + 1
        unpacker = msgpack.Unpacker(None, read_size=size, max_buffer_size=size)  # a buffer that fits, once
        unpacker.feed(data)
        unpacker.skip()
        whole = unpacker.tell() == len(data)
    except Exception as error:  # half a dozen unrelated types
        raise _not_msgpack(error) from error
    if not whole:
        raise DecodeError(Code.BAD_FRAME, "more than one value where one was expected")


def _unpack_one(data: bytes, numbered_keys: bool) -> object:
    try:
        return msgpack.unpackb(
            data,
            object_pairs_hook=_numbered_map if numbered_keys else _text_map,
            ext_hook=_unpack_extension,
            strict_map_key=False,
            timestamp=3,
        )
    except DecodeError:
        raise
    except Exception as error:  # half a dozen unrelated types
        raise _not_msgpack(error) from error


def _not_msgpack(error: Exception) -> DecodeError:
    return DecodeError(Code.BAD_FRAME, f"not msgpack: {type(error).__name__}")


# ---- maps ----------------------------------------------------------------------------------------------------------

_TEXT: Final = frozenset({str})
_TEXT_OR_NUMBER: Final = frozenset({str, int})


def _text_map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    result = dict(pairs)
    if not _TEXT.issuperset(map(type, result)):
        raise DecodeError(Code.BAD_FRAME, "map keys are text")
    if len(result) != len(pairs):
        raise _named_twice()
    return result


def _numbered_map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    result = dict(pairs)
    if not _TEXT_OR_NUMBER.issuperset(map(type, result)):
        raise DecodeError(Code.BAD_FRAME, "map keys are text or numbers")
    if len(result) != len(pairs):
        raise _named_twice()
    return result


def _named_twice() -> DecodeError:
    return DecodeError(Code.BAD_FRAME, "a map names a key twice")


# ---- Decimal -------------------------------------------------------------------------------------------------------


def _pack_extension(value: object) -> msgpack.ExtType:
    if type(value) is not Decimal:
        raise TypeError(f"{type(value).__name__} is not in the type table")
    text = str(value)
    dot = text.find(".")
    try:
        integer = int(text.replace(".", ""))
        exponent = 0 if dot < 0 else dot + 1 - len(text)
    except ValueError:  # written with an exponent
        sign, digits, exponent = cast("tuple[int, tuple[int, ...], int]", value.as_tuple())
        integer = int("".join(map(str, digits))) * (-1 if sign else 1)
    size = integer.bit_length() // 8 + 1
    data = _EXPONENTS[exponent] + integer.to_bytes(size, "big", signed=True)
    # The constructor of ExtType would check the types of both once more, for half the cost of all this.
    return tuple.__new__(msgpack.ExtType, (DECIMAL_EXT, data))


def _unpack_extension(code: int, data: bytes) -> Decimal:
    size = len(data)
    if code != DECIMAL_EXT or not 2 <= size <= _MAX_EXT_BYTES:
        raise DecodeError(Code.BAD_FRAME, f"extension {code} of {size} bytes is not in the type table")
    integer = int.from_bytes(data[1:], "big", signed=True)
    if size == _MAX_EXT_BYTES and not -_MAX_INTEGER < integer < _MAX_INTEGER:  # shorter ones cannot be over
        raise DecodeError(Code.BAD_FRAME, f"a Decimal has at most {MAX_DECIMAL_DIGITS} digits")
    return _EXACT.scaleb(Decimal(integer), (data[0] ^ 0x80) - 0x80)
