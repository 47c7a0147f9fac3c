"""The backend kit, second part: what a listener hears."""

from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

from ..backends import Announcement, Backend, GapNotice
from ..core import Channel, Conflict, Fenced, Position
from ._backend_kit_base import (
    CHANNEL,
    EVENTS,
    KitBase,
    append,
    head_of,
    new_link,
    next_announcement,
    next_notice,
    payloads,
    raises,
)

__all__ = ["NoticesKit"]

_OTHER = Channel("kit:other")


class NoticesKit(KitBase):
    """Listen, watch, unwatch. Nothing here waits to see that a notice does *not* come: a later one proves it."""

    async def test_an_append_after_watch_is_announced_whole(self) -> None:
        """On return of ``watch`` the next append of any node is heard, with everything a reader of the log would see."""
        async with self.opened(2) as (one, two), one.listen() as notices:
            await append(two, "before")
            await one.watch(CHANNEL)
            for node, text, token in ((two, "theirs", 1), (one, "own", 2)):
                link = new_link()
                place = await append(node, text, link=link, token=token)
                heard = await next_announcement(notices, self.patience)
                assert (heard.channel, heard.epoch) == (CHANNEL, place.position.epoch)
                assert (heard.entry.offset, heard.entry.previous) == (place.position.offset, place.previous)
                assert (heard.entry.link, heard.entry.token, heard.entry.payload) == (link, token, text.encode())
                assert heard.entry == (await one.read(CHANNEL)).entries[-1]

    async def test_announcements_of_a_channel_come_in_log_order_on_every_node(self) -> None:
        """Two nodes that append and listen both hear one order: the log's."""
        async with self.opened(2) as nodes, nodes[0].listen() as first, nodes[1].listen() as second:
            for node in nodes:
                await node.watch(CHANNEL)

            async def write(node: Backend, writer: int) -> None:
                for index in range(12):
                    await append(node, f"{writer}.{index}", retention=EVENTS)

            async with anyio.create_task_group() as tasks:
                for writer in range(4):
                    tasks.start_soon(write, nodes[writer % 2], writer)
            expected = list((await nodes[0].read(CHANNEL)).entries)
            for notices in (first, second):
                assert [(await next_announcement(notices, self.patience)).entry for _ in expected] == expected

    async def test_only_watched_channels_are_announced(self) -> None:
        async with self.opened(2) as (one, two), one.listen() as notices:
            await one.watch(CHANNEL)
            for channel in (_OTHER, Channel("kit"), Channel("kit:one:more"), Channel("kit:%2A"), CHANNEL):
                await append(two, channel, channel=channel)
            assert (await next_announcement(notices, self.patience)).channel == CHANNEL

    async def test_names_that_look_like_wildcards_are_watched_literally(self) -> None:
        async with self.opened(2) as (one, two), one.listen() as notices:
            for name in ("kit:%2A", "kit:%3E", "%3E", "kit:%5Ba-z%5D", "kit:%3F"):
                await one.watch(Channel(name))
            await append(two, "not watched", channel=CHANNEL)
            await append(two, "not watched", channel=Channel("kit:x"))
            await append(two, "watched", channel=Channel("kit:%3E"))
            assert (await next_announcement(notices, self.patience)).channel == "kit:%3E"

    async def test_an_unwatched_channel_is_silent(self) -> None:
        async with self.opened(2) as (one, two), one.listen() as notices:
            await one.watch(CHANNEL)
            await one.watch(_OTHER)
            await append(two, "heard")
            assert (await next_announcement(notices, self.patience)).entry.payload == b"heard"
            await one.unwatch(CHANNEL)
            await one.unwatch(Channel("kit:never:watched"))
            await append(two, "unheard")
            await append(two, "heard", channel=_OTHER)
            assert (await next_announcement(notices, self.patience)).channel == _OTHER

    async def test_a_channel_watched_again_is_heard_again(self) -> None:
        """Also after every channel was let go, and once only if it is watched twice."""
        async with self.opened(2) as (one, two), one.listen() as notices:
            for round_ in ("first", "second"):
                await one.watch(CHANNEL)
                await one.watch(CHANNEL)
                await append(two, round_)
                await append(two, "after")
                assert (await next_announcement(notices, self.patience)).entry.payload.decode() == round_
                assert (await next_announcement(notices, self.patience)).entry.payload == b"after"
                await one.unwatch(CHANNEL)
                await append(two, "unheard")

    async def test_watching_on_one_node_leaves_the_other_alone(self) -> None:
        async with self.opened(2) as (one, two), one.listen() as heard, two.listen() as other:
            await one.watch(CHANNEL)
            await two.watch(CHANNEL)
            await two.watch(_OTHER)
            await two.unwatch(CHANNEL)
            await append(two, "x")
            await append(one, "y", channel=_OTHER)
            assert (await next_announcement(heard, self.patience)).channel == CHANNEL
            assert (await next_announcement(other, self.patience)).channel == _OTHER

    async def test_what_stores_nothing_announces_nothing(self) -> None:
        """A repeated link, a conflict, a fenced append, a keyframe and a new epoch pass without announcement."""
        async with self.opened(2) as (one, two), one.listen() as notices:
            await one.watch(CHANNEL)
            link = new_link()
            place = await append(two, "once", link=link, token=3)
            assert (await next_announcement(notices, self.patience)).entry.link == link
            for node in (one, two):
                await append(node, "once", link=link, token=3)
                with raises(Conflict):
                    await append(node, "refused", expect=Position("another", 1, 1), token=3)
                with raises(Fenced):
                    await append(node, "refused", token=2)
            assert await two.save_keyframe(CHANNEL, place.position, b"k")
            epoch = await two.new_epoch(CHANNEL, place.position.epoch)
            after = await append(two, "after", token=3)
            heard = await next_announcement(notices, self.patience)
            assert (heard.epoch, heard.entry.link) == (epoch, after.position.link)

    async def test_a_listener_that_waits_is_woken(self) -> None:
        async with self.opened(2) as (one, two), one.listen() as notices:
            await one.watch(CHANNEL)
            heard: list[Announcement] = []

            async def wait() -> None:
                heard.append(await next_announcement(notices, self.patience))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                for _ in range(5):
                    await checkpoint()
                await append(two, "wake up")
            assert payloads([announcement.entry for announcement in heard]) == ["wake up"]

    async def test_large_payloads_are_announced_or_become_a_gap(self) -> None:
        async with self.opened(2) as (one, two), one.listen() as notices:
            await one.watch(CHANNEL)
            payload = bytes(range(256)) * 2048
            place = await append(two, payload)
            notice = await next_notice(notices, self.patience)
            if isinstance(notice, Announcement):
                assert (notice.entry.link, notice.entry.payload) == (place.position.link, payload)
            else:
                assert notice.channel in (CHANNEL, None)

    async def test_a_listener_that_falls_behind_gets_a_gap_and_goes_on(self) -> None:
        """What does not fit becomes a gap notice; afterwards announcements are whole again. Appending never waits for it."""
        if self.listener_capacity is None:
            return
        async with self.opened(2) as (one, two), one.listen() as notices:
            await one.watch(CHANNEL)
            for index in range(2 * self.listener_capacity):
                await append(two, str(index), retention=EVENTS)
            offset, taken = 0, 0
            while True:
                notice = await next_notice(notices, self.patience)
                if isinstance(notice, GapNotice):
                    break
                assert notice.entry.previous == offset, "a hole without a gap notice"
                offset = notice.entry.offset
                taken += 1
            assert notice.channel in (CHANNEL, None)
            assert taken <= self.listener_capacity
            # Everything appended after the notice was taken is heard; what was queued behind it may come first.
            place = await append(two, "after", retention=EVENTS)
            heard = [await next_announcement(notices, self.patience)]
            while heard[-1].entry.link != place.position.link:
                heard.append(await next_announcement(notices, self.patience))
            assert len(heard) <= self.listener_capacity

    async def test_a_listener_opened_again_hears_what_is_watched_then(self) -> None:
        async with self.opened(2) as (one, two):
            for round_ in ("first", "second"):
                async with one.listen() as notices:
                    await one.watch(CHANNEL)
                    await append(two, round_)
                    assert (await next_announcement(notices, self.patience)).entry.payload.decode() == round_
                await append(two, "between")

    async def test_an_entry_announced_can_be_read(self) -> None:
        """Never does a listener learn of an entry that the log does not have yet."""
        async with self.opened(2) as (one, two), one.listen() as notices:
            await one.watch(CHANNEL)

            async def write() -> None:
                for index in range(30):
                    await append(two, str(index))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                for _ in range(30):
                    heard = await next_announcement(notices, self.patience)
                    assert (await head_of(one)).offset >= heard.entry.offset
