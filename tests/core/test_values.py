"""The type table: what it carries, what it refuses and where it says so, and when two values are the same."""

from __future__ import annotations

import decimal
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from types import MappingProxyType
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import Document, InvalidValue, Value, checked, checked_document, same
from rtsync.core._msgpack import pack
from rtsync.core._values import MAX_DECIMAL_DIGITS, MAX_DEPTH
from tests.strategies import documents, few_leaves, fingerprint, values


class Side(IntEnum):
    BUY = 1


class Money(Decimal):
    pass


def nested(depth: int, innermost: object = None) -> object:
    """Return *innermost* inside *depth* lists and maps."""
    for level in range(depth):
        innermost = {"k": innermost} if level % 2 else [innermost]
    return innermost


# ---- what is carried -----------------------------------------------------------------------------------------------


@given(documents())
def test_carried_document_is_copied_without_a_change(document: Document) -> None:
    """Everything of the type table passes as it is."""
    copy = checked_document(document)
    assert fingerprint(copy) == fingerprint(document)
    assert copy is not document


def test_later_changes_by_the_caller_reach_neither_maps_nor_lists() -> None:
    """A checked document is a deep copy."""
    inner: dict[str, object] = {"c": 1}
    rows: list[object] = [inner]
    document = {"a": {"b": rows}}
    copy = checked_document(document)
    inner["c"] = 2
    rows.append(3)
    document["a"]["d"] = []
    assert copy == {"a": {"b": [{"c": 1}]}}


def test_any_mapping_is_a_document() -> None:
    """Publishers may hand in what reads like a map."""
    assert checked_document(MappingProxyType({"a": 1})) == {"a": 1}
    assert checked_document(OrderedDict(a=1)) == {"a": 1}


def test_deepest_nesting_is_carried() -> None:
    """The limit itself is legal."""
    assert checked(nested(MAX_DEPTH)) == nested(MAX_DEPTH)


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 0])
def test_integers_of_64_bits_are_carried(value: int) -> None:
    """Both ends of the range are legal."""
    assert checked(value) == value


@pytest.mark.parametrize(
    "value",
    [
        Decimal("9" * MAX_DECIMAL_DIGITS),
        Decimal((1, (9,) * MAX_DECIMAL_DIGITS, -128)),
        Decimal((0, (9,) * MAX_DECIMAL_DIGITS, 127)),
        Decimal((0, (0,), -128)),
        Decimal((0, (0,), 127)),
        Decimal("1E+5"),
        Decimal("0.00"),
        Decimal("100.00"),
    ],
)
def test_decimals_within_bounds_are_carried_digit_by_digit(value: Decimal) -> None:
    """Trailing zeros and exponents are kept, to the limits of both."""
    assert cast(Decimal, checked(value)).as_tuple() == value.as_tuple()


@pytest.mark.parametrize(("value", "carried"), [("-0", "0"), ("-0.00", "0.00"), ("-0E+5", "0E+5"), ("-0E-100", "0E-100")])
def test_negative_zero_of_a_decimal_loses_its_sign_and_nothing_else(value: str, carried: str) -> None:
    """There is one Decimal zero for each exponent, whatever the thread's context would round it to."""
    with decimal.localcontext(decimal.Context(prec=1, Emin=-1, Emax=1, traps=[])):
        assert str(checked(Decimal(value))) == carried


def test_negative_zero_of_a_float_is_kept() -> None:
    """Both codecs carry it."""
    assert str(checked(-0.0)) == "-0.0"


def test_timestamps_arrive_in_utc() -> None:
    """The zone is not carried, the instant is."""
    local = datetime(2021, 10, 28, 12, 30, 0, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    carried = cast(datetime, checked(local))
    assert carried.isoformat() == "2021-10-28T07:00:00.000005+00:00"
    assert carried.tzinfo is UTC


# ---- what is refused -----------------------------------------------------------------------------------------------

TOO_MANY_DIGITS = Decimal("1" * (MAX_DECIMAL_DIGITS + 1))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (float("nan"), "nan is not a finite number"),
        (float("inf"), "inf is not a finite number"),
        (float("-inf"), "-inf is not a finite number"),
        (2**63, "must fit 64 bits"),
        (-(2**63) - 1, "must fit 64 bits"),
        (2**64, "must fit 64 bits"),
        (Decimal("NaN"), "not a finite number"),
        (Decimal("sNaN123"), "not a finite number"),
        (Decimal("-Infinity"), "not a finite number"),
        (Decimal("1E+128"), "exponent lies in -128..127, not 128"),
        (Decimal("1E-129"), "exponent lies in -128..127, not -129"),
        (Decimal("0E+128"), "exponent lies in -128..127, not 128"),
        (Decimal("1E+999999"), "exponent lies in -128..127, not 999999"),
        (TOO_MANY_DIGITS, "at most 64 digits, not 65"),
        (TOO_MANY_DIGITS.scaleb(-30, decimal.Context(prec=99)), "at most 64 digits, not 65"),
        ("\ud800", "lone surrogates"),
        ("ok \udfff", "lone surrogates"),
        (datetime(2021, 10, 28), "needs a time zone"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "outside the years 1 to 9999"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "outside the years 1 to 9999"),
        ((1, 2), "tuples are not carried; use a list"),
        ({1, 2}, "set is not carried"),
        (date(2021, 10, 28), "date is not carried"),
        (bytearray(b"x"), "bytearray is not carried"),
        (1j, "complex is not carried"),
        (object(), "object is not carried"),
        (Side.BUY, "Side is not carried"),
        (Money("1"), "Money is not carried"),
        (OrderedDict(a=1), "OrderedDict is not carried"),
        ({1: 2}, "keys are text, not int"),
        ({b"a": 2}, "keys are text, not bytes"),
        ({None: 2}, "keys are text, not NoneType"),
        ({"\ud800": 2}, "lone surrogates"),
        (nested(MAX_DEPTH + 1), "nested deeper than 32"),
    ],
)
def test_value_outside_the_type_table_is_refused_with_the_reason(value: object, problem: str) -> None:
    """What would fail or change in a codec fails at publish."""
    with pytest.raises(InvalidValue, match=r"^value") as caught:
        checked(value)
    assert problem in caught.value.problem


@pytest.mark.parametrize("document", [None, [], "x", 5, [("a", 1)]])
def test_document_that_is_no_map_is_refused(document: object) -> None:
    """Only maps are documents."""
    with pytest.raises(InvalidValue, match="a document is a map with text keys, not"):
        checked_document(document)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"positions": {"ETH-USD": {"qty": float("nan")}}}, "document.positions.ETH-USD.qty"),
        ({"rows": [0, [1, {"a": (1,)}]]}, "document.rows[1][1].a"),
        ({"a": {1: 2}}, "document.a"),
        ({1: 2}, "document"),
        ({"": object()}, "document."),
        ({"a\nb": object()}, r"document['a\nb']"),
        ({"\x1b[31m": {"b": object()}}, r"document['\x1b[31m'].b"),
    ],
)
def test_refusal_names_the_path_and_nothing_that_could_forge_a_log_line(document: object, path: str) -> None:
    """The field is a path from the name the caller gave, with control characters quoted."""
    with pytest.raises(InvalidValue) as caught:
        checked_document(document)
    assert caught.value.field == path
    assert str(caught.value) == f"{path}: {caught.value.problem}"


def test_refusal_shortens_a_key_of_any_length() -> None:
    """A key of 10 kB does not make a message of 10 kB."""
    with pytest.raises(InvalidValue) as caught:
        checked({"k" * 10_000: object()}, "event")
    assert len(str(caught.value)) < 300


def test_document_that_holds_itself_is_refused() -> None:
    """Endless nesting ends at the depth limit, not in a RecursionError."""
    document: dict[str, object] = {}
    document["me"] = document
    with pytest.raises(InvalidValue, match="nested deeper than 32"):
        checked_document(document)


# ---- when two values are the same ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0, None),
        (1, Decimal("1")),
        (1.0, Decimal("1")),
        (Decimal("1"), Decimal("1.0")),
        (Decimal("100"), Decimal("1E+2")),
        (0.0, -0.0),
        ("1", 1),
        ("x", b"x"),
        ([], {}),
        ([1], [1.0]),
        ([1], [1, 1]),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"b": 1}),
        ({"a": None}, {}),
        ({"a": {"b": 0.0}}, {"a": {"b": -0.0}}),
        ("é", "e\u0301"),
    ],
)
def test_values_that_merely_compare_equal_are_not_the_same(a: Value, b: Value) -> None:
    """Sameness is by type, sign, exponent and order, since the encodings differ by them."""
    assert not same(a, b)
    assert not same(b, a)


@given(values())
def test_value_is_the_same_as_its_copy(value: Value) -> None:
    """Sameness does not depend on identity."""
    assert same(value, checked(value))


@given(values(leaves=few_leaves), values(leaves=few_leaves))
def test_values_are_the_same_exactly_if_their_details_are(a: Value, b: Value) -> None:
    """The rule agrees with one that looks at every detail on its own."""
    assert same(a, b) is (fingerprint(a) == fingerprint(b))


@given(st.tuples(few_leaves, few_leaves))
def test_scalars_are_the_same_exactly_if_their_encodings_are(pair: tuple[Value, Value]) -> None:
    """*Same* means: one could be sent in place of the other."""
    a, b = pair
    assert same(a, b) is (pack(a) == pack(b))
