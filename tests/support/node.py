"""One heavy node without HTTP: real turns over SQLite, the memory hot store and a scripted model that can be made to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from common.contracts.query import Query
from common.contracts.ticket import Plan
from common.endpoints.call import HttpCaller
from common.hotstore.protocol import HotStore
from common.telemetry.metrics import Metrics
from common.workflow.load import load_text
from heavy.agent.scripted import Say, ScriptedGateway
from heavy.jobs.journal import JournalMover
from heavy.llm.types import Chunk, LLMCallFailed, LLMRequest, TextDelta
from heavy.streaming import TurnReader
from heavy.turns.agents import Agents
from heavy.turns.entrance import Entrance
from heavy.turns.gates import Gates
from heavy.turns.life import Turns
from heavy.turns.lives import Lives
from heavy.turns.owner import OwnedTurn, TurnOwner
from heavy.turns.rows import TurnRow
from heavy.turns.run import RunParts
from heavy.turns.stores import Stores
from tests.support.waiting import wait_until

WORKFLOW = """{"agent_id": "shop", "skills": [{"skill_id": "talk", "description": "Talk", "execution_mode": "agent"}],
 "flows": [{"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."}]}"""
OTHER = '{"agent_id": "other", "skills": [{"skill_id": "talk", "description": "Talk", "execution_mode": "agent"}]}'
TALK = Plan("skill", "talk", "talk")


class SlowGateway(ScriptedGateway):
    """Echoes the message word by word; while `open` is not set it stops after the first word. So many calls as `failures` says fail; so
    many as `calls` says come with a call of a tool that there is not."""

    def __init__(self) -> None:
        super().__init__(self._echo)
        self.failures = self.calls = 0
        self.open = asyncio.Event()
        self.open.set()
        self.closed = 0

    def _echo(self, request: LLMRequest) -> Say:
        if self.failures > 0:
            self.failures -= 1
            return Say(error=LLMCallFailed("the model is away", kind="server_error"))
        if self.calls > 0:
            self.calls -= 1
            return Say("", [("nothing", {})])
        return Say(f"you said {request.messages[-1].content}")

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """Waits between the first word and the second."""
        try:
            async for chunk in super().stream(request):
                yield chunk
                if isinstance(chunk, TextDelta):
                    await self.open.wait()
        finally:
            self.closed += 1


class Node:
    """The turns of one process and what they stand on. `events` follows a turn as a client would."""

    def __init__(
        self, stores: Stores, hotstore: HotStore, caller: HttpCaller, max_inflight: int, gateway: SlowGateway | None = None
    ) -> None:
        metrics = Metrics()
        self.stores, self.hotstore, self.gateway = stores, hotstore, gateway or SlowGateway()
        self.owner = TurnOwner(stores.turns, hotstore)
        self.mover = JournalMover(stores.turns, hotstore, metrics, self.owner.name)
        self.reader = TurnReader(stores.turns, hotstore, self.owner)
        workflows = {"shop": load_text(WORKFLOW), "other": load_text(OTHER)}
        agents, parts = Agents(workflows), RunParts(stores, hotstore, self.gateway, caller, Gates(hotstore, stores.sessions))
        shared: dict[str, Any] = {"stores": stores, "hotstore": hotstore, "owner": self.owner, "agents": agents}
        self.lives = Lives(**shared, parts=parts, metrics=metrics)
        self.turns = Turns(**shared, lives=self.lives, settle=self.mover.settle, entrance=Entrance(self.owner, max_inflight))

    async def say(self, turn_id: str, message: str = "hello there friend", session: str = "s1", **more: Any) -> OwnedTurn | TurnRow:
        """Submits a message for the skill."""
        agent = more.pop("agent_id", "shop")
        options = {"tenant": "acme", "plan": TALK, "deadline": None, "streaming": True, "request_id": "r1", **more}
        return (await self.turns.submit(Query(message, session, "u1", agent), turn_id=turn_id, **options)).turn

    async def task(self, turn_id: str, message: str = "hello there friend", attempts: int = 3) -> OwnedTurn | TurnRow:
        """Runs a task."""
        query = Query(message, "s1", "u1", "shop")
        return await self.turns.run_task(query, tenant="acme", turn_id=turn_id, plan=None, max_attempts=attempts, request_id="r1")

    async def row(self, turn_id: str) -> TurnRow:
        """The turn in the database."""
        row = await self.stores.turns.get("acme", turn_id)
        assert row is not None
        return row

    async def events(self, turn_id: str, after: int = 0) -> list[tuple[int, bytes]]:
        """Every event after a number, to the end, in at most five seconds."""
        async with asyncio.timeout(5):
            return [e async for e in self.reader.follow(await self.row(turn_id), after)]

    async def talking(self, turn: OwnedTurn | TurnRow) -> OwnedTurn:
        """Returns once the turn has said its first word."""
        assert isinstance(turn, OwnedTurn)
        await wait_until(lambda: len(turn.events.lines) >= 3, "the first word is said")
        return turn

    async def idle(self) -> None:
        """Returns once no turn is here any more."""
        await wait_until(lambda: len(self.owner) == 0, "no turn is here")


@asynccontextmanager
async def node(stores: Stores, hotstore: HotStore, max_inflight: int = 100) -> AsyncIterator[Node]:
    """A node that is drained at the end."""
    async with HttpCaller() as caller:
        one = Node(stores, hotstore, caller, max_inflight)
        try:
            yield one
        finally:
            await one.turns.drain(0)
