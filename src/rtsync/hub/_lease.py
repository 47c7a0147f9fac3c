"""A lease: the right to be the one writer of a channel, proven by a token that only grows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import anyio

from ..backends import TTL, Backend
from ..core import Channel, Conflict, RTSyncError

__all__ = ["Lease"]


class Lease:
    """
    One node's hold on the lease of one channel.

    The token is the revision of the record at the time it was taken, so every holder's is greater than the one's before. The
    holder trusts its own monotonic clock, counted from *before* each renewal was sent: it stops before anybody else can start.
    """

    def __init__(self, backend: Backend, channel: Channel, node: str, ttl: float, now: Callable[[], float]) -> None:
        self._backend = backend
        self._key = f"lease:{channel}"
        self._node = node.encode()
        self._ttl = ttl
        self._now = now
        self._revision = 0
        self._renewing = anyio.Lock()
        self.token = 0
        self.expires_at = 0.0

    @property
    def held(self) -> bool:
        """Whether this node may write, by its own clock."""
        return self.token != 0 and self._now() < self.expires_at

    async def take(self) -> bool:
        """
        Try to take the lease; ``False`` while somebody else holds it.

        One that this node holds in the store but lost by its clock, or could not give back, is taken anew, with a new token.
        """
        asked_at = self._now()
        record = await self._backend.get(TTL.LEASE, self._key)
        if record is not None and record.value != self._node:
            return False
        try:
            expect = 0 if record is None else record.revision
            self._revision = await self._backend.put(TTL.LEASE, self._key, self._node, expect=expect)
        except Conflict:
            return False
        self.token = self._revision
        self.expires_at = asked_at + self._ttl
        return True

    async def renew(self) -> bool:
        """Renew the lease under the same token; ``False`` if it was lost."""
        async with self._renewing:
            asked_at = self._now()
            try:
                self._revision = await self._backend.put(TTL.LEASE, self._key, self._node, expect=self._revision)
            except Conflict:
                self.token = 0
                return False
            self.expires_at = asked_at + self._ttl
            return True

    async def outbid(self, token: int) -> bool:
        """
        Go on under a token greater than *token*, which an entry of the log carries; ``False`` if the lease was lost.

        A store that lost its records may number them anew, and a holder from before may have written since. Whoever holds the
        lease by the store's word is the writer all the same. Revisions differ, so that two who outbid the same entry do, too.
        """
        if not await self.renew():
            return False
        self.token = token + self._revision
        return True

    def lose(self) -> None:
        """Stop holding the lease, because it is lost or may be."""
        self.token = 0

    async def release(self) -> None:
        """Give the lease back, so that the next holder need not wait for its end."""
        if self.token:
            self.token = 0
            with contextlib.suppress(RTSyncError):  # it ends by itself
                await self._backend.delete(TTL.LEASE, self._key, expect=self._revision)
