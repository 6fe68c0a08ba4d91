"""Workflow files → models: parse, validate, lint, version. All problems of all files are told at once.

It reads files and nothing else: the environment and the check of patterns are arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.workflow.json_text import parse_json
from common.workflow.lint import lint
from common.workflow.patterns import PatternCheck, foreign_construct
from common.workflow.placeholders import env_names, strings
from common.workflow.positions import Marks, Source, TextInvalid
from common.workflow.problems import Level, Problem, WorkflowInvalid, in_order
from common.workflow.report import Report
from common.workflow.schema import Workflow
from common.workflow.validate import STAND_IN, validate
from common.workflow.version import config_hash
from common.workflow.yaml_text import parse_yaml

MAX_BYTES = 32 * 1024 * 1024
SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Examined:
    """One file: its problems, warnings too, and the workflow unless one of them is an error."""

    workflow: Workflow | None
    problems: tuple[Problem, ...]
    source: Source | None = None

    def place(self, path: tuple[str | int, ...]) -> tuple[int, int]:
        """Line and column, from 1, of the value at that path of the document."""
        return self.source.value(path) if self.source else (1, 1)


def load_file(path: str | Path, env: Mapping[str, str] | None = None, *, check_pattern: PatternCheck = foreign_construct) -> Workflow:
    """The workflow of one JSON or YAML file. `env` fills `${NAME}`. Raises WorkflowInvalid with every problem."""
    return _sound(examine_file(path, env, check_pattern=check_pattern))


def load_text(
    text: str, file_name: str = "workflow.json", env: Mapping[str, str] | None = None, *, check_pattern: PatternCheck = foreign_construct
) -> Workflow:
    """The workflow of a text. Its form follows the name (.json, .yaml, .yml), else the first character. Raises WorkflowInvalid."""
    return _sound(examine_text(text, file_name, env, check_pattern=check_pattern))


def load_all(
    path: str | Path, env: Mapping[str, str] | None = None, *, check_pattern: PatternCheck = foreign_construct
) -> dict[str, Workflow]:
    """Agent id → workflow, of a file or of every workflow file in a directory, by file name.

    In a directory a file without agent_id is named after itself. Raises WorkflowInvalid with the problems of all files.
    """
    path = Path(path)
    if not path.is_dir():
        workflow = load_file(path, env, check_pattern=check_pattern)
        return {workflow.agent_id: workflow}
    named, problems = gather((file, examine_file(file, env, check_pattern=check_pattern)) for file in files_of(path))
    if any(p.level == "error" for p in problems):
        raise WorkflowInvalid(problems)
    return named


def gather(examined: Iterable[tuple[Path, Examined]]) -> tuple[dict[str, Workflow], list[Problem]]:
    """Agent id → workflow of the files of a directory, and all their problems; one is that two files claim the same agent id."""
    problems: list[Problem] = []
    agents: dict[str, tuple[Workflow, Path]] = {}
    for file, one in examined:
        problems.extend(one.problems)
        if one.workflow is None:
            continue
        workflow = one.workflow if "agent_id" in one.workflow.model_fields_set else _named_after(one.workflow, file)
        if workflow.agent_id in agents:
            other = agents[workflow.agent_id][1].name
            message = f"the agent_id {workflow.agent_id!r} is already taken by {other}"
            problems.append(_fault(str(file), "duplicate_agent", message, "give each agent an agent_id of its own"))
        agents.setdefault(workflow.agent_id, (workflow, file))
    return {agent_id: workflow for agent_id, (workflow, _) in agents.items()}, problems


def files_of(directory: Path) -> list[Path]:
    """The workflow files of a directory. Raises WorkflowInvalid when it holds none."""
    files = workflow_files(directory)
    if not files:
        fault = _fault(str(directory), "no_files", "the directory holds no workflow file", "put *.json or *.yaml files into it")
        raise WorkflowInvalid([fault])
    return files


def workflow_files(directory: Path) -> list[Path]:
    """The workflow files of a directory, by name; hidden ones are left out."""
    return sorted(f for f in directory.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file() and not f.name.startswith("."))


def examine_file(
    path: str | Path,
    env: Mapping[str, str] | None = None,
    *,
    check_pattern: PatternCheck = foreign_construct,
    unknown_names: Level = "warning",
) -> Examined:
    """One file with all its problems; a file that can't be read is one."""
    name = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as e:
        return Examined(None, (_fault(name, "unreadable", f"the file can't be read: {e.strerror or type(e).__name__}"),))
    if len(data) > MAX_BYTES:
        return Examined(None, (_fault(name, "too_large", f"the file is larger than {MAX_BYTES // 1024 // 1024} MB"),))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        before = data[: e.start].decode("utf-8")
        line, column = Source(before, None, Marks()).line_column(len(before))
        fault = Problem("error", "not_utf8", "the file is not UTF-8 here", "save it as UTF-8", "$", name, line, column)
        return Examined(None, (fault,))
    return examine_text(text, name, env, check_pattern=check_pattern, unknown_names=unknown_names)


def examine_text(
    text: str,
    file_name: str,
    env: Mapping[str, str] | None = None,
    *,
    check_pattern: PatternCheck = foreign_construct,
    unknown_names: Level = "warning",
) -> Examined:
    """One text with all its problems. `unknown_names` is the level of placeholders that nothing in the file defines (see `lint`)."""
    text = text.removeprefix("\ufeff")
    try:
        source = parse_yaml(text) if _is_yaml(file_name, text) else parse_json(text)
    except TextInvalid as e:
        line, column = Source(text, None, Marks()).line_column(e.offset)
        return Examined(None, (Problem("error", e.code, e.message, e.hint, "$", file_name, line, column),))
    report = Report(source, file_name)
    _refuse_half_characters(report)
    env = env or {}
    workflow = validate(report)
    if workflow is not None:
        lint(workflow, report, env=env, check_pattern=check_pattern, unknown_names=unknown_names)
    problems = tuple(in_order(p for p in report.problems if STAND_IN not in p.message))
    if workflow is None or any(p.level == "error" for p in problems):
        return Examined(None, problems, source)
    used = {name for text, _ in strings(source.doc, ()) if "${" in text for name in env_names(text)}
    workflow = workflow.model_copy(update={"config_hash": config_hash(source.doc)})
    return Examined(workflow.with_env({name: env[name] for name in sorted(used & env.keys())}), problems, source)


def _is_yaml(file_name: str, text: str) -> bool:
    suffix = Path(file_name).suffix.lower()
    return suffix in (".yaml", ".yml") or (suffix != ".json" and text.lstrip()[:1] not in ("{", "["))


def _refuse_half_characters(report: Report) -> None:
    r"""`"\ud800"` is JSON, but half of a surrogate pair is no character: no reply could be written with it."""
    if _encodes(json.dumps(report.source.doc, ensure_ascii=False)):
        return
    for text, path in strings(report.source.doc, ()):
        if not _encodes(text):
            report.error("half_character", "this text holds half of a surrogate pair", path, r"write both halves: \ud83d\ude00")
    if not report.problems:
        report.error("half_character", "a key holds half of a surrogate pair", ())


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _named_after(workflow: Workflow, file: Path) -> Workflow:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._:@-") else "_" for c in file.stem)[:128]
    return workflow.model_copy(update={"agent_id": name or workflow.agent_id})


def _fault(file: str, code: str, message: str, hint: str = "") -> Problem:
    return Problem("error", code, message, hint, "$", file, 1, 1)


def _sound(examined: Examined) -> Workflow:
    if examined.workflow is None:
        raise WorkflowInvalid(_errors_first(examined.problems))
    return examined.workflow


def _errors_first(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda p: p.level)
