"""
Values as JSON, with a tag for what JSON lacks.

A map with the single key ``$d``, ``$b``, ``$t`` or ``$i`` is a Decimal, bytes (base64), a timestamp (ISO 8601, UTC) or an
integer of 2**53 and beyond. A map of the document that happens to have one key beginning with ``$`` is written with one more
``$``, so every text key is legal.

Source: docs/reference/protocol.md, "Values in JSON".
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, Final, cast

from ._errors import Code, DecodeError
from ._limits import Limits, scan_json
from ._values import MAX_DECIMAL_DIGITS, Refusal, check_value

__all__ = ["dumps", "loads_many"]

_MAX_EXACT: Final = 2**53


# ---- writing -------------------------------------------------------------------------------------------------------


def dumps(value: object) -> str:
    """Return *value*, which is in the type table (tuples stand for lists), as one line of JSON."""
    return _WRITERS[type(value)](value)


def _write_int(value: int) -> str:
    return str(value) if -_MAX_EXACT < value < _MAX_EXACT else f'{{"$i":"{value}"}}'


def _write_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not JSON")
    return repr(value)


def _write_list(value: list[object] | tuple[object, ...]) -> str:
    return "[" + ",".join([_WRITERS[type(item)](item) for item in value]) + "]"


def _write_map(value: dict[str, object]) -> str:
    if len(value) == 1:
        ((key, item),) = value.items()
        if key[:1] == "$":
            return "{" + encode_basestring("$" + key) + ":" + _WRITERS[type(item)](item) + "}"
    return "{" + ",".join([encode_basestring(key) + ":" + _WRITERS[type(item)](item) for key, item in value.items()]) + "}"


_WRITERS: Final[dict[type, Callable[[Any], str]]] = {
    type(None): lambda value: "null",
    bool: lambda value: "true" if value else "false",
    int: _write_int,
    float: _write_float,
    str: encode_basestring,
    Decimal: lambda value: f'{{"$d":"{value}"}}',
    bytes: lambda value: f'{{"$b":"{base64.b64encode(value).decode()}"}}',
    datetime: lambda value: f'{{"$t":"{value.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"}}',
    list: _write_list,
    tuple: _write_list,
    dict: _write_map,
}


# ---- reading -------------------------------------------------------------------------------------------------------


def loads_many(text: str, limits: Limits) -> list[object]:
    """
    Return the values in *text*, one a line, after proving that they stay within *limits*.

    Raises:
        DecodeError: Over a limit, not JSON, a map with one key twice, an unknown tag, or a value the type table does not carry.
    """
    scan_json(text, limits)
    try:
        values = [_read_line(line) for line in text.split("\n") if line]
        if "\\" in text and _HALF_PAIR.search(text):  # rare, so that nobody else pays for looking at every text
            _prove_text(values)
    except DecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DecodeError(Code.BAD_FRAME, f"not JSON: {type(error).__name__}") from error
    return values


def _read_line(line: str) -> object:
    line = line.strip(" \t\r")  # what JSON calls space, but for the line break
    value, end = _DECODER.raw_decode(line)  # `decode` would look for space with two regular expressions
    if end != len(line):
        raise DecodeError(Code.BAD_FRAME, "not JSON: more than one value on a line")
    return value


def _map(pairs: list[tuple[str, object]]) -> object:
    if len(pairs) == 1:
        key, item = pairs[0]
        if key[:1] == "$":
            return {key[1:]: item} if key[1:2] == "$" else _value_of_tag(key, item)
    result = dict(pairs)
    if len(result) != len(pairs):
        raise DecodeError(Code.BAD_FRAME, "a map names a key twice")
    return result


def _value_of_tag(tag: str, item: object) -> object:
    read = _READERS.get(tag)
    if read is None or type(item) is not str:
        raise DecodeError(Code.BAD_FRAME, "unknown tag")
    try:
        return read(item)
    except (ValueError, Refusal) as error:
        raise DecodeError(Code.BAD_FRAME, "not the value its tag says", field=tag) from error


def _shaped(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(pattern, re.ASCII).fullmatch


_PLAIN_DECIMAL: Final = _shaped(r"-?\d+(?:\.\d+)?")
_ANY_DECIMAL: Final = _shaped(r"-?\d{1,64}(?:\.\d{1,128})?(?:[Ee][+-]?\d{1,3})?")
_INTEGER: Final = _shaped(r"-?\d{1,19}")
_TIME: Final = _shaped(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z")
_HALF_PAIR: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _read_decimal(text: str) -> Decimal:
    if len(text) <= MAX_DECIMAL_DIGITS and _PLAIN_DECIMAL(text):  # too short to be over a limit
        value = Decimal(text)
        return value if value else value.copy_abs()
    if not _ANY_DECIMAL(text):
        raise ValueError("not a Decimal")
    return cast(Decimal, check_value(Decimal(text), 0))


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read_time(text: str) -> datetime:
    if not _TIME(text):
        raise ValueError("not a timestamp")
    return datetime.fromisoformat(text)


def _read_long(text: str) -> int:
    if not _INTEGER(text):
        raise ValueError("not an integer")
    return cast(int, check_value(int(text), 0))


_READERS: Final[dict[str, Callable[[str], object]]] = {
    "$d": _read_decimal,
    "$b": _read_bytes,
    "$t": _read_time,
    "$i": _read_long,
}


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DecodeError(Code.BAD_FRAME, "numbers are finite")
    return value


def _read_int(text: str) -> int:
    # Looked at before it is read, which takes time by the square of its length.
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
        raise DecodeError(Code.BAD_FRAME, "an integer must fit 64 bits")
    return value


def _no_constant(text: str) -> object:
    raise DecodeError(Code.BAD_FRAME, f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_map, parse_float=_read_float, parse_int=_read_int, parse_constant=_no_constant, strict=True
)


def _prove_text(value: object) -> None:
    """Prove that no text in *value* holds half a surrogate pair, which JSON can escape and UTF-8 cannot carry."""
    if type(value) is str:
        value.encode()  # raises a ValueError
    elif type(value) is list:
        for item in value:
            _prove_text(item)
    elif type(value) is dict:
        for key, item in value.items():
            key.encode()
            _prove_text(item)
