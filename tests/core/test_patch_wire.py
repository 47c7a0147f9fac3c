"""The wire form of patches: what it looks like, that nothing is lost in it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given

from rtsync.core import (
    REMOVED,
    DecodeError,
    Document,
    KeyTable,
    Patch,
    Replace,
    apply,
    checked_patch,
    document_from_wire,
    patch_from_wire,
    patch_to_wire,
)
from rtsync.core._patch_wire import prove_text_keys
from rtsync.core._values import MAX_DEPTH
from tests.strategies import few_documents, fingerprint, patches, texts, values

# ---- there and back ------------------------------------------------------------------------------------------------


@given(few_documents, patches())
def test_patch_with_text_keys_does_the_same_after_the_wire(document: Document, patch: Patch) -> None:
    """Every marker and value survives the form without a table."""
    back = patch_from_wire(patch_to_wire(patch))
    assert fingerprint(apply(back, document)) == fingerprint(apply(patch, document))


@given(few_documents, patches())
def test_patch_with_numbered_keys_does_the_same_after_the_wire(document: Document, patch: Patch) -> None:
    """Numbers on one side and the table on the other leave no trace."""
    keys = KeyTable()
    keys.learn_document(document, 1)
    keys.learn_patch(patch, 2)
    back = patch_from_wire(patch_to_wire(patch, keys.numbers), keys.defined_by(2))
    assert fingerprint(apply(back, document)) == fingerprint(apply(patch, document))


@given(patches(texts, values(texts)))
def test_wire_form_of_what_came_over_the_wire_is_the_same(patch: Patch) -> None:
    """The form is canonical but for the order of keys: a second round trip changes nothing."""
    wire = patch_to_wire(patch)
    assert fingerprint(patch_to_wire(patch_from_wire(wire))) == fingerprint(wire)


# ---- what it looks like --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "wire"),
    [
        ({}, []),
        ({"a": 1}, [{"a": 1}]),
        ({"a": None}, [{"a": None}]),
        ({"a": Replace(1)}, [{"a": 1}]),
        ({"a": Replace({})}, [{"a": {}}]),
        ({"a": {}}, [{}, {"a": []}]),
        ({"a": {"b": 1}}, [{}, {"a": [{"b": 1}]}]),
        ({"a": REMOVED}, [{}, {}, ["a"]]),
        ({"a": {"b": REMOVED}, "c": 2}, [{"c": 2}, {"a": [{}, {}, ["b"]]}]),
        ({"a": [{"b": 1}]}, [{"a": [{"b": 1}]}]),
    ],
)
def test_wire_form_leaves_trailing_empties_out(patch: Patch, wire: object) -> None:
    """``[set, inner, removed]`` as short as it can be; whole values are never taken for markers."""
    assert patch_to_wire(patch) == wire
    assert fingerprint(patch_to_wire(patch_from_wire(wire))) == fingerprint(wire)


def test_numbers_stand_for_keys_everywhere_but_in_lists() -> None:
    """Set, inner and removed, and the maps inside whole values."""
    patch = checked_patch({"a": Replace({"b": {"x": 1}, "rows": [{"a": 1}]}), "b": {"a": REMOVED, "x": 2}, "x": REMOVED})
    wire = patch_to_wire(patch, {"a": 0, "b": 1})
    assert wire == [{0: {1: {"x": 1}, "rows": [{"a": 1}]}}, {1: [{"x": 2}, {}, [0]]}, ["x"]]
    assert patch_from_wire(wire, ["a", "b"]) == patch


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        None,
        {},
        "x",
        5,
        [{}, {}, [], []],
        [[]],
        [{}, []],
        [{}, {}, {}],
        [None],
        [{"a": 1}, {"a": []}],
        [{"a": 1}, {}, ["a"]],
        [{}, {"a": []}, ["a"]],
        [{}, {}, ["a", "a"]],
        [{"a": 1, 0: 1}],
        [{}, {"a": [], 0: []}],
        [{}, {}, ["a", 0]],
        [{"c": {"a": 1, 0: 1}}],
        [{"c": {"d": {"a": 1, 0: 1}}}],
        [{}, {"a": {}}],
        [{}, {"a": [5]}],
        [{1: 1}],
        [{-1: 1}],
        [{True: 1}],
        [{0.0: 1}],
        [{None: 1}],
        [{b"a": 1}],
        [{Decimal(0): 1}],
        [{}, {1: []}],
        [{}, {}, [1]],
        [{}, {}, [None]],
        [{}, {}, [["a"]]],
        [{}, {}, [{}]],
        [{"c": {1: 1}}],
        [{"c": [{0: 1}]}],
        [{"c": [[{0: 1}]]}],
        [{"c": [{"d": {0: 1}}]}],
    ],
)
def test_other_shape_is_a_decode_error(wire: object) -> None:
    """A peer's patch is a patch, names each key once, and only keys of the table by number."""
    with pytest.raises(DecodeError) as caught:
        patch_from_wire(wire, ["a"])
    assert caught.value.field == "patch"
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("value", [{1: 1}, {"a": 1, 0: 1}, {"b": {9: 1}}, {"b": [{0: 1}]}, [{0: 1}]])
def test_document_with_an_unknown_number_or_a_key_twice_is_a_decode_error(value: object) -> None:
    """Documents are held to the same rules."""
    with pytest.raises(DecodeError):
        document_from_wire(value, ["a"])


def nested_map(depth: int) -> object:
    """Maps nested *depth* deep."""
    value: object = 1
    for _ in range(depth):
        value = {"k": value}
    return value


def nested_list(depth: int) -> object:
    """Lists and maps nested *depth* deep, a list outermost."""
    value: object = 1
    for level in range(depth):
        value = [value] if (depth - level) % 2 else {"k": value}
    return value


def nested_patch(depth: int) -> object:
    """A wire patch of patches nested *depth* deep."""
    wire: object = [{"k": 1}]
    for _ in range(depth - 1):
        wire = [{}, {"k": wire}]
    return wire


@pytest.mark.parametrize(
    ("read", "nested"),
    [
        (document_from_wire, nested_map),
        (document_from_wire, nested_list),
        (prove_text_keys, nested_map),
        (prove_text_keys, nested_list),
        (patch_from_wire, nested_patch),
        (lambda value: patch_from_wire([{"k": value}], (), -1), nested_map),
        (lambda value: patch_from_wire([{"k": value}], (), -1), nested_list),
    ],
)
def test_nesting_is_bounded_as_in_documents(read: Callable[[object], object], nested: Callable[[int], object]) -> None:
    """What may be published can be read; a level more, or a thousand, cannot."""
    read(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 900):
        with pytest.raises(DecodeError, match="nested deeper than 32"):
            read(nested(depth))


def test_scalar_document_is_returned_as_it_is() -> None:
    """There is nothing to look up in a scalar."""
    assert document_from_wire(5) == 5
    prove_text_keys("x")
