"""A subscription that is asked for again and refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from rtsync import Principal
from rtsync.core import frames

from ._site import site

pytestmark = pytest.mark.anyio


async def test_channel_refused_on_subscribing_again_is_no_longer_delivered() -> None:
    """What is refused now is not delivered on the strength of an earlier yes."""
    allowed = True

    def policy(principal: Principal, params: Mapping[str, str]) -> bool:
        return allowed

    async with site() as here:
        notes = here.rt.state("notes:{name}", access=policy)
        async with here.open() as peer:
            await peer.hello()
            await peer.ask("notes:a")
            await peer.next(frames.Subscribed)
            await peer.next(frames.Keyframe)
            allowed = False
            await peer.ask("notes:a")
            assert (await peer.next(frames.Error)).code == "forbidden"
            await notes.channel("a").set({"secret": 1})
            assert here.rt.statistics().subscriptions == 0
