"""The scans before decoding: they never pass what exceeds a limit, and need neither time nor memory to say no."""

from __future__ import annotations

import json
import math
import struct
from datetime import datetime
from decimal import Decimal

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import Code, DecodeError, Limits
from rtsync.core._json import dumps
from rtsync.core._limits import scan_json, scan_msgpack
from rtsync.core._msgpack import pack
from tests.strategies import values

WIDE = Limits(1 << 20, 100, 100_000)
NESTED_ARRAYS = b"\xdc\xff\xff" * 21_845
FRAME = 4
"""Values that a whole frame counts as."""


def nodes(value: object) -> int:
    """Count the values in *value*, keys included, the dear ones for more."""
    if isinstance(value, dict):
        return 3 + sum(1 + nodes(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(map(nodes, value))
    return 5 if isinstance(value, Decimal | datetime) else 1


def depth(value: object) -> int:
    """Count how deep containers are nested in *value*."""
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def extras(value: object) -> tuple[int, int]:
    """Count what JSON needs beyond msgpack: (values for tags and empty containers, at most; levels of tags)."""
    if isinstance(value, dict | list):
        inner = [extras(item) for item in (value.values() if isinstance(value, dict) else value)]
        return (not value) + sum(item[0] for item in inner), max((item[1] for item in inner), default=0)
    return (4 if isinstance(value, int | bytes) else 0), int(isinstance(value, int | bytes | Decimal | datetime))


def passes(value: bytes | str, limits: Limits) -> bool:
    """Return whether the scan of *value* finds nothing."""
    try:
        if isinstance(value, bytes):
            scan_msgpack(value, limits)
        else:
            scan_json(value, limits)
    except DecodeError:
        return False
    return True


# ---- msgpack: the limits -------------------------------------------------------------------------------------------


@given(values())
def test_msgpack_passes_at_each_limit_and_not_beyond(value: object) -> None:
    """Bytes, depth and values are counted exactly."""
    data = pack(value)
    size, levels, count = len(data), depth(value), nodes(value) + FRAME - 1
    assert passes(data, Limits(size, levels, count))
    assert not passes(data, Limits(size - 1, levels, count))
    assert not passes(data, Limits(size, levels, count - 1))
    assert levels == 0 or not passes(data, Limits(size, levels - 1, count))


@given(values())
def test_msgpack_that_was_cut_does_not_pass(value: object) -> None:
    """Every beginning of a value is found to be incomplete."""
    data = pack(value)
    for end in range(1, len(data)):
        assert not passes(data[:end], WIDE)


@given(st.lists(values(), max_size=4))
def test_scan_counts_the_values_back_to_back(many: list[object]) -> None:
    """A message may hold any number of frames."""
    assert scan_msgpack(b"".join(map(pack, many)), WIDE) == len(many)


headers = st.sampled_from([bytes([head]) for head in range(256)])


@given(st.lists(headers | st.binary(max_size=10), max_size=12).map(b"".join))
def test_what_passes_is_complete_for_another_reader_too(data: bytes) -> None:
    """For any bytes, the scan and msgpack's own reader agree on how many values there are."""
    if not passes(data, WIDE):
        return
    reader = msgpack.Unpacker(max_buffer_size=len(data) + 1)
    reader.feed(data)
    for _ in range(scan_msgpack(data, WIDE)):
        reader.skip()
    assert reader.tell() == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc4\x03\x01\x02\x03",
        b"\xc5\x00\x01\x01",
        b"\xc6\x00\x00\x00\x01\x01",
        b"\xd9\x01a",
        b"\xda\x00\x01a",
        b"\xdb\x00\x00\x00\x01a",
        b"\xc7\x02\x01\x00\x01",
        b"\xc8\x00\x02\x01\x00\x01",
        b"\xc9\x00\x00\x00\x02\x01\x00\x01",
        b"\xd4\x01\x00",
        b"\xd5\x01\x00\x00",
        b"\xd6\x01" + bytes(4),
        b"\xd7\x01" + bytes(8),
        b"\xd8\x01" + bytes(16),
        b"\xcc\xff",
        b"\xcd\xff\xff",
        b"\xce\xff\xff\xff\xff",
        b"\xcf\x7f" + b"\xff" * 7,
        b"\xd0\xff",
        b"\xd1\xff\xff",
        b"\xd2\xff\xff\xff\xff",
        b"\xd3" + b"\xff" * 8,
        b"\xca\x3f\x80\x00\x00",
        b"\xcb\x3f\xf0" + bytes(6),
        b"\xdc\x00\x01\xc0",
        b"\xdd\x00\x00\x00\x01\xc0",
        b"\xde\x00\x01\xc0\xc0",
        b"\xdf\x00\x00\x00\x01\xc0\xc0",
        b"\x80",
        b"\x90",
        b"\x81\xa1a\xc2",
        b"\x91\xc3",
        b"\xa0",
        b"\xe0",
        b"\x7f",
    ],
)
def test_every_header_of_msgpack_is_known(data: bytes) -> None:
    """One value each, complete as it is and not a byte earlier."""
    assert scan_msgpack(data, WIDE) == 1
    for end in range(1, len(data)):
        assert not passes(data[:end], WIDE)


def test_empty_message_holds_nothing() -> None:
    """No bytes are no frames, not an error."""
    assert scan_msgpack(b"", WIDE) == 0
    scan_json("", WIDE)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xc1", "0xc1 is not msgpack"),
        (b"\x91\xc1", "0xc1 is not msgpack"),
        (b"\xcf\x80" + bytes(7), "an integer must fit 64 bits"),
        (b"\xcf" + b"\xff" * 8, "an integer must fit 64 bits"),
        (struct.pack(">Bf", 0xCA, math.nan), "numbers are finite"),
        (struct.pack(">Bf", 0xCA, -math.inf), "numbers are finite"),
        (struct.pack(">Bd", 0xCB, math.nan), "numbers are finite"),
        (struct.pack(">Bd", 0xCB, math.inf), "numbers are finite"),
        (b"\xdd\xff\xff\xff\xff", "more than 4096 values"),
        (b"\xdf\xff\xff\xff\xff", "more than 4096 values"),
        (b"\xdc\x10\x00" + b"\xc0" * 4096, "more than 4096 values"),
        (b"\x93" + b"\xdc\x05\x60" * 3, "more than 4096 values"),
        (b"\x91" * 1_000, "nested deeper than 16"),
        (b"\x91" * 16 + b"\x90", "nested deeper than 16"),
        (b"\x91" * 16 + b"\x80", "nested deeper than 16"),
        (NESTED_ARRAYS, "more than 4096 values"),
        (b"\x90" * 65_536, "more than 4096 values"),
        (b"\x80" * 65_536, "more than 4096 values"),
        (b"\xd4\x01\x00" * 2_000, "more than 4096 values"),
        (b"\xdb\xff\xff\xff\xff", "truncated"),
        (b"\xc9\xff\xff\xff\xff\x01", "truncated"),
        (b"\xdd\x00\x00", "truncated"),
        (b"\xcb", "truncated"),
        (b"\xcf", "truncated"),
        (b"\xdc\x00\x02\xc0", "truncated"),
        (b"\x90\x91", "truncated"),
    ],
)
def test_excess_of_msgpack_is_named(data: bytes, problem: str) -> None:
    """What headers promise is believed only as far as the limits go."""
    with pytest.raises(DecodeError, match=problem) as caught:
        scan_msgpack(data, Limits(65_536, 16, 4_096))
    assert caught.value.code is Code.BAD_FRAME


@pytest.mark.parametrize("value", [math.nextafter(math.inf, 0), -math.nextafter(math.inf, 0), 5e-324])
def test_largest_and_smallest_floats_pass(value: float) -> None:
    """Finite is finite, to the last bit."""
    scan_msgpack(struct.pack(">Bd", 0xCB, value), WIDE)


def test_largest_float_of_32_bits_passes() -> None:
    """Finite is finite in both widths."""
    scan_msgpack(b"\xca\x7f\x7f\xff\xff", WIDE)


@pytest.mark.parametrize("message", [bytes(101), "x" * 101, "é" * 51, "🚀" * 26, "é" * 101])
def test_message_over_the_size_is_too_large_whatever_it_holds(message: bytes | str) -> None:
    """Size is counted in bytes as they travel, before anything is looked at."""
    limits = Limits(100, 16, 4_096)
    with pytest.raises(DecodeError, match=r"a message of \d+ bytes; at most 100 are accepted") as caught:
        if isinstance(message, bytes):
            scan_msgpack(message, limits)
        else:
            scan_json(message, limits)
    assert caught.value.code is Code.TOO_LARGE


# ---- JSON: the limits ----------------------------------------------------------------------------------------------


@given(values())
def test_json_never_passes_beyond_a_limit(value: object) -> None:
    """Bytes are counted exactly; depth and values as msgpack counts them, tags and empty containers on top."""
    text = dumps(value)
    size, levels, count = len(text.encode()), depth(value), nodes(value) + FRAME - 1
    more_nodes, more_levels = extras(value)
    assert passes(text, Limits(size, levels + more_levels, count + more_nodes))
    assert not passes(text, Limits(size - 1, 100, 100_000))
    assert not passes(text, Limits(size, 100, count - 1))
    assert levels == 0 or not passes(text, Limits(size, levels - 1, 100_000))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", FRAME),
        ("1\n", FRAME),
        ("1\n1\n", 2 * FRAME),
        ("[1]\n[1]", 2 * FRAME + 2),
        ("[1,2]", FRAME + 2),
        ('{"a":1}', FRAME + 4),
        ('{"a":1,"b":[2]}', FRAME + 7),
        ('["[{,:\\"[{,:","\\\\"]', FRAME + 2),
        ('["a\\\\\\"[",1]', FRAME + 2),
        ('["a\\\\",[1]]', FRAME + 3),
    ],
)
def test_json_counts_values_and_not_what_texts_hold(text: str, count: int) -> None:
    """Brackets, commas and quotes inside texts are text."""
    assert passes(text, Limits(1_000, 16, count))
    assert not passes(text, Limits(1_000, 16, count - 1))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 65_536, "more than 4096 values"),
        ("[" * 4_000, "brackets do not match"),
        ("[" * 17 + "]" * 17, "nested deeper than 16"),
        ('{"a":' * 17 + "1" + "}" * 17, "nested deeper than 16"),
        ("]" * 65_536, "brackets do not match"),
        ("[]]", "brackets do not match"),
        ("}{", "brackets do not match"),
        ("{}" * 32_768, "more than 4096 values"),
        ("\n" * 65_536, "more than 4096 values"),
        ("1\n" * 32_768, "more than 4096 values"),
        ("," * 65_536, "more than 4096 values"),
        ("[" + ",".join(['{"$d":"1"}'] * 1_400) + "]", "more than 4096 values"),
        ('"\ud800"', "lone surrogates"),
    ],
)
def test_excess_of_json_is_named(text: str, problem: str) -> None:
    """Without parsing a single value."""
    with pytest.raises(DecodeError, match=problem) as caught:
        scan_json(text, Limits(65_536, 16, 4_096))
    assert caught.value.code is Code.BAD_FRAME


@given(st.text('[]{},:"\\a1\n', max_size=60))
def test_text_that_parses_within_the_limits_passes_and_deeper_one_does_not(text: str) -> None:
    """For any text, what Python's parser makes of a line never is deeper than the scan believed."""
    try:
        parsed = [json.loads(line) for line in text.split("\n") if line]
    except ValueError:
        return
    deepest = max(map(depth, parsed), default=0)
    assert passes(text, Limits(1_000, deepest, 1_000))
    assert deepest == 0 or not passes(text, Limits(1_000, deepest - 1, 1_000))
