"""The kit is worth what it catches: a backend that breaks one promise fails the test that is about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from rtsync.backends import TTL, Announcement, Backend, Cut, MemoryBackend, MemoryStore, NoticeQueue, Retention
from rtsync.backends._memory_store import MemoryLog
from rtsync.core import Channel, Conflict, Position
from rtsync.testing._backend_kit import BackendKit
from rtsync.testing._virtual import VIRTUAL_BACKENDS

pytestmark = pytest.mark.anyio

Patch = pytest.MonkeyPatch
Sabotage = Callable[[Patch], None]

CASES: list[tuple[Sabotage, str]] = []


@pytest.fixture(params=VIRTUAL_BACKENDS, ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    backend: object = request.param
    return backend


class Kit(BackendKit):
    listener_capacity = 64
    patience = 5.0

    @asynccontextmanager
    async def nodes(self, count: int) -> AsyncIterator[Sequence[Backend]]:
        store = MemoryStore()
        yield [MemoryBackend(store, max_notices=64) for _ in range(count)]


def caught_by(test: str) -> Callable[[Sabotage], Sabotage]:
    def register(sabotage: Sabotage) -> Sabotage:
        CASES.append((sabotage, test))
        return sabotage

    return register


def around(patch: Patch, owner: type[object], name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method by *wrapper*, which gets the original first."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))


# ---- the log


@caught_by("test_a_link_appended_again_returns_its_first_place")
def forgets_links(patch: Patch) -> None:
    def append(original: Any, store: MemoryStore, channel: Channel, payload: bytes, link: int, *how: Any, **more: Any) -> Any:
        if channel in store.logs:
            store.logs[channel].links.pop(link, None)
        return original(store, channel, payload, link, *how, **more)

    around(patch, MemoryStore, "append", append)


@caught_by("test_concurrent_writers_form_one_chain_of_every_accepted_append")
@caught_by("test_expecting_an_empty_log_lets_one_of_two_in")
def checks_then_acts(patch: Patch) -> None:
    async def append(original: Any, node: MemoryBackend, channel: Channel, *how: Any, expect: Any = None, **more: Any) -> Any:
        (head,) = await node.heads([channel])
        if expect is not None and expect != head and (expect.offset or head.offset):
            raise Conflict(head)
        await checkpoint()
        return await original(node, channel, *how, **more)

    around(patch, MemoryBackend, "append", append)


@caught_by("test_conflict_carries_the_head_and_changes_nothing")
def compares_offsets_only(patch: Patch) -> None:
    def append(original: Any, store: MemoryStore, channel: Channel, *how: Any, **more: Any) -> Any:
        payload, link, retention, expect, token = how
        log = store.logs.get(channel)
        if log is not None and expect is not None and expect.offset == log.head.offset:
            expect = log.head
        return original(store, channel, payload, link, retention, expect, token, **more)

    around(patch, MemoryStore, "append", append)


def unfenced(patch: Patch, *, where: Callable[[Position | None], bool]) -> None:
    def append(original: Any, store: MemoryStore, channel: Channel, *how: Any, **more: Any) -> Any:
        log = store.logs.get(channel)
        if log is not None and log.entries and where(how[3]):
            log.entries[-1] = replace(log.entries[-1], token=0)
        return original(store, channel, *how, **more)

    around(patch, MemoryStore, "append", append)


@caught_by("test_an_older_token_is_fenced_by_the_newest_entry")
def fences_nobody(patch: Patch) -> None:
    unfenced(patch, where=lambda expect: expect is not None)


@caught_by("test_open_appends_are_fenced_too")
def fences_no_open_append(patch: Patch) -> None:
    unfenced(patch, where=lambda expect: expect is None)


@caught_by("test_a_keyframe_of_no_entry_is_refused_and_changes_nothing")
def saves_keyframes_by_offset(patch: Patch) -> None:
    def save(original: Any, log: MemoryLog, position: Position, payload: bytes) -> Any:
        for entry in log.entries:
            if entry.offset == position.offset:
                position = log.head.at(entry.offset, entry.link)
        return original(log, position, payload)

    around(patch, MemoryLog, "save_keyframe", save)


@caught_by("test_a_keyframe_trims_up_to_the_one_before")
def trims_to_the_new_keyframe(patch: Patch) -> None:
    def save(original: Any, log: MemoryLog, position: Position, payload: bytes) -> Any:
        saved = original(log, position, payload)
        if saved:
            log._trim(position.offset)
        return saved

    around(patch, MemoryLog, "save_keyframe", save)


@caught_by("test_a_full_window_needs_a_keyframe")
@caught_by("test_a_keyframe_trims_up_to_the_one_before")
def never_trims(patch: Patch) -> None:
    patch.setattr(MemoryLog, "_trim", lambda log, offset: None)


@caught_by("test_a_full_window_needs_a_keyframe")
def overruns_the_window(patch: Patch) -> None:
    def append(original: Any, store: MemoryStore, channel: Channel, *how: Any, **more: Any) -> Any:
        payload, link, retention, expect, token = how
        wider = replace(retention, window=10 * retention.window)
        return original(store, channel, payload, link, wider, expect, token, **more)

    around(patch, MemoryStore, "append", append)


@caught_by("test_a_late_keyframe_does_not_replace_a_newer_one")
def lets_a_late_keyframe_replace_a_newer(patch: Patch) -> None:
    def save(original: Any, log: MemoryLog, position: Position, payload: bytes) -> Any:
        log.keyframes = [pair for pair in log.keyframes if pair[0].offset <= position.offset]
        return original(log, position, payload)

    around(patch, MemoryLog, "save_keyframe", save)


@caught_by("test_a_keyframe_trims_up_to_the_one_before")
@caught_by("test_keyframes_racing_appends_leave_no_hole")
def leaves_out_the_keyframes_own_entry(patch: Patch) -> None:
    def read(original: Any, log: MemoryLog) -> Cut:
        cut: Cut = original(log)
        return cut if cut.keyframe is None else replace(cut, entries=cut.entries[1:])

    around(patch, MemoryLog, "read", read)


@caught_by("test_cuts_are_consistent_while_entries_fall_out")
@caught_by("test_keyframes_racing_appends_leave_no_hole")
def reads_head_and_entries_apart(patch: Patch) -> None:
    async def read(original: Any, node: MemoryBackend, channel: Channel) -> Cut:
        cut: Cut = await original(node, channel)
        await anyio.sleep(0.001)
        return replace(cut, head=(await node.heads([channel]))[0])

    around(patch, MemoryBackend, "read", read)


@caught_by("test_the_oldest_events_fall_out_and_the_rest_still_chains")
def keeps_an_event_too_many(patch: Patch) -> None:
    def append(original: Any, store: MemoryStore, channel: Channel, *how: Any, **more: Any) -> Any:
        payload, link, retention, expect, token = how
        wider = replace(retention, window=retention.window + 1)
        return original(store, channel, payload, link, wider, expect, token, **more)

    around(patch, MemoryStore, "append", append)


@caught_by("test_two_nodes_that_doubt_one_history_agree_on_the_next")
def renames_without_comparing(patch: Patch) -> None:
    def rename(original: Any, store: MemoryStore, channel: Channel, expect: str, **more: Any) -> Any:
        log = store.logs.get(channel)
        return original(store, channel, log.head.epoch if log else expect, **more)

    around(patch, MemoryStore, "new_epoch", rename)


@caught_by("test_a_new_epoch_keeps_the_entries_and_ends_old_positions")
def renames_by_starting_over(patch: Patch) -> None:
    def rename(original: Any, store: MemoryStore, channel: Channel, expect: str, **more: Any) -> Any:
        epoch = original(store, channel, expect, **more)
        log = store.logs[channel] = MemoryLog(epoch, Retention(True, 100))
        return log.head.epoch

    around(patch, MemoryStore, "new_epoch", rename)


@caught_by("test_reading_an_absent_log_creates_nothing")
def creates_by_reading(patch: Patch) -> None:
    def read(original: Any, store: MemoryStore, channel: Channel, now: float) -> Any:
        store.logs.setdefault(channel, MemoryLog("epoch", Retention(True, 100)))
        return original(store, channel, now)

    around(patch, MemoryStore, "read", read)


@caught_by("test_names_that_look_like_wildcards_or_keys_stay_apart")
def folds_case(patch: Patch) -> None:
    around(
        patch,
        MemoryStore,
        "_find",
        lambda original, store, channel, now: original(store, channel, now) or original(store, channel.lower(), now),
    )


@caught_by("test_a_cancelled_append_happens_once_or_not_at_all")
def remembers_the_link_too_late(patch: Patch) -> None:
    async def append(original: Any, node: MemoryBackend, channel: Channel, *how: Any, link: int, **more: Any) -> Any:
        place = await original(node, channel, *how, link=link, **more)
        links = node.store.logs[channel].links
        entry = links.pop(link)
        await anyio.sleep(0.001)
        links[link] = entry
        return place

    around(patch, MemoryBackend, "append", append)


# ---- announcements


@caught_by("test_what_stores_nothing_announces_nothing")
def announces_a_repeated_link(patch: Patch) -> None:
    def append(original: Any, store: MemoryStore, channel: Channel, payload: bytes, link: int, *how: Any, **more: Any) -> Any:
        log = store.logs.get(channel)
        if log is not None and link in log.links:
            for queue in store._watchers.get(channel, ()):
                queue.announce(Announcement(channel, log.head.epoch, log.links[link]))
        return original(store, channel, payload, link, *how, **more)

    around(patch, MemoryStore, "append", append)


@caught_by("test_an_unwatched_channel_is_silent")
@caught_by("test_watching_on_one_node_leaves_the_other_alone")
def never_unwatches(patch: Patch) -> None:
    patch.setattr(MemoryStore, "unwatch", lambda store, channel, queue: None)


@caught_by("test_an_append_after_watch_is_announced_whole")
def watches_elsewhere(patch: Patch) -> None:
    async def watch(original: Any, node: MemoryBackend, channel: Channel) -> None:
        store, node.store = node.store, MemoryStore()
        await original(node, channel)
        node.store = store

    around(patch, MemoryBackend, "watch", watch)


@caught_by("test_announcements_of_a_channel_come_in_log_order_on_every_node")
def announces_in_disorder(patch: Patch) -> None:
    def announce(original: Any, queue: NoticeQueue, announcement: Announcement) -> None:
        original(queue, announcement)
        if len(queue) > 1 and announcement.entry.offset % 3 == 0:
            queue._items[-1], queue._items[-2] = queue._items[-2], queue._items[-1]

    around(patch, NoticeQueue, "announce", announce)


@caught_by("test_a_listener_that_falls_behind_gets_a_gap_and_goes_on")
def drops_in_silence(patch: Patch) -> None:
    patch.setattr(NoticeQueue, "_put_gap", lambda queue, notice: None)


# ---- records


@caught_by("test_a_put_that_expects_another_revision_conflicts")
@caught_by("test_a_delete_that_expects_another_revision_conflicts")
@caught_by("test_one_of_many_that_contend_wins")
def expects_no_revision(patch: Patch) -> None:
    patch.setattr(MemoryStore, "_check", staticmethod(lambda shelf, key, expect: None))


@caught_by("test_revisions_of_a_class_grow_also_over_deletion")
@caught_by("test_a_key_put_again_after_deletion_expects_none")
def counts_each_record_anew(patch: Patch) -> None:
    def delete(original: Any, store: MemoryStore, ttl: TTL, *how: Any) -> None:
        original(store, ttl, *how)
        store._shelves[ttl].revision = 0

    around(patch, MemoryStore, "delete", delete)


@caught_by("test_a_record_ends_with_its_lifetime")
def keeps_records_for_ever(patch: Patch) -> None:
    around(patch, MemoryStore, "get", lambda original, store, ttl, key, now: original(store, ttl, key, 0.0))


@caught_by("test_a_put_starts_the_lifetime_anew")
def renews_nothing(patch: Patch) -> None:
    def put(original: Any, store: MemoryStore, ttl: TTL, key: str, *how: Any) -> Any:
        records = store._shelves[ttl].records
        before = records.get(key)
        revision = original(store, ttl, key, *how)
        if before is not None:
            records[key] = (before[0], records[key][1])
        return revision

    around(patch, MemoryStore, "put", put)


@caught_by("test_lifetime_classes_are_apart")
def has_one_class(patch: Patch) -> None:
    for name in ("get", "put", "delete", "list"):
        around(patch, MemoryStore, name, lambda original, store, ttl, *how: original(store, TTL.LEASE, *how))


@caught_by("test_list_returns_the_records_under_a_prefix")
@caught_by("test_keys_that_look_like_wildcards_or_paths_stay_apart")
def lists_everything(patch: Patch) -> None:
    around(patch, MemoryStore, "list", lambda original, store, ttl, prefix, now: original(store, ttl, prefix[:1], now))


# ---- lifecycle


@caught_by("test_a_backend_is_used_inside_async_with_only")
def works_outside(patch: Patch) -> None:
    patch.setattr(MemoryBackend, "_opened", lambda node: node.store)


@caught_by("test_a_backend_can_be_entered_again_after_it_was_left")
def starts_empty_each_time(patch: Patch) -> None:
    async def leave(original: Any, node: MemoryBackend, *exc: object) -> None:
        await original(node, *exc)
        node.store.lose()

    around(patch, MemoryBackend, "__aexit__", leave)


@caught_by("test_errors_inside_the_block_come_out_as_they_are")
def wraps_errors_in_groups(patch: Patch) -> None:
    async def leave(original: Any, node: MemoryBackend, *exc: Any) -> None:
        await original(node, *exc)
        if exc[1] is not None:
            raise BaseExceptionGroup("unhandled errors", [exc[1]])

    around(patch, MemoryBackend, "__aexit__", leave)


@pytest.mark.parametrize(("sabotage", "test"), CASES, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_broken_promise_fails_the_test_about_it(sabotage: Sabotage, test: str, monkeypatch: Patch) -> None:
    await getattr(Kit(), test)()
    with monkeypatch.context() as patch:
        sabotage(patch)
        try:
            await getattr(Kit(), test)()
        except (Exception, BaseExceptionGroup):
            return
    pytest.fail(f"the kit did not notice a backend that {sabotage.__name__.replace('_', ' ')}")


async def test_the_kit_asks_for_nodes() -> None:
    with pytest.raises(NotImplementedError):
        BackendKit().nodes(1)
