"""
The type table: which values documents and events may hold, and when two of them are the same.

Both codecs carry exactly these types, so a value reads the same in msgpack, in JSON and in every client.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias, cast

from ._errors import InvalidValue

__all__ = [
    "MAX_DECIMAL_DIGITS",
    "MAX_DEPTH",
    "Document",
    "Refusal",
    "Value",
    "check_key",
    "checked",
    "checked_document",
    "same",
]

Value: TypeAlias = "bool | int | float | Decimal | str | bytes | datetime | list[Value] | dict[str, Value] | None"
Document: TypeAlias = "dict[str, Value]"

MAX_DEPTH: Final = 32
"""Deepest nesting of a document or event, counting maps and lists."""

MAX_DECIMAL_DIGITS: Final = 64
"""Most digits of a Decimal; its exponent lies in -128..127, which one byte of the extension holds."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


class Refusal(Exception):
    """Why a value is not carried. The path to it grows from the inside out, so that values that pass pay nothing for it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""

    def within(self, step: object) -> Refusal:
        """Put *step*, a key or an index, in front of the path."""
        if type(step) is str and step.isprintable() and len(step) <= 64:
            self.path = f".{step}{self.path}"
        else:  # quoted, since paths end up in logs
            self.path = f"[{ascii(step)[:64]}]{self.path}"
        return self

    def at(self, field: str) -> InvalidValue:
        """Return the error for the caller, who calls the outermost value *field*."""
        return InvalidValue(field + self.path, self.problem)


def checked_document(document: object, field: str = "document") -> Document:
    """
    Return a deep copy of *document* that holds only carried types, so that later changes by the caller cannot reach it.

    Raises:
        InvalidValue: If it is not a map, or a value in it is not in the type table. Names the path.
    """
    if not isinstance(document, Mapping):
        raise InvalidValue(field, f"a document is a map with text keys, not {type(document).__name__}")
    return cast(Document, checked(dict(document), field))


def checked(value: object, field: str = "value", depth: int = 0) -> Value:
    """Return *value* deep-copied and proven to be in the type table. Raises `InvalidValue` naming the path."""
    try:
        return check_value(value, depth)
    except Refusal as refusal:
        raise refusal.at(field) from None


def same(a: Value, b: Value) -> bool:
    """Return whether two values have the same encoding: ``1``, ``1.0``, ``True`` and ``Decimal("1")`` all differ."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is dict:
        left, right = cast(Document, a), cast(Document, b)
        return len(left) == len(right) and all(key in right and same(value, right[key]) for key, value in left.items())
    if kind is list:
        one, other = cast("list[Value]", a), cast("list[Value]", b)
        return len(one) == len(other) and all(map(same, one, other))
    if kind is float:
        return a == b and math.copysign(1.0, cast(float, a)) == math.copysign(1.0, cast(float, b))
    if kind is Decimal:
        return a == b and cast(Decimal, a).same_quantum(cast(Decimal, b))
    return a == b


# ---- checks of single values: each raises `Refusal` ----------------------------------------------------------------


def check_value(value: object, depth: int) -> Value:
    """Return *value*, which stands *depth* containers deep, deep-copied."""
    check = _CHECKS.get(type(value))
    if check is None:
        raise Refusal(_why_not(value))
    return check(value, depth)


def check_key(key: object) -> str:
    """Return *key* if it is text that UTF-8 can carry."""
    if type(key) is not str:
        raise Refusal(f"keys are text, not {type(key).__name__}")
    _check_text(key, 0)
    return key


def check_depth(depth: int) -> None:
    """Prove that a container may stand *depth* containers deep."""
    if depth >= MAX_DEPTH:
        raise Refusal(f"nested deeper than {MAX_DEPTH}")


def _keep(value: Value, depth: int) -> Value:
    return value


def _check_int(value: int, depth: int) -> Value:
    if not _INT_MIN <= value <= _INT_MAX:
        raise Refusal("an integer must fit 64 bits")
    return value


def _check_float(value: float, depth: int) -> Value:
    if not math.isfinite(value):
        raise Refusal(f"{value} is not a finite number")
    return value


def _check_decimal(value: Decimal, depth: int) -> Value:
    # Nearly every Decimal passes here; a tuple of its digits would cost three times as much.
    if not (value.is_finite() and -64 <= value.adjusted() <= 64 and len(str(value)) <= MAX_DECIMAL_DIGITS):
        _, digits, exponent = value.as_tuple()
        if not isinstance(exponent, int):
            raise Refusal("not a finite number")
        if not -128 <= exponent <= 127:
            raise Refusal(f"a Decimal's exponent lies in -128..127, not {exponent}")
        if len(digits) > MAX_DECIMAL_DIGITS:
            raise Refusal(f"a Decimal has at most {MAX_DECIMAL_DIGITS} digits, not {len(digits)}")
    return value if value else value.copy_abs()  # the extension holds an integer, which has no negative zero


def _check_text(value: str, depth: int) -> Value:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refusal("text must not hold lone surrogates") from None
    return value


def _check_datetime(value: datetime, depth: int) -> Value:
    if value.utcoffset() is None:
        raise Refusal("a timestamp needs a time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise Refusal(f"{value.isoformat()} lies outside the years 1 to 9999 in UTC") from None


def _check_list(value: list[object], depth: int) -> Value:
    check_depth(depth)
    result: list[Value] = []
    try:
        for item in value:
            result.append(check_value(item, depth + 1))
    except Refusal as refusal:
        raise refusal.within(len(result)) from None
    return result


def _check_map(value: dict[object, object], depth: int) -> Value:
    check_depth(depth)
    result: Document = {}
    for key, item in value.items():
        text = check_key(key)
        try:
            result[text] = check_value(item, depth + 1)
        except Refusal as refusal:
            raise refusal.within(text) from None
    return result


def _why_not(value: object) -> str:
    name = type(value).__name__
    if isinstance(value, tuple):
        return "tuples are not carried; use a list"
    return f"{name} is not carried (only None, bool, int, float, Decimal, str, bytes, datetime, list, dict; no subclasses)"


_CHECKS: Final[dict[type, Callable[[Any, int], Value]]] = {
    type(None): _keep,
    bool: _keep,
    int: _check_int,
    float: _check_float,
    Decimal: _check_decimal,
    str: _check_text,
    bytes: _keep,
    datetime: _check_datetime,
    list: _check_list,
    dict: _check_map,
}
