"""JSON: the type table there and back by tags, text that a stranger can check by hand, and DecodeError for the rest."""

from __future__ import annotations

import decimal
import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtsync.core import DecodeError, Limits
from rtsync.core._json import dumps, loads_many
from rtsync.core._msgpack import pack, unpack
from tests.strategies import decimals, fingerprint, timestamps, values

WIDE = Limits(1 << 20, 100, 100_000)


def loads(text: str) -> object:
    """Return the one value in *text*."""
    (value,) = loads_many(text, WIDE)
    return value


# ---- there and back ------------------------------------------------------------------------------------------------


@given(values())
def test_value_of_any_type_returns_as_it_was(value: object) -> None:
    """Type, sign, digits, exponent, microseconds: nothing is lost."""
    assert fingerprint(loads(dumps(value))) == fingerprint(value)


@given(values())
def test_both_codecs_carry_the_same_value(value: object) -> None:
    """What msgpack returns and what JSON returns cannot be told apart."""
    assert fingerprint(loads(dumps(value))) == fingerprint(unpack(pack(value)))


@given(values())
def test_text_is_one_line_of_standard_json(value: object) -> None:
    """Any parser reads it, and a line break always ends a value."""
    text = dumps(value)
    assert "\n" not in text
    json.loads(text)
    text.encode()


@given(st.lists(values(), max_size=4))
def test_values_on_lines_return_in_order(many: list[object]) -> None:
    """A message is its frames, one a line."""
    assert fingerprint(loads_many("".join(dumps(value) + "\n" for value in many), WIDE)) == fingerprint(many)


@given(decimals)
@example(Decimal((0, (9,) * 64, 127)))
@example(Decimal((1, (9,) * 64, -128)))
@example(Decimal("1E+5"))
@example(Decimal("0E+9"))
def test_decimal_is_exact_whatever_the_context_of_the_thread(value: Decimal) -> None:
    """A context that rounds to one digit, writes a small e and traps everything changes neither side."""
    harsh = decimal.Context(prec=1, Emin=0, Emax=0, capitals=0, clamp=1, traps=[decimal.Inexact, decimal.Rounded])
    with decimal.localcontext(harsh):
        back = loads(dumps(value))
    assert isinstance(back, Decimal)
    assert back.as_tuple() == value.as_tuple()


@given(timestamps)
def test_timestamp_is_exact_to_the_microsecond(value: datetime) -> None:
    """From the year 1 to 9999."""
    assert loads(dumps(value)) == value


# ---- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (2**53 - 1, "9007199254740991"),
        (2**53, '{"$i":"9007199254740992"}'),
        (-(2**53) + 1, "-9007199254740991"),
        (-(2**53), '{"$i":"-9007199254740992"}'),
        (2**63 - 1, '{"$i":"9223372036854775807"}'),
        (-(2**63), '{"$i":"-9223372036854775808"}'),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e300, "1e+300"),
        ("é\n\x00🚀", '"é\\n\\u0000🚀"'),
        (b"", '{"$b":""}'),
        (b"\x00\xff", '{"$b":"AP8="}'),
        (Decimal("4215.50"), '{"$d":"4215.50"}'),
        (Decimal("0.00"), '{"$d":"0.00"}'),
        (Decimal("1E+5"), '{"$d":"1E+5"}'),
        (Decimal("1.20E-10"), '{"$d":"1.20E-10"}'),
        (datetime(2021, 10, 28, 12, 30, tzinfo=UTC), '{"$t":"2021-10-28T12:30:00Z"}'),
        (datetime(1, 1, 1, 0, 0, 0, 5, tzinfo=UTC), '{"$t":"0001-01-01T00:00:00.000005Z"}'),
        ([1, (2,)], "[1,[2]]"),
        ({}, "{}"),
        ({"__proto__": 1}, '{"__proto__":1}'),
        # one key that begins with $ would be a tag, so it gets one more
        ({"$d": "1"}, '{"$$d":"1"}'),
        ({"$": 1}, '{"$$":1}'),
        ({"$$x": 1}, '{"$$$x":1}'),
        ({"$d": {"$d": Decimal(1)}}, '{"$$d":{"$$d":{"$d":"1"}}}'),
        ({"$d": 1, "$b": 2}, '{"$d":1,"$b":2}'),
        ({'"': 1}, '{"\\"":1}'),
    ],
)
def test_text_is_as_the_protocol_says(value: object, text: str) -> None:
    """A stranger's codec can be checked against these."""
    assert dumps(value) == text
    assert loads(text) == (value if value != [1, (2,)] else [1, [2]])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (' { "a" : 1 } ', {"a": 1}),
        ('{"$i":"5"}', 5),
        ('{"$d":"007.50"}', Decimal("7.50")),
        ('{"$d":"1e5"}', Decimal("1E+5")),
        ('{"$d":"1E-128"}', Decimal("1E-128")),
        ('{"$d":"-0"}', Decimal("0")),
        ('{"$d":"-0E+5"}', Decimal("0E+5")),
        ('{"$d":"0.' + "0" * 127 + '1"}', Decimal("1E-128")),
        ('{"$t":"2021-10-28T12:30:00.1Z"}', datetime(2021, 10, 28, 12, 30, 0, 100_000, tzinfo=UTC)),
        ('{"$t":"2021-10-28T12:30:00.123456789Z"}', datetime(2021, 10, 28, 12, 30, 0, 123_456, tzinfo=UTC)),
        ('"\\ud83d\\ude80"', "🚀"),
        ('["\\\\ud800"]', ["\\ud800"]),
        ('{"\\ud83d\\ude80":["\\ud83d\\ude80",1,{"a":"\\ud83d\\ude80"}]}', {"🚀": ["🚀", 1, {"a": "🚀"}]}),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1E2", 100.0),
        ("-0", 0),
    ],
)
def test_other_spelling_of_the_same_value_is_read(text: str, value: object) -> None:
    """Readers are generous where nothing can be mistaken."""
    assert fingerprint(loads(text)) == fingerprint(value)


def test_empty_lines_are_skipped() -> None:
    """A message may end with a line break, or be empty."""
    assert loads_many("\n1\n\n2\n", WIDE) == [1, 2]
    assert loads_many("", WIDE) == []


# ---- what is not in the type table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), float("inf"), [float("-inf")]])
def test_value_outside_the_table_is_not_written(value: object) -> None:
    """Should one slip past the check of a publish, the writer fails instead of sending something else."""
    with pytest.raises((KeyError, ValueError)):
        dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[1",
        "[1]]",
        "[1]x",
        "1 2",
        "[1,]",
        '{"a"}',
        "{a:1}",
        "{1:1}",
        "'a'",
        '"a',
        '"a\tb"',
        '"\\x41"',
        "\\",
        "\ufeff1",
        "NaN",
        "Infinity",
        "-Infinity",
        "[NaN]",
        "1e400",
        "-1e400",
        "9223372036854775808",
        "-9223372036854775809",
        "1" * 5_000,
        "01",
        ".5",
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":1}',
        '{"$d":"1","$d":"1"}',
        '{"$x":1}',
        '{"$":1}',
        '{"$d":1}',
        '{"$d":null}',
        '{"$d":["1"]}',
        '{"$d":""}',
        '{"$d":"NaN"}',
        '{"$d":"Infinity"}',
        '{"$d":"sNaN1"}',
        '{"$d":"1_0"}',
        '{"$d":" 1"}',
        '{"$d":"1 "}',
        '{"$d":"+1"}',
        '{"$d":".5"}',
        '{"$d":"5."}',
        '{"$d":"1\\n"}',
        '{"$d":"\u0661"}',
        '{"$d":"1E+128"}',
        '{"$d":"1E-129"}',
        '{"$d":"1E+9999"}',
        '{"$d":"' + "1" * 65 + '"}',
        '{"$d":"' + "1" * 33 + "." + "1" * 32 + '"}',
        '{"$b":"A"}',
        '{"$b":"AP8"}',
        '{"$b":"AP8=="}',
        '{"$b":"A P8="}',
        '{"$b":"AP8=AP8="}',
        '{"$b":"AP-_"}',
        '{"$b":"é"}',
        '{"$i":""}',
        '{"$i":"1.0"}',
        '{"$i":" 1"}',
        '{"$i":"1_0"}',
        '{"$i":"+1"}',
        '{"$i":"\u0661"}',
        '{"$i":"9223372036854775808"}',
        '{"$i":"-9223372036854775809"}',
        '{"$i":"99999999999999999999"}',
        '{"$t":""}',
        '{"$t":"2021-10-28"}',
        '{"$t":"2021-10-28T12:30:00"}',
        '{"$t":"2021-10-28T12:30:00+00:00"}',
        '{"$t":"2021-10-28T12:30:00+01:00"}',
        '{"$t":"2021-10-28 12:30:00Z"}',
        '{"$t":"20211028T123000Z"}',
        '{"$t":"2021-W43-4T12:30:00Z"}',
        '{"$t":"2021-10-28T12:30:00.Z"}',
        '{"$t":"2021-10-28T12:30:00.1234567890Z"}',
        '{"$t":"2021-02-30T12:30:00Z"}',
        '{"$t":"2021-10-28T25:30:00Z"}',
        '{"$t":"0000-01-01T00:00:00Z"}',
        '{"$t":"\u0662021-10-28T12:30:00Z"}',
        '"\\ud800"',
        '"\\udfff\\ud800"',
        '["ok","\\uD83D"]',
        '{"\\ud800":1}',
        '{"a":{"b":["\\ud83d\\ud83d"]}}',
        '"\ud800"',
    ],
)
def test_what_is_not_in_the_table_is_a_decode_error(text: str) -> None:
    """Not JSON, not a tag of ours, not the value its tag says, or not text that UTF-8 can carry."""
    with pytest.raises(DecodeError) as caught:
        loads_many(text, WIDE)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 100


def test_integer_is_refused_by_its_length_and_not_by_a_setting_of_the_process() -> None:
    """An application may lift Python's limit on digits; reading 64 KiB of them must not become slow then."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(DecodeError, match="an integer must fit 64 bits"):
            loads_many("1" * 65_536, WIDE)
    finally:
        sys.set_int_max_str_digits(before)


def test_nesting_beyond_what_the_interpreter_bears_is_a_decode_error() -> None:
    """Even limits that are set too wide end in a DecodeError."""
    with pytest.raises(DecodeError, match="RecursionError"):
        loads_many("[" * 5_000 + "]" * 5_000, Limits(1 << 20, 10_000, 1 << 20))


@given(st.text(max_size=60) | st.text('[]{},:"\\$dbti01.eE+-\n u', max_size=60))
def test_arbitrary_text_raises_nothing_but_a_decode_error(text: str) -> None:
    """Whatever the text, it is values or a DecodeError."""
    with suppress(DecodeError):
        loads_many(text, WIDE)


@given(values(), st.data())
def test_value_with_a_changed_character_raises_nothing_but_a_decode_error(value: object, data: st.DataObject) -> None:
    """Nearly valid text reaches further into the decoder than random text."""
    text = dumps(value)
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from('[]{},:"\\$x1-\n\x00\ud800é'))
    for changed in (text[:at] + new + text[at + 1 :], text[:at] + new + text[at:], text[:at], text + text[at:]):
        with suppress(DecodeError):
            loads_many(changed, WIDE)
