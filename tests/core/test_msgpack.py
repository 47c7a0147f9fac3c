"""msgpack: the type table there and back, bytes that a stranger can check by hand, and nothing but DecodeError for the rest."""

from __future__ import annotations

import decimal
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtsync.core import DecodeError, Limits
from rtsync.core._msgpack import pack, prove_one_value, unpack, unpack_many
from tests.strategies import decimals, fingerprint, integers, timestamps, values

WIDE = Limits(1 << 20, 100, 100_000)

# ---- there and back ------------------------------------------------------------------------------------------------


@given(values())
def test_value_of_any_type_returns_as_it_was(value: object) -> None:
    """Type, sign, digits, exponent, microseconds: nothing is lost."""
    assert fingerprint(unpack(pack(value))) == fingerprint(value)


@given(st.lists(values(), max_size=4))
def test_values_back_to_back_return_in_order(many: list[object]) -> None:
    """A message is its frames, joined."""
    assert fingerprint(unpack_many(b"".join(map(pack, many)), WIDE)) == fingerprint(many)


@given(st.dictionaries(st.integers(-1, 300) | st.text(max_size=3), integers, max_size=5))
def test_numbered_keys_return_where_they_are_expected(document: dict[object, object]) -> None:
    """Only readers that have a key table see numbers for keys."""
    assert unpack_many(pack(document), WIDE, numbered_keys=True) == [document]
    assert unpack(pack(document), numbered_keys=True) == document
    if any(type(key) is int for key in document):
        with pytest.raises(DecodeError, match="map keys are text"):
            unpack(pack(document))


@given(decimals)
@example(Decimal((0, (9,) * 64, 127)))
@example(Decimal((1, (9,) * 64, -128)))
@example(Decimal("1E+5"))
@example(Decimal("0.00"))
@example(Decimal("0E+9"))
@example(Decimal("-12.80"))
def test_decimal_is_exact_whatever_the_context_of_the_thread(value: Decimal) -> None:
    """A context that rounds to one digit and traps everything changes neither side."""
    harsh = decimal.Context(prec=1, Emin=0, Emax=0, capitals=0, clamp=1, traps=[decimal.Inexact, decimal.Rounded])
    with decimal.localcontext(harsh):
        back = unpack(pack(value))
    assert isinstance(back, Decimal)
    assert back.as_tuple() == value.as_tuple()


@given(timestamps)
@example(datetime.min.replace(tzinfo=UTC))
@example(datetime.max.replace(tzinfo=UTC))
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
def test_timestamp_is_exact_to_the_microsecond(value: datetime) -> None:
    """From the year 1 to 9999, before 1970 too."""
    assert unpack(pack(value)) == value


def test_tuples_stand_for_lists() -> None:
    """Frames may be written with tuples; lists are read."""
    assert unpack(pack((1, (2,)))) == [1, [2]]


def test_large_value_outgrows_the_first_buffer() -> None:
    """The packer's small buffer is a beginning, not a limit."""
    value = {str(number): "x" * 100 for number in range(1_000)}
    assert unpack(pack(value)) == value


# ---- bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, "c0"),
        (False, "c2"),
        (True, "c3"),
        (0, "00"),
        (-1, "ff"),
        (2**63 - 1, "cf 7fffffffffffffff"),
        (-(2**63), "d3 8000000000000000"),
        (1.0, "cb 3ff0000000000000"),
        (-0.0, "cb 8000000000000000"),
        ("", "a0"),
        ("é", "a2 c3a9"),
        (b"\x00\xff", "c4 02 00ff"),
        ([], "90"),
        ({"a": None}, "81 a1 61 c0"),
        # ext 1: one signed byte of exponent, then the integer in two's complement, its sign bit its own
        (Decimal("0"), "d5 01 00 00"),
        (Decimal("0.00"), "d5 01 fe 00"),
        (Decimal("1"), "d5 01 00 01"),
        (Decimal("1.5"), "d5 01 ff 0f"),
        (Decimal("-1.5"), "d5 01 ff f1"),
        (Decimal("1E+5"), "d5 01 05 01"),
        (Decimal("12.7"), "d5 01 ff 7f"),
        (Decimal("12.8"), "c7 03 01 ff 0080"),
        (Decimal("4215.50"), "d6 01 fe 066eae"),
        (Decimal("1E+127"), "d5 01 7f 01"),
        (Decimal("1E-128"), "d5 01 80 01"),
        # ext -1: the timestamp of msgpack in 32, 64 and 96 bits
        (datetime(1970, 1, 1, tzinfo=UTC), "d6 ff 00000000"),
        (datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC), "d7 ff 00000fa000000001"),
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), "c7 0c ff 00000000 ffffffffffffffff"),
    ],
)
def test_bytes_are_as_the_protocol_says(value: object, data: str) -> None:
    """A stranger's codec can be checked against these."""
    assert pack(value) == bytes.fromhex(data)
    assert fingerprint(unpack(bytes.fromhex(data))) == fingerprint(value)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("c7 04 01 ff 00000f", Decimal("1.5")),  # an integer longer than it need be
        ("d5 01 00 80", Decimal("-128")),
        ("c7 03 01 00 ff80", Decimal("-128")),
        ("ca 3fc00000", 1.5),  # a float of 32 bits
        ("d7 ff 0000000400000001", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),  # one nanosecond: finer than is carried
    ],
)
def test_other_spelling_of_the_same_value_is_read(data: str, value: object) -> None:
    """Readers are generous where nothing can be mistaken."""
    assert fingerprint(unpack(bytes.fromhex(data))) == fingerprint(value)


# ---- what is not in the type table ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        1j,
        2**64,
        -(2**63) - 1,
        "\ud800",
        datetime(2021, 10, 28),
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("1E+128"),
        Decimal((0, (1,) * 200, -150)),
    ],
)
def test_value_outside_the_table_is_not_packed(value: object) -> None:
    """Should one slip past the check of a publish, the writer fails instead of sending something else."""
    with pytest.raises((TypeError, ValueError, OverflowError, KeyError)):
        pack(value)


# ---- what is not ours ----------------------------------------------------------------------------------------------

BROKEN = [
    ("c1", "a byte that msgpack does not use"),
    ("a2 c3", "cut text"),
    ("a2 c328", "text that is not UTF-8"),
    ("a3 eda080", "half a surrogate pair in UTF-8"),
    ("81 01 c0", "a number for a key"),
    ("81 c4 01 61 c0", "bytes for a key"),
    ("81 c0 c0", "nothing for a key"),
    ("81 91 01 c0", "an array for a key"),
    ("81 80 c0", "a map for a key"),
    ("81 cb 3ff0000000000000 c0", "a float for a key"),
    ("81 d5 01 00 01 c0", "a Decimal for a key"),
    ("82 a1 61 01 a1 61 02", "a key twice"),
    ("d4 00 00", "an extension of nobody"),
    ("d4 02 00", "an extension of nobody"),
    ("c7 00 01", "a Decimal without a body"),
    ("d4 01 00", "a Decimal without an integer"),
    ("c7 1d 01 00" + "01" * 28, "a Decimal with too long an integer"),
    ("c7 1c 01 00" + (10**64).to_bytes(27, "big").hex(), "a Decimal of 65 digits"),
    ("c7 1c 01 00" + (-(10**64)).to_bytes(27, "big", signed=True).hex(), "a negative Decimal of 65 digits"),
    ("d6 ff", "a cut timestamp"),
    ("c7 05 ff 0000000000", "a timestamp of five bytes"),
    ("c7 0c ff 00000000 7fffffffffffffff", "a timestamp of the far future"),
    ("c7 0c ff 00000000 8000000000000000", "a timestamp of the far past"),
    ("d7 ff ffffffff00000000", "a timestamp of too many nanoseconds"),
    ("91" * 2_000, "deep nesting, cut"),
    ("91" * 2_000 + "c0", "deep nesting"),
]


@pytest.mark.parametrize(("data", "what"), BROKEN)
def test_what_is_not_in_the_table_is_a_decode_error(data: str, what: str) -> None:
    """From a peer and from a log alike."""
    raw = bytes.fromhex(data)
    with pytest.raises(DecodeError):
        unpack_many(raw, Limits(1 << 20, 3_000, 100_000))
    with pytest.raises(DecodeError):
        unpack(raw)


@pytest.mark.parametrize("data", ["", "c0 c0", "92 c0", "c0 c1", "c0 91"])
def test_one_value_is_one_whole_value(data: str) -> None:
    """None, two, half of one, and one followed by rubbish are refused where one was expected."""
    with pytest.raises(DecodeError):
        unpack(bytes.fromhex(data))
    with pytest.raises(DecodeError):
        prove_one_value(bytes.fromhex(data))


@pytest.mark.parametrize("key", ["cb 3ff0000000000000", "c3", "c0", "91 01", "c4 01 61"])
def test_only_text_and_numbers_are_keys_where_keys_are_numbered(key: str) -> None:
    """A float or a boolean never passes for the number it equals."""
    with pytest.raises(DecodeError):
        unpack_many(bytes.fromhex(f"81 {key} c0"), WIDE, numbered_keys=True)


def test_numbered_key_twice_is_a_decode_error() -> None:
    """Numbers are unique in a map like any key."""
    with pytest.raises(DecodeError, match="a map names a key twice"):
        unpack_many(bytes.fromhex("82 01 c0 01 c0"), WIDE, numbered_keys=True)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_a_decode_error(data: bytes) -> None:
    """Whatever the bytes, they are values or a DecodeError."""
    for numbered_keys in (False, True):
        with suppress(DecodeError):
            unpack(data, numbered_keys=numbered_keys)
        with suppress(DecodeError):
            unpack_many(data, WIDE, numbered_keys=numbered_keys)


@given(values(), st.data())
def test_value_with_a_changed_byte_raises_nothing_but_a_decode_error(value: object, data: st.DataObject) -> None:
    """Nearly valid bytes reach further into the decoder than random ones."""
    raw = bytearray(pack(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255) | st.sampled_from([0xC1, 0xC7, 0xD4, 0xD6, 0xDD, 0xDF, 0x81, 0x91]))
    for changed in (bytes(raw), bytes(raw[:at]), bytes(raw + raw[at:])):
        with suppress(DecodeError):
            unpack_many(changed, WIDE)
