"""Files become workflows, or one error that tells everything that is wrong with them; secrets stay out of whatever is shown."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import ConfigInvalid
from common.workflow.load import MAX_BYTES, examine_text, load_all, load_file, load_text
from common.workflow.problems import WorkflowInvalid
from common.workflow.schema import Workflow
from common.workflow.version import config_hash

SHOP: dict[str, Any] = {
    "agent_id": "kettles",
    "basic_settings": {"name": "Kettle desk", "language": "English", "chatbot_id": "cb-1", "shop": "Kettles"},
    "greeting": "Hello!",
    "sop": ["Understand.", "Act.", "Answer."],
    "fallback_message": "Sorry.",
    "tools": [
        {
            "name": "get_order",
            "description": "Look an order up",
            "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
            "endpoint": {
                "url": "${SHOP_API}/orders/{order_id}",
                "method": "GET",
                "headers": {"Authorization": "Bearer ${SHOP_TOKEN}", "X-Bot": "{chatbotId}"},
            },
        }
    ],
    "skills": [{"skill_id": "refunds", "name": "Refunds", "system_prompt": "You handle refunds.", "tools": ["get_order"]}],
    "flows": [
        {"flow_id": "hours", "trigger_patterns": ["opening hours", "营业时间"], "response_template": "We open at 9."},
        {
            "flow_id": "status",
            "trigger_patterns": ["where is order (?P<order_id>\\w+)"],
            "endpoint": {"url": "${SHOP_API}/orders/{order_id}", "method": "GET"},
            "response_template": "Order {order_id} is {result.status}.",
        },
    ],
    "system_actions": [{"action_id": "human", "name": "Human", "handler": "handoff", "response_template": "One moment."}],
    "action_books": [{"condition": "wants money back", "action_type": "skill", "action_target": "refunds"}],
    "tests": [{"say": "opening hours?", "expect": {"action": "flow", "target": "hours"}}],
    "metadata": {"owner": "desk", "anything": {"goes": [1, 2]}},
}
ENV = {"SHOP_API": "https://api.example", "SHOP_TOKEN": "s3cr3t-value", "OTHER": "not used"}

# What the loader of the seed's v9 takes: nulls for whatever is optional, a body that is JSON text, unknown targets, free context variables.
V9: dict[str, Any] = {
    "basic_settings": {"name": "客服", "background": "a shop", "language": "中文", "tone": "友好", "chatbot_id": None},
    "greeting": None,
    "sop": "1. Understand\n2. Act",
    "constraints": None,
    "kb_config": {"enabled": True, "tool_name": "search_kb", "auto_enhance": True, "enhance_conditions": ["skill", "tool"]},
    "max_iterations": 5,
    "iteration_strategy": "sop_driven",
    "tools": [
        {
            "name": "search_kb",
            "description": "Search",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string", "default": None, "examples": ["x"]}},
                "required": ["query"],
            },
            "endpoint": {
                "url": "http://kb.example/search",
                "method": "POST",
                "headers": {"Content-Type": "application/json"},
                "body": {"q": "{query}", "tenant": "{tenantId}", "dialog": "{dialogId}", "phone": "todo_autofill_by_system"},
                "query_params": None,
                "timeout": 30.0,
            },
        }
    ],
    "skills": [
        {
            "skill_id": "writer",
            "name": "写作",
            "description": "写博客",
            "execution_mode": "agent",
            "system_prompt": "你是写手",
            "tools": ["search_kb"],
            "endpoint": None,
            "input_schema": None,
            "output_parser": None,
        },
        {
            "skill_id": "mood",
            "name": "Mood",
            "description": "Sentiment",
            "execution_mode": "function",
            "system_prompt": None,
            "endpoint": {"url": "http://api.example/mood", "method": "POST", "body": '{"text": "{input}"}'},
            "input_schema": {"type": "object", "properties": {"input": {"type": "string"}}},
            "output_parser": "json",
        },
    ],
    "flows": [
        {
            "flow_id": "leave",
            "name": "请假申请",
            "description": "员工请假流程",
            "trigger_patterns": ["我要请假", "申请.*假", "请.*天假"],
            "endpoint": {
                "url": "http://api.example/leave",
                "method": "POST",
                "body": {"user_id": "{user_id}", "message": "{user_message}", "org": "{orgId}"},
            },
            "parameter_mapping": {"user_message": "raw_input"},
            "response_template": "✅ 请假申请已提交\n\n{result}",
            "silent": False,
        }
    ],
    "system_actions": [
        {"action_id": "transfer_human", "name": "转人工", "handler": "handoff", "silent": False, "response_template": "请稍候"},
        {
            "action_id": "update_profile",
            "name": "Update",
            "handler": "update_profile",
            "silent": True,
            "endpoint": {"url": "http://api.example/profile", "method": "POST", "body": {"user_id": "{user_id}"}},
        },
    ],
    "action_books": [
        {"condition": "用户要写博客", "action_type": "skill", "action_target": "writer", "parameters": {}, "priority": 10},
        {"condition": "用户要退款", "action_type": "flow", "action_target": "gone", "parameters": {"a": 1}, "priority": 1},
    ],
    "timers": [{"timer_id": "t5", "delay_seconds": 300, "action_type": "system", "action_target": "transfer_human", "message": None}],
}


def invalid(text: str, name: str = "w.json", env: dict[str, str] | None = None) -> WorkflowInvalid:
    with pytest.raises(WorkflowInvalid) as told:
        load_text(text, name, env)
    return told.value


def test_a_file_becomes_a_workflow(tmp_path: Path) -> None:
    file = tmp_path / "shop.json"
    file.write_text(json.dumps(SHOP, ensure_ascii=False), encoding="utf-8")
    workflow = load_file(file, ENV)
    assert workflow.agent_id == "kettles"
    assert workflow.action("flow", "status").endpoint.url == "${SHOP_API}/orders/{order_id}"  # type: ignore[union-attr]
    assert workflow.sop == ("Understand.", "Act.", "Answer.")
    assert dict(workflow.env) == {"SHOP_API": "https://api.example", "SHOP_TOKEN": "s3cr3t-value"}


def test_json_and_yaml_are_the_same_workflow() -> None:
    by_json = load_text(json.dumps(SHOP), "shop.json", ENV)
    by_yaml = load_text(yaml.safe_dump(SHOP, allow_unicode=True), "shop.yaml", ENV)
    assert by_yaml == by_json
    assert by_yaml.config_hash == by_json.config_hash
    assert load_text(yaml.safe_dump(SHOP), "shop", ENV) == by_json == load_text(json.dumps(SHOP), "shop", ENV)


def test_the_hash_is_of_what_is_written() -> None:
    first = load_text(json.dumps(SHOP), env=ENV).config_hash
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert first == config_hash(SHOP)
    assert load_text(json.dumps(SHOP, indent=4, sort_keys=True), env=ENV).config_hash == first
    assert load_text(json.dumps(SHOP), env={**ENV, "SHOP_TOKEN": "another"}).config_hash == first
    assert load_text(json.dumps({**SHOP, "greeting": "Hi!"}), env=ENV).config_hash != first


def test_secrets_are_not_shown() -> None:
    workflow = load_text(json.dumps(SHOP), env=ENV)
    for shown in (repr(workflow), str(workflow), workflow.model_dump_json(), str(workflow.model_dump()), repr(workflow.tools[0].endpoint)):
        assert "s3cr3t" not in shown
    assert copy.deepcopy(workflow).env["SHOP_TOKEN"] == "s3cr3t-value"


def test_a_missing_variable_refuses_the_file() -> None:
    error = invalid(json.dumps(SHOP), env={"SHOP_API": "https://api.example"})
    assert "SHOP_TOKEN" in str(error)
    assert "missing_env" in str(error)


def test_a_v9_file_loads_unchanged() -> None:
    workflow = load_text(json.dumps(V9, ensure_ascii=False), "v9.json")
    assert workflow.basic_settings.chatbot_id == ""
    assert workflow.basic_settings.model_extra == {"background": "a shop"}
    assert workflow.skills[0].input_schema == {}
    assert workflow.skills[1].system_prompt == ""
    assert workflow.flows[0].endpoint.verb == "POST"  # type: ignore[union-attr]
    assert workflow.greeting is None
    warnings = {p.code for p in examine_text(json.dumps(V9), "v9.json").problems}
    assert {"unknown_target", "unknown_placeholder", "autofill_marker"} <= warnings


def test_an_empty_object_is_an_agent() -> None:
    assert load_text("{}").agent_id == "default"


def test_everything_wrong_is_told_at_once() -> None:
    doc = {
        "greting": "hi",
        "max_iterations": "many",
        "tools": [{"name": "no good", "endpoint": {"url": "http://{host}/", "timeout": -1}}, {"name": "ok", "endpoint": {}}],
        "flows": [
            {"flow_id": "f", "trigger_patterns": ["fine", 5, "(?=a)"], "priorty": 1},
            {"trigger_patterns": ["(b)\\1"], "response_template": "{x.__class__}"},
        ],
        "skills": [{"skill_id": "s", "tools": ["okk", "no good"], "max_iterations": 0, "system_prompt": "p"}],
        "tests": [{"say": "x", "expect": {"action": "flw", "target": "f"}}],
    }
    error = invalid(json.dumps(doc, indent=1))
    told = {(p.code, p.path) for p in error.problems if p.level == "error"}
    assert told == {
        ("unknown_key", "$.greting"),
        ("wrong_type", "$.max_iterations"),
        ("wrong_value", "$.tools[0].name"),
        ("placeholder_in_host", "$.tools[0].endpoint.url"),
        ("wrong_value", "$.tools[0].endpoint.timeout"),
        ("missing", "$.tools[1].endpoint"),
        ("wrong_type", "$.flows[0].trigger_patterns[1]"),
        ("bad_pattern", "$.flows[0].trigger_patterns[2]"),
        ("unknown_key", "$.flows[0].priorty"),
        ("no_answer", "$.flows[0]"),
        ("missing", "$.flows[1]"),
        ("bad_pattern", "$.flows[1].trigger_patterns[0]"),
        ("template_access", "$.flows[1].response_template"),
        ("unknown_target", "$.skills[0].tools[0]"),
        ("wrong_value", "$.skills[0].max_iterations"),
        ("wrong_value", "$.tests[0].expect.action"),
    }
    lines = json.dumps(doc, indent=1).splitlines()
    for problem in error.problems:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1])
    misspelt = next(p for p in error.problems if p.path == "$.flows[0].priorty")
    assert lines[misspelt.line - 1][misspelt.column - 1 :].startswith('"priorty"')
    back = next(p for p in error.problems if p.path == "$.flows[1].trigger_patterns[0]")
    assert lines[back.line - 1][back.column - 1 :] == '"(b)\\\\1"'


def test_the_error_is_one_that_clients_may_see() -> None:
    error = invalid('{"greting": 1}')
    assert isinstance(error, ConfigInvalid)
    assert error.status == 422
    assert error.extra["problems"][0]["code"] == "unknown_key"
    assert error.extra["problems"][0]["line"] == 1
    assert error.detail.startswith("w.json:1:2: error unknown_key unknown key 'greting' — did you mean 'greeting'?")


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        ({"flows": {"a": 1}}, "flows must be a list, not an object"),
        ({"flows": [1]}, "flows[0] must be an object, not a number"),
        ({"agent_id": 5}, "agent_id must be text, not a number"),
        ({"sop": 5}, "sop must be text or a list, not a number"),
        ({"max_iterations": 1.5}, "max_iterations must be a whole number, not one with a fraction"),
        ({"max_iterations": 0}, "max_iterations must be greater than or equal to 1"),
        ({"iteration_strategy": "sop"}, "iteration_strategy must be sop_driven or single_shot, not 'sop'"),
        ({"flows": [{"flow_id": "f", "interrupts": "perhaps"}]}, "interrupts must be true or false, not text"),
        ({"flows": [{"flow_id": "", "response_template": "x"}]}, "flow_id must have at least 1 characters"),
        ({"flows": [{"flow_id": "f", "response_template": "x", "when": {"between": ["09:00"]}}]}, "too few values"),
        (
            {"flows": [{"flow_id": "f", "response_template": "x", "when": {"context": {"a": []}}}]},
            "a must be text or a number or true or false",
        ),
        ({"config_hash": "x"}, "unknown key 'config_hash'"),
        ({"tools": [{"name": "t"}]}, "endpoint is missing"),
        ([], "a workflow file holds one object, not a list"),
        ("x", "a workflow file holds one object, not text"),
        ({"greeting": "\ud800"}, "half of a surrogate pair"),
        ({"\ud800": 1}, "half of a surrogate pair"),
    ],
)
def test_faults_of_shape_are_told_in_words(doc: Any, says: str) -> None:
    assert says in str(invalid(json.dumps(doc)))


def test_a_fault_of_the_text_has_its_place() -> None:
    assert str(invalid('{\n "a": ,\n}')) == "w.json:2:7: error syntax a value is expected here, not ','"
    assert str(invalid("a: 1\nb: [\n", "w.yaml")).startswith("w.yaml:3:1: error syntax")
    assert str(invalid('{"a": 1, "a": 2}')).startswith("w.json:1:10: error duplicate_key")


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(WorkflowInvalid, match="No such file"):
        load_file(tmp_path / "none.json")
    with pytest.raises(WorkflowInvalid, match="directory"):
        load_file(tmp_path)
    latin = tmp_path / "latin.json"
    latin.write_bytes('{\n "greeting": "caf\u00e9"}'.encode("latin-1"))
    with pytest.raises(WorkflowInvalid, match=r"latin\.json:2:18: error not_utf8"):
        load_file(latin)
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(WorkflowInvalid, match="too_large"):
        load_file(huge)


def test_a_directory_holds_many_agents(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SHOP))
    (tmp_path / "b.yaml").write_text("agent_id: second\n")
    (tmp_path / "third desk.yml").write_text("greeting: hi\n")
    (tmp_path / "notes.txt").write_text("not a workflow")
    (tmp_path / ".hidden.json").write_text("{")
    agents = load_all(tmp_path, ENV)
    assert list(agents) == ["kettles", "second", "third_desk"]
    assert agents["third_desk"].agent_id == "third_desk"
    assert list(load_all(tmp_path / "b.yaml")) == ["second"]


def test_a_directory_tells_the_problems_of_all_its_files(tmp_path: Path) -> None:
    with pytest.raises(WorkflowInvalid, match="no workflow file"):
        load_all(tmp_path)
    (tmp_path / "a.json").write_text('{"agent_id": "same"}')
    (tmp_path / "b.json").write_text('{"agent_id": "same"}')
    (tmp_path / "c.json").write_text('{"greting": 1}')
    with pytest.raises(WorkflowInvalid) as told:
        load_all(tmp_path)
    assert [(Path(p.file).name, p.code) for p in told.value.problems if p.level == "error"] == [
        ("b.json", "duplicate_agent"),
        ("c.json", "unknown_key"),
    ]


def test_a_workflow_does_not_change() -> None:
    workflow = load_text(json.dumps(SHOP), env=ENV)
    with pytest.raises(ValueError, match="frozen"):
        workflow.greeting = "x"  # type: ignore[misc]
    other = workflow.with_env({"A": "b"})
    assert dict(other.env) == {"A": "b"}
    assert "A" not in workflow.env


def test_the_model_takes_null_for_what_is_optional() -> None:
    nulls = {name: None for name in Workflow.model_fields if name != "config_hash"}
    assert Workflow.model_validate(nulls) == Workflow()


def test_ten_thousand_rules_load_in_seconds() -> None:
    flows = [
        {"flow_id": f"f{i}", "trigger_patterns": [f"word{i}.*order (?P<id>\\d+)"], "response_template": "Order {id}."}
        for i in range(10_000)
    ]
    workflow = load_text(json.dumps({"flows": flows}))
    assert len(workflow.flows) == 10_000
