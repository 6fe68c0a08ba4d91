"""The agents of one process and the versions of them that are in force: compiled when they are needed, swapped as a whole, bounded.

A tier says how a workflow is compiled and where its text comes from. Whoever has found a version keeps the object: what comes into force
meanwhile does not concern him.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from common.contracts.rollout import Manifest, Serving, in_canary
from common.errors import ConfigInvalid, DependencyUnavailable
from common.workflow.load import examine_text
from common.workflow.patterns import PatternCheck
from common.workflow.problems import WorkflowInvalid
from common.workflow.schema import Workflow

LIMIT_BYTES = 512 * 1024 * 1024
AT_ONCE = 50  # so many agents are compiled when they come into force; of more, those that are asked for
RETIRED = 2  # versions of an agent that stay at hand when they are out of force
# Resident memory that a compiled version takes beside, and for each byte of, its text: 60 to 70 with 10 to 10 000 rules, most of it RE2's.
BASE_BYTES, BYTES_PER_BYTE = 16 * 1024, 65
log = logging.getLogger(__name__)

T = TypeVar("T")


class Unusable(ConfigInvalid):
    """A version that this process cannot serve; `detail` says why, with line and column where the text is at fault."""


@dataclass(slots=True, eq=False)
class Version(Generic[T]):
    """A compiled version. `size` is what it is believed to take; `used` is when it was asked for, counted in versions compiled since."""

    agent_id: str
    config_hash: str
    size: int
    compiled: T
    used: int = 0


@dataclass(slots=True, eq=False)
class Line(Generic[T]):
    """What an agent serves, and the versions of it that are compiled. `good` is the hash that served last; `refused` are those that cannot
    be used here, with the reason."""

    agent_id: str
    serving: Serving
    active: Version[T] | None = None
    canary: Version[T] | None = None
    good: str | None = None
    refused: dict[str, str] = field(default_factory=dict)


# (agent id, hash) → its workflow and the size of its text. Raises Unusable, or DependencyUnavailable where the text cannot be had now.
Bring = Callable[[str, str], Awaitable[tuple[Workflow, int]]]


class Rollout(Generic[T]):
    """All agents of a process. `compile` runs in a thread; `bring` finds the workflow of a hash."""

    def __init__(self, compile: Callable[[Workflow], T], bring: Bring, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._compile, self._bring, self._limit = compile, bring, limit_bytes
        self._lines: dict[str | None, Line[T]] = {}
        self._versions: dict[tuple[str, str], Version[T]] = {}
        self._bringing: dict[tuple[str, str], asyncio.Task[Version[T]]] = {}
        self._generation = 0
        self._applying = asyncio.Lock()
        self.manifest: Manifest | None = None

    def start(self, manifest: Manifest, compiled: Mapping[str, T]) -> None:
        """Takes agents that were compiled before anything runs."""
        for agent_id, serving in manifest.agents.items():
            line = Line[T](agent_id, serving, good=serving.active)
            if agent_id in compiled:
                line.active = Version(agent_id, serving.active, BASE_BYTES, compiled[agent_id])
                self._versions[agent_id, serving.active] = line.active
            self._lines[agent_id] = line
            self._lines.setdefault(None, line)
        self.manifest = manifest

    @property
    def empty(self) -> bool:
        """Whether no agent is served."""
        return not self._lines

    @property
    def only_one(self) -> bool:
        """Whether one agent is served, and no other."""
        return len(self._lines) == 2  # under its id, and for who names none

    @property
    def names(self) -> list[str]:
        """The ids of all agents that are served."""
        return [name for name in self._lines if name is not None]

    @property
    def refused(self) -> dict[str, str]:
        """Agent id → why the version that should serve does not, for the agents of which that is so."""
        wanted = ((n, line, {line.serving.active, line.serving.canary}) for n, line in self._lines.items() if n is not None)
        found = ((name, [why for h, why in line.refused.items() if h in hashes]) for name, line, hashes in wanted)
        return {name: reasons[0] for name, reasons in found if reasons}

    @property
    def at_work(self) -> Iterator[T]:
        """Every compiled version that is in force."""
        for name, line in self._lines.items():
            if name is not None:
                yield from (v.compiled for v in (line.active, line.canary) if v is not None)

    def serving(self, agent_id: str | None) -> Serving | None:
        """What the agent serves; None for one that there is not."""
        line = self._lines.get(agent_id)
        return line.serving if line else None

    def name_of(self, agent_id: str | None) -> str | None:
        """The agent's id: the first one's for None. None for one that there is not."""
        line = self._lines.get(agent_id)
        return line.agent_id if line else None

    def in_force(self, agent_id: str | None) -> str:
        """The hash of the version that serves all sessions but the canary's; empty for an agent that there is not."""
        line = self._lines.get(agent_id)
        if line is None:
            return ""
        return line.active.config_hash if line.active else line.good or line.serving.active

    def at_hand(self, agent_id: str | None, tenant: str, session_id: str) -> T | None:
        """The version that a session gets, if it is compiled. None says nothing of whether there is one: ask `find`."""
        line = self._lines.get(agent_id)
        if line is None:
            return None
        version = line.active
        if line.serving.canary is not None and in_canary(line.serving, tenant, session_id):
            version = line.canary
        if version is None:
            return None
        version.used = self._generation
        return version.compiled

    def compiled(self, agent_id: str, config_hash: str) -> T | None:
        """That version, if it is compiled, in force or not."""
        version = self._versions.get((agent_id, config_hash))
        return version.compiled if version is not None else None

    async def find(self, agent_id: str | None, tenant: str, session_id: str) -> T | None:
        """The version that a session gets; None without an agent of that id. Raises DependencyUnavailable while its text cannot be had."""
        found = self.at_hand(agent_id, tenant, session_id)
        line = self._lines.get(agent_id)
        if found is not None or line is None:
            return found
        canary = line.serving.canary if in_canary(line.serving, tenant, session_id) else None
        if canary is not None and canary not in line.refused:
            try:
                line.canary = await self._obtain(line.agent_id, canary)
                return line.canary.compiled
            except Unusable as e:
                _refuse(line, canary, e)
        if line.active is None:
            line.active = await self._sound(line)
        return line.active.compiled

    async def version(self, agent_id: str, config_hash: str) -> T:
        """That version, in force or not. Raises Unusable, DependencyUnavailable."""
        version = await self._obtain(agent_id, config_hash)
        version.used = self._generation
        return version.compiled

    async def apply(self, manifest: Manifest) -> bool:
        """Brings a manifest into force, agent by agent at once: what cannot be used is refused, and what served before goes on. False when
        a text could not be had now; then it is to be applied again."""
        async with self._applying:
            lines: dict[str | None, Line[T]] = {}
            complete, eager = True, len(manifest.agents) <= AT_ONCE
            for agent_id, serving in manifest.agents.items():
                line = self._lines.get(agent_id)
                if line is None or line.serving != serving:
                    try:
                        line = await self._next(Line[T](agent_id, serving), line, eager=eager)
                    except DependencyUnavailable as e:
                        log.warning("agent %s stays as it is: %s", agent_id, e.detail)
                        complete = False
                if line is not None:
                    lines[agent_id] = line
                    lines.setdefault(None, line)
            self._lines = lines
            if complete:
                self.manifest = manifest
            self._retire()
            return complete

    async def _next(self, line: Line[T], before: Line[T] | None, *, eager: bool) -> Line[T]:
        """The line with its versions compiled, where that is to be done now."""
        if before is not None:
            line.good = before.good
        if not eager and (before is None or before.active is None):
            return line
        serving = line.serving
        if serving.canary is not None:
            try:
                line.canary = await self._obtain(line.agent_id, serving.canary)
            except Unusable as e:
                _refuse(line, serving.canary, e)
        if before is not None and before.active is not None and before.active.config_hash == serving.active:
            line.active = before.active
            line.refused |= {h: why for h, why in before.refused.items() if h == serving.active}
            return line
        try:
            line.active = await self._obtain(line.agent_id, serving.active)
            line.good = serving.active
        except Unusable as e:
            _refuse(line, serving.active, e)
            line.active = before.active if before is not None else None
            if line.active is None:
                with contextlib.suppress(DependencyUnavailable):  # then it is looked for again when it is asked for
                    line.active = await self._sound(line)
        if serving.canary is not None and line.canary is None:
            line.canary = line.active
        return line

    async def _sound(self, line: Line[T]) -> Version[T]:
        """The active version, or in its place the last one that served. Raises DependencyUnavailable where there is none."""
        for config_hash in dict.fromkeys(filter(None, (line.serving.active, line.good, line.serving.previous))):
            if config_hash in line.refused:
                continue
            try:
                found = await self._obtain(line.agent_id, config_hash)
            except Unusable as e:
                _refuse(line, config_hash, e)
                continue
            line.good = config_hash
            return found
        raise DependencyUnavailable(f"no version of the agent {line.agent_id!r} can be used here: the log says why", retry_after=1)

    async def _obtain(self, agent_id: str, config_hash: str) -> Version[T]:
        key = (agent_id, config_hash)
        found = self._versions.get(key)
        if found is not None:
            return found
        task = self._bringing.get(key)
        if task is None:
            task = self._bringing[key] = asyncio.create_task(self._make(agent_id, config_hash))
            task.add_done_callback(lambda done: self._made(key, done))
        return await asyncio.shield(task)

    async def _make(self, agent_id: str, config_hash: str) -> Version[T]:
        workflow, length = await self._bring(agent_id, config_hash)
        try:
            compiled = await asyncio.to_thread(self._compile, workflow)
        except ConfigInvalid as e:
            raise Unusable(e.detail) from None
        return Version(agent_id, config_hash, BASE_BYTES + BYTES_PER_BYTE * length, compiled)

    def _made(self, key: tuple[str, str], task: asyncio.Task[Version[T]]) -> None:
        self._bringing.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return
        version = task.result()
        self._generation += 1
        version.used = self._generation
        self._versions[key] = version
        total = sum(v.size for v in self._versions.values())
        for other in sorted(self._versions.values(), key=lambda v: v.used):
            if total <= self._limit or other is version:
                break
            total -= other.size
            self._drop(other)

    def _drop(self, version: Version[T]) -> None:
        del self._versions[version.agent_id, version.config_hash]
        line = self._lines.get(version.agent_id)
        if line is not None and line.active is version:
            line.active = None
        if line is not None and line.canary is version:
            line.canary = None

    def _retire(self) -> None:
        """Drops versions that are out of force, but for the last ones of each agent: turns may still go on with these."""
        kept: dict[str, int] = {}
        for version in sorted(self._versions.values(), key=lambda v: -v.used):
            line = self._lines.get(version.agent_id)
            if line is not None and (version is line.active or version is line.canary):
                continue
            kept[version.agent_id] = kept.get(version.agent_id, 0) + 1
            if line is None or kept[version.agent_id] > RETIRED:
                self._drop(version)


def workflow_of(
    agent_id: str, config_hash: str, form: str, text: str, env: Mapping[str, str], check_pattern: PatternCheck, name: str | None = None
) -> Workflow:
    """The workflow of a stored text. Raises Unusable: it does not hold here, or it is not the text of that hash. It takes its time: call it
    in a thread."""
    examined = examine_text(text, name or f"{agent_id}.{form}", env, check_pattern=check_pattern)
    if examined.workflow is None:
        raise Unusable(WorkflowInvalid(examined.problems).detail)
    if examined.workflow.config_hash != config_hash:
        raise Unusable(f"the text of the agent {agent_id!r} is not that of the version {config_hash}")
    return examined.workflow if examined.workflow.agent_id == agent_id else examined.workflow.model_copy(update={"agent_id": agent_id})


def _refuse(line: Line[T], config_hash: str, error: Unusable) -> None:
    if config_hash not in line.refused:
        line.refused[config_hash] = error.detail
        log.error("the version %s of the agent %s is refused: %s", config_hash, line.agent_id, error.detail)
