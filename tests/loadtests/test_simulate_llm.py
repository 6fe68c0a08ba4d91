"""The LLM simulator: its profile, its counts, its faults, the checks that real providers make, and its built-in model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loadtests.simulators import wire
from loadtests.simulators.asked import Asked, openai
from loadtests.simulators.llm import Simulator, running
from loadtests.simulators.model import decide
from loadtests.simulators.profile import FaultPlan, Profile, ProfileInvalid, load_profile, parse_profile


def tool(name: str, description: str = "", required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


ORDER_ID = {"type": "string", "pattern": r"^A\d{4}$", "description": "The order id, such as A1002"}
RETURNS = [
    tool("get_order", "Look up one order", ("order_id",), order_id=ORDER_ID),
    tool("check_return_policy", "Whether an order may be returned", ("order_id",), order_id=ORDER_ID),
    tool("create_return", "Open a return", ("order_id", "reason"), order_id=ORDER_ID, reason={"type": "string", "description": "Why"}),
    tool("done", "Ends the task", ("message",), message={"type": "string"}),
]
ACTIONS = [
    tool("reply_directly", "None of the actions fits: answer in plain words."),
    tool("returns_desk", "Handles a return or a refund of an order: damaged or wrong item. 退货、退款"),
    tool("shopping_advisor", "Helps to choose and buy a product. Choose it when: The customer wants advice. 推荐、选购"),
    tool("track_parcel", "Where a parcel is", ("order_id",), order_id=ORDER_ID),
]


def asked(*messages: Mapping[str, Any] | str, tools: Any = (), system: str = "", **members: Any) -> Asked:
    """A chat completion request; a text is a user message."""
    talk = [{"role": "user", "content": m} if isinstance(m, str) else dict(m) for m in messages]
    head = [{"role": "system", "content": system}] if system else []
    return openai({"model": "demo", "messages": head + talk, **({"tools": list(tools)} if tools else {}), **members})


async def post(url: str, path: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body) as response:
        return response.status, await response.json(content_type=None)


def turn(*messages: Mapping[str, Any] | str, results: Mapping[str, Any]) -> tuple[list[Any], list[Mapping[str, Any] | str]]:
    """Lets the built-in model work with the returns tools until it stops calling them; gives its calls and the whole conversation."""
    talk = list(messages)
    calls: list[Any] = []
    for n in range(8):
        decision = decide(asked(*talk, tools=RETURNS))
        made = [
            {"id": f"c{n}{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(a)}}
            for i, (name, a) in enumerate(decision.calls)
        ]
        calls += decision.calls
        talk.append({"role": "assistant", "content": decision.text, **({"tool_calls": made} if made else {})})
        talk += [
            {"role": "tool", "tool_call_id": c["id"], "content": json.dumps(results.get(c["function"]["name"], {"ok": True}))} for c in made
        ]
        if not made or decision.calls[0][0] == "done":
            break
    return calls, talk


def test_the_model_works_through_a_return_and_finishes() -> None:
    results = {
        "get_order": {"status": "delivered", "total": 39.5},
        "check_return_policy": {"eligible": True},
        "create_return": {"return_id": "R5001"},
    }
    calls, _ = turn("I want to return A1002, it arrived broken", results=results)
    assert [name for name, _ in calls] == ["get_order", "check_return_policy", "create_return", "done"]
    assert calls[2][1] == {"order_id": "A1002", "reason": "it arrived broken"}
    assert "R5001" in calls[3][1]["message"]


def test_the_model_asks_for_what_is_missing_over_three_messages() -> None:
    results = {"get_order": {"status": "delivered"}, "check_return_policy": {"eligible": True}, "create_return": {"return_id": "R5001"}}
    calls, talk = turn("I want to return something", results=results)
    assert not calls
    assert "order number" in talk[-1]["content"]  # type: ignore[index]
    calls, talk = turn(*talk, "a1002", results=results)
    assert [name for name, _ in calls] == ["get_order", "check_return_policy"]
    assert "reason" in talk[-1]["content"]  # type: ignore[index]
    calls, talk = turn(*talk, "I don't like the colour", results=results)
    assert [name for name, _ in calls] == ["create_return", "done"]  # what it has seen, it does not look up again


def test_the_model_does_not_act_after_a_refusal_or_a_failure() -> None:
    calls, _ = turn("return A1002, too big", results={"get_order": {"status": "delivered"}, "check_return_policy": {"eligible": False}})
    assert [name for name, _ in calls] == ["get_order", "check_return_policy", "done"]
    calls, talk = turn("return A1002, too big", results={"get_order": {"error": "There is no order A1002."}})
    assert [name for name, _ in calls] == ["get_order"]
    assert "There is no order A1002" in talk[-1]["content"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("message", "action"),
    [
        ("I would like to send my kettle back", "returns_desk"),
        ("我想退货", "returns_desk"),
        ("收到的杯子坏了", "returns_desk"),
        ("what should I buy for my mother?", "shopping_advisor"),
        ("推荐一个礼物", "shopping_advisor"),
        ("where is my parcel A1007?", "track_parcel"),
        ("where is my parcel?", "reply_directly"),  # what it needs is not there
        ("how are you?", "reply_directly"),
        ("tell me a joke", "reply_directly"),
    ],
)
def test_the_model_chooses_the_nearest_action(message: str, action: str) -> None:
    assert decide(asked(message, tools=ACTIONS, tool_choice="required")).calls[0][0] == action


def test_the_model_talks_in_the_users_language() -> None:
    assert "kettle" in decide(asked("Tell me about the red kettle")).text
    assert "红色水壶" in decide(asked("介绍一下红色水壶")).text
    assert decide(asked("你好")).text.startswith("您好")
    assert decide(asked("Hello!")).text.startswith("Hello")


def test_the_model_fills_choices_numbers_and_defaults() -> None:
    search = tool(
        "search",
        "Search products",
        ("query", "sort"),
        query={"type": "string"},
        sort={"enum": ["price", "rating"], "default": "rating"},
        max_price={"type": "number"},
        quantity={"type": "integer"},
        page={"type": "integer", "default": 1},
        tags={"type": "array", "items": {"type": "string"}},
    )
    message = "3 pieces of a desk lamp under 60 dollars"
    assert decide(asked(message, tools=[search], tool_choice="required")).calls[0][1] == {
        "query": message,
        "sort": "rating",
        "max_price": 60.0,
        "quantity": 3,
    }


def test_the_model_is_deterministic() -> None:
    request = asked("I want to return A1002, it arrived broken", tools=RETURNS)
    assert len({repr(decide(request)) for _ in range(5)}) == 1


@pytest.mark.parametrize("text", ["one two", " lead", "trail \n", "你好，世界！ mixed 中文 text", "a\n\nb", "", "😀 ok"])
def test_pieces_concatenate(text: str) -> None:
    assert "".join(wire.pieces(text)) == text


def test_rules_by_every_condition() -> None:
    profile = parse_profile(
        """
        rules:
          - {when: {user: "refund", tool_results: 0, has_tool: get_order}, tool_calls: [{name: get_order, arguments: {order_id: A1}}]}
          - {when: {system: "pirate", purpose: skill}, text: Arr}
          - {when: {provider: anthropic}, text: never}
          - {when: {model: other}, json: {ok: true}}
        """
    )
    hit = profile.rule(asked("a Refund please", tools=RETURNS))
    assert hit is not None
    assert hit.tool_calls[0].name == "get_order"
    assert profile.rule(asked("a refund please")) is None
    assert profile.rule(asked("x", system="You are a pirate")) is None
    assert profile.rule(openai({"model": "other", "messages": [{"role": "user", "content": "x"}]})).json_ == {"ok": True}  # type: ignore[union-attr]


def test_groups_of_the_message_stand_in_texts_and_arguments() -> None:
    profile = parse_profile(
        """
        rules:
          - when: {user: '(?:book|reserve) (?P<what>\\w+)( for (?P<whom>\\w+))?', has_tool: get_order}
            text: "{what} for <{whom}>, {other}, {"
            tool_calls: [{name: get_order, arguments: {order_id: "{what}", notes: ["{whom}", 3], "{what}": {deep: "-{what}-"}}}]
          - when: {user: 'raw (?P<what>\\w+)'}
            tool_calls: [{name: get_order, arguments: '{"order_id": "{what}'}]
        """
    )
    simulator = Simulator(profile)
    answer, _, _ = simulator.take("/", asked("please BOOK A1 for Eve, then book A2", tools=RETURNS))
    assert answer.text == "A1 for <Eve>, {other}, {"
    assert json.loads(answer.calls[0].arguments) == {"order_id": "A1", "notes": ["Eve", 3], "{what}": {"deep": "-A1-"}}
    assert simulator.take("/", asked("reserve B7", tools=RETURNS))[0].text == "B7 for <>, {other}, {"
    assert simulator.take("/", asked("raw C3"))[0].calls[0].arguments == '{"order_id": "C3'
    assert profile.rules[0].text == "{what} for <{whom}>, {other}, {"  # a rule is not changed by what it answers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rules: [{when: {user: '('}}]", "rules.0.when.user"),
        ("faults: [{kind: 418}]", "faults.0.kind"),
        ("speed: 3", "speed"),
        ("rules: [", "rules: ["),
        ("token_ms: -1", "token_ms"),
    ],
)
def test_a_bad_profile_names_the_place(text: str, says: str) -> None:
    with pytest.raises(ProfileInvalid) as caught:
        parse_profile(text)
    assert says in str(caught.value) or "flow" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_profiles_are_files_of_yaml_or_json(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"token_ms": 3}')
    assert load_profile(path).token_ms == 3
    with pytest.raises(ProfileInvalid, match="cannot be read"):
        load_profile(tmp_path / "none.yaml")


def test_seeded_faults_repeat_and_their_share_is_right() -> None:
    profile = Profile.model_validate({"seed": 7, "faults": [{"kind": "500", "probability": 0.2}, {"kind": "429", "every": 10}]})
    request = asked("x")

    def kinds() -> list[str]:
        plan = FaultPlan(profile)
        return [fault.kind if (fault := plan.draw(request)) else "" for _ in range(1000)]

    first = kinds()
    assert first == kinds()
    assert 150 < first.count("500") < 250
    assert first.count("429") > 60


async def test_it_counts_what_it_was_asked() -> None:
    async with running(Profile(first_token_ms=0, token_ms=0)) as (url, _), aiohttp.ClientSession() as session:
        body = {"model": "m1", "messages": [{"role": "user", "content": "Hello"}]}
        async with session.post(f"{url}/v1/chat/completions", json=body, headers={"X-Loadsplit-Purpose": "intent"}) as reply:
            usage = (await reply.json())["usage"]
        async with session.post(f"{url}/messages", json={**body, "max_tokens": 10}) as reply:
            assert (await reply.json())["content"][0]["type"] == "text"
        async with session.get(f"{url}/stats") as reply:
            stats = await reply.json()
        assert stats["calls"] == 2
        assert stats["open"] == 0
        assert stats["by_model"] == {"m1": 2}
        assert stats["by_path"] == {"/v1/chat/completions": 1, "/messages": 1}
        assert stats["by_purpose"] == {"intent": 1, "-": 1}
        assert stats["output_tokens"] >= usage["completion_tokens"]
        assert stats["last"][0]["user"] == "Hello"
        async with session.post(f"{url}/reset") as reply:
            assert reply.status == 200
        async with session.get(f"{url}/stats") as reply:
            assert (await reply.json())["calls"] == 0
        async with session.get(f"{url}/v1/models") as reply:
            assert (await reply.json())["data"][0]["id"] == "demo"


async def told(url: str, session: aiohttp.ClientSession) -> dict[str, int]:
    """What the replies of model m1 have told."""
    async with session.get(f"{url}/stats") as reply:
        counts = (await reply.json())["told"]["m1"]
        return {name: count for name, count in counts.items() if count}


async def test_it_counts_what_its_replies_have_told() -> None:
    long = {"model": "m1", "messages": [{"role": "user", "content": "Tell me of the kettle. " * 20}], "stream": True}
    profile = Profile.model_validate({"first_token_ms": 0, "token_ms": 0, "cache_writes": True, "rules": [{"text": "one two three"}]})
    async with running(profile) as (url, _), aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v1/chat/completions", json=long) as reply:
            await reply.read()  # it was not asked for the tokens, and has told none
        assert await told(url, session) == {}
        async with session.post(f"{url}/v1/chat/completions", json={**long, "stream_options": {"include_usage": True}}) as reply:
            await reply.read()
        one = await told(url, session)
        assert one["calls"] == 1
        assert one["input_tokens"] == one["cached_tokens"] > 0 < one["output_tokens"]
        async with session.post(f"{url}/messages", json={**long, "max_tokens": 10}) as reply:
            await reply.read()
        both = await told(url, session)
        assert both["input_tokens"] == both["cached_tokens"] + both["cache_write_tokens"] == 2 * one["input_tokens"]


@pytest.mark.parametrize(("path", "output"), [("messages", 1), ("v1/chat/completions", 0)])
async def test_a_stream_that_breaks_has_told_what_came_before(path: str, output: int) -> None:
    faults = [{"kind": "eof", "every": 1, "after_tokens": 2}]
    profile = Profile.model_validate({"first_token_ms": 0, "token_ms": 0, "rules": [{"text": "one two three four"}], "faults": faults})
    body = {"model": "m1", "messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 10}
    async with running(profile) as (url, _), aiohttp.ClientSession() as session:
        async with session.post(f"{url}/{path}", json={**body, "stream_options": {"include_usage": True}}) as reply:
            await reply.read()
        assert (await told(url, session)).get("output_tokens", 0) == output


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_order", "arguments": "{}"}}],
}
HI = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/chat/completions", [], "model"),
        ("/v1/chat/completions", {"model": "m", "messages": []}, "messages"),
        ("/v1/chat/completions", {"model": "m", "messages": [HI, CALL]}, "without a result"),
        ("/v1/chat/completions", {"model": "m", "messages": [HI, CALL, HI]}, "without a result"),
        ("/v1/chat/completions", {"model": "m", "messages": [HI, {"role": "tool", "tool_call_id": "c9", "content": ""}]}, "must follow"),
        (
            "/v1/chat/completions",
            {"model": "m", "messages": [HI], "tools": RETURNS, "tool_choice": {"function": {"name": "x"}}},
            "tool_choice",
        ),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "robot"}]}, "robot"),
        ("/v1/messages", {"model": "m", "messages": [HI]}, "max_tokens"),
        ("/v1/messages", {"model": "m", "max_tokens": 1, "messages": [{"role": "assistant", "content": "x"}]}, "first message"),
    ],
)
async def test_it_refuses_what_providers_refuse(path: str, body: Any, says: str) -> None:
    async with running() as (url, _):
        status, reply = await post(url, path, body)
    assert status == 400
    assert says in reply["error"]["message"]


async def test_a_taken_port_is_an_error() -> None:
    async with running() as (url, _):
        with pytest.raises(OSError):  # noqa: PT011 - the number differs between systems
            async with running(port=int(url.rsplit(":", 1)[1])):
                pass


async def test_the_command_line_server_stops_on_a_signal() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    code = f"from loadtests.simulators.llm import run; run({port})"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )
    assert process.stdout is not None
    assert f"http://127.0.0.1:{port}" in (await process.stdout.readline()).decode()
    status, reply = await post(f"http://127.0.0.1:{port}", "/v1/chat/completions", {"model": "m", "messages": [HI]})
    assert status == 200
    assert reply["choices"][0]["message"]["content"]
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def test_the_prefix_cache_is_bounded() -> None:
    simulator = Simulator(Profile(), max_prefixes=10)
    for n in range(50):
        simulator.take("/v1/chat/completions", asked(f"message {n}"))
    assert len(simulator._prefixes) == 10


def test_nothing_is_added_to_an_answer_that_the_user_has_read() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_order", "arguments": '{"order_id": "A1002"}'}}
    shown = {"role": "tool", "tool_call_id": "c1", "content": "Shipped.\n\n[The user has read this, word for word: do not repeat it.]"}
    talk = ("Where is A1002?", {"role": "assistant", "content": "", "tool_calls": [call]}, shown)
    assert decide(asked(*talk, tools=RETURNS)).calls == (("done", {"message": ""}),)


def test_a_summary_keeps_what_was_said() -> None:
    talk = {"model": "demo", "messages": [{"role": "user", "content": "user: where is A1001?\n\ncolleague: I call you on Monday."}]}
    assert decide(openai(talk, "compaction")).text == "So far: user: where is A1001? / colleague: I call you on Monday."
