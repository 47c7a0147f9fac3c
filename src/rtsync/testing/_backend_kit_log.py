"""The backend kit, first part: what a log promises."""

from __future__ import annotations

import random

import anyio
from anyio.lowlevel import checkpoint

from ..backends import Appended, Backend, Retention
from ..core import Channel, Conflict, Fenced, KeyframeNeeded, Position, parse_channel
from ._backend_kit_base import (
    ABSENT,
    CHANNEL,
    EVENTS,
    KitBase,
    append,
    assert_sound,
    head_of,
    new_link,
    payloads,
    raises,
)

__all__ = ["LogKit"]

_HOSTILE_NAMES = [
    "a",
    "A",
    "a:b",
    "a:B",
    "a.b",
    "a:.",
    "a:..",
    "a:b.c",
    "a:b:c",
    "a:%2A",
    "a:%3E",
    "a:%3A",
    "a:%25",
    "a:%2F..",
    "a:%20",
    "a:%7Bb%7D",
    "%7Ba%7D",
    "a:%C3%A4",
    "a:-",
    "a:_",
    "a:~",
    "a:" + "n" * 198,
]


class LogKit(KitBase):
    """Append, read, heads, keyframes, windows, epochs."""

    # ---- logs that do not exist

    async def test_reading_an_absent_log_creates_nothing(self) -> None:
        """A log comes into being by an append, and by nothing else."""
        async with self.opened(2) as (one, two):
            for _ in range(2):
                cut = await one.read(CHANNEL)
                assert (cut.head, cut.keyframe, list(cut.entries)) == (ABSENT, None, [])
                assert list(await two.heads([CHANNEL, Channel("kit:two")])) == [ABSENT, ABSENT]
                assert await one.new_epoch(CHANNEL, "") == ""
                assert await one.new_epoch(CHANNEL, "never") == ""
                assert await two.save_keyframe(CHANNEL, Position("never", 1, 1), b"{}") is False
                assert await two.save_keyframe(CHANNEL, ABSENT, b"{}") is False

    async def test_heads_of_no_channels_are_none(self) -> None:
        async with self.opened(1) as (node,):
            assert list(await node.heads([])) == []

    # ---- append and read

    async def test_first_append_begins_an_epoch(self) -> None:
        async with self.opened(2) as (one, two):
            first = await append(one, "first")
            assert first.position.epoch
            assert first.position.offset > first.previous == 0
            assert await head_of(two) == first.position

    async def test_read_shows_what_was_appended_on_every_node(self) -> None:
        async with self.opened(2) as (one, two):
            links = [new_link() for _ in range(3)]
            places = [
                await append(node, text, link=link, token=token)
                for node, text, link, token in zip([one, two, one], "abc", links, [3, 3, 4], strict=True)
            ]
            for node in (one, two):
                cut = await node.read(CHANNEL)
                assert_sound(cut)
                assert cut.keyframe is None
                assert cut.head == places[-1].position
                assert payloads(cut.entries) == ["a", "b", "c"]
                assert [entry.token for entry in cut.entries] == [3, 3, 4]
                assert [cut.head.at(entry.offset, entry.link) for entry in cut.entries] == [place.position for place in places]
                assert [entry.previous for entry in cut.entries] == [place.previous for place in places]

    async def test_heads_come_in_the_order_asked_for(self) -> None:
        async with self.opened(1) as (node,):
            channels = [Channel(f"kit:{index}") for index in range(20)]
            placed = {channel: (await append(node, "x", channel=channel)).position for channel in channels[::2]}
            asked = [*reversed(channels), channels[0]]
            assert list(await node.heads(asked)) == [placed.get(channel, ABSENT) for channel in asked]

    async def test_payloads_of_any_bytes_and_size_come_back_whole(self) -> None:
        async with self.opened(2) as (one, two):
            everything = [b"", bytes(range(256)), b"\r\n$-1\r\n+OK\r\n", b"\xff\xfe\x00", random.randbytes(200 * 1024)]
            for payload in everything:
                await append(one, payload)
            cut = await two.read(CHANNEL)
            assert [entry.payload for entry in cut.entries] == everything

    async def test_keyframe_of_a_mebibyte_comes_back_whole(self) -> None:
        async with self.opened(2) as (one, two):
            document = random.randbytes(1024 * 1024)
            place = await append(one, "x")
            assert await one.save_keyframe(CHANNEL, place.position, document)
            cut = await two.read(CHANNEL)
            assert cut.keyframe is not None
            assert cut.keyframe.payload == document

    async def test_names_that_look_like_wildcards_or_keys_stay_apart(self) -> None:
        """No name reads, trims or renames the log of another."""
        async with self.opened(2) as (one, two):
            channels = [parse_channel(name) for name in _HOSTILE_NAMES]
            places: dict[Channel, Position] = {}
            for channel in channels:
                assert await two.heads([channel]) == [ABSENT], f"{channel} shares a log with another name"
                places[channel] = (await append(one, channel, channel=channel, expect=ABSENT)).position
            for channel in channels:
                assert await one.save_keyframe(channel, places[channel], f"keyframe of {channel}".encode())
            for channel in channels:
                cut = await two.read(channel)
                assert cut.head == places[channel]
                assert payloads(cut.entries) == [channel]
                assert cut.keyframe is not None
                assert cut.keyframe.payload.decode() == f"keyframe of {channel}"

    # ---- compare-and-set

    async def test_concurrent_writers_form_one_chain_of_every_accepted_append(self) -> None:
        """However many writers and nodes race, an accepted append is in the log once, directly after the head it expected."""
        async with self.opened(3) as nodes:
            accepted: dict[Position, tuple[str, Position]] = {}  # {where it is: (what, head it was made for)}

            async def write(node: Backend, writer: str) -> None:
                expect = ABSENT
                for index in range(10):
                    payload, link = f"{writer}.{index}", new_link()
                    while True:
                        try:
                            place = await append(node, payload, link=link, expect=expect)
                        except Conflict as conflict:
                            expect = conflict.head or await head_of(node)
                            await checkpoint()
                        else:
                            break
                    accepted[place.position] = (payload, expect)
                    assert place.previous == expect.offset
                    expect = place.position

            async with anyio.create_task_group() as tasks:
                for index in range(12):
                    tasks.start_soon(write, nodes[index % 3], f"writer{index}")
            cut = await nodes[0].read(CHANNEL)
            assert_sound(cut)
            assert len(cut.entries) == len(accepted) == 120
            before = Position.start(cut.head.epoch)
            for entry in cut.entries:
                position = cut.head.at(entry.offset, entry.link)
                payload, expected = accepted[position]
                assert entry.payload.decode() == payload
                assert expected == before or (expected == ABSENT and before.offset == 0)
                before = position

    async def test_conflict_carries_the_head_and_changes_nothing(self) -> None:
        async with self.opened(2) as (one, two):
            first = (await append(one, "first")).position
            head = (await append(two, "second", expect=first)).position
            stale = [
                ABSENT,
                Position.start(head.epoch),
                first,
                head._replace(link=head.link ^ 1),
                head._replace(offset=head.offset + 1),
                head._replace(epoch="another"),
            ]
            for expect in stale:
                for node in (one, two):
                    with raises(Conflict) as caught:
                        await append(node, "refused", expect=expect)
                    assert caught.error.head in (head, None)
            assert payloads((await one.read(CHANNEL)).entries) == ["first", "second"]

    async def test_expecting_an_entry_of_an_absent_log_conflicts(self) -> None:
        """A log that was lost does not silently continue."""
        async with self.opened(1) as (node,):
            with raises(Conflict) as caught:
                await append(node, "refused", expect=Position("lost", 7, 7))
            assert caught.error.head in (ABSENT, None)
            assert await head_of(node) == ABSENT

    async def test_expecting_an_empty_log_lets_one_of_two_in(self) -> None:
        async with self.opened(2) as nodes:
            outcomes: list[Appended | Conflict] = []

            async def write(node: Backend) -> None:
                try:
                    outcomes.append(await append(node, "mine", expect=ABSENT))
                except Conflict as conflict:
                    outcomes.append(conflict)

            async with anyio.create_task_group() as tasks:
                for node in nodes:
                    tasks.start_soon(write, node)
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Appended", "Conflict"]
            assert len((await nodes[0].read(CHANNEL)).entries) == 1

    # ---- idempotent links

    async def test_a_link_appended_again_returns_its_first_place(self) -> None:
        """On any node, whatever was appended since, whatever head and token the retry names."""
        async with self.opened(2) as (one, two):
            link = new_link()
            place = await append(one, "once", link=link, expect=ABSENT, token=5)
            assert await append(one, "once", link=link, expect=ABSENT, token=5) == place
            assert await append(two, "once", link=link, expect=ABSENT, token=5) == place
            later = await append(two, "later", token=6)
            assert await append(one, "once", link=link, expect=ABSENT, token=5) == place
            assert await append(two, "once", link=link) == place
            assert await head_of(one) == later.position
            assert payloads((await one.read(CHANNEL)).entries) == ["once", "later"]

    async def test_a_link_appended_again_to_a_full_log_returns_its_first_place(self) -> None:
        async with self.opened(1) as (node,):
            retention = Retention(keyframed=True, window=2)
            link = new_link()
            place = await append(node, "once", link=link, retention=retention)
            await append(node, "later", retention=retention)
            assert await append(node, "once", link=link, retention=retention) == place

    async def test_one_link_appended_at_once_by_two_nodes_is_stored_once(self) -> None:
        async with self.opened(2) as nodes:
            for round_ in range(10):
                link, places = new_link(), set[Appended]()

                async def write(node: Backend, payload: str, link: int = link, places: set[Appended] = places) -> None:
                    places.add(await append(node, payload, link=link, retention=EVENTS))

                async with anyio.create_task_group() as tasks:
                    for node in nodes:
                        tasks.start_soon(write, node, str(round_))
                assert len(places) == 1
            assert payloads((await nodes[0].read(CHANNEL)).entries) == [str(round_) for round_ in range(10)]

    # ---- fencing

    async def test_an_older_token_is_fenced_by_the_newest_entry(self) -> None:
        async with self.opened(2) as (one, two):
            await append(one, "old holder", token=3)
            head = (await append(two, "new holder", token=7)).position
            for token in (0, 3, 6):
                with raises(Fenced) as caught:
                    await append(one, "refused", token=token, expect=head)
                assert caught.error.token == 7
            assert await head_of(one) == head

    async def test_an_equal_or_newer_token_goes_on(self) -> None:
        async with self.opened(1) as (node,):
            for token in (0, 4, 4, 9):
                await append(node, str(token), token=token)
            assert [entry.token for entry in (await node.read(CHANNEL)).entries] == [0, 4, 4, 9]

    async def test_open_appends_are_fenced_too(self) -> None:
        """Also without an expected head a late append of an old holder is refused."""
        async with self.opened(1) as (node,):
            await append(node, "holder", token=2, retention=EVENTS)
            for token in (0, 1):
                with raises(Fenced):
                    await append(node, "late", token=token, retention=EVENTS)

    # ---- keyframes and trimming

    async def test_a_full_window_needs_a_keyframe(self) -> None:
        """The append is refused until a keyframe is saved; a keyframe of the head always makes room."""
        async with self.opened(2) as (one, two):
            retention = Retention(keyframed=True, window=8)
            count = 0
            for _ in range(4):
                refused = False
                for _ in range(9):
                    expect = await head_of(one)
                    try:
                        await append(one, str(count), retention=retention, expect=expect)
                    except KeyframeNeeded as needed:
                        assert needed.window == 8
                        assert await head_of(one) == expect
                        refused = True
                        break
                    count += 1
                assert refused
                cut = await two.read(CHANNEL)
                assert_sound(cut)
                assert len(cut.entries) <= 8
                assert payloads(cut.entries)[-1] == str(count - 1)
                assert await two.save_keyframe(CHANNEL, await head_of(two), str(count - 1).encode())
            assert count > 8

    async def test_a_keyframe_of_no_entry_is_refused_and_changes_nothing(self) -> None:
        async with self.opened(1) as (node,):
            first = (await append(node, "a")).position
            second = (await append(node, "b")).position
            for wrong in (
                second._replace(link=second.link ^ 1),
                second._replace(offset=second.offset + 1),
                second._replace(offset=first.offset),
                second._replace(epoch="another"),
                Position.start(second.epoch),
                ABSENT,
            ):
                assert await node.save_keyframe(CHANNEL, wrong, b"wrong") is False
            cut = await node.read(CHANNEL)
            assert cut.keyframe is None
            assert payloads(cut.entries) == ["a", "b"]

    async def test_a_keyframe_trims_up_to_the_one_before(self) -> None:
        """Between one and two keyframe intervals stay, and a trimmed entry can have no keyframe."""
        async with self.opened(2) as (one, two):
            places = [(await append(one, str(index))).position for index in range(10)]
            assert await one.save_keyframe(CHANNEL, places[3], b"3")
            assert await two.save_keyframe(CHANNEL, places[6], b"6")
            cut = await one.read(CHANNEL)
            assert_sound(cut)
            assert cut.keyframe is not None
            assert (cut.keyframe.position, cut.keyframe.payload) == (places[3], b"3")
            assert payloads(cut.entries) == ["3", "4", "5", "6", "7", "8", "9"]
            assert await one.save_keyframe(CHANNEL, places[2], b"2") is False
            assert await one.save_keyframe(CHANNEL, places[9], b"9")
            cut = await two.read(CHANNEL)
            assert_sound(cut)
            assert cut.keyframe is not None
            assert (cut.keyframe.position, cut.keyframe.payload) == (places[6], b"6")
            assert payloads(cut.entries) == ["6", "7", "8", "9"]

    async def test_the_first_keyframe_loses_nothing_behind_it(self) -> None:
        async with self.opened(1) as (node,):
            places = [(await append(node, str(index))).position for index in range(5)]
            assert await node.save_keyframe(CHANNEL, places[2], b"2")
            cut = await node.read(CHANNEL)
            assert_sound(cut)
            assert payloads(cut.entries)[-3:] == ["2", "3", "4"]
            assert await append(node, "again", link=places[0].link) == Appended(places[0], 0)

    async def test_a_late_keyframe_does_not_replace_a_newer_one(self) -> None:
        """Two nodes that save keyframes in the wrong order leave a log that can be read and trimmed."""
        async with self.opened(2) as (one, two):
            places = [(await append(one, str(index))).position for index in range(6)]
            assert await one.save_keyframe(CHANNEL, places[4], b"4")
            assert await two.save_keyframe(CHANNEL, places[1], b"1")
            assert_sound(await two.read(CHANNEL))
            assert await one.save_keyframe(CHANNEL, places[5], b"5")
            cut = await two.read(CHANNEL)
            assert_sound(cut)
            assert cut.keyframe is not None
            assert (cut.keyframe.position, cut.keyframe.payload) == (places[4], b"4")

    async def test_a_keyframe_saved_twice_serves_as_one(self) -> None:
        """As a retry does after a lost answer: nothing more is trimmed."""
        async with self.opened(2) as (one, two):
            places = [(await append(one, str(index))).position for index in range(6)]
            assert await one.save_keyframe(CHANNEL, places[1], b"1")
            assert await one.save_keyframe(CHANNEL, places[4], b"4")
            assert await two.save_keyframe(CHANNEL, places[4], b"4")
            cut = await one.read(CHANNEL)
            assert_sound(cut)
            assert cut.keyframe is not None
            assert (cut.keyframe.position, cut.keyframe.payload) == (places[1], b"1")

    async def test_keyframes_racing_appends_leave_no_hole(self) -> None:
        """While one node appends and another saves keyframes, every cut leads from a true keyframe to the head."""
        async with self.opened(3) as (writer, saver, reader):
            retention = Retention(keyframed=True, window=40)
            done = anyio.Event()

            async def write() -> None:
                count = 0
                while count < 200:
                    try:
                        await append(writer, str(count), retention=retention)
                        count += 1
                    except KeyframeNeeded:
                        await anyio.sleep(0.001)
                done.set()

            async def save() -> None:
                while not done.is_set():
                    cut = await saver.read(CHANNEL)
                    if cut.entries:
                        entry = cut.entries[-1]
                        assert await saver.save_keyframe(CHANNEL, cut.head, entry.payload)
                    await anyio.sleep(0.001)

            async def read() -> None:
                while not done.is_set():
                    cut = await reader.read(CHANNEL)
                    assert_sound(cut)
                    assert len(cut.entries) <= 40
                    if cut.keyframe is not None:
                        assert cut.keyframe.payload == cut.entries[0].payload
                    numbers = [int(text) for text in payloads(cut.entries)]
                    if numbers:
                        assert numbers == list(range(numbers[0], numbers[-1] + 1))
                    await anyio.sleep(0.0005)

            async with anyio.create_task_group() as tasks:
                for task in (write, save, read):
                    tasks.start_soon(task)
            assert payloads((await reader.read(CHANNEL)).entries)[-1] == "199"

    # ---- event windows

    async def test_the_oldest_events_fall_out_and_the_rest_still_chains(self) -> None:
        async with self.opened(2) as (one, two):
            retention = Retention(keyframed=False, window=5)
            places = [await append(one, str(index), retention=retention) for index in range(12)]
            cut = await two.read(CHANNEL)
            assert_sound(cut, keyframed=False)
            assert cut.keyframe is None
            assert payloads(cut.entries) == ["7", "8", "9", "10", "11"]
            assert cut.entries[0].previous == places[6].position.offset

    async def test_a_window_of_one_keeps_the_newest(self) -> None:
        async with self.opened(1) as (node,):
            for index in range(4):
                await append(node, str(index), retention=Retention(keyframed=False, window=1))
            assert payloads((await node.read(CHANNEL)).entries) == ["3"]

    async def test_open_writers_on_several_nodes_lose_nothing(self) -> None:
        async with self.opened(3) as nodes:
            places: dict[int, str] = {}  # {offset: payload}

            async def write(node: Backend, writer: int) -> None:
                for index in range(20):
                    payload = f"{writer}.{index}"
                    places[(await append(node, payload, retention=EVENTS)).position.offset] = payload

            async with anyio.create_task_group() as tasks:
                for writer in range(9):
                    tasks.start_soon(write, nodes[writer % 3], writer)
            cut = await nodes[1].read(CHANNEL)
            assert_sound(cut, keyframed=False)
            assert {entry.offset: entry.payload.decode() for entry in cut.entries} == places
            assert len(places) == 180

    async def test_cuts_are_consistent_while_entries_fall_out(self) -> None:
        async with self.opened(2) as (one, two):
            retention = Retention(keyframed=False, window=10)
            done = anyio.Event()

            async def write() -> None:
                for index in range(150):
                    await append(one, str(index), retention=retention)
                done.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                while not done.is_set():
                    cut = await two.read(CHANNEL)
                    assert_sound(cut, keyframed=False)
                    numbers = [int(text) for text in payloads(cut.entries)]
                    if numbers:
                        assert numbers == list(range(numbers[0], numbers[-1] + 1))
                        assert len(numbers) == min(10, numbers[-1] + 1)

    # ---- epochs

    async def test_a_new_epoch_keeps_the_entries_and_ends_old_positions(self) -> None:
        async with self.opened(2) as (one, two):
            first = (await append(one, "a")).position
            old = (await append(one, "b")).position
            assert await one.save_keyframe(CHANNEL, first, b"kept")
            epoch = await two.new_epoch(CHANNEL, old.epoch)
            assert epoch not in ("", old.epoch)
            cut = await one.read(CHANNEL)
            assert_sound(cut)
            assert cut.head == old._replace(epoch=epoch)
            assert payloads(cut.entries) == ["a", "b"]
            assert cut.keyframe is not None
            assert cut.keyframe.position == first._replace(epoch=epoch)
            with raises(Conflict) as caught:
                await append(one, "refused", expect=old)
            assert caught.error.head in (cut.head, None)
            assert await one.save_keyframe(CHANNEL, old, b"old") is False
            assert (await append(one, "b", link=old.link)).position == cut.head
            after = await append(one, "c", expect=cut.head)
            assert after.position.epoch == epoch
            assert after.position.offset > old.offset
            assert after.previous == old.offset

    async def test_two_nodes_that_doubt_one_history_agree_on_the_next(self) -> None:
        """The epoch changes by compare-and-set: one fresh epoch, and both learn it."""
        async with self.opened(2) as nodes:
            old = (await append(nodes[0], "a")).position.epoch
            learnt: list[str] = []

            async def doubt(node: Backend) -> None:
                learnt.append(await node.new_epoch(CHANNEL, old))

            async with anyio.create_task_group() as tasks:
                for node in (*nodes, *nodes):
                    tasks.start_soon(doubt, node)
            assert len(set(learnt)) == 1
            assert learnt[0] not in ("", old)
            assert (await head_of(nodes[0])).epoch == learnt[0]
            assert await nodes[1].new_epoch(CHANNEL, old) == learnt[0]
            assert await nodes[1].new_epoch(CHANNEL, "never") == learnt[0]
            assert await nodes[1].new_epoch(CHANNEL, learnt[0]) not in ("", old, learnt[0])

    async def test_appends_racing_a_new_epoch_stay_one_chain(self) -> None:
        async with self.opened(2) as (one, two):
            await append(one, "0")

            async def rename() -> None:
                for _ in range(5):
                    await two.new_epoch(CHANNEL, (await head_of(two)).epoch)
                    await checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(rename)
                for index in range(1, 40):
                    await append(one, str(index))
            cut = await one.read(CHANNEL)
            assert_sound(cut)
            assert payloads(cut.entries) == [str(index) for index in range(40)]

    # ---- cancellation

    async def test_a_cancelled_append_happens_once_or_not_at_all(self) -> None:
        """Wherever the wait is abandoned, appending again with the link settles it, and other calls get their own answers."""
        async with self.opened(2) as (one, two):
            links = [new_link() for _ in range(40)]

            for index, link in enumerate(links):
                async with anyio.create_task_group() as tasks:

                    async def write(index: int = index, link: int = link) -> None:
                        await append(one, str(index), link=link, retention=EVENTS)

                    tasks.start_soon(write)
                    for _ in range(index % 8):
                        await checkpoint()
                    if index >= 20:
                        await anyio.sleep(0.0005 * (index - 20))
                    tasks.cancel_scope.cancel()
                assert await one.heads([Channel("kit:other")]) == [ABSENT]
            for index, link in enumerate(links):
                place = await append(one, str(index), link=link, retention=EVENTS)
                assert await append(two, str(index), link=link, retention=EVENTS) == place
            cut = await two.read(CHANNEL)
            assert_sound(cut, keyframed=False)
            assert sorted(payloads(cut.entries), key=int) == [str(index) for index in range(40)]
