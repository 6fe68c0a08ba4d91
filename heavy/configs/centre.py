"""What an operator does in the config centre: store a version, bring it into force for some or all sessions, go back, compare, try out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from common.contracts.rollout import Form
from common.errors import ConfigInvalid, Conflict, NotFound
from common.web.config_source import ConfigSource
from heavy.actions.compiled import CompiledWorkflow
from heavy.configs.admission import refused
from heavy.configs.comparison import RULE, complaint
from heavy.configs.force import activated, rolled_back
from heavy.configs.keeper import CentreKeeper
from heavy.configs.rulebook import Examination, NoRules, Rulebook
from heavy.configs.stores import Action, AgentRow, ConfigStore, NewChange, NewVersion, VersionRow
from heavy.configs.watchdog import Watchdog, compared
from heavy.turns.agents import Agents

TRIES = 10
MOST_MESSAGES = 2000
FILES_SERVE = "this server serves the files of LOADSPLIT_CONFIG: start it with LOADSPLIT_CONFIG=db: to serve the config centre"
Work = Callable[[], Coroutine[Any, Any, None]]
Step = Callable[[AgentRow], tuple[AgentRow, Action, int]]


class Centre:
    """The centre as one process has it. `keeper` is None where files serve: then versions can be stored, and none brought into force."""

    def __init__(
        self,
        store: ConfigStore,
        source: ConfigSource,
        keeper: CentreKeeper | None,
        watchdog: Watchdog,
        agents: Agents,
        rules: Rulebook | NoRules,
        env: Mapping[str, str],
    ) -> None:
        self._store = store
        self._source = source
        self._keeper = keeper
        self._watchdog = watchdog
        self._agents = agents
        self._rules = rules
        self._env = env

    @property
    def works(self) -> Sequence[Work]:
        """What goes on in the background."""
        if self._keeper is None:
            return (self._source.follow,)
        return (self._keeper.follow, self._keeper.serve_texts, self._watchdog.run)

    @property
    def source(self) -> str:
        """Where agents come from: `files` or `db`."""
        return "files" if self._keeper is None else "db"

    async def check(self) -> None:
        """Raises DependencyUnavailable with what is wrong: a check of /api/v1/health."""
        await self._source.check()

    async def examine(self, agent_id: str, text: str, form: Form) -> Examination:
        """What there is to say of a text that is to become a version of the agent; nothing is stored."""
        found = await asyncio.to_thread(self._rules.examine, text, f"{agent_id}.{form}", self._env)
        if found.workflow is None:
            return found
        more = [replace(p, file=f"{agent_id}.{form}") for p in refused(agent_id, found.workflow)]
        return replace(found, workflow=None, problems=[*more, *found.problems]) if more else found

    async def push(self, agent_id: str, text: str, form: Form, *, author: str, note: str) -> tuple[VersionRow, Examination]:
        """Stores a text as a version. Raises ConfigInvalid with every problem and every failed test. Where files serve it waits for the
        day on which the centre does."""
        found = await self.examine(agent_id, text, form)
        if found.workflow is None or found.failed:
            raise invalid(found)
        problems = [p.as_dict() for p in found.problems]
        new = NewVersion(agent_id, found.workflow.config_hash, form, text, author, note, problems, summary(found))
        return await self._store.add(new), found

    async def activate(self, agent_id: str, version: int, percent: float | None, *, author: str, note: str) -> AgentRow:
        """Brings a version into force, for all sessions or a share of them. Raises NotFound, InvalidRequest, Conflict, and ConfigInvalid
        for a version that cannot be used here."""
        self._need_database()
        row = await self.version(agent_id, version)
        await self._agents.version(agent_id, row.config_hash)

        def step(before: AgentRow) -> tuple[AgentRow, Action, int]:
            after, action = activated(before, version, percent)
            return after, action, version

        return await self._change(agent_id, step, percent, author, note)

    async def rollback(self, agent_id: str, *, author: str, note: str) -> AgentRow:
        """Takes the canary out, or else goes back to the version before. Raises NotFound, Conflict."""
        self._need_database()

        def step(before: AgentRow) -> tuple[AgentRow, Action, int]:
            after, version = rolled_back(before)
            return after, "rollback", version

        return await self._change(agent_id, step, None, author, note)

    async def agent(self, agent_id: str) -> AgentRow:
        """The agent's state. Raises NotFound for one that the centre has no version of."""
        found = await self._store.agent(agent_id)
        if found is None:
            raise NotFound("the config centre has no version of such an agent")
        return found

    async def version(self, agent_id: str, version: int) -> VersionRow:
        """One version with its text. Raises NotFound."""
        row = await self._store.version(agent_id, version)
        if row is None:
            raise NotFound("there is no such version of this agent")
        return row

    async def compiled(self, agent_id: str, version: int) -> CompiledWorkflow:
        """One version, ready to run. Raises NotFound, and ConfigInvalid where it cannot be used here."""
        return await self._agents.version(agent_id, (await self.version(agent_id, version)).config_hash)

    async def diff(self, agent_id: str, version: int, said: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
        """Which messages a version would route otherwise than the active one: those given, or the agent's last ones."""
        agent = await self.agent(agent_id)
        new = (await self.compiled(agent_id, version)).workflow
        if agent.active is None:
            raise Conflict("no version is active yet: there is nothing to compare with")
        old = (await self.compiled(agent_id, agent.active)).workflow
        given = said if said is not None else await self._store.messages(agent_id, limit=MOST_MESSAGES)
        messages = [one for one in given if isinstance(one.get("message"), str) and one["message"]]
        told = await asyncio.to_thread(self._rules.replay, messages, old, new)
        return {"agent_id": agent_id, "version": version, "against": agent.active, "source": "turns" if said is None else "given", **told}

    async def comparison(self, agent_id: str) -> dict[str, Any]:
        """How the active version and the canary do, and what the rule of the automatic rollback says of it."""
        agent = await self.agent(agent_id)
        active, canary = await compared(self._store, agent)
        sides = {
            "active": {"version": agent.active, "config_hash": agent.active_hash, "since": agent.since, **active.as_dict()},
            "canary": None,
        }
        if agent.canary is not None:
            head = {"version": agent.canary, "config_hash": agent.canary_hash, "since": agent.canary_since, "percent": agent.percent}
            sides["canary"] = {**head, **canary.as_dict()}
        return {"agent_id": agent_id, **sides, "complaint": complaint(active, canary) if agent.canary else None, "rule": RULE}

    async def _change(self, agent_id: str, step: Step, percent: float | None, author: str, note: str) -> AgentRow:
        change_id = secrets.token_hex(8)
        for _ in range(TRIES):
            before = await self.agent(agent_id)
            after, action, version = step(before)
            if after != before:
                change = NewChange(change_id, action, version, percent, author, note)
                if not await self._store.change(before, after, change):
                    continue  # somebody else was quicker: it is decided anew
                if self._keeper is not None:
                    await self._keeper.catch_up()
            return await self.agent(agent_id)
        raise Conflict("others change this agent at the same time: try again")

    def _need_database(self) -> None:
        if self._keeper is None:
            raise Conflict(FILES_SERVE)


def invalid(found: Examination) -> ConfigInvalid:
    """The refusal of a text: its first error, and all problems and tests."""
    errors = [str(p) for p in found.problems if p.level == "error"]
    failed = [t for t in found.tests or () if t["outcome"] == "failed"]
    errors += [f"the test {t['name']} failed: {'; '.join(t['reasons'])}" for t in failed]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ConfigInvalid(
        (errors[0] if errors else "it does not hold") + more, problems=[p.as_dict() for p in found.problems], tests=summary(found)
    )


def summary(found: Examination) -> dict[str, Any]:
    """How the tests of a text went; `run` is false where they could not be run."""
    tests = list(found.tests or ())
    counts = {outcome: sum(t["outcome"] == outcome for t in tests) for outcome in ("passed", "failed", "not_checked")}
    return {"run": found.tests is not None, **counts, "results": [dict(t) for t in tests]}


def document(row: AgentRow) -> dict[str, Any]:
    """An agent's state as the API tells it."""
    return {name: value for name, value in asdict(row).items() if name != "edition"}
