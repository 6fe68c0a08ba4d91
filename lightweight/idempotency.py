"""What a request with an Idempotency-Key has become in this tier, kept in the hot store: being answered, handed to heavy, or its reply.

Requests without a key never come here. With the hot store away a keyed request goes to heavy, rule or not: there the database knows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from common.contracts.idempotency import KEPT_SECONDS, Keyed
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable

OPEN, HANDED, REPLIED = b"o", b"h", b"r"
OPEN_SECONDS = 5.0  # how long a request is believed to be answered without a sign of its process
RENEW_SECONDS = 1.5
WAIT_SECONDS = 60.0
PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known under a key. `reply` is the whole JSON of a reply, None before there is one; `claim` is what this request has put
    there, if it is the one to answer."""

    turn_id: str
    reply: bytes | None = None
    claim: bytes | None = None


class Idempotency:
    """One for a process."""

    def __init__(self, hotstore: HotStore) -> None:
        self._hotstore = hotstore

    async def begin(self, tenant: str, keyed: Keyed, deadline: float | None) -> Kept | None:
        """Claims the key, or tells what it has become; waits while another process answers. None when the hot store is away.

        `deadline` is Unix seconds. Raises IdempotencyMismatch, DependencyUnavailable when the wait is over.
        """
        key = keys.idempotency(tenant, keyed.digest)
        until = time.time() + WAIT_SECONDS if deadline is None else min(deadline, time.time() + WAIT_SECONDS)
        claim = _write(OPEN, keyed.fingerprint, keyed.ids[0], os.urandom(8).hex().encode())
        tries = 0
        try:
            while (held := await self._hotstore.claim(key, claim, OPEN_SECONDS)) not in (None, claim):
                state, fingerprint, turn_id, reply = _read(held)
                keyed.refuse_other(fingerprint)
                if state != OPEN:
                    return Kept(turn_id, reply if state == REPLIED else None)
                if time.time() >= until:
                    raise DependencyUnavailable("the first request with this Idempotency-Key is still being answered", retry_after=1.0)
                await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1
        except HotStoreUnavailable:
            return None
        return Kept(keyed.ids[0], claim=claim)

    @contextlib.asynccontextmanager
    async def answering(self, tenant: str, keyed: Keyed, claim: bytes) -> AsyncIterator[None]:
        """While inside, others see that the request is being answered."""
        renewing = asyncio.create_task(self._renew(tenant, keyed, claim))
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def handed(self, tenant: str, keyed: Keyed) -> None:
        """The request goes to heavy, and so do its repetitions."""
        await self._keep(tenant, keyed, _write(HANDED, keyed.fingerprint, keyed.ids[0]), KEPT_SECONDS)

    async def replied(self, tenant: str, keyed: Keyed, reply: bytes) -> None:
        """Keeps the reply for a day."""
        await self._keep(tenant, keyed, _write(REPLIED, keyed.fingerprint, keyed.ids[0], reply), KEPT_SECONDS)

    async def _renew(self, tenant: str, keyed: Keyed, claim: bytes) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await self._keep(tenant, keyed, claim, OPEN_SECONDS)

    async def _keep(self, tenant: str, keyed: Keyed, value: bytes, seconds: float) -> None:
        with contextlib.suppress(HotStoreUnavailable):  # a repetition is answered anew then, as the same turn
            await self._hotstore.set(keys.idempotency(tenant, keyed.digest), value, seconds)


def _write(state: bytes, fingerprint: str, turn_id: str, reply: bytes = b"") -> bytes:
    return b" ".join((state, fingerprint.encode(), turn_id.encode(), reply))


def _read(value: bytes) -> tuple[bytes, str, str, bytes]:
    state, fingerprint, turn_id, reply = value.split(b" ", 3)
    return state, fingerprint.decode(), turn_id.decode(), reply
