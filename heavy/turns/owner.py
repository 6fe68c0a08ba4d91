"""The turns that this process owns: their leases, their logs, their cancellation, and the wake-ups of those that wait for their session.

It knows nothing of what a turn does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from common.errors import DependencyUnavailable, LoadsplitError
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.settings import LEASE_SECONDS
from heavy.turns.log import TurnLog
from heavy.turns.pace import FirstWord, Pace
from heavy.turns.stores import DatabaseUnavailable, TurnStore

LISTEN_AGAIN_SECONDS = 1.0
log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class OwnedTurn:
    """A turn that waits or runs here. `cancelled` says that its end was asked for, with the reason; only a `running` one is interrupted
    for it, a waiting one looks. `leaving` asks it to stop at the end of a step. `error` is what a reader is told when this node could not
    bring the turn to its end. `first_word` is there until the turn has said something, `wake` while it waits; `busy` says that it takes a
    place."""

    tenant: str
    session_id: str
    turn_id: str
    events: TurnLog
    task: asyncio.Task[None] | None = None
    seq: int = 0
    running: bool = False
    leaving: bool = False
    cancelled: str | None = None
    lost: bool = False
    error: LoadsplitError | None = None
    first_word: FirstWord | None = None
    busy: bool = False
    asked_at: float = field(default_factory=time.monotonic)
    wake: asyncio.Event | None = None

    def spoke(self, kind: str) -> None:
        """It has said something, as an action of that kind."""
        if self.first_word is not None:
            first, self.first_word = self.first_word, None
            first.heard(kind)


class TurnOwner:
    """Registry of the turns of one process. `name` is unique among all processes and stands in the lease, which is renewed four times
    before it runs out."""

    def __init__(self, turns: TurnStore, hotstore: HotStore, lease_seconds: float = LEASE_SECONDS) -> None:
        self.lease_seconds = lease_seconds
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._turns = turns
        self._hotstore = hotstore
        self._owned: dict[str, OwnedTurn] = {}
        self.busy = 0  # turns that have not ended
        self.held: Counter[str] = Counter()  # the same of each tenant that has any here
        self.pace: Pace | None = None  # hears of first words
        self.on_room: Callable[[], None] = lambda: None  # called when a place has got free
        self._waiting: dict[tuple[str, str], list[OwnedTurn]] = {}

    def __len__(self) -> int:
        return len(self._owned)

    def get(self, turn_id: str) -> OwnedTurn | None:
        """The turn, if it is here."""
        return self._owned.get(turn_id)

    def all(self) -> list[OwnedTurn]:
        """Every turn that is here."""
        return list(self._owned.values())

    def add(self, turn: OwnedTurn) -> None:
        """Takes charge of a turn's lease. An earlier attempt that still runs here (this process was frozen, and took over its own turn)
        is stopped."""
        earlier = self._owned.get(turn.turn_id)
        turn.busy = True
        self.busy += 1
        self.held[turn.tenant] += 1
        self._owned[turn.turn_id] = turn
        if earlier is not None:
            self._lose(earlier)
            self.free(earlier)

    def free(self, turn: OwnedTurn) -> None:
        """The turn has ended, and takes no place any more. It is still here for who reads it, until its log is written."""
        if turn.busy:
            turn.busy = False
            self.busy -= 1
            self.held[turn.tenant] -= 1
            if not self.held[turn.tenant]:
                del self.held[turn.tenant]
            self.on_room()

    def remove(self, turn: OwnedTurn) -> None:
        """The turn is here no more."""
        self.free(turn)
        if self._owned.get(turn.turn_id) is turn:
            del self._owned[turn.turn_id]

    def cancel(self, turn_id: str, reason: str) -> bool:
        """Asks a turn of this process to end; False when it is not here."""
        turn = self._owned.get(turn_id)
        if turn is None:
            return False
        if turn.cancelled is None:  # once is enough: a second interruption would hit the commit of the first
            turn.cancelled = reason
            if turn.wake is not None:
                turn.wake.set()
            if turn.running and turn.task is not None and not turn.events.committed:
                turn.task.cancel()
        return True

    async def cancel_anywhere(self, turn_id: str, reason: str) -> None:
        """Asks whichever process has the turn."""
        if not self.cancel(turn_id, reason):
            with contextlib.suppress(HotStoreUnavailable):  # the flag in the database is the safety net
                await self._hotstore.publish(keys.CANCELS, f"{turn_id} {reason}".encode())

    @contextlib.asynccontextmanager
    async def waiting(self, turn: OwnedTurn) -> AsyncIterator[asyncio.Event]:
        """While inside, the event (`turn.wake`) is set when the turn is the first of its session here and an earlier one has ended."""
        place = (turn.tenant, turn.session_id)
        turn.wake = wake = asyncio.Event()
        self._waiting.setdefault(place, []).append(turn)
        try:
            yield wake
        finally:
            turn.wake = None
            self._waiting[place].remove(turn)
            if not self._waiting[place]:
                del self._waiting[place]
            self._wake(*place)

    def is_first(self, turn: OwnedTurn) -> bool:
        """Whether no earlier turn of the session waits here: the others need not ask the database whether it is their time."""
        return turn is min(self._waiting[turn.tenant, turn.session_id], key=lambda t: t.seq)

    async def turn_ended(self, turn: OwnedTurn, others: bool) -> None:
        """Wakes who waits for the session, here and (when `others` are active) on other replicas."""
        self._wake(turn.tenant, turn.session_id)
        if others:
            with contextlib.suppress(HotStoreUnavailable):  # waiters also look for themselves every second
                await self._hotstore.publish(keys.TURN_ENDS, f"{turn.tenant}/{turn.session_id}".encode())

    async def release(self, turn: OwnedTurn) -> None:
        """Gives a turn up that has not ended, for another node to go on with it at once. Never raises: its lease runs out anyway."""
        try:
            await self._turns.release(self.name, [turn.turn_id])
            await self._hotstore.publish(keys.LEFT, b"")
        except DependencyUnavailable as e:
            log.warning("turn %s is left to its lease: %s", turn.turn_id, e.detail)

    async def keep_leases(self) -> None:
        """Renews all leases of this process until cancelled; a turn whose lease was lost is stopped."""
        while True:
            await asyncio.sleep(self.lease_seconds / 4)
            ids = list(self._owned)
            if not ids:
                continue
            try:
                held = set(await self._turns.renew(self.name, ids, lease_seconds=self.lease_seconds))
                asked = await self._turns.cancel_requests(self.name)
            except DatabaseUnavailable as e:
                log.warning("leases not renewed: %s", e.detail)
                continue
            for turn_id in ids:
                turn = self._owned.get(turn_id)
                if turn_id not in held and turn is not None:
                    self._lose(turn)
            for turn_id, reason in asked.items():  # the request itself may have been missed
                self.cancel(turn_id, reason)

    async def listen(self) -> None:
        """Obeys cancel requests and wake-ups of other replicas until cancelled."""
        async with asyncio.TaskGroup() as both:
            for channel in (keys.CANCELS, keys.TURN_ENDS):
                both.create_task(self._listen(channel))

    async def _listen(self, channel: str) -> None:
        while True:
            with contextlib.suppress(HotStoreUnavailable):  # leases and waiters look into the database, too
                async with self._hotstore.subscribe(channel) as messages:
                    async for message in messages:
                        self._heard(channel, message.decode())
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    def _heard(self, channel: str, message: str) -> None:
        if channel == keys.CANCELS:
            turn_id, _, reason = message.partition(" ")
            self.cancel(turn_id, reason or "cancelled")
        else:
            tenant, _, session_id = message.partition("/")
            self._wake(tenant, session_id)

    def _wake(self, tenant: str, session_id: str) -> None:
        waiting = self._waiting.get((tenant, session_id))
        if waiting and (wake := min(waiting, key=lambda t: t.seq).wake) is not None:
            wake.set()

    def _lose(self, turn: OwnedTurn) -> None:
        if turn.task is not None and not turn.events.ended and not turn.events.committed:
            turn.lost = True
            turn.task.cancel()
