"""Hypothesis strategies for everything the core carries, and an equality of values that owes nothing to the code under test."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from rtsync.core import (
    LINK_BITS,
    MAX_OFFSET,
    REMOVED,
    Document,
    Patch,
    PatchValue,
    Position,
    Replace,
    Value,
    frames,
)

HOSTILE_KEYS = [
    *("", " ", ".", "a.b", "0", "-1", "1e3", "\x00", "\n", "\r\n", "\x1b[31m", '"', "\\", "\\u0000"),
    *("__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "__class__"),
    *("$", "$$", "$d", "$$d", "$b", "$t", "$i", "$x"),
    *("é", "e\u0301", "\u2028", "\ufeff", "\uffff", "🚀", "👩‍👩‍👧"),
    *("k" * 31, "k" * 32, "k" * 255, "k" * 256),
]
"""Keys that a careless codec, client or log would trip over, and lengths at which msgpack changes its headers."""


def fingerprint(value: object) -> Hashable:
    """Return what two values share if, and only if, they are the same in every detail that is carried."""
    if isinstance(value, Mapping):
        return ("map", frozenset((key, fingerprint(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("list", *map(fingerprint, value))
    if isinstance(value, Replace):
        return ("replace", fingerprint(value.value))
    if isinstance(value, float):
        return ("float", struct.pack(">d", value))
    if isinstance(value, Decimal):
        return ("Decimal", value.as_tuple())
    if isinstance(value, datetime):
        return ("datetime", value.isoformat())
    return (type(value).__name__, value)


# ---- the type table ------------------------------------------------------------------------------------------------

texts = st.text(max_size=12) | st.sampled_from(HOSTILE_KEYS)

integers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(
    [sign * (2**bits + step) for sign in (1, -1) for bits in (0, 5, 7, 8, 15, 16, 31, 32, 52, 53, 62) for step in (-1, 0, 1)]
    + [-(2**63), 2**63 - 1]
)

floats = st.floats(allow_nan=False, allow_infinity=False)


def _decimal(integer: int, exponent: int) -> Decimal:
    return Decimal((1 if integer < 0 else 0, tuple(map(int, str(abs(integer)))), exponent))


decimals = st.builds(_decimal, st.integers(-(10**64) + 1, 10**64 - 1), st.integers(-128, 127)) | st.builds(
    _decimal, st.integers(-99_999, 99_999), st.integers(-8, 8)
)

timestamps = st.datetimes(timezones=st.just(UTC))

scalars: SearchStrategy[Value] = st.one_of(
    st.none(), st.booleans(), integers, floats, decimals, texts, st.binary(max_size=20), timestamps
)


def values(keys: SearchStrategy[str] = texts, leaves: SearchStrategy[Value] = scalars) -> SearchStrategy[Value]:
    """Return values of every type, nested."""
    nested: SearchStrategy[Value] = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )
    return nested


def documents(keys: SearchStrategy[str] = texts, leaves: SearchStrategy[Value] = scalars) -> SearchStrategy[Document]:
    """Return documents with values of every type."""
    return st.dictionaries(keys, values(keys, leaves), max_size=5)


# ---- patches -------------------------------------------------------------------------------------------------------

few_keys = st.sampled_from(["a", "b", "c", "__proto__", "$d", "", "🚀"])
"""So few that patches meet what stands in documents."""

few_leaves: SearchStrategy[Value] = st.one_of(
    st.sampled_from([None, True, False, 0, 1, 2, 1.0, 0.0, -0.0, "", "x", b"x", Decimal(1), Decimal("1.0"), Decimal("1E+2")]),
    st.sampled_from([datetime(2021, 10, 28, tzinfo=UTC), 2**60, -(2**63)]),
    st.lists(st.sampled_from([0, 1, 1.0, {"a": 1}]), max_size=2),
)
"""So few that a change often changes nothing, and values that compare equal although they are not the same."""

few_documents = documents(few_keys, few_leaves)


def patches(keys: SearchStrategy[str] = few_keys, leaves: SearchStrategy[Value] = few_leaves) -> SearchStrategy[Patch]:
    """Return patches with all markers, at any depth."""
    change: SearchStrategy[PatchValue] = st.one_of(leaves, st.just(REMOVED), st.builds(Replace, values(keys, leaves)))
    below: SearchStrategy[PatchValue] = st.recursive(
        change, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8
    )
    return st.dictionaries(keys, below, max_size=4)


# ---- frames --------------------------------------------------------------------------------------------------------

numbers = st.integers(0, MAX_OFFSET)
links = st.integers(0, 2**LINK_BITS - 1)
positions = st.builds(Position, st.text(max_size=8), numbers, links)
seconds = st.floats(0, 1e9)
rates = st.none() | seconds
key_lists = st.lists(texts, max_size=3).map(tuple)
freshness = st.sampled_from(["live", "stale", "closed"])
kinds = st.sampled_from(["state", "events"])

client_frames: SearchStrategy[frames.ClientFrame] = st.one_of(
    st.builds(frames.Hello, st.none() | texts, texts, st.none() | texts, st.none() | texts),
    st.builds(
        frames.Subscribe,
        numbers,
        st.lists(st.builds(frames.SubscribeItem, texts, st.none() | positions, rates), max_size=3).map(tuple),
    ),
    st.builds(frames.Unsubscribe, numbers, key_lists),
    st.builds(frames.Rate, numbers, texts, rates),
    st.builds(frames.Pong, numbers, numbers),
    st.builds(frames.Bye, texts),
)

server_frames: SearchStrategy[frames.ServerFrame] = st.one_of(
    st.builds(
        frames.Welcome, texts, texts, st.none() | texts, seconds, seconds, numbers, documents(), documents(leaves=floats)
    ),
    st.builds(
        frames.Subscribed, numbers, texts, numbers, kinds, positions, st.booleans(), rates, freshness, numbers, texts, key_lists
    ),
    st.builds(frames.Keyframe, numbers, positions, numbers, numbers, documents(), key_lists),
    st.builds(frames.Delta, numbers, numbers, numbers, links, values().map(lambda value: [value]), key_lists),
    st.builds(frames.Event, numbers, numbers, numbers, links, values()),
    st.builds(frames.Gap, numbers, positions, positions, texts),
    st.builds(frames.Status, numbers, freshness, numbers, texts),
    st.builds(frames.Unsubscribed, numbers, texts, texts, texts),
    st.builds(frames.Error, st.none() | numbers, texts, texts, texts, texts, st.booleans(), rates),
    st.builds(frames.Ping, numbers, numbers),
    st.builds(frames.Drain, texts, seconds, seconds),
)
