"""From an action to its answer: variables and who wins, templates, on_error and on_empty, function skills."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.endpoints.answer import CompiledAction, Outcome, compile_action, perform, variables_for
from common.endpoints.call import HttpCaller
from common.endpoints.egress import EgressPolicy
from common.workflow.schema import Endpoint, Flow, Skill, SystemAction, Tool, Workflow
from tests.common.endpoints.hostile_api import HostileApi, hostile_api

WORKFLOW = Workflow.model_validate(
    {"agent_id": "shop", "basic_settings": {"name": "Shop", "chatbot_id": "cb-7", "city": "Bonn", "user_id": "forged"}}
)


@pytest.fixture
async def api() -> AsyncIterator[HostileApi]:
    async with hostile_api() as it:
        yield it


@pytest.fixture
async def caller() -> AsyncIterator[HttpCaller]:
    async with HttpCaller(EgressPolicy(trusted_hosts=frozenset({"127.0.0.1"}))) as it:
        yield it


def variables(message: str = "hello", **fields: Any) -> dict[str, Any]:
    return variables_for(WORKFLOW, message=message, session_id="s-1", user_id="u-1", **fields)


def flow(url: str | None = None, **fields: Any) -> CompiledAction:
    endpoint = Endpoint(url=url, retries=0, **fields.pop("endpoint", {})) if url else None
    return compile_action("flow", Flow(flow_id="f", endpoint=endpoint, **fields), {})


def test_context_variables() -> None:
    v = variables(context={"plan": "gold", "session_id": "forged"}, groups={"order_id": "A1", "user_id": "forged", "gone": None})
    assert v["session_id"] == "s-1"
    assert v["user_id"] == "u-1"
    assert v["raw_input"] == v["user_message"] == v["message"] == "hello"
    assert v["chatbotId"] == v["chatbot_id"] == "cb-7"
    assert (v["agent_id"], v["tenant"], v["city"], v["name"]) == ("shop", "default", "Bonn", "Shop")
    assert (v["plan"], v["order_id"], v["context"]["plan"]) == ("gold", "A1", "gold")
    assert "gone" not in v
    assert variables("note: call me", groups={"message": "call me"})["message"] == "call me"


def test_arguments_of_an_llm_win_over_nothing_that_the_system_or_the_request_gave() -> None:
    v = variables(
        context={"account": "mine"},
        arguments={"account": "yours", "session_id": "x", "raw_input": "x", "chatbotId": "x", "reason": "broken"},
    )
    assert (v["account"], v["session_id"], v["raw_input"], v["chatbotId"], v["reason"]) == ("mine", "s-1", "hello", "cb-7", "broken")


def test_the_profile_gives_way_to_every_other_source_of_that_name() -> None:
    template = flow(response_template="{profile.name}|{profile.tags[0]}|{profile.gone}|{profile}")
    assert template.render(variables(profile={"name": "Ann", "tags": ["vip"]})) == 'Ann|vip||{"name":"Ann","tags":["vip"]}'
    assert template.render(variables()) == "|||{}"
    assert variables(profile={"name": "Ann"}, arguments={"profile": "A long one"})["profile"] == "A long one"
    assert variables(profile={"session_id": "forged"})["session_id"] == "s-1"


def test_parameter_mapping() -> None:
    mapping = {
        "text": "raw_input",
        "who": "user_id",
        "order": "order_id",
        "tier": "context.plan",
        "no": "context.nowhere",
        "bad": "__class__",
    }
    v = variables(context={"plan": "gold"}, groups={"order_id": "A1"}, parameter_mapping=mapping)
    assert {k: v[k] for k in mapping} == {"text": "hello", "who": "u-1", "order": "A1", "tier": "gold", "no": None, "bad": None}


def test_input() -> None:
    assert variables("mood of it")["input"] == "mood of it"
    assert variables(groups={"text": "I love it"})["input"] == "I love it"
    assert variables(groups={"input": "a", "text": "b"})["input"] == "a"
    assert variables(arguments={"input": "c"})["input"] == "c"
    assert variables(arguments={"x": 1})["input"] == {"x": 1}


async def test_static_answers_need_no_call(caller: HttpCaller) -> None:
    assert flow(response_template="We open at 9.").static == "We open at 9."
    greeting = flow(response_template="Hello {user_id}")
    assert greeting.static is None
    assert await perform(greeting, variables(), caller) == Outcome("Hello u-1")


async def test_a_template_over_the_result(api: HostileApi, caller: HttpCaller) -> None:
    action = flow(api.url + "/json?v={v}", response_template="{user_id}: {result.items[0].name} ({result.n})")
    outcome = await perform(action, {**variables(), "v": {"items": [{"name": "kettle"}], "n": 2}}, caller)
    assert outcome.text == "u-1: kettle (2)"
    assert outcome.result == {"items": [{"name": "kettle"}], "n": 2}


async def test_without_a_template_the_result_is_the_answer(api: HostileApi, caller: HttpCaller) -> None:
    assert (await perform(flow(api.url + "/text?hex=6869"), {}, caller)).text == "hi"
    assert (await perform(flow(api.url + "/json?v={v}"), {"v": {"a": [1, True]}}, caller)).text == '{"a":[1,true]}'


async def test_result_path(api: HostileApi, caller: HttpCaller) -> None:
    action = flow(api.url + "/json?v={v}", result_path="data.items[?ok].name | [0]", response_template="Take {result}.")
    good = {"data": {"items": [{"ok": False, "name": "a"}, {"ok": True, "name": "b"}]}}
    assert (await perform(action, {"v": good}, caller)).text == "Take b."
    assert await perform(action, {"v": {"data": {}}}, caller) == Outcome(
        None, None, "flow f: the API had no result", True, "flow f: the API had no result"
    )
    odd = flow(api.url + "/json?v={v}", result_path="length(data)")
    assert (await perform(odd, {"v": {"data": 5}}, caller)).failure == "flow f: the API's answer has another form than the file expects"


async def test_on_error(api: HostileApi, caller: HttpCaller) -> None:
    assert await perform(flow(api.url + "/fail/500"), {}, caller) == Outcome(
        None, failure="flow f: the API answered 500", fault="flow f: the API answered 500"
    )
    outcome = await perform(flow(api.url + "/fail/500", on_error="Sorry {user_id}."), variables(), caller)
    assert (outcome.text, outcome.failure, outcome.fault) == ("Sorry u-1.", None, "flow f: the API answered 500")


async def test_on_empty(api: HostileApi, caller: HttpCaller) -> None:
    for empty in ("{}", "[]", '""', "null"):
        outcome = await perform(flow(api.url + "/json?v={v}"), {"v": json.loads(empty)}, caller)
        assert (outcome.text, outcome.empty) == (None, True), empty
    assert (await perform(flow(api.url + "/json?v=0"), {}, caller)).text == "0"
    assert (await perform(flow(api.url + "/none", on_empty="Nothing there."), {}, caller)).text == "Nothing there."
    # an answer that does not show the result does not need one
    assert (await perform(flow(api.url + "/none", response_template="Done."), {}, caller)).text == "Done."


async def test_a_silent_flow_has_an_empty_answer_whatever_comes(api: HostileApi, caller: HttpCaller) -> None:
    silent = flow(api.url + "/none", silent=True, response_template="{result}", on_empty="Nothing.")
    assert (await perform(silent, variables(), caller)).text == ""
    assert flow(silent=True).static == ""
    assert (await perform(flow(api.url + "/fail/500", silent=True), variables(), caller)).text is None


async def test_system_actions_may_have_a_call(api: HostileApi, caller: HttpCaller) -> None:
    endpoint = Endpoint(url=api.url + "/tickets")
    action = compile_action(
        "system", SystemAction(action_id="a", handler="close", endpoint=endpoint, response_template="Bye {result.path}."), {}
    )
    assert (await perform(action, variables(), caller)).text == "Bye /tickets."
    assert action.static is None


async def test_function_skills(api: HostileApi, caller: HttpCaller) -> None:
    def skill(**fields: Any) -> CompiledAction:
        return compile_action("skill", Skill(skill_id="mood", execution_mode="function", **fields), {})

    await perform(skill(endpoint=Endpoint(url=api.url + "/x")), variables("so nice"), caller)
    await perform(skill(endpoint=Endpoint(url=api.url + "/x", body={"text": "{input}"})), variables(groups={"text": "good"}), caller)
    await perform(skill(endpoint=Endpoint(url=api.url + "/x?q={input}", method="GET")), variables("so"), caller)
    assert [(m, p, b) for m, p, _, b in api.asked] == [
        ("POST", "/x", b'{"input":"so nice"}'),
        ("POST", "/x", b'{"text":"good"}'),
        ("GET", "/x?q=so", b""),
    ]
    text = skill(endpoint=Endpoint(url=api.url + "/json?v=[1]"), output_parser="text")
    assert (await perform(text, variables(), caller)).result == "[1]"


async def test_tools_and_keys(api: HostileApi, caller: HttpCaller) -> None:
    tool = compile_action(
        "tool", Tool(name="refund", endpoint=Endpoint(url=api.url + "/refunds", body={"id": "{id}", "s": "{session_id}"})), {}
    )
    v = variables(arguments={"id": "A1", "session_id": "forged"})
    assert (await perform(tool, v, caller, idempotency_key="t:c")).failure is None
    method, _, headers, body = api.asked[0]
    assert (method, headers["idempotency-key"], json.loads(body)) == ("POST", "t:c", {"id": "A1", "s": "s-1"})


def test_other_kinds_and_bad_files() -> None:
    assert compile_action("system", SystemAction(action_id="a", handler="close", response_template="Bye."), {}).static == "Bye."
    assert compile_action("skill", Skill(skill_id="s", endpoint=Endpoint(url="http://h/")), {}).endpoint is None
    with pytest.raises(ValueError, match=r"flow f: .*host"):
        flow("http://{host}/x")
    with pytest.raises(ValueError, match=r"flow f: .*refused"):
        flow(response_template="{x.__class__}")
    with pytest.raises(ValueError, match=r"flow f: .*JMESPath"):
        flow("http://h/", result_path="a[")
