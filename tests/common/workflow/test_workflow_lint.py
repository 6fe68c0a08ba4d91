"""Each thing that can be wrong with a workflow file: one small file a case, with the code, level, path, line and column that are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.workflow.lint import lint
from common.workflow.lint_sessions import question_parameter
from common.workflow.load import Examined, examine_text
from common.workflow.problems import Problem
from common.workflow.schema import Tool, Workflow

URL = "http://shop.example/x"


def examined(doc: dict[str, Any], env: dict[str, str] | None = None, **options: Any) -> Examined:
    options.setdefault("unknown_names", "error")
    return examine_text(json.dumps(doc, indent=1, ensure_ascii=False), "shop.json", env, **options)


def only(doc: dict[str, Any], code: str, env: dict[str, str] | None = None, **options: Any) -> Problem:
    found = [p for p in examined(doc, env, **options).problems if p.code == code]
    assert len(found) == 1, found
    return found[0]


def flow(**fields: Any) -> dict[str, Any]:
    return {"flows": [{"flow_id": "f", "trigger_patterns": ["order (?P<order_id>\\d+)"], "response_template": "ok", **fields}]}


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"name": "t", "endpoint": {"url": URL}, "trigger_patterns": ["t"], **fields}]}


def call(**endpoint: Any) -> dict[str, Any]:
    return flow(endpoint={"url": URL, **endpoint})


def system(**fields: Any) -> dict[str, Any]:
    return {"system_actions": [{"action_id": "a", "handler": "handoff", **fields}]}


BYE = system(action_id="bye", handler="close")
BYE_TIMER = {"timer_id": "bye", "delay_seconds": 300, "action_type": "system", "action_target": "bye"}
AFTER_BYE = {"timer_id": "after", "delay_seconds": 600, "message": "Are you still there?"}
TWO_NUMBERS = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}
NAME = system(handler="update_profile", parameters={"type": "object", "properties": {"name": {"type": "string"}}})

ERRORS: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown_target", {"skills": [{"skill_id": "s", "tools": ["x"], "system_prompt": "p"}]}, "$.skills[0].tools[0]", "no tool 'x'"),
    (
        "unknown_target",
        {"timers": [{"timer_id": "t", "delay_seconds": 1, "action_type": "flow", "action_target": "x"}]},
        "$.timers[0].action_target",
        "no flow 'x'",
    ),
    ("unknown_target", {"kb_config": {"enabled": True, "tool_name": "kb"}}, "$.kb_config.tool_name", "no tool 'kb'"),
    ("unknown_target", {"tests": [{"say": "x", "expect": {"action": "flow", "target": "g"}}]}, "$.tests[0].expect.target", "no flow 'g'"),
    ("no_message", {"timers": [{"timer_id": "t", "delay_seconds": 1}]}, "$.timers[0]", "has none"),
    ("duplicate_id", {"flows": flow()["flows"] * 2}, "$.flows[1].flow_id", "already taken in line 4"),
    ("duplicate_id", {"timers": [{"timer_id": "t", "delay_seconds": 1, "message": "m"}] * 2}, "$.timers[1].timer_id", "'t'"),
    ("unknown_placeholder", call(body={"a": ["{order}"]}), "$.flows[0].endpoint.body.a[0]", "{order} has no source"),
    ("unknown_placeholder", call(body='{"a": "{nope}"}'), "$.flows[0].endpoint.body", "{nope}"),
    ("unknown_placeholder", call(query_params={"q": "{nope.x[0]}"}), "$.flows[0].endpoint.query_params.q", "{nope.x[0]}"),
    ("unknown_placeholder", flow(response_template="{result}"), "$.flows[0].response_template", "{result}"),
    ("unknown_placeholder", flow(on_error="sorry {who}"), "$.flows[0].on_error", "{who}"),
    ("unknown_source", flow(parameter_mapping={"m": "raw_inptu"}), "$.flows[0].parameter_mapping.m", "'raw_inptu'"),
    ("placeholder_in_host", call(url="http://{order_id}.example/x"), "$.flows[0].endpoint.url", "host"),
    ("placeholder_in_host", call(url="https://shop.example:{order_id}/"), "$.flows[0].endpoint.url", "host"),
    ("template_access", flow(response_template="{order_id.__class__}"), "$.flows[0].response_template", "begins with _"),
    ("template_access", flow(response_template="{_x}"), "$.flows[0].response_template", "{_x}"),
    ("remote_ref", tool(parameters={"$defs": {"a": {"$ref": "http://x/y.json"}}}), "$.tools[0].parameters['$defs'].a['$ref']", "$ref"),
    ("remote_ref", {"skills": [{"skill_id": "s", "system_prompt": "p", "input_schema": {"$ref": "other.json"}}]}, "", "$ref"),
    ("bad_schema", tool(parameters={"type": "string"}), "$.tools[0].parameters.type", "object"),
    ("missing_env", call(headers={"Authorization": "Bearer ${SHOP_TOKEN}"}), "$.flows[0].endpoint.headers.Authorization", "SHOP_TOKEN"),
    ("missing_env", call(url="${SHOP_URL}/x"), "$.flows[0].endpoint.url", "SHOP_URL"),
    ("missing_env", {"mcp_servers": [{"name": "m", "url": "https://m.example/${M}"}]}, "$.mcp_servers[0].url", "no M"),
    ("bad_url", call(url="shop.example/x"), "$.flows[0].endpoint.url", "http://"),
    ("bad_url", call(url="file:///etc/passwd"), "$.flows[0].endpoint.url", "http://"),
    ("bad_url", call(url="http://shop.example:99999/"), "$.flows[0].endpoint.url", "port"),
    ("bad_url", call(url="http://me:pw@shop.example/"), "$.flows[0].endpoint.url", "user or password"),
    ("bad_url", call(url="http://shop.example\\@{order_id}/"), "$.flows[0].endpoint.url", "backslash"),
    ("bad_url", call(url="http://shop.example{{order_id}}/"), "$.flows[0].endpoint.url", "host"),
    ("bad_url", call(url="http:///x"), "$.flows[0].endpoint.url", "host"),
    ("no_answer", {"flows": [{"flow_id": "f", "trigger_patterns": ["x"]}]}, "$.flows[0]", "neither endpoint"),
    ("no_endpoint", {"skills": [{"skill_id": "s", "execution_mode": "function"}]}, "$.skills[0]", "no endpoint"),
    ("bad_jmespath", flow(endpoint={"url": URL}, result_path="a["), "$.flows[0].result_path", "JMESPath"),
    ("bad_jmespath", call(success_when=""), "$.flows[0].endpoint.success_when", "JMESPath"),
    ("unknown_group", flow(required_groups=["order"]), "$.flows[0].required_groups[0]", "no pattern has a group 'order'"),
    ("bad_pattern", flow(trigger_patterns=["a", "refund(?!able)"]), "$.flows[0].trigger_patterns[1]", "negative look-ahead"),
    ("bad_pattern", flow(exclude_patterns=["(a)\\1"]), "$.flows[0].exclude_patterns[0]", "back-reference"),
    ("bad_pattern", flow(trigger_patterns=["  "]), "$.flows[0].trigger_patterns[0]", "empty pattern"),
    ("bad_when", flow(when={"between": ["9:00", "18:00"]}), "$.flows[0].when.between[0]", "'9:00'"),
    ("bad_when", flow(when={"timezone": "Europe/Berln"}), "$.flows[0].when.timezone", "Berln"),
    ("bad_test", {"tests": [{"expect": {"action": "message"}}]}, "$.tests[0]", "either say or turns"),
    ("bad_test", {"tests": [{"turns": [], "expect": {"action": "message"}}]}, "$.tests[0].turns", "empty"),
    ("bad_server", {"mcp_servers": [{"name": "m"}]}, "$.mcp_servers[0]", "command or url"),
    ("bad_server", {"mcp_servers": [{"name": "m", "command": []}]}, "$.mcp_servers[0].command", "is empty"),
    ("duplicate_id", {**tool(name="m__x"), "mcp_servers": [{"name": "m", "command": ["x"]}]}, "$.mcp_servers[0].name", "'m__x'"),
    ("bad_url", {"kb_config": {"enabled": True}, "retrieve_knowledge_url": "kb.example"}, "$.retrieve_knowledge_url", "http://"),
]


@pytest.mark.parametrize(("code", "doc", "path", "says"), ERRORS, ids=lambda v: v if isinstance(v, str) and len(v) < 60 else "")
def test_an_error_refuses_the_file(code: str, doc: dict[str, Any], path: str, says: str) -> None:
    problem = only(doc, code)
    assert problem.level == "error"
    assert says in problem.message
    assert not path or problem.path == path
    assert examined(doc).workflow is None


WARNINGS: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown_target", {"action_books": [{"condition": "c", "action_type": "skill", "action_target": "s"}]}, "", "no skill 's'"),
    ("unknown_target", {"kb_config": {"enabled": True}}, "$.kb_config.tool_name", "missing"),
    ("unused_tool", {"tools": [{"name": "t", "endpoint": {"url": URL}}]}, "$.tools[0].name", "'t'"),
    ("no_fallback", {}, "$", "fallback_message"),
    ("untested_flow", flow(), "$.flows", "no flow has a test"),
    ("untested_flow", {**flow(), "tests": [{"say": "x", "expect": {"tier": "heavy"}}]}, "$.flows[0].flow_id", "'f'"),
    ("no_patterns", flow(trigger_patterns=[]), "$.flows[0]", "'f'"),
    ("patterns_ignored", flow(type="intent"), "$.flows[0].trigger_patterns", "intent"),
    ("no_system_prompt", {"skills": [{"skill_id": "s"}]}, "$.skills[0]", "'s'"),
    (
        "secret_literal",
        call(headers={"Authorization": "Bearer abcdef123456"}),
        "$.flows[0].endpoint.headers.Authorization",
        "Authorization",
    ),
    ("secret_literal", call(headers={"X-Api-Key": "42"}), "$.flows[0].endpoint.headers['X-Api-Key']", "X-Api-Key"),
    ("secret_literal", call(url=URL + "?api_key=abcdef"), "$.flows[0].endpoint.url", "URL"),
    ("secret_literal", call(body={"k": "sk-abcdefghijklmnopqrst"}), "$.flows[0].endpoint.body.k", "secret"),
    ("env_elsewhere", call(body={"k": "${KEY}"}), "$.flows[0].endpoint.body.k", "${KEY}"),
    ("autofill_marker", call(body={"dialogId": "todo_autofill_by_system"}), "$.flows[0].endpoint.body.dialogId", "fills nothing"),
    ("plain_text", {"timers": [{**AFTER_BYE, "message": "Hello {user_id}"}]}, "$.timers[0].message", "{user_id}"),
    ("plain_text", system(deadline_seconds=9, deadline_message="{profile.name}"), "$.system_actions[0].deadline_message", "{profile"),
    ("timer_never_fires", {**BYE, "timers": [BYE_TIMER, AFTER_BYE]}, "$.timers[1].timer_id", "'bye', which closes the session"),
    ("no_effect", {"max_iterations": 3, "iteration_strategy": "single_shot"}, "$.max_iterations", "acts once"),
    ("no_effect", flow(silent=True), "$.flows[0].response_template", "silent"),
    ("no_effect", system(silent=True, response_template="x"), "$.system_actions[0].response_template", "silent"),
    ("no_effect", system(deadline_message="x"), "$.system_actions[0].deadline_message", "no deadline"),
    ("no_effect", system(handler="close", deadline_seconds=5), "$.system_actions[0].deadline_seconds", "this is close"),
    ("no_effect", {"skills": [{"skill_id": "s", "system_prompt": "p", "endpoint": {"url": URL}}]}, "$.skills[0].endpoint", "agent skill"),
    ("no_effect", {**tool(), "kb_config": {"enabled": True, "tool_name": "t", "enhance_conditions": ["how"]}}, "", "every message"),
    ("no_effect", {**tool(), "kb_config": {"enabled": True, "tool_name": "t", "auto_enhance": False}}, "$.kb_config", "no message"),
    ("no_effect", {**tool(), "kb_config": {"tool_name": "t"}, "retrieve_knowledge_url": URL}, "$.retrieve_knowledge_url", "'t' is asked"),
    ("no_effect", {"learned_routes": {"enabled": True}, "multi_turn": "router"}, "$.learned_routes", "intent match"),
    (
        "no_effect",
        {"mcp_servers": [{"name": "m", "command": ["x"], "headers": {"A": "b"}}]},
        "$.mcp_servers[0].headers",
        "a command has no",
    ),
    ("no_effect", {"mcp_servers": [{"name": "m", "url": URL, "env": {"A": "b"}}]}, "$.mcp_servers[0].env", "by its URL"),
    ("no_question", {**tool(parameters=TWO_NUMBERS), "kb_config": {"tool_name": "t"}}, "$.kb_config.tool_name", "can take the question"),
    ("no_question", {**tool(approval=True), "kb_config": {"tool_name": "t"}}, "$.kb_config.tool_name", "approval"),
    ("unknown_profile", flow(response_template="Hello {profile.name}"), "$.flows[0].response_template", "{profile.name}"),
    ("unknown_profile", {**flow(on_error="{profile.nmae}"), **NAME}, "$.flows[0].on_error", "{profile.nmae}"),
    ("bad_test", {"tests": [{"say": "x", "expect": {}}]}, "$.tests[0].expect", "expects nothing"),
]


@pytest.mark.parametrize(("code", "doc", "path", "says"), WARNINGS, ids=lambda v: v if isinstance(v, str) and len(v) < 60 else "")
def test_a_warning_lets_the_file_load(code: str, doc: dict[str, Any], path: str, says: str) -> None:
    problem = only(doc, code, {"KEY": "k"})
    assert problem.level == "warning"
    assert says in problem.message
    assert not path or problem.path == path
    assert examined(doc, {"KEY": "k"}).workflow is not None


def test_a_problem_has_its_line_and_column_and_the_way_out() -> None:
    text = '{\n  "flows": [\n    {"flow_id": "f",\n     "trigger_patterns": ["ok", "a(?=b)"],\n     "response_template": "x"}\n  ]\n}'
    (problem,) = [p for p in examine_text(text, "w.json").problems if p.level == "error"]
    assert str(problem).startswith("w.json:4:33: error bad_pattern RE2 has no look-ahead (?=…), at character 2 — match the text")
    assert problem.path == "$.flows[0].trigger_patterns[1]"


def test_the_same_in_yaml() -> None:
    text = "flows:\n  - flow_id: f\n    trigger_patterns:\n      - ok\n      - a(?=b)\n    response_template: x\n"
    (problem,) = [p for p in examine_text(text, "w.yaml").problems if p.level == "error"]
    assert (problem.line, problem.column, problem.path) == (5, 9, "$.flows[0].trigger_patterns[1]")


@pytest.mark.parametrize(
    "text",
    [
        "{order_id} {session_id} {user_id} {agent_id} {chatbotId} {chatbot_id} {message} {user_message} {raw_input} {tenant} {tone}",
        "{shop} {city} {plan} {mine} {context.plan}",
        '{{not_one}} {"json": {"a": 1}} {} { order } {1}',
    ],
)
def test_names_with_a_source_are_known(text: str) -> None:
    doc = flow(response_template=text, parameter_mapping={"mine": "context.plan"})
    doc |= {
        "basic_settings": {"shop": "Kettles & Co"},
        "metadata": {"context": ["city"]},
        "tests": [{"say": "x", "context": {"plan": "gold"}, "expect": {"tier": "heavy"}}],
    }
    assert [p for p in examined(doc).problems if p.level == "error"] == []


def test_parameters_and_results_are_known_where_they_exist() -> None:
    doc = tool(
        parameters={"type": "object", "properties": {"item": {"type": "string"}}},
        endpoint={"url": URL + "/{item}", "query_params": {"q": "{item}"}},
        response_template="{item}: {result.count}",
    )
    doc["skills"] = [{"skill_id": "s", "execution_mode": "function", "endpoint": {"url": URL, "body": {"text": "{input}"}}}]
    assert [p for p in examined(doc).problems if p.level == "error"] == []


def test_a_misspelt_name_is_told_with_the_nearest_one() -> None:
    assert "did you mean 'session_id'?" in only(flow(response_template="{sesion_id}"), "unknown_placeholder").hint
    doc = {**tool(), "skills": [{"skill_id": "s", "system_prompt": "p", "tools": ["tt"]}]}
    assert only(doc, "unknown_target").hint == "did you mean 't'?"
    doc = {**flow(), "skills": [{"skill_id": "s", "system_prompt": "p", "tools": ["f"]}]}
    assert only(doc, "unknown_target").hint == "'f' is a flow"


def test_what_follows_from_another_fault_is_not_told() -> None:
    skill = {"skill_id": "s", "system_prompt": "p", "tools": ["t"]}
    for tools in ("t", ["t"], [{"nmae": "t", "endpoint": {"url": URL}}], [{"name": "t"}]):
        codes = {p.code for p in examined({"tools": tools, "skills": [skill]}).problems if p.level == "error"}
        assert codes <= {"wrong_type", "missing", "unknown_key"}


def test_secrets_are_not_repeated_in_problems() -> None:
    doc = call(headers={"Authorization": "Bearer abcdef123456"}, url="http://x y/${TOKEN}?token=abcdefgh")
    for problem in examined(doc, {"TOKEN": "s3cr3t"}).problems:
        assert "abcdef" not in str(problem)
        assert "s3cr3t" not in str(problem)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("done", ""),
        ("files", ""),
        ("files__read", ""),
        ("files__write", "the MCP server 'files' has no 'write' among its tools"),
        ("web__any", ""),
        ("files_read", "there is no tool 'files_read'"),
        ("filesystem", "there is no tool 'filesystem'"),
    ],
)
def test_a_skill_may_name_done_and_the_tools_of_a_server(name: str, says: str) -> None:
    doc = {
        "mcp_servers": [{"name": "files", "command": ["x"], "tools": ["read"]}, {"name": "web", "url": URL}],
        "skills": [{"skill_id": "s", "system_prompt": "p", "tools": [name]}],
    }
    assert [p.message for p in examined(doc).problems if p.code == "unknown_target"] == ([says] if says else [])


@pytest.mark.parametrize(
    ("properties", "required", "expected"),
    [
        ({"limit": {}, "q": {}, "query": {}}, [], "query"),
        ({"limit": {"type": "integer"}, "subject": {"type": "string"}}, ["limit", "subject"], "subject"),
        ({"what": {"type": "array"}}, [], "what"),
        ({"a": {"type": "string"}, "b": {"type": "string"}}, ["a", "b"], None),
        ({"a": True, "b": None}, "a", None),
        (["a"], [], None),
    ],
)
def test_the_parameter_that_takes_the_question(properties: Any, required: Any, expected: str | None) -> None:
    one = Tool.model_validate({"name": "t", "endpoint": {"url": URL}, "parameters": {"properties": properties, "required": required}})
    assert question_parameter(one) == expected


def test_sound_sessions_are_not_complained_about() -> None:
    doc = {
        **tool(parameters={"type": "object", "properties": {"query": {"type": "string"}}}),
        **flow(response_template="{profile.name}, {profile.anything}"),
        "system_actions": [
            {"action_id": "note", "handler": "update_profile"},
            {"action_id": "human", "handler": "handoff", "deadline_seconds": 60, "deadline_message": "later"},
            *BYE["system_actions"],
        ],
        "timers": [AFTER_BYE, BYE_TIMER],
        "kb_config": {"enabled": True, "tool_name": "t", "auto_enhance": False, "enhance_conditions": ["how"]},
        "limits": {"tokens": 5},
    }
    allowed = {"no_fallback", "untested_flow"}
    assert [p for p in examined(doc).problems if p.code not in allowed] == []
    by_url = {"kb_config": {"enabled": True}, "retrieve_knowledge_url": URL}
    assert [p for p in examined(by_url).problems if p.code not in allowed] == []


def test_the_check_of_patterns_is_the_callers() -> None:
    def refuse_x(pattern: str) -> str | None:
        return "no x here: write y" if "x" in pattern else None

    problem = only(flow(trigger_patterns=["y", "x", "(?=a)"]), "bad_pattern", check_pattern=refuse_x)
    assert (problem.message, problem.hint, problem.path) == ("no x here", "write y", "$.flows[0].trigger_patterns[1]")


def test_patterns_of_other_match_types_are_plain_text() -> None:
    assert [p for p in examined(flow(trigger_patterns=["what (?!"], match_type="contains")).problems if p.level == "error"] == []


def test_a_model_without_a_text_can_be_linted() -> None:
    found = lint(Workflow.model_validate(flow(response_template="{nope}")))
    assert [p.code for p in found if p.level == "error"] == ["unknown_placeholder"]
