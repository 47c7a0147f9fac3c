"""Channel names have one spelling, and patterns put values in and take the same values out."""

from __future__ import annotations

import dataclasses
import re
import string
from unicodedata import normalize

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rtsync.core._errors import InvalidName
from rtsync.core._names import MAX_NAME_BYTES, Channel, FamilyPattern, parse_channel

UNRESERVED = string.ascii_letters + string.digits + "_.~-"

# ---- what a peer may name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "news",
        "prices:BTC-USD",
        "prices:BTC%2FUSD",
        "portfolio:auth0%7C1",
        "a:b:c:d",
        "x:a%3Ab",
        "x:%2A",
        "x:%3E",
        "x:%24y",
        "x:~._-09AZaz",
        "x:%C3%A5",
        "x:%F0%9F%9A%80",
        "x:" + "a" * (MAX_NAME_BYTES - 2),
    ],
)
def test_canonical_name_is_taken_as_it_is(text: str) -> None:
    """A canonical name is its own channel."""
    assert parse_channel(text) == text


@pytest.mark.parametrize(
    ("text", "why", "canonical"),
    [
        ("prices:BTC/USD", "stand for themselves", "prices:BTC%2FUSD"),
        ("portfolio:auth0|1", "stand for themselves", "portfolio:auth0%7C1"),
        ("x: ", "stand for themselves", "x:%20"),
        ("x:*", "stand for themselves", "x:%2A"),
        ("x:>", "stand for themselves", "x:%3E"),
        ("x:{y}", "stand for themselves", "x:%7By%7D"),
        ("x:å", "stand for themselves", "x:%C3%A5"),
        ("x:BTC%2fUSD", "upper-case", "x:BTC%2FUSD"),
        ("x:%c3%A5", "upper-case", "x:%C3%A5"),
        ("x:%41", "escapes what stands for itself", "x:A"),
        ("x:%2D%7E", "escapes what stands for itself", "x:-~"),
        ("x:a%CC%8A", "normal form C", "x:%C3%A5"),
        ("x:a\u030a", "stand for themselves", "x:%C3%A5"),
    ],
)
def test_other_spelling_is_refused_with_reason_and_canonical_form(text: str, why: str, canonical: str) -> None:
    """A peer that spells a name differently is told why and how to spell it."""
    with pytest.raises(InvalidName, match=why) as caught:
        parse_channel(text)
    assert caught.value.field == "channel"
    assert caught.value.problem.endswith(f"write {canonical}")
    assert parse_channel(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "must be text, is NoneType"),
        (7, "must be text, is int"),
        (b"news", "must be text, is bytes"),
        (["news"], "must be text, is list"),
        ("", "empty segment"),
        (":", "empty segment"),
        ("a::b", "empty segment"),
        ("a:", "empty segment"),
        (":a", "empty segment"),
        ("$probe", "reserved"),
        ("x:%", "without two hex digits"),
        ("x:%4", "without two hex digits"),
        ("x:%zz", "without two hex digits"),
        ("x:%%41", "without two hex digits"),
        ("x:%FF", "not valid UTF-8"),
        ("x:%C3", "not valid UTF-8"),
        ("x:%C0%80", "not valid UTF-8"),
        ("x:%ED%A0%80", "not valid UTF-8"),
        ("x:\ud800", "not valid UTF-8"),
        ("x:a\r\nb", "control character"),
        ("x:%0D%0A", "control character"),
        ("x:%00", "control character"),
        ("x:\x7f", "control character"),
        ("x:%C2%85", "control character"),
        ("x:" + "a" * (MAX_NAME_BYTES - 1), "longer than 200 bytes"),
        ("a" * 65536, "longer than 200 bytes"),
        ("x:" + "%20" * 67, "longer than 200 bytes"),
        ("x:" + "é" * 40, "canonical form exceeds 200 bytes"),
    ],
)
def test_text_without_canonical_form_is_refused_with_reason(text: object, why: str) -> None:
    """What cannot be any channel's name says why."""
    with pytest.raises(InvalidName, match=why):
        parse_channel(text)


@given(st.text() | st.text(alphabet="ab:%2FfC3A5é$\r\x85|", max_size=20))
def test_any_text_is_canonical_or_refused_with_a_canonical_remedy(text: str) -> None:
    """Nothing but `InvalidName` comes out, its message is one printable ASCII line, and its advice is accepted."""
    try:
        channel = parse_channel(text)
    except InvalidName as error:
        assert str(error).isascii() and str(error).isprintable()
        if advice := re.search(r"write (\S+)$", error.problem):
            assert parse_channel(advice[1]) != text
    else:
        assert channel == text
        assert re.fullmatch(r"[A-Za-z0-9_.~:%-]{1,200}", text)


# ---- what a family may be called -----------------------------------------------------------------------------------


def test_pattern_knows_its_name_and_parameters_in_declared_order() -> None:
    """A pattern can be shown and asked."""
    pattern = FamilyPattern("book:{symbol}:depth:{levels_2}")
    assert pattern.name == str(pattern) == "book:{symbol}:depth:{levels_2}"
    assert pattern.parameters == ("symbol", "levels_2")
    assert repr(pattern) == "FamilyPattern(name='book:{symbol}:depth:{levels_2}')"


def test_patterns_are_equal_by_text_and_frozen() -> None:
    """A pattern is a value."""
    pattern = FamilyPattern("prices:{symbol}")
    assert pattern == FamilyPattern("prices:{symbol}") != FamilyPattern("prices:{name}")
    assert len({pattern, FamilyPattern("prices:{symbol}")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        pattern.name = "other"  # type: ignore[misc]


def test_pattern_without_parameters_names_one_channel() -> None:
    """A literal pattern is the family of one channel."""
    pattern = FamilyPattern("news")
    assert pattern.channel() == "news"
    assert pattern.match(Channel("news")) == {}
    assert pattern.match(Channel("news:x")) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "a:",
        ":a",
        "a::b",
        "$a",
        "a b",
        "a/b",
        "{}",
        "{A}",
        "{1a}",
        "{a-b}",
        "p{a}",
        "{a}p",
        "{a}{b}",
        "a:%41",
        "é",
        "a\n",
        "{a}\n",
    ],
)
def test_illegal_pattern_is_refused(name: str) -> None:
    """A segment is a plain literal or exactly one parameter."""
    with pytest.raises(InvalidName, match="neither a literal") as caught:
        FamilyPattern(name)
    assert str(caught.value).isascii() and str(caught.value).isprintable()


def test_pattern_that_is_not_text_is_refused() -> None:
    """The error says what was given."""
    with pytest.raises(InvalidName, match="pattern: must be text, is bytes"):
        FamilyPattern(b"news")  # type: ignore[arg-type]


def test_pattern_with_a_repeated_parameter_is_refused() -> None:
    """A value has one place."""
    with pytest.raises(InvalidName, match="twice"):
        FamilyPattern("pairs:{a}:{a}")


def test_pattern_must_leave_room_for_its_values() -> None:
    """A family whose every channel is too long is refused when it is declared."""
    FamilyPattern("a" * (MAX_NAME_BYTES - 2) + ":{x}").channel("b")
    with pytest.raises(InvalidName, match="longer than 200 bytes"):
        FamilyPattern("a" * (MAX_NAME_BYTES - 1) + ":{x}")


# ---- values in, values out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("BTC-USD", "BTC-USD"),
        ("BTC/USD", "BTC%2FUSD"),
        ("auth0|1", "auth0%7C1"),
        ("a:b", "a%3Ab"),
        ("*", "%2A"),
        (">", "%3E"),
        ("a.b", "a.b"),
        (" ", "%20"),
        ("%41", "%2541"),
        ("{x}", "%7Bx%7D"),
        ("$x", "%24x"),
        ("é", "%C3%A9"),
        ("🚀", "%F0%9F%9A%80"),
    ],
)
def test_value_stays_one_segment(value: str, segment: str) -> None:
    """Whatever a value looks like, it is one parameter."""
    pattern = FamilyPattern("x:{value}")
    channel = pattern.channel(value)
    assert channel == f"x:{segment}"
    assert pattern.match(channel) == {"value": value}


def test_values_are_given_by_order_or_by_name() -> None:
    """Both ways of calling name the same channel, also for a parameter called self."""
    pattern = FamilyPattern("book:{symbol}:{self}")
    assert pattern.channel("BTC", "10") == pattern.channel("BTC", self="10") == pattern.channel(self="10", symbol="BTC")


@pytest.mark.parametrize(
    ("values", "params", "why"),
    [
        ((), {}, "needs a value for symbol, depth"),
        (("a",), {}, "needs a value for depth"),
        (("a", "b", "c"), {}, "has 2 parameters, got 3"),
        (("a", "b"), {"depth": "c"}, "depth is given twice"),
        (("a", "b"), {"levels": "c"}, "no parameter 'levels'"),
    ],
)
def test_missing_or_surplus_values_are_refused(values: tuple[str, ...], params: dict[str, str], why: str) -> None:
    """Every parameter needs exactly one value."""
    with pytest.raises(InvalidName, match=why) as caught:
        FamilyPattern("book:{symbol}:{depth}").channel(*values, **params)
    assert caught.value.field == "book:{symbol}:{depth}"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "is empty"),
        ("a\r\nb", "control character"),
        ("\x00", "control character"),
        ("\x85", "control character"),
        ("a\u030a", "normal form C"),
        ("\ud800", "lone surrogate"),
        (42, "must be text, is int"),
        (None, "must be text, is NoneType"),
    ],
)
def test_illegal_value_is_refused_by_parameter_name(value: str, why: str) -> None:
    """The error names the family and the parameter."""
    with pytest.raises(InvalidName, match=why) as caught:
        FamilyPattern("prices:{symbol}").channel(value)
    assert caught.value.field == "prices:{symbol}.symbol"


def test_name_over_the_limit_is_refused_when_it_is_made() -> None:
    """The limit counts the bytes of the canonical form."""
    pattern = FamilyPattern("x:{value}")
    assert len(pattern.channel("é" * 33)) == 200
    with pytest.raises(InvalidName, match="206 bytes, at most 200"):
        pattern.channel("é" * 34)


@pytest.mark.parametrize("channel", ["prices", "prices:a:b", "Prices:a", "price:a", "prices.a", "xprices:a"])
def test_name_of_another_shape_does_not_match(channel: str) -> None:
    """Literals match exactly, case included, and parameters take one segment."""
    assert FamilyPattern("prices:{symbol}").match(Channel(channel)) is None


def test_dot_in_a_literal_is_no_wildcard() -> None:
    """A literal means itself."""
    assert FamilyPattern("a.b:{x}").match(Channel("axb:1")) is None


def _fits(value: str) -> bool:
    return bool(value) and not re.search(r"[\x00-\x1f\x7f-\x9f]", value)


_values = st.text(max_size=12).map(lambda text: normalize("NFC", text)).filter(_fits)


@given(st.lists(_values, min_size=1, max_size=3))
def test_values_come_back_as_they_went_in(values: list[str]) -> None:
    """Round trip: `match` undoes `channel`, and the channel is canonical."""
    pattern = FamilyPattern(":".join(["x", *(f"{{p{index}}}" for index in range(len(values)))]))
    try:
        channel = pattern.channel(*values)
    except InvalidName:
        assume(False)
    assert pattern.match(channel) == dict(zip(pattern.parameters, values, strict=True))
    assert parse_channel(str(channel)) == channel


@given(st.tuples(_values, _values), st.tuples(_values, _values))
def test_different_values_never_share_a_channel(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Injectivity: equal names mean equal values."""
    pattern = FamilyPattern("x:{a}:{b}")
    try:
        channels = pattern.channel(*one), pattern.channel(*other)
    except InvalidName:
        assume(False)
    assert (channels[0] == channels[1]) == (one == other)


@given(_values, st.data())
def test_every_other_spelling_of_a_name_is_refused(value: str, data: st.DataObject) -> None:
    """Of all ways to escape a value's bytes, exactly the canonical one is accepted."""
    assume(len(value.encode()) < 60)
    channel = FamilyPattern("x:{value}").channel(value)

    def spellings(byte: int) -> list[str]:
        raw = [chr(byte)] if byte < 0x80 and chr(byte) not in ":%" else []
        return [*raw, f"%{byte:02X}", f"%{byte:02x}"]

    respelt = "x:" + "".join(data.draw(st.sampled_from(spellings(byte))) for byte in value.encode())
    if respelt == channel:
        assert parse_channel(respelt) == channel
    else:
        with pytest.raises(InvalidName) as caught:
            parse_channel(respelt)
        assert caught.value.problem.endswith(f"write {channel}")


# ---- families must not overlap -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("news", "news", True),
        ("news", "News", False),
        ("prices:{symbol}", "prices:{name}", True),
        ("prices:{symbol}", "prices:BTC", True),
        ("prices:{symbol}", "quotes:{symbol}", False),
        ("prices:{symbol}", "prices:{symbol}:last", False),
        ("{kind}:BTC", "prices:{symbol}", True),
        ("a:{x}:b", "a:{x}:c", False),
        ("{x}:" + "a" * 150, "b" * 150 + ":{y}", False),
        ("{x}:" + "a" * 100, "b" * 99 + ":{y}", True),
    ],
)
def test_overlap_is_whether_one_channel_could_match_both(one: str, other: str, overlap: bool) -> None:
    """Two families clash when some legal name belongs to both; the question is symmetric."""
    assert FamilyPattern(one).overlaps(FamilyPattern(other)) is overlap
    assert FamilyPattern(other).overlaps(FamilyPattern(one)) is overlap


_segments = st.sampled_from(["a", "b", "{x}", "{y}", "{z}"])
_patterns = st.lists(_segments, min_size=1, max_size=3, unique=True).map(lambda parts: FamilyPattern(":".join(parts)))


@given(_patterns, _patterns)
def test_overlap_agrees_with_trying_names(one: FamilyPattern, other: FamilyPattern) -> None:
    """Patterns over few literals overlap exactly when one of all short names matches both."""
    names = [""]
    for _ in one.name.split(":"):
        names = [f"{name}:{segment}" if name else segment for name in names for segment in "abc"]
    common = [name for name in names if one.match(Channel(name)) is not None and other.match(Channel(name)) is not None]
    assert one.overlaps(other) == bool(common)
