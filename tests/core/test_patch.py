"""Patches: the law of diff and apply, and that *unchanged*, *null*, *empty* and *removed* stay distinct."""

from __future__ import annotations

from decimal import Decimal
from types import MappingProxyType

import pytest
from hypothesis import given

from rtsync.core import REMOVED, Document, InvalidValue, Patch, Replace, apply, checked_patch, diff, narrow
from rtsync.core._values import MAX_DEPTH
from tests.strategies import documents, few_documents, fingerprint, patches

# ---- the laws ------------------------------------------------------------------------------------------------------


@given(few_documents, few_documents)
def test_applying_a_diff_to_one_document_gives_the_other(a: Document, b: Document) -> None:
    """``apply(diff(a, b), a)`` is ``b``, type by type."""
    assert fingerprint(apply(diff(a, b), a)) == fingerprint(b)


@given(documents(), documents())
def test_the_law_of_diff_holds_for_every_type_and_key(a: Document, b: Document) -> None:
    """Nothing a document may hold escapes the law."""
    assert fingerprint(apply(diff(a, b), a)) == fingerprint(b)


@given(few_documents, few_documents)
def test_diff_is_empty_exactly_if_nothing_changed(a: Document, b: Document) -> None:
    """A publish that changes nothing is seen as that, and no change is overlooked."""
    assert (diff(a, b) == {}) is (fingerprint(a) == fingerprint(b))


@given(few_documents, patches())
def test_narrowed_patch_does_the_same_as_the_whole_one(document: Document, patch: Patch) -> None:
    """What is taken away from a patch had no effect."""
    assert fingerprint(apply(narrow(patch, document), document)) == fingerprint(apply(patch, document))


@given(few_documents, patches())
def test_narrowed_patch_is_empty_exactly_if_nothing_would_change(document: Document, patch: Patch) -> None:
    """An update without effect produces no frame."""
    assert (narrow(patch, document) == {}) is (fingerprint(apply(patch, document)) == fingerprint(document))


@given(few_documents, patches())
def test_applying_leaves_the_document_as_it_was(document: Document, patch: Patch) -> None:
    """Whoever holds the document before still holds it after."""
    before = fingerprint(document)
    apply(patch, document)
    assert fingerprint(document) == before


@given(patches())
def test_checked_patch_is_the_same_patch(patch: Patch) -> None:
    """Markers at any depth survive the check."""
    assert fingerprint(checked_patch(patch)) == fingerprint(patch)


# ---- case by case --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {}, {"a": REMOVED}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({"a": None}, {}, {"a": REMOVED}),
        ({"a": 1}, {"a": 1.0}, {"a": 1.0}),
        ({"a": 1}, {"a": True}, {"a": True}),
        ({"a": Decimal("1")}, {"a": Decimal("1.0")}, {"a": Decimal("1.0")}),
        ({"a": 1}, {"a": {}}, {"a": Replace({})}),
        ({"a": {}}, {"a": 1}, {"a": 1}),
        ({}, {"a": {"b": 1}}, {"a": Replace({"b": 1})}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 3}}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": REMOVED}}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1}}}, {}),
        ({"a": [1, 2]}, {"a": [1, 3]}, {"a": [1, 3]}),
        ({"a": [1, 2]}, {"a": [1, 2]}, {}),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1.0}]}, {"a": [{"b": 1.0}]}),
    ],
)
def test_diff_is_the_smallest_patch_of_its_kind(a: Document, b: Document, patch: Patch) -> None:
    """Add, change, remove, null, change of type, nested change; lists are atomic."""
    found = diff(a, b)
    assert fingerprint(found) == fingerprint(patch)
    assert fingerprint(apply(found, a)) == fingerprint(b)


@pytest.mark.parametrize(
    ("document", "patch", "narrowed"),
    [
        ({}, {"a": REMOVED}, {}),
        ({"a": None}, {"a": REMOVED}, {"a": REMOVED}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": Replace(1)}, {}),
        ({"a": 1}, {"a": Replace(2)}, {"a": 2}),
        ({}, {"a": Replace({})}, {"a": Replace({})}),
        ({"a": {}}, {"a": Replace({})}, {}),
        ({"a": {}}, {"a": {}}, {}),
        ({}, {"a": {}}, {"a": Replace({})}),
        ({"a": 1}, {"a": {"b": {"c": 1, "d": REMOVED}}}, {"a": Replace({"b": {"c": 1}})}),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": REMOVED}}, {}),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}),
        ({"a": {"b": 1, "c": 2}}, {"a": Replace({"b": 1})}, {"a": Replace({"b": 1})}),
    ],
)
def test_narrow_keeps_what_changes_something(document: Document, patch: Patch, narrowed: Patch) -> None:
    """Each marker against what stands there."""
    assert fingerprint(narrow(patch, document)) == fingerprint(narrowed)


def test_patch_of_a_map_replaces_what_is_no_map() -> None:
    """A map that appears where none stood begins empty, so that what it removes was never there."""
    assert apply(checked_patch({"a": {"b": 1, "c": REMOVED}}), {"a": [9]}) == {"a": {"b": 1}}


def test_apply_shares_what_did_not_change() -> None:
    """A small patch of a large document copies only the maps on its way."""
    document: Document = {"still": {"x": 1}, "moved": {"y": 1}}
    result = apply(checked_patch({"moved": {"y": 2}}), document)
    assert result["still"] is document["still"]


def test_markers_can_be_read_in_a_log() -> None:
    """A patch in a message shows what it does."""
    assert repr({"a": REMOVED, "b": Replace({})}) == "{'a': REMOVED, 'b': Replace(value={})}"


# ---- checked patches -----------------------------------------------------------------------------------------------


def test_checked_patch_is_a_deep_copy() -> None:
    """Later changes by the caller reach neither maps nor lists nor replaced values."""
    whole: Document = {"x": 1}
    rows: list[object] = [1]
    inner: dict[str, object] = {"b": rows}
    copy = checked_patch({"a": inner, "c": Replace(whole)})
    whole["x"] = 2
    rows.append(2)
    inner["d"] = 1
    assert copy == {"a": {"b": [1]}, "c": Replace({"x": 1})}


def test_any_mapping_is_a_patch() -> None:
    """Publishers may hand in what reads like a map."""
    assert checked_patch(MappingProxyType({"a": REMOVED})) == {"a": REMOVED}


@pytest.mark.parametrize(
    ("patch", "field", "problem"),
    [
        ([], "patch", "a patch is a map with text keys, not list"),
        (REMOVED, "patch", "a patch is a map with text keys"),
        ({1: 2}, "patch", "keys are text, not int"),
        ({"a": {b"b": 2}}, "patch.a", "keys are text, not bytes"),
        ({"a": {"b": float("nan")}}, "patch.a.b", "nan is not a finite number"),
        ({"a": Replace({"b": {1}})}, "patch.a.b", "set is not carried"),  # type: ignore[dict-item]
        ({"a": Replace(REMOVED)}, "patch.a", "_Marker is not carried"),  # type: ignore[arg-type]
        ({"a": [REMOVED]}, "patch.a[0]", "_Marker is not carried"),
        ({"a": Replace({"b": Replace(1)})}, "patch.a.b", "Replace is not carried"),  # type: ignore[dict-item]
        ({"a": MappingProxyType({"b": 1})}, "patch.a", "mappingproxy is not carried"),
    ],
)
def test_patch_with_something_else_is_refused_at_its_path(patch: object, field: str, problem: str) -> None:
    """A patch holds carried values, and markers where a patch can hold them."""
    with pytest.raises(InvalidValue) as caught:
        checked_patch(patch)
    assert caught.value.field == field
    assert problem in caught.value.problem


def deep_patch(depth: int) -> dict[str, object]:
    """Return patches nested *depth* maps deep."""
    patch: dict[str, object] = {"k": 1}
    for _ in range(depth - 1):
        patch = {"k": patch}
    return patch


def test_patch_may_reach_as_deep_as_documents_and_no_deeper() -> None:
    """What a patch of legal depth leads to is a document of legal depth, replaced values included."""
    assert checked_patch(deep_patch(MAX_DEPTH)) == deep_patch(MAX_DEPTH)
    with pytest.raises(InvalidValue, match="nested deeper than 32"):
        checked_patch(deep_patch(MAX_DEPTH + 1))
    checked_patch({"k": Replace(deep_patch(MAX_DEPTH - 1))})  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="nested deeper than 32"):
        checked_patch({"k": Replace(deep_patch(MAX_DEPTH))})  # type: ignore[arg-type]
