"""
Channel names: one canonical spelling each, and the patterns that families declare.

A name is segments joined by ``:``. A segment is one value: text in Unicode normal form C without control characters, as UTF-8,
with every byte outside ``A-Z a-z 0-9 _ . ~ -`` written ``%XX`` in upper-case hex, and no other byte escaped. So ``auth0|1``,
``BTC/USD``, ``a:b``, ``*`` and ``>`` each stay one segment, two values never share a spelling, and the same ASCII text serves
authorisation, caches and broker keys. Names that start with ``$`` cannot be spelled this way: they are the backends' own.

Source: docs/reference/protocol.md, "Channel names".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NewType
from unicodedata import is_normalized, normalize
from urllib.parse import quote, unquote_to_bytes

from ._errors import InvalidName

__all__ = ["MAX_NAME_BYTES", "Channel", "FamilyPattern", "parse_channel"]

Channel = NewType("Channel", str)
"""A channel name in its canonical form; made by `parse_channel` and `FamilyPattern.channel` only."""

MAX_NAME_BYTES: Final = 200
"""Longest channel name, in bytes of its canonical form: brokers and log lines take it whole."""

_LITERAL = re.compile(r"[A-Za-z0-9_.~-]+")
_PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode category Cc
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LOWER_HEX = re.compile(r"%(?:[a-f]|[0-9A-F][a-f])")
_UNESCAPED = re.compile(r"[^A-Za-z0-9_.~%:-]")


def parse_channel(text: object) -> Channel:
    """
    Return *text*, which came from a peer, as a channel name.

    The name must be canonical already: accepting a second spelling here would give one channel two permissions, two cache
    entries or two broker keys. The work is bounded: what is too long is refused unread.

    Raises:
        InvalidName: With the reason and, where the text has one, the canonical form. The message is printable ASCII.
    """
    if not isinstance(text, str):
        raise InvalidName("channel", f"must be text, is {type(text).__name__}")
    if len(text) > MAX_NAME_BYTES:
        raise InvalidName("channel", f"is longer than {MAX_NAME_BYTES} bytes")
    if text.startswith("$"):
        raise InvalidName("channel", "starts with $, which is reserved")
    canonical = ":".join(_canonical_segment(segment) for segment in text.split(":"))
    if canonical == text:
        return Channel(text)
    remedy = f"write {canonical}" if len(canonical) <= MAX_NAME_BYTES else f"its canonical form exceeds {MAX_NAME_BYTES} bytes"
    raise InvalidName("channel", f"is not canonical: {_why_not_canonical(text)}; {remedy}")


def _canonical_segment(segment: str) -> str:
    if not segment:
        raise InvalidName("channel", "has an empty segment")
    if _BROKEN_ESCAPE.search(segment):
        raise InvalidName("channel", "has a % without two hex digits after it")
    try:
        value = unquote_to_bytes(segment).decode()
    except UnicodeError:
        raise InvalidName("channel", "is not valid UTF-8") from None
    if _CONTROL.search(value):
        raise InvalidName("channel", "holds a control character")
    return _encode(normalize("NFC", value))


def _why_not_canonical(text: str) -> str:
    if _UNESCAPED.search(text):
        return "only A-Z a-z 0-9 _ . ~ - stand for themselves, other bytes are written %XX"
    if _LOWER_HEX.search(text):
        return "hex digits are upper-case"
    if text != ":".join(quote(unquote_to_bytes(segment), safe="") for segment in text.split(":")):
        return "it escapes what stands for itself"
    return "its text is not in Unicode normal form C"


def _encode(value: str) -> str:
    # quote() escapes exactly what the canonical form does: its unreserved characters are A-Z a-z 0-9 _ . - ~.
    return quote(value, safe="")


def _decode(segment: str) -> str:
    return unquote_to_bytes(segment).decode()


@dataclass(frozen=True, slots=True)
class FamilyPattern:
    """
    The names of a family of channels, such as ``prices:{symbol}``.

    A segment is a literal (``A-Z a-z 0-9 _ . ~ -``) or exactly one parameter in braces (``[a-z_][a-z0-9_]*``); a pattern
    without parameters names one channel. Patterns are equal when their text is.

    Attributes:
        name: The pattern as it was declared.
        parameters: The parameters' names in declared order.

    Raises:
        InvalidName: If the pattern is not legal, repeats a parameter, or leaves no room for its values.
    """

    name: str
    parameters: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _segments: tuple[str | None, ...] = field(init=False, repr=False, compare=False)  # literal, or None for a parameter
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidName("pattern", f"must be text, is {type(self.name).__name__}")
        parameters: list[str] = []
        segments: list[str | None] = []
        for segment in self.name.split(":"):
            if _LITERAL.fullmatch(segment):
                segments.append(segment)
            elif found := _PARAMETER.fullmatch(segment):
                segments.append(None)
                parameters.append(found[1])
            else:
                raise InvalidName(
                    ascii(self.name), f"segment {segment!a} is neither a literal of A-Z a-z 0-9 _ . ~ - nor one {{parameter}}"
                )
        if len(set(parameters)) < len(parameters):
            raise InvalidName(self.name, "names a parameter twice")
        if _shortest(segments) > MAX_NAME_BYTES:
            raise InvalidName(self.name, f"names channels longer than {MAX_NAME_BYTES} bytes")
        object.__setattr__(self, "parameters", tuple(parameters))
        object.__setattr__(self, "_segments", tuple(segments))
        regex = ":".join("([^:]+)" if segment is None else re.escape(segment) for segment in segments)
        object.__setattr__(self, "_regex", re.compile(regex))

    def channel(self, /, *values: str, **params: str) -> Channel:
        """
        Return the channel for these parameter values: positional in declared order, or by name.

        Different values give different channels, and `match` returns them as they were given.

        Raises:
            InvalidName: If a value is missing, unknown, given twice, empty, not text, not in Unicode normal form C, or holds
                control characters or lone surrogates; or if the name would be longer than `MAX_NAME_BYTES`.
        """
        given = self._bind(values, params)
        encoded = iter([self._encode_value(name, given[name]) for name in self.parameters])
        text = ":".join(next(encoded) if segment is None else segment for segment in self._segments)
        if len(text) > MAX_NAME_BYTES:
            raise InvalidName(self.name, f"the channel's name takes {len(text)} bytes, at most {MAX_NAME_BYTES} are allowed")
        return Channel(text)

    def match(self, channel: Channel) -> dict[str, str] | None:
        """Return the parameter values of *channel* by name, decoded, or ``None`` if it is not of this family."""
        found = self._regex.fullmatch(channel)
        if found is None:
            return None
        return {name: _decode(segment) for name, segment in zip(self.parameters, found.groups(), strict=True)}

    def overlaps(self, other: FamilyPattern) -> bool:
        """Return whether some channel could match both patterns. Families of one application must not overlap."""
        if len(self._segments) != len(other._segments):
            return False
        pairs = list(zip(self._segments, other._segments, strict=True))
        if any(mine is not None and theirs is not None and mine != theirs for mine, theirs in pairs):
            return False
        # Literals of both sides come together in a common name, and may then not fit.
        return _shortest([mine if theirs is None else theirs for mine, theirs in pairs]) <= MAX_NAME_BYTES

    def __str__(self) -> str:
        return self.name

    def _bind(self, values: tuple[str, ...], params: dict[str, str]) -> dict[str, str]:
        if len(values) > len(self.parameters):
            raise InvalidName(self.name, f"has {len(self.parameters)} parameters, got {len(values)} values")
        given = dict(zip(self.parameters, values, strict=False))
        for name, value in params.items():
            if name not in self.parameters:
                raise InvalidName(self.name, f"has no parameter {name!a}")
            if name in given:
                raise InvalidName(self.name, f"parameter {name} is given twice")
            given[name] = value
        if missing := [name for name in self.parameters if name not in given]:
            raise InvalidName(self.name, f"needs a value for {', '.join(missing)}")
        return given

    def _encode_value(self, name: str, value: str) -> str:
        if problem := _problem_of(value):
            raise InvalidName(f"{self.name}.{name}", problem)
        return _encode(value)


def _problem_of(value: object) -> str | None:
    if not isinstance(value, str):
        return f"must be text, is {type(value).__name__}"
    if not value:
        return "is empty"
    if _CONTROL.search(value):
        return "holds a control character"
    if not is_normalized("NFC", value):
        return "is not in Unicode normal form C"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    return None


def _shortest(segments: list[str | None]) -> int:
    return sum(1 if segment is None else len(segment) for segment in segments) + len(segments) - 1
