"""Key tables: numbered once, in order, up to a limit; and every base gets exactly the definitions it lacked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtsync.core import REMOVED, Document, KeyTable, Patch, Replace, checked_document, checked_patch, document_from_wire
from rtsync.core._keys import MAX_KEYS, number_keys
from tests.strategies import documents, few_documents, fingerprint, patches


def table(*keys: str, offset: int = 1) -> KeyTable:
    """A table that learned *keys* at *offset*."""
    keys_table = KeyTable()
    keys_table.learn_document(dict.fromkeys(keys), offset)
    return keys_table


@given(few_documents, st.lists(patches(), max_size=6))
def test_base_and_definitions_after_it_make_the_whole_table(start: Document, history: list[Patch]) -> None:
    """A client at any offset knows a beginning of the table; a frame brings the rest in order."""
    keys = KeyTable()
    keys.learn_document(start, 10)
    for offset, patch in enumerate(history, 11):
        keys.learn_patch(patch, offset)
    whole = list(keys.defined_by(10 + len(history)))
    assert {key: number for number, key in enumerate(whole)} == keys.numbers
    for offset in range(9, 12 + len(history)):
        assert [*keys.defined_by(offset), *keys.defined_after(offset)] == whole
    assert keys.defined_by(9) == []


@given(documents())
def test_numbered_document_reads_as_it_was(document: Document) -> None:
    """Numbers stand for keys in maps; lists keep their keys."""
    keys = KeyTable()
    keys.learn_document(document, 1)
    wire = number_keys(document, keys.numbers)
    assert fingerprint(document_from_wire(wire, keys.defined_by(1))) == fingerprint(document)


def test_keys_are_numbered_in_the_order_in_which_they_appear() -> None:
    """Outer keys come before those of the maps they name, and a key has one number wherever it stands."""
    keys = KeyTable()
    keys.learn_document(checked_document({"a": {"b": 1, "a": 2}, "c": [{"in a list": 1}]}), 5)
    keys.learn_patch(checked_patch({"a": {"d": 1}, "e": Replace({"f": {"g": 1}}), "h": Replace(1), "i": REMOVED}), 6)
    assert keys.numbers == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "g": 6, "h": 7}
    assert keys.defined_by(5) == ["a", "b", "c"]
    assert keys.defined_after(5) == ["d", "e", "f", "g", "h"]
    assert keys.defined_after(6) == []


def test_known_keys_are_learned_once() -> None:
    """A key keeps its number and the offset of its definition."""
    keys = table("a", offset=1)
    keys.learn_patch({"a": 1}, 2)
    keys.learn_document({"a": 1}, 3)
    assert keys.defined_by(1) == ["a"]
    assert keys.defined_after(1) == []


def test_full_table_takes_no_more_and_later_keys_travel_as_text() -> None:
    """The table is bounded for a channel whose keys never end."""
    keys = table(*(f"k{number}" for number in range(MAX_KEYS - 1)))
    keys.learn_patch(checked_patch({"k0": {"last": 1, "late": 1}, "later": Replace({"latest": 1})}), 2)
    keys.learn_document(checked_document({"k1": {"never": 1}, "nor": 1, "k2": {"this": 1}}), 3)
    assert len(keys.numbers) == MAX_KEYS
    assert keys.defined_after(1) == ["last"]
    assert number_keys({"k1": 1, "late": {"last": 2}}, keys.numbers) == {1: 1, "late": {MAX_KEYS - 1: 2}}


def test_value_without_maps_is_not_touched() -> None:
    """There is nothing to number in a scalar or a list."""
    rows: list[object] = [{"a": 1}]
    assert number_keys(rows, {"a": 0}) is rows  # type: ignore[arg-type]
    assert number_keys("a", {"a": 0}) == "a"
