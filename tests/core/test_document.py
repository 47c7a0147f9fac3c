"""The versioned document: from every state still in reach, `since` leads to the head."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rtsync.core import REMOVED, Document, Patch, Replace, VersionedDocument, apply, checked_patch
from tests.strategies import few_documents, fingerprint, patches

histories = st.lists(st.tuples(st.integers(1, 3), patches()), max_size=8)
"""Patches, each with the step from the offset before: logs have holes."""


@settings(max_examples=300)
@given(few_documents, st.integers(0, 5), histories, st.data())
def test_since_leads_from_every_state_in_reach_to_the_head(
    start: Document, first: int, history: list[tuple[int, Patch]], data: st.DataObject
) -> None:
    """``apply(since(p), state_at(p))`` is the head for every p not forgotten, the offsets in holes included."""
    versioned = VersionedDocument(start, first)
    states = {first: start}  # {offset: the document there}
    offset = forgotten = first
    for step, patch in history:
        for hole in range(offset + 1, offset + step):
            states[hole] = states[offset]
        states[offset + step] = apply(patch, states[offset])
        offset += step
        versioned.put(patch, offset)
        if data.draw(st.booleans(), label="forget"):
            forgotten = data.draw(st.integers(forgotten, offset), label="up to")
            versioned.forget(forgotten)
    assert fingerprint(versioned.value()) == fingerprint(states[offset])
    for cursor in range(forgotten, offset + 1):
        led = apply(versioned.since(cursor), states[cursor])
        assert fingerprint(led) == fingerprint(states[offset]), cursor


def test_since_the_head_is_empty() -> None:
    """A cursor at the head misses nothing."""
    versioned = VersionedDocument({"a": 1}, 5)
    versioned.put({"a": 2}, 6)
    assert versioned.since(6) == {}


def test_since_holds_only_what_changed_and_only_its_last_value() -> None:
    """Many changes of one key are one change to whoever missed them."""
    versioned = VersionedDocument({"a": {"x": 0, "y": 0}, "b": 0}, 0)
    for offset in range(1, 100):
        versioned.put(checked_patch({"a": {"x": offset}}), offset)
    assert versioned.since(1) == {"a": {"x": 99}}


def test_key_removed_and_added_again_yields_the_final_state_only() -> None:
    """A client that missed both sees the value; one in between sees it appear."""
    versioned = VersionedDocument({"a": 1}, 0)
    versioned.put({"a": REMOVED}, 1)
    versioned.put(checked_patch({"a": {"b": 2}}), 2)
    assert versioned.since(0) == {"a": Replace({"b": 2})}
    assert versioned.since(1) == {"a": Replace({"b": 2})}
    assert versioned.since(2) == {}


def test_map_that_appeared_after_the_cursor_is_replaced_whole() -> None:
    """What stood in an older map of the same key is not merged with the new one."""
    versioned = VersionedDocument({"a": {"old": 1}}, 0)
    versioned.put({"a": Replace({"new": 1})}, 1)
    versioned.put(checked_patch({"a": {"newer": 2}}), 2)
    assert versioned.since(0) == {"a": Replace({"new": 1, "newer": 2})}
    assert versioned.since(1) == {"a": {"newer": 2}}


def test_removing_what_is_not_there_leaves_no_trace() -> None:
    """No tombstone stands for a key that nobody holds."""
    versioned = VersionedDocument({}, 0)
    versioned.put({"a": REMOVED}, 1)
    assert versioned.since(0) == {}


def test_forgotten_tombstones_are_gone_and_younger_ones_stay() -> None:
    """Forgetting frees what only older cursors needed."""
    versioned = VersionedDocument({"a": 1, "b": 1}, 0)
    versioned.put({"a": REMOVED}, 1)
    versioned.put({"b": REMOVED}, 2)
    versioned.forget(1)
    assert versioned.since(0) == {"b": REMOVED}
    versioned.forget(2)
    assert versioned.since(0) == {}


def test_forgetting_a_removal_spares_what_came_after_it() -> None:
    """A key that was added again, removed again, or whose map is gone is not harmed by its old tombstone."""
    versioned = VersionedDocument({"a": 1, "b": 1, "c": {"d": 1}}, 0)
    versioned.put(checked_patch({"a": REMOVED, "b": REMOVED, "c": {"d": REMOVED}}), 1)
    versioned.put({"a": 2, "b": REMOVED, "c": 3}, 2)
    versioned.forget(1)
    assert versioned.since(1) == {"a": 2, "b": REMOVED, "c": 3}
    assert versioned.value() == {"a": 2, "c": 3}


def test_value_is_a_plain_document_of_its_own() -> None:
    """What is returned is not the tree."""
    versioned = VersionedDocument({"a": {"b": {}}}, 0)
    versioned.value()["a"] = 5
    assert versioned.value() == {"a": {"b": {}}}


def test_tree_does_not_grow_with_the_number_of_changes() -> None:
    """Memory follows the document and the tombstones in reach, not the history."""
    versioned = VersionedDocument({"a": 1}, 0)
    for offset in range(1, 2_000):
        odd, even = {"a": REMOVED, f"k{offset - 1}": REMOVED}, {"a": offset, f"k{offset}": 1}
        versioned.put(checked_patch(odd if offset % 2 else even), offset)
        versioned.forget(offset - 10)
    assert len(versioned._tombstones) <= 20
    assert len(versioned._root.kids) <= 20
