"""Knowledge for a message: which messages, what is asked, and that it never holds a turn up or breaks it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.endpoints.answer import CompiledAction, variables_for
from common.endpoints.call import HttpCaller
from common.endpoints.egress import EgressPolicy
from common.errors import ConfigInvalid
from common.telemetry.metrics import Metrics
from common.workflow.schema import Workflow
from heavy.actions.compiled import CompiledWorkflow, compile_workflow
from heavy.actions.knowledge import KnowledgeQuery, start_knowledge
from heavy.turns.agents import Agents
from tests.support.recording_api import RecordingApi
from tests.support.waiting import wait_until

QUESTION = {"type": "object", "properties": {"query": {"type": "string"}}}


@pytest.fixture
async def api() -> AsyncIterator[RecordingApi]:
    async with RecordingApi({"/search": {"passages": ["Descale with vinegar."]}}) as api:
        yield api


@pytest.fixture
async def caller() -> AsyncIterator[HttpCaller]:
    async with HttpCaller(EgressPolicy(trusted_hosts=frozenset({"127.0.0.1"})), Metrics()) as caller:
        yield caller


def workflow(url: str, config: dict[str, Any] | None = None, parameters: dict[str, Any] | None = None, **tool: Any) -> Workflow:
    declared = {
        "name": "search",
        "parameters": QUESTION if parameters is None else parameters,
        "endpoint": {
            "url": url + "/search",
            "method": "POST",
            "body": tool.pop("body", {"q": "{query}", "who": "{user_id}"}),
            "retries": 0,
        },
        **tool,
    }
    config = {"enabled": True, "tool_name": "search", **(config or {})}
    return Workflow.model_validate({"agent_id": "shop", "basic_settings": {"chatbot_id": "cb-1"}, "tools": [declared], "kb_config": config})


def compiled(*args: Any, **kwargs: Any) -> CompiledWorkflow:
    return compile_workflow(workflow(*args, **kwargs), {})


def start(
    agent: CompiledWorkflow, caller: HttpCaller, message: str = "How do I descale it?", deadline: float | None = None
) -> KnowledgeQuery | None:
    def variables(action: CompiledAction, arguments: Any) -> dict[str, Any]:
        context = {"shop": "north"}
        return variables_for(agent.workflow, message=message, session_id="s-1", user_id="u-1", context=context, arguments=arguments)

    return start_knowledge(agent.knowledge, caller, variables, message=message, turn_id="t_1", deadline=deadline)


async def found(query: KnowledgeQuery | None) -> str | None:
    assert query is not None
    try:
        return await query.found()
    finally:
        await query.aclose()


async def test_the_tool_is_asked_with_the_message(api: RecordingApi, caller: HttpCaller) -> None:
    assert await found(start(compiled(api.url), caller)) == '{"passages":["Descale with vinegar."]}'
    assert [(a.path, a.body, a.key) for a in api.asked] == [("/search", {"q": "How do I descale it?", "who": "u-1"}, "t_1:knowledge")]


async def test_the_tools_own_template_and_path_make_the_text(api: RecordingApi, caller: HttpCaller) -> None:
    assert await found(start(compiled(api.url, result_path="passages[0]"), caller)) == "Descale with vinegar."
    assert await found(start(compiled(api.url, response_template="1. {result.passages[0]}"), caller)) == "1. Descale with vinegar."


@pytest.mark.parametrize(
    ("parameters", "name", "sent"),
    [
        ({"properties": {"lang": {"type": "string"}, "question": {"type": "string"}}}, "question", "Hi?"),
        ({"properties": {"keywords": {"type": "array", "items": {"type": "string"}}}}, "keywords", ["Hi?"]),
        ({"properties": {"topic": {"type": "string"}, "top_k": {"type": "integer"}}, "required": ["topic", "top_k"]}, "topic", "Hi?"),
        ({"properties": {"phrase": {"type": "string"}}}, "phrase", "Hi?"),
        ({"phrase": "what to look for"}, "phrase", "Hi?"),
        ({"properties": {"message": {"type": "string"}}}, "message", "Hi?"),
        ({"properties": {"session_id": {"type": "string"}, "phrase": {"type": "string"}}}, "phrase", "Hi?"),
    ],
)
async def test_the_parameter_that_takes_the_question(
    api: RecordingApi, caller: HttpCaller, parameters: dict[str, Any], name: str, sent: Any
) -> None:
    agent = compiled(api.url, parameters=parameters, body={"q": "{" + name + "}", "shop": "{shop}"})
    assert await found(start(agent, caller, "Hi?"))
    assert api.asked[-1].body == {"q": sent, "shop": "north"}


def test_what_cannot_be_asked_is_not_asked() -> None:
    two = {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    assert compiled("http://kb", parameters=two).knowledge is None
    assert compiled("http://kb", approval=True).knowledge is None
    assert compiled("http://kb", {"enabled": False}).knowledge is None
    assert compiled("http://kb", {"tool_name": "gone"}).knowledge is None
    assert compiled("http://kb", {"tool_name": None}).knowledge is None
    assert compiled("http://kb", {"auto_enhance": False}).knowledge is None
    assert compiled("http://kb", {"auto_enhance": False, "enhance_conditions": [" "]}).knowledge is None
    assert compiled("http://kb", parameters={}).knowledge is not None  # its templates may take the message


async def test_without_auto_enhance_only_messages_with_a_condition(api: RecordingApi, caller: HttpCaller) -> None:
    agent = compiled(api.url, {"auto_enhance": False, "enhance_conditions": ["descale", "除垢 "]})
    assert start(agent, caller, "What is the time?") is None
    assert start(agent, caller, "  ") is None
    for message in ("Can I ＤＥＳＣＡＬＥ it?", "怎么除垢？"):
        assert await found(start(agent, caller, message))
    assert len(api.asked) == 2


async def test_with_auto_enhance_every_message(api: RecordingApi, caller: HttpCaller) -> None:
    assert await found(start(compiled(api.url, {"enhance_conditions": ["descale"]}), caller, "What is the time?"))


async def test_a_knowledge_url_without_a_tool(api: RecordingApi) -> None:
    document = {
        "agent_id": "shop",
        "basic_settings": {"chatbot_id": "cb-1"},
        "retrieve_knowledge_url": "${KB}/search",
        "kb_config": {"enabled": True},
    }
    given = Workflow.model_validate(document).with_env({"KB": api.url})
    agent = compile_workflow(given, given.env)
    assert agent.hosts == {"127.0.0.1"}
    assert Agents({"shop": given}).hosts == {"127.0.0.1"}
    metrics = Metrics()
    async with HttpCaller(EgressPolicy(trusted_hosts=agent.hosts), metrics) as caller:
        assert await found(start(agent, caller)) == '{"passages":["Descale with vinegar."]}'
    assert [(a.method, a.body) for a in api.asked] == [("POST", {"query": "How do I descale it?", "chatbot_id": "cb-1"})]
    labels = {"endpoint": "knowledge base", "outcome": "ok"}
    assert metrics.registry.get_sample_value("loadsplit_endpoint_calls_total", labels) == 1


def test_a_knowledge_url_that_can_never_be_called_is_refused() -> None:
    document = {"agent_id": "shop", "retrieve_knowledge_url": "http://{host}/x", "kb_config": {"enabled": True}}
    with pytest.raises(ConfigInvalid, match="knowledge base"):
        compile_workflow(Workflow.model_validate(document), {})


@pytest.mark.parametrize("answer", [500, {}, [], ""])
async def test_a_failure_or_nothing_is_no_knowledge(
    api: RecordingApi, caller: HttpCaller, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "heavy.actions.knowledge")
    api.answers["/search"] = answer
    assert await found(start(compiled(api.url, on_error="Sorry!", on_empty="Nothing!"), caller)) is None
    assert [r.getMessage().partition(": ")[0] for r in caplog.records] == ["tool search"]
    assert "secret" not in caplog.text


async def test_a_private_address_that_no_file_names_is_not_asked(api: RecordingApi) -> None:
    async with HttpCaller(EgressPolicy()) as caller:
        assert await found(start(compiled(api.url), caller)) is None
    assert api.asked == []


async def test_a_slow_tool_is_waited_for_until_its_time_out_counted_from_the_start(api: RecordingApi, caller: HttpCaller) -> None:
    api.held.add("/search")
    query = start(compiled(api.url, {"timeout": 0.2}), caller)
    assert query is not None
    await wait_until(lambda: api.asked, "the tool is asked before anyone waits for it")
    began = time.monotonic()
    assert await query.found() is None
    assert time.monotonic() - began < 1
    assert await query.found() is None  # asked again it does not wait again
    await query.aclose()


async def test_the_turns_deadline_ends_it_earlier(api: RecordingApi, caller: HttpCaller) -> None:
    api.held.add("/search")
    began = time.monotonic()
    assert await found(start(compiled(api.url, {"timeout": 50}), caller, deadline=time.time() + 0.1)) is None
    assert time.monotonic() - began < 2


async def test_a_turn_that_ends_first_ends_the_call(api: RecordingApi, caller: HttpCaller) -> None:
    api.held.add("/search")
    query = start(compiled(api.url), caller)
    assert query is not None
    await wait_until(lambda: api.asked, "the tool is asked")
    await query.aclose()
    await wait_until(lambda: api.gone == 1, "the connection is closed")
    assert await query.found() is None
