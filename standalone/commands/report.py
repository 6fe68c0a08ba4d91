"""What `loadsplit check` prints: lines for people, or JSON. It decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from standalone.commands.replay import Moved, Replayed
from standalone.commands.results import Checked, Coverage

TOLD_UNTESTED = 5  # of each file and kind; --json has them all
TOLD_MOVED = 20
TOLD_ACTIONS = 10
_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_TITLES = {
    "newly_answered": "newly answered by a rule (was the LLM's)",
    "no_longer_answered": "no longer answered by a rule (now the LLM's)",
    "moved": "answered by another action",
    "groups": "same action, other groups",
}


def print_pretty(checked: Checked) -> None:
    """Prints `render_pretty`, with levels in colour on a terminal."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in render_pretty(checked).splitlines():
        text = Text(line)
        for level, style in _STYLES.items():
            text.highlight_regex(rf"(?<=: ){level}(?= )", style)
        console.print(text)


def render_pretty(checked: Checked) -> str:
    """One line a problem, one a failed or unchecked test; then the coverage, the replay and the sum."""
    lines = [str(problem) for problem in checked.problems]
    for test in checked.tests:
        where = f"{test.file}:{test.line}:{test.column}"
        lines += [f"{where}: error test_failed {test.name}: {reason}" for reason in test.reasons]
        lines += [f"{where}: info not_checked {test.name}: {what}" for what in test.unchecked]
    for coverage in checked.coverage:
        lines += _untested(coverage)
    if checked.replayed is not None:
        lines += _replay(checked.replayed)
    errors = sum(p.level == "error" for p in checked.problems)
    outcomes = checked.outcomes()
    lines.append(
        f"{len(checked.files)} file(s): {errors} error(s), {len(checked.problems) - errors} warning(s); "
        f"{len(checked.tests)} test(s): {outcomes['passed']} passed, {outcomes['failed']} failed, "
        f"{outcomes['not_checked']} not checked without a server"
    )
    return "\n".join(line.replace("\n", "\\n").replace("\r", "\\r") for line in lines)


def render_json(checked: Checked) -> str:
    """{"ok", "files", "problems": […], "tests": […], "outcomes": {…}, "coverage": […], "replay"?: {…}}."""
    doc = {
        "ok": checked.exit_code == 0,
        "files": list(checked.files),
        "problems": [p.as_dict() for p in checked.problems],
        "tests": [asdict(t) for t in checked.tests],
        "outcomes": checked.outcomes(),
        "coverage": [coverage.as_dict() for coverage in checked.coverage],
    }
    if checked.replayed is not None:
        doc["replay"] = checked.replayed.as_dict()
    return json.dumps(doc, ensure_ascii=False, indent=2)


def _untested(coverage: Coverage) -> Iterator[str]:
    if not coverage.actions:
        return
    for code, missing in (("untested_action", coverage.untested_actions), ("untested_rule", coverage.untested_rules)):
        if not coverage.tests:  # that there are none is a warning already
            break
        for one in missing[:TOLD_UNTESTED]:
            yield f"{coverage.file}:{one.line}:{one.column}: info {code} no test reaches {one}"
        if len(missing) > TOLD_UNTESTED:
            yield f"{coverage.file}: info {code} … and {len(missing) - TOLD_UNTESTED} more (--json lists them)"
    yield (
        f"{coverage.file}: coverage: {_share(coverage.rules - len(coverage.untested_rules), coverage.rules)} rules and "
        f"{_share(coverage.actions - len(coverage.untested_actions), coverage.actions)} actions have a test"
    )


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def _replay(replayed: Replayed) -> Iterator[str]:
    answered = sum(replayed.answered.values())
    if replayed.before is None:
        yield f"replay: {_share(answered, replayed.messages)} messages are answered by a rule"
        for action, count in replayed.answered.most_common(TOLD_ACTIONS):
            yield f"  {count:7d}  {action}"
        if len(replayed.answered) > TOLD_ACTIONS:
            yield f"           … and {len(replayed.answered) - TOLD_ACTIONS} more actions"
        return
    before = sum(replayed.before.values())
    yield (
        f"replay: of {replayed.messages} messages {_share(before, replayed.messages)} were answered by a rule, "
        f"now {_share(answered, replayed.messages)}"
    )
    changes = replayed.changes()
    if not any(changes.values()):
        yield "replay: no message is routed otherwise"
        return
    yield f"replay: {sum(changes.values())} messages in {replayed.sessions_touched} of {replayed.sessions} sessions are routed otherwise"
    title = ""
    for moved in replayed.moved[:TOLD_MOVED]:
        if moved.change != title:
            title = moved.change
            yield f"  {changes[moved.change]} {_TITLES[title]}:"
        yield from _moved(moved)
    if len(replayed.moved) > TOLD_MOVED:
        yield f"  … and {len(replayed.moved) - TOLD_MOVED} more ways (--json lists them)"


def _moved(moved: Moved) -> Iterator[str]:
    yield f"  {moved.count:7d}  {moved.before} -> {moved.after}"
    for example in moved.examples:
        groups = f"  {example['groups_before']} -> {example['groups']}" if "groups" in example else ""
        yield f"             line {example['line']}: {example['message'][:120]!r}{groups}"
