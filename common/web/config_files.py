"""The workflow files of LOADSPLIT_CONFIG, read at start and again when they change. A set of files that does not hold is refused as a
whole: what served before goes on, also after a restart, from the copy that this machine keeps of the last good one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.contracts.rollout import Form, Manifest, Serving, decode, encode, pack, unpack
from common.errors import DependencyUnavailable
from common.settings import CommonSettings
from common.workflow.load import Examined, examine_file, files_of, gather
from common.workflow.patterns import PatternCheck, foreign_construct
from common.workflow.problems import WorkflowInvalid
from common.workflow.rollout import AT_ONCE, Rollout, Unusable, workflow_of
from common.workflow.schema import Workflow
from common.workflow.shelf import FOLDER, Shelf

LOOK_SECONDS = 0.4  # a file is read when two looks in a row have found it the same
log = logging.getLogger(__name__)

Seen = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was read. `text` is compressed; of the workflow only its name is kept (`_light`)."""

    signature: tuple[str, int, int, int]
    examined: Examined
    text: bytes


class FileConfigs:
    """A file, or a directory of them. `secret` signs what is kept under `data_dir`; without `watch` the files are read once."""

    public_only = False

    def __init__(
        self,
        path: str | Path,
        env: Mapping[str, str],
        *,
        data_dir: Path,
        secret: bytes,
        check_pattern: PatternCheck = foreign_construct,
        watch: bool,
    ) -> None:
        self._path, self._env, self._check_pattern = Path(path), env, check_pattern
        self._secret, self._watch = secret, watch
        place = hashlib.sha256(str(self._path.absolute()).encode()).hexdigest()[:12]
        self._shelf = Shelf(data_dir / FOLDER / f"files-{place}")
        self._files: dict[Path, _File] = {}
        self._texts: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._fresh: dict[tuple[str, str], Workflow] = {}
        self._rollouts: tuple[Rollout[Any], ...] = ()
        self._seen: Seen = ()
        self._fault: WorkflowInvalid | None = None
        self.manifest = Manifest()

    @classmethod
    def of(cls, settings: CommonSettings, check_pattern: PatternCheck = foreign_construct) -> FileConfigs:
        """The files that the settings name."""
        return cls(
            settings.config or "",
            settings.environ,
            data_dir=settings.data_dir,
            secret=settings.ticket_key,
            check_pattern=check_pattern,
            watch=settings.config_watch,
        )

    def read(self) -> dict[str, Workflow]:
        """Reads the files for the first time; the workflows that are to be compiled at once. Raises WorkflowInvalid with every problem,
        where no good version is known from before."""
        self._seen = self._look()
        try:
            self._take(self._load())
        except WorkflowInvalid as e:
            kept = decode(self._shelf.manifest() or b"", self._secret)
            if kept is None:
                raise
            self._refuse(e)
            self.manifest = kept
            log.error("the last good version of %s serves", self._path, extra={"revision": kept.revision})
        return {agent_id: workflow for (agent_id, _), workflow in self._fresh.items()}

    async def bring(self, agent_id: str, config_hash: str) -> tuple[Workflow, int]:
        """A version of a file, as it is now or as it was kept."""
        key = (agent_id, config_hash)
        name, packed = self._texts.get(key) or ("", b"")
        text = zlib.decompress(packed).decode() if packed else ""
        if not packed:
            try:
                form, text = unpack(self._shelf.text(config_hash) or b"")
            except ValueError:
                raise Unusable(f"the agent {agent_id!r} has no version {config_hash} here") from None
            name = f"{agent_id}.{form}"
        fresh = self._fresh.get(key)
        if fresh is not None:
            return fresh, len(text)
        given = (agent_id, config_hash, name.rpartition(".")[2], text, self._env, self._check_pattern, name)
        return await asyncio.to_thread(workflow_of, *given), len(text)

    async def begin(self, *rollouts: Rollout[Any]) -> None:
        """Further rollouts that follow the files. What was kept from before is brought into force."""
        self._rollouts += rollouts
        for rollout in rollouts:
            if rollout.manifest is not self.manifest:
                await rollout.apply(self.manifest)
        self._fresh.clear()

    async def follow(self) -> None:
        """Reads files that have changed. Runs until cancelled."""
        if not self._watch:
            return await _for_ever()
        last = self._seen
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = await asyncio.to_thread(self._look)
            if now != self._seen and now == last:
                self._seen = now
                await self._read_again()
            last = now

    async def check(self) -> None:
        """Raises DependencyUnavailable with the first problem while the files are refused."""
        if self._fault is not None:
            raise DependencyUnavailable(f"the files have changed and are refused: {self._fault.detail}")
        for rollout in self._rollouts:
            for agent_id, why in rollout.refused.items():
                raise DependencyUnavailable(f"the agent {agent_id!r} serves an earlier version: {why}")

    async def _read_again(self) -> None:
        try:
            before = self.manifest
            self._take(await asyncio.to_thread(self._load))
        except WorkflowInvalid as e:
            self._refuse(e)
            return
        for rollout in self._rollouts:
            await rollout.apply(self.manifest)
        self._fresh.clear()
        changed = [i for i, s in self.manifest.agents.items() if before.agents.get(i) is None or before.agents[i].active != s.active]
        log.info("workflow files have changed and are in force", extra={"revision": self.manifest.revision, "agents": changed[:20]})

    def _refuse(self, fault: WorkflowInvalid) -> None:
        self._fault = fault
        for line in str(fault).splitlines():
            log.error("refused: %s", line)

    def _look(self) -> Seen:
        """The files as they stand now: name, time, size, inode."""
        try:
            paths = files_of(self._path) if self._path.is_dir() else [self._path]
            return tuple(_signature(path) for path in paths)
        except (OSError, WorkflowInvalid):
            return ()

    def _load(self) -> dict[Path, _File]:
        """Reads what has changed. Raises WorkflowInvalid with the problems of all files."""
        paths = files_of(self._path) if self._path.is_dir() else [self._path]
        found: dict[Path, _File] = {}
        for path in paths:
            try:
                signature = _signature(path)
            except OSError:
                signature = (path.name, 0, 0, 0)
            known = self._files.get(path)
            if known is not None and known.signature == signature:
                found[path] = known
                continue
            examined = examine_file(path, self._env, check_pattern=self._check_pattern)
            text = examined.source.text if examined.source else ""
            found[path] = _File(signature, replace(examined, source=None), zlib.compress(text.encode(errors="surrogatepass"), 1))
        problems = [p for file in found.values() for p in file.examined.problems]
        if any(p.level == "error" for p in problems):
            raise WorkflowInvalid(problems)
        return found

    def _take(self, files: dict[Path, _File]) -> None:
        """Makes the files the manifest. Raises WorkflowInvalid where two of a directory claim the same agent."""
        named, problems = gather((path, file.examined) for path, file in files.items())
        if not self._path.is_dir():
            named = {w.agent_id: w for file in files.values() if (w := file.examined.workflow)}
        if any(p.level == "error" for p in problems):
            raise WorkflowInvalid(problems)
        self._fault, self._files = None, {path: replace(file, examined=_light(file.examined)) for path, file in files.items()}
        agents: dict[str, Serving] = {}
        for (agent_id, workflow), file in zip(named.items(), files.items(), strict=True):
            path, read = file
            key = (agent_id, workflow.config_hash)
            before = self.manifest.agents.get(agent_id)
            agents[agent_id] = before if before and before.active == key[1] else Serving(key[1], previous=before.active if before else None)
            if key not in self._texts:
                self._texts[key] = (str(path), read.text)
                form: Form = "json" if path.suffix.lower() == ".json" else "yaml"
                self._shelf.keep(key[1], pack(form, zlib.decompress(read.text).decode()))
                if len(files) <= AT_ONCE:
                    self._fresh[key] = workflow
        self.manifest = Manifest(self.manifest.revision + 1, agents)
        served = {s.active for s in agents.values()}
        self._texts = {key: kept for key, kept in self._texts.items() if key[1] in served or key in self._fresh}
        self._shelf.keep_manifest(encode(self.manifest, self._secret), served)


def _light(examined: Examined) -> Examined:
    """The same without what the workflow holds: a thousand of them would take much memory."""
    given = examined.workflow
    if given is None:
        return examined
    bare = Workflow(agent_id=given.agent_id) if "agent_id" in given.model_fields_set else Workflow()
    return replace(examined, workflow=bare.model_copy(update={"config_hash": given.config_hash}))


def _signature(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return (path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino)


async def _for_ever() -> None:
    await asyncio.Event().wait()
