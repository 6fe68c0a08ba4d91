"""Every mistake that `loadsplit check` promises to find, in a file made for it: told once, at the line and column of the mark «."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.workflow.problems import Problem
from standalone.commands.check import check

# (code, level, what the message or the way out says, file). « stands before the character at which the problem is told; it is removed.
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "look-ahead": (
        "bad_pattern",
        "error",
        "look-ahead",
        "flows:\n  - flow_id: f\n    response_template: x\n    trigger_patterns:\n      - refund\n      - «a(?=b)\n",
    ),
    "negative look-ahead": (
        "bad_pattern",
        "error",
        "exclude_patterns",
        "flows: [{flow_id: f, response_template: x, trigger_patterns: [«'refund(?!able)']}]\n",
    ),
    "look-behind": (
        "bad_pattern",
        "error",
        "named group",
        '{"flows": [{"flow_id": "f", "response_template": "x",\n  "trigger_patterns": ["ok", «"(?<=No )\\\\d+"]}]}\n',
    ),
    "back-reference": (
        "bad_pattern",
        "error",
        "alternative",
        "tools:\n  - name: t\n    endpoint: {url: https://shop.example/}\n    trigger_patterns: [ok]\n    exclude_patterns: [«(a)\\1]\n",
    ),
    "program too large": (
        "bad_pattern",
        "error",
        "too large",
        '{"flows": [{"flow_id": "f", "response_template": "x", "trigger_patterns": [\n  «"(\\\\pL{100}){100}"]}]}\n',
    ),
    "unknown tool of a skill": (
        "unknown_target",
        "error",
        "did you mean 'refund_order'?",
        "tools:\n  - {name: refund_order, endpoint: {url: https://shop.example/}}\n"
        "skills:\n  - skill_id: s\n    system_prompt: p\n    tools: [refund_order, «refund_ordr]\n",
    ),
    "unknown target of an action book": (
        "unknown_target",
        "warning",
        "there is no skill 's'",
        "action_books:\n  - condition: c\n    action_type: skill\n    action_target: «s\n",
    ),
    "unknown target of a timer": (
        "unknown_target",
        "error",
        "there is no system 'bye'",
        '{"timers": [{"timer_id": "t", "delay_seconds": 300, "action_type": "system",\n             "action_target": «"bye"}]}\n',
    ),
    "duplicate id": (
        "duplicate_id",
        "error",
        "already taken in line 2",
        "flows:\n  - {flow_id: f, trigger_patterns: [refund], response_template: x}\n"
        "  - {flow_id: «f, trigger_patterns: [order], response_template: x}\n",
    ),
    "placeholder without source": (
        "unknown_placeholder",
        "error",
        "did you mean 'order_id'?",
        'flows:\n  - flow_id: f\n    trigger_patterns: ["order (?P<order_id>\\\\d+)"]\n    response_template: «Order {ordr_id}\n',
    ),
    "placeholder in a URL's host": (
        "placeholder_in_host",
        "error",
        "name the host",
        'flows:\n  - flow_id: f\n    trigger_patterns: ["in (?P<city>[a-z]+)"]\n    endpoint: {url: «"https://{city}.example/"}\n',
    ),
    "attribute access in a template": (
        "template_access",
        "error",
        "never reads attributes",
        '{"flows": [{"flow_id": "f", "trigger_patterns": ["order"],\n  "response_template": «"{message.__class__}"}]}\n',
    ),
    "remote $ref": (
        "remote_ref",
        "error",
        "$defs",
        "tools:\n  - name: t\n    trigger_patterns: [stock]\n    endpoint: {url: https://shop.example/}\n"
        "    parameters:\n      type: object\n      properties:\n        item: {$ref: «https://evil.example/item.json}\n",
    ),
    "missing environment": (
        "missing_env",
        "error",
        "set SHOP_TOKEN",
        "tools:\n  - name: t\n    trigger_patterns: [stock]\n    endpoint:\n      url: https://shop.example/\n"
        "      headers:\n        Authorization: «Bearer ${SHOP_TOKEN}\n",
    ),
    "shadowed rule": (
        "shadowed_rule",
        "warning",
        "flow hours (rule 'hours', line 2)",
        "flows:\n  - {flow_id: hours, trigger_patterns: [hours], response_template: x}\n"
        '  - {flow_id: vip, trigger_patterns: ["v\\\\.i\\\\.p\\\\.", «vip hours], response_template: x}\n',
    ),
    "shadowed by a priority": (
        "shadowed_rule",
        "warning",
        "a priority above 9",
        "flows:\n  - {flow_id: vip, trigger_patterns: [«vip hours], response_template: x}\n"
        "tools:\n  - {name: t, priority: 9, trigger_patterns: [hours], endpoint: {url: https://shop.example/}}\n",
    ),
    "overlapping rules": (
        "overlapping_rules",
        "warning",
        "both found in 'vip hours'",
        '{"flows": [\n  {"flow_id": "vip", "trigger_patterns": ["vip hours"], "response_template": "x"},\n'
        '  {"flow_id": "hours", "trigger_patterns": [«"hours"], "response_template": "x"}\n]}\n',
    ),
    "overlap in a message of a test": (
        "overlapping_rules",
        "warning",
        "both found in 'please cancel my order'",
        "flows:\n  - {flow_id: cancel, trigger_patterns: [cancel], response_template: x}\n"
        "  - {flow_id: order, trigger_patterns: [«order], response_template: x}\n"
        "tests:\n  - {say: please cancel my order, expect: {target: cancel}}\n  - {say: order, expect: {target: order}}\n",
    ),
    "rule that excludes itself": (
        "never_answers",
        "warning",
        "excluded by Refund",
        "flows:\n  - flow_id: f\n    trigger_patterns: [«refund order]\n    exclude_patterns: [Refund]\n    response_template: x\n",
    ),
    "rule that matches the empty string": (
        "matches_empty",
        "warning",
        "empty message",
        "flows:\n  - {flow_id: f, response_template: x, trigger_patterns: [refund, «'(refund)?']}\n",
    ),
    "rule that matches everyday words": (
        "everyday_word",
        "warning",
        "'the' alone",
        "flows:\n  - {flow_id: f, response_template: x, trigger_patterns: [«the|refund]}\n",
    ),
    "rule that matches everyday words, Chinese": (
        "everyday_word",
        "warning",
        "'我' alone",
        '{"flows": [{"flow_id": "f", "response_template": "x", "trigger_patterns": ["退款", «"我.*"]}]}\n',
    ),
    "unused tool": (
        "unused_tool",
        "warning",
        "nothing names the tool 'stock'",
        "tools:\n  - name: «stock\n    endpoint: {url: https://shop.example/}\n",
    ),
    "no fallback": ("no_fallback", "warning", "fallback_message", '«{"agent_id": "shop"}\n'),
    "flow without a test": (
        "untested_flow",
        "warning",
        "no test expects the flow 'order'",
        "flows:\n  - {flow_id: hours, trigger_patterns: [hours], response_template: x}\n"
        "  - {flow_id: «order, trigger_patterns: [order], response_template: x}\n"
        "tests:\n  - {say: your hours, expect: {action: flow, target: hours}}\n",
    ),
    "secret in a header": (
        "secret_literal",
        "warning",
        "${NAME}",
        "tools:\n  - name: t\n    trigger_patterns: [stock]\n    endpoint:\n      url: https://shop.example/\n"
        "      headers:\n        X-Api-Key: «abc123\n",
    ),
    "secret in a URL": (
        "secret_literal",
        "warning",
        "${NAME}",
        "tools:\n  - name: t\n    trigger_patterns: [stock]\n    endpoint:\n      url: «https://shop.example/?api_key=abcdef12\n",
    ),
    "timer that never fires": (
        "timer_never_fires",
        "warning",
        "delays count from the timer before",
        "system_actions: [{action_id: bye, handler: close}]\n"
        "timers:\n  - {timer_id: close, delay_seconds: 300, action_type: system, action_target: bye}\n"
        "  - {timer_id: «ask, delay_seconds: 300, message: hello}\n",
    ),
    "deadline without an end": (
        "no_effect",
        "warning",
        "add deadline_seconds",
        "system_actions:\n  - action_id: human\n    handler: handoff\n    «deadline_message: Nobody is here.\n",
    ),
    "silent flow with an answer": (
        "no_effect",
        "warning",
        "silent",
        '{"flows": [{"flow_id": "f", "trigger_patterns": ["#seen"], "silent": true,\n   «"response_template": "x"}]}\n',
    ),
    "single shot with rounds": (
        "no_effect",
        "warning",
        "sop_driven",
        "iteration_strategy: single_shot\n«max_iterations: 4\n",
    ),
    "conditions of knowledge that is always asked": (
        "no_effect",
        "warning",
        '"auto_enhance": false',
        "tools:\n  - {name: kb, endpoint: {url: https://shop.example/}}\n"
        "kb_config:\n  enabled: true\n  tool_name: kb\n  «enhance_conditions: [how do I]\n",
    ),
    "knowledge tool that takes no question": (
        "no_question",
        "warning",
        "call one of them query",
        "tools:\n  - name: kb\n    endpoint: {url: https://shop.example/}\n"
        "    parameters: {type: object, properties: {top: {type: integer}, lang: {type: string}}}\n"
        "kb_config: {enabled: true, tool_name: «kb}\n",
    ),
    "unknown field of the profile": (
        "unknown_profile",
        "warning",
        "did you mean 'name'?",
        "system_actions:\n  - action_id: note\n    handler: update_profile\n"
        "    parameters: {type: object, properties: {name: {type: string}}}\n"
        "flows:\n  - flow_id: f\n    trigger_patterns: [hi]\n    response_template: «Hello {profile.nmae}\n",
    ),
    "tool that a server of tools does not give": (
        "unknown_target",
        "error",
        "has no 'write' among its tools",
        "mcp_servers: [{name: files, command: [files-server], tools: [read]}]\n"
        "skills:\n  - {skill_id: s, system_prompt: p, tools: [files__read, «files__write]}\n",
    ),
    "secret in a body": (
        "secret_literal",
        "warning",
        "${NAME}",
        "tools:\n  - name: t\n    trigger_patterns: [stock]\n    endpoint:\n      url: https://shop.example/\n"
        '      body: {"key": «sk-abcdefghijklmnop1234}\n',
    ),
}


def checked(folder: Path, text: str) -> tuple[list[Problem], tuple[int, int]]:
    """The problems of a marked file, and the line and column of its mark."""
    before = text[: text.index("«")]
    file = folder / ("w.json" if text.lstrip("«").startswith("{") else "w.yaml")
    file.write_text(text.replace("«", ""), encoding="utf-8")
    place = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return list(check([file], {}).problems), place


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_mistake_is_found_with_its_place(tmp_path: Path, mistake: str) -> None:
    code, level, says, text = MISTAKES[mistake]
    problems, place = checked(tmp_path, text)
    found = [p for p in problems if p.code == code]
    assert len(found) == 1, problems
    problem = found[0]
    assert (problem.line, problem.column) == place
    assert problem.level == level
    assert says in str(problem)
    assert str(problem).startswith(f"{problem.file}:{place[0]}:{place[1]}: {level} {code} ")
    assert [p for p in problems if p.level == "error" and p is not problem] == []


def test_every_mistake_of_one_file_is_told(tmp_path: Path) -> None:
    text = (
        "«flows:\n"
        "  - {flow_id: a, trigger_patterns: ['x(?=y)'], response_template: '{nope}'}\n"
        "  - {flow_id: a, trigger_patterns: [b], endpoint: {url: 'https://{message}.example/'}, responce_template: x}\n"
        "skills:\n"
        "  - {skill_id: s, system_prompt: p, tools: [t]}\n"
    )
    problems, _ = checked(tmp_path, text)
    assert [(p.line, p.code) for p in problems if p.level == "error"] == [
        (2, "bad_pattern"),
        (2, "unknown_placeholder"),
        (3, "duplicate_id"),
        (3, "placeholder_in_host"),
        (3, "unknown_key"),
        (5, "unknown_target"),
    ]
