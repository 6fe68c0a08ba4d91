"""System actions and silent flows: their calls, what a failing call changes and what it does not, and the profile that they write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from common.endpoints.call import HttpCaller
from common.endpoints.egress import EgressPolicy
from common.workflow.schema import Workflow
from heavy.actions.compiled import compile_workflow
from heavy.actions.context import ActionContext, ActionResult, NotAnswered
from heavy.actions.flow import declared_call
from heavy.actions.system import MAX_FIELDS, MAX_VALUE_BYTES, system_action
from heavy.agent.scripted import ScriptedGateway
from tests.support.recording_api import RecordingApi


@pytest.fixture
async def api() -> AsyncIterator[RecordingApi]:
    async with RecordingApi({"/fail": 500, "/nothing": [], "/ticket": {"number": 7}}) as api:
        yield api


@pytest.fixture
async def caller() -> AsyncIterator[HttpCaller]:
    async with HttpCaller(EgressPolicy(allow=("127.0.0.1",))) as caller:
        yield caller


def context(api: RecordingApi, caller: HttpCaller, *actions: dict[str, Any], flows: Any = (), **changes: Any) -> ActionContext:
    """Actions with their endpoint given as a path; each is called with the name and the tier of the user's profile."""

    def called(action: dict[str, Any]) -> dict[str, Any]:
        if path := action.pop("path", None):
            body = {"name": "{profile.name}", "said": "{raw_input}"}
            action["endpoint"] = {"url": api.url + path, "method": "POST", "body": body, "retries": 0}
        return action

    workflow = Workflow.model_validate(
        {"agent_id": "shop", "system_actions": [called(dict(a)) for a in actions], "flows": [called(dict(f)) for f in flows]}
    )
    ctx = ActionContext(compile_workflow(workflow, {}), ScriptedGateway(), caller, "I am Ann", "t_1", "s-1", user_id="u-1")
    return replace(ctx, **changes)


async def run(ctx: ActionContext, *, call_id: str | None = None, **parameters: Any) -> ActionResult | NotAnswered:
    return await system_action(ctx, ctx.workflow.system_actions[0], parameters, call_id=call_id)


async def done(ctx: ActionContext, **parameters: Any) -> ActionResult:
    result = await run(ctx, **parameters)
    assert isinstance(result, ActionResult)
    return result


async def test_an_endpoint_is_told_before_the_session_is_handed_over(api: RecordingApi, caller: HttpCaller) -> None:
    ctx = context(api, caller, {"action_id": "human", "handler": "handoff", "path": "/ok"}, profile={"name": "Ann"})
    result = await done(ctx)
    assert (result.status, result.session_status, result.action_target) == ("transferred", "transferred", "human")
    assert result.text == "I am handing you over to a colleague. Please wait a moment."
    assert [(a.path, a.body, a.key) for a in api.asked] == [("/ok", {"name": "Ann", "said": "I am Ann"}, "t_1:system:human")]
    await run(ctx, call_id="c9")
    assert api.asked[-1].key == "t_1:c9"


async def test_the_template_has_the_calls_result(api: RecordingApi, caller: HttpCaller) -> None:
    ctx = context(
        api, caller, {"action_id": "human", "handler": "handoff", "path": "/ticket", "response_template": "Ticket {result.number}."}
    )
    assert (await done(ctx)).text == "Ticket 7."


@pytest.mark.parametrize("path", ["/fail", "/nothing"])
@pytest.mark.parametrize(("handler", "status"), [("handoff", "transferred"), ("close", "closed")])
async def test_a_call_that_fails_keeps_nobody_from_a_human(
    api: RecordingApi, caller: HttpCaller, path: str, handler: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = await done(context(api, caller, {"action_id": "end", "handler": handler, "path": path, "response_template": "Bye."}))
    assert (result.text, result.status, result.session_status) == ("Bye.", status, status)
    assert len(api.asked) == 1
    assert [r.levelname for r in caplog.records] == (["WARNING"] if path == "/fail" else [])
    assert "secret" not in caplog.text


async def test_a_failed_calls_own_text_is_said(api: RecordingApi, caller: HttpCaller) -> None:
    action = {"action_id": "human", "handler": "handoff", "path": "/fail", "response_template": "Ticket {result.number}."}
    assert (await done(context(api, caller, {**action, "on_error": "Our desk is slow today."}))).text == "Our desk is slow today."
    assert (await done(context(api, caller, action))).text.startswith("I am handing you over")  # never "Ticket ."


async def test_a_silent_one_calls_and_says_nothing(api: RecordingApi, caller: HttpCaller) -> None:
    ctx = context(api, caller, {"action_id": "human", "handler": "handoff", "path": "/ok", "silent": True, "response_template": "never"})
    result = await done(ctx)
    assert (result.text, result.messages, result.status, result.session_status) == ("", (), "silent", "transferred")
    assert len(api.asked) == 1


async def test_a_profile_whose_call_failed_stays_as_it_is(api: RecordingApi, caller: HttpCaller) -> None:
    action = {"action_id": "note", "handler": "update_profile", "path": "/fail"}
    refused = await run(context(api, caller, action), name="Ann")
    assert refused == NotAnswered("system note: the API answered 500")
    excused = await done(context(api, caller, {**action, "on_error": "Not now."}), name="Ann")
    assert (excused.text, excused.profile, excused.status) == ("Not now.", None, "success")


async def test_a_profile_is_seen_by_its_own_call_and_text(api: RecordingApi, caller: HttpCaller) -> None:
    action = {
        "action_id": "note",
        "handler": "update_profile",
        "path": "/nothing",
        "response_template": "Hello {profile.name} of {profile.city}.",
    }
    result = await done(context(api, caller, action, profile={"name": "Bob", "city": "Graz"}), name="Ann")
    assert (result.text, result.profile) == ("Hello Ann of Graz.", {"name": "Ann"})
    assert api.asked[0].body["name"] == "Ann"


async def test_only_declared_fields_are_noted(api: RecordingApi, caller: HttpCaller) -> None:
    declared = {"properties": {"name": {"type": "string"}, "shop": {"type": "string"}, "user_id": {"type": "string"}}}
    action = {"action_id": "note", "handler": "update_profile", "parameters": declared}
    ctx = context(api, caller, action, context={"shop": "north"}, groups={"name": "Ann", "colour": "red"})
    result = await done(ctx, role="admin", shop="south", user_id="u-2")
    assert result.profile == {"name": "Ann"}  # neither what is not declared, nor what the request or the system gives
    free = context(api, caller, {"action_id": "note", "handler": "update_profile"}, context={"shop": "north"}, groups={"colour": "red"})
    assert (await done(free, role="vip", shop="south")).profile == {"colour": "red", "role": "vip"}


async def test_null_removes_what_is_known_and_a_group_that_is_empty_does_not(api: RecordingApi, caller: HttpCaller) -> None:
    ctx = context(api, caller, {"action_id": "note", "handler": "update_profile"}, profile={"name": "Ann", "city": "Graz"})
    ctx = replace(ctx, groups={"city": ""})
    assert (await done(ctx, name=None, unknown=None)).profile == {"name": None}


async def test_a_profile_is_bounded(api: RecordingApi, caller: HttpCaller, caplog: pytest.LogCaptureFixture) -> None:
    known = {f"f{i}": "x" for i in range(MAX_FIELDS - 1)}
    ctx = context(api, caller, {"action_id": "note", "handler": "update_profile"}, profile=known)
    patch = (
        await done(ctx, f0="changed", one="é" * MAX_VALUE_BYTES, two="no room", big=["x" * MAX_VALUE_BYTES], **{"n" * 200: "x"})
    ).profile
    assert patch is not None
    assert set(patch) == {"f0", "one"}
    assert len(patch["one"].encode()) == MAX_VALUE_BYTES
    assert [r.getMessage().rpartition(": ")[2] for r in caplog.records] == ["'two'", "'big'"]


async def flow(ctx: ActionContext) -> list[Any]:
    async with aclosing(declared_call(ctx, "flow", "log", {})) as steps:
        return [step async for step in steps]


async def test_a_silent_flow_calls_and_says_nothing(api: RecordingApi, caller: HttpCaller) -> None:
    silent = {"flow_id": "log", "silent": True, "response_template": "never {result}"}
    for path in ("/ok", "/nothing"):
        [result] = await flow(context(api, caller, flows=[{**silent, "path": path}]))
        assert (result.text, result.messages, result.status, result.action_target) == ("", (), "silent", "log")
    assert [(a.path, a.key) for a in api.asked] == [("/ok", "t_1:flow:log"), ("/nothing", "t_1:flow:log")]
    [result] = await flow(context(api, caller, flows=[silent]))
    assert (result.text, result.status) == ("", "silent")


async def test_a_silent_flow_that_fails_is_not_silent(api: RecordingApi, caller: HttpCaller) -> None:
    silent = {"flow_id": "log", "silent": True, "path": "/fail"}
    assert await flow(context(api, caller, flows=[silent])) == [NotAnswered("flow log: the API answered 500")]
    delta, result = await flow(context(api, caller, flows=[{**silent, "on_error": "Not now."}]))
    assert (delta.text, result.text, result.status) == ("Not now.", "Not now.", "success")


def test_silent_actions_are_known_before_they_run(api: RecordingApi, caller: HttpCaller) -> None:
    ctx = context(
        api, caller, {"action_id": "note", "handler": "update_profile", "silent": True}, flows=[{"flow_id": "log", "silent": True}]
    )
    silent = ctx.compiled.is_silent
    assert (silent("system", "note"), silent("flow", "log"), silent("flow", "gone"), silent("message", None)) == (True, True, False, False)
