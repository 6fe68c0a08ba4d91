"""`models/<alias>` over HTTP with the official clients: both protocols, their errors, scopes and tenants, faults, clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from common.web.auth import hash_key
from loadtests.simulators.llm import Simulator, running
from tests.heavy.routes.conftest import WORKFLOW
from tests.providers.calls import ORDER, quick
from tests.providers.raw import sending
from tests.support.in_process import InProcess, in_process
from tests.support.waiting import wait_until

TEXT = "one two three 四 five"
HI: Any = [{"role": "user", "content": "Hi"}]
KEYS = {"plain": ["query"], "model": ["llm"], "both": ["query", "llm"]}


def models_file(folder: Path, url: str, **aliases: Any) -> str:
    """Aliases over one simulator: `default` has a target of each protocol, `claude` and `gpt` one."""
    of = {"openai": {"provider": "openai", "base_url": f"{url}/v1"}, "anthropic": {"provider": "anthropic", "base_url": url}}
    every = {"default": ["openai", "anthropic"], "gpt": ["openai"], "claude": ["anthropic"]}
    models = {alias: {"targets": [{**of[p], "model": "demo"} for p in names]} for alias, names in every.items()}
    models["spare"] = {"targets": [{**of[p], "model": m, "idle_timeout": 1.0} for p in of for m in ("bad", "good")]}
    path = folder / "models.json"
    path.write_text(json.dumps({"models": {**models, **aliases}}))
    return str(path)


def key_file(folder: Path, **limits: float) -> str:
    """Three keys of one tenant, their text is their id."""
    path = folder / "keys.json"
    rows: list[dict[str, Any]] = [{"id": k, "tenant": "acme", "scopes": s, "hash": hash_key(k)} for k, s in KEYS.items()]
    rows[0]["limits"] = limits
    path.write_text(json.dumps(rows))
    return str(path)


class Front:
    """A running loadsplit before a simulator."""

    def __init__(self, app: InProcess, simulator: Simulator) -> None:
        self.app, self.simulator = app, simulator

    def openai(self, key: str = "any", **more: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.app.url}/v1", api_key=key, max_retries=0, **more)

    def anthropic(self, key: str = "any", **more: Any) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.app.url, api_key=key, max_retries=0, **more)


@asynccontextmanager
async def fronted(folder: Path, profile: Any = None, *, keys: bool = False, **env: str) -> AsyncIterator[Front]:
    """Serves the models of a simulator; with `keys` callers need one."""
    async with running(profile or quick(rules=[{"text": TEXT}])) as (url, simulator):
        more = {"api_keys": key_file(folder)} if keys else {}
        async with in_process(WORKFLOW, folder, models=models_file(folder, url), **more, **env) as app:
            yield Front(app, simulator)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as opened:
        yield opened


async def test_openais_client(front: Front) -> None:
    async with front.openai() as client:
        raw = await client.chat.completions.with_raw_response.create(model="models/gpt", messages=HI)
        assert raw.headers["x-loadsplit-target"] == "openai/demo"
        assert float(raw.headers["x-loadsplit-cost-usd"]) == 0.0
        assert raw.headers["x-loadsplit-tier"] == "heavy"
        whole = raw.parse()
        assert whole.choices[0].message.content == TEXT
        assert whole.usage is not None
        chunks = [c async for c in await client.chat.completions.create(model="models/gpt", messages=HI, stream=True)]
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT  # no chunk without a choice: usage was not asked for
        options: Any = {"include_usage": True}
        counted = [
            c async for c in await client.chat.completions.create(model="models/gpt", messages=HI, stream=True, stream_options=options)
        ]
        assert counted[-1].usage is not None
        assert counted[-1].usage.prompt_tokens == whole.usage.prompt_tokens
        async with client.chat.completions.stream(model="models/gpt", messages=HI) as stream:
            kinds = [event.type async for event in stream]
            assert (await stream.get_final_completion()).choices[0].message.content == TEXT
        assert "content.delta" in kinds


async def test_tools_and_formats_are_the_models_own(tmp_path: Path) -> None:
    tool: Any = {"type": "function", "function": {"name": ORDER.name, "parameters": ORDER.parameters}}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"n": {"type": "number"}}}}}
    async with fronted(tmp_path, quick()) as front, front.openai() as client:
        asked = await client.chat.completions.create(
            model="models/gpt", messages=[{"role": "user", "content": "order A1007"}], tools=[tool], tool_choice="required"
        )
        call: Any = (asked.choices[0].message.tool_calls or [])[0]
        assert json.loads(call.function.arguments) == {"order_id": "A1007"}
        formed = await client.chat.completions.create(model="models/gpt", messages=HI, response_format=form)
        assert isinstance(json.loads(formed.choices[0].message.content or "")["n"], int | float)


async def test_anthropics_client(front: Front) -> None:
    async with front.anthropic() as client:
        raw = await client.messages.with_raw_response.create(model="models/claude", max_tokens=9, messages=HI)
        assert raw.headers["x-loadsplit-target"] == "anthropic/demo"
        assert raw.headers["request-id"] == raw.headers["x-request-id"]
        whole = await raw.parse()
        assert whole.content[0].type == "text"
        assert whole.content[0].text == TEXT
        async with client.messages.stream(model="models/claude", max_tokens=9, messages=HI) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert text == TEXT
        assert final.usage.output_tokens == whole.usage.output_tokens
        assert final.stop_reason == "end_turn"


async def test_anthropics_client_counts_tokens(tmp_path: Path) -> None:
    async with sending([b'{"input_tokens":7}'], content_type="application/json") as url:
        models = models_file(tmp_path, url)
        async with (
            in_process(WORKFLOW, tmp_path, models=models) as app,
            anthropic.AsyncAnthropic(base_url=app.url, api_key="any") as client,
        ):
            counted = await client.messages.with_raw_response.count_tokens(model="models/claude", messages=HI)
            assert (await counted.parse()).input_tokens == 7
            assert "x-loadsplit-cost-usd" not in counted.headers


async def test_an_alias_answers_in_the_protocol_of_the_request(front: Front) -> None:
    async with front.openai() as one, front.anthropic() as other:
        assert (await one.chat.completions.create(model="models/default", messages=HI)).choices[0].message.content == TEXT
        assert (await other.messages.create(model="models/default", max_tokens=9, messages=HI)).role == "assistant"
        assert front.simulator.by_path == {"/v1/chat/completions": 1, "/v1/messages": 1}
        with pytest.raises(openai.BadRequestError, match="POST /v1/messages") as caught:
            await one.chat.completions.create(model="models/claude", messages=HI)
        assert caught.value.param == "model"
        with pytest.raises(anthropic.BadRequestError, match="chat/completions"):
            await other.messages.create(model="models/gpt", max_tokens=9, messages=HI)
    assert front.simulator.calls == 2


async def test_unknown_models_are_not_found_in_each_shape(front: Front) -> None:
    async with front.openai() as one, front.anthropic() as other:
        with pytest.raises(openai.NotFoundError) as caught:
            await one.chat.completions.create(model="models/nothing", messages=HI)
        assert (caught.value.code, caught.value.param, caught.value.type) == ("model_not_found", "model", "not_found_error")
        assert caught.value.request_id
        for model in ("models/nothing", "shop", "gpt"):
            with pytest.raises(anthropic.NotFoundError) as found:
                await other.messages.create(model=model, max_tokens=9, messages=HI)
            body: Any = found.value.body
            assert body["error"]["type"] == "not_found_error"
            assert body["request_id"] == found.value.request_id


async def test_a_key_reaches_what_its_scope_allows(tmp_path: Path) -> None:
    async with fronted(tmp_path, keys=True) as front:
        async with front.openai("nobody") as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.chat.completions.create(model="models/gpt", messages=HI)
            assert refused.value.code == "unauthorized"
        async with front.openai("plain") as client:
            for model in ("models/gpt", "models/nothing"):  # who may not ask learns nothing of what there is
                with pytest.raises(openai.PermissionDeniedError) as denied:
                    await client.chat.completions.create(model=model, messages=HI)
                assert "llm" in denied.value.message
            assert [m.id async for m in client.models.list()] == ["shop"]
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("models/gpt")
        async with front.openai("model") as client:
            assert {m.id async for m in client.models.list()} == {"models/default", "models/gpt", "models/claude", "models/spare"}
            assert (await client.models.retrieve("models/gpt")).owned_by == "loadsplit"
            assert (await client.chat.completions.create(model="models/gpt", messages=HI)).choices
            with pytest.raises(openai.PermissionDeniedError):
                await client.chat.completions.create(model="shop", messages=HI)
        async with front.anthropic("model") as by_header, front.anthropic("plain") as other:
            assert (await by_header.messages.create(model="models/claude", max_tokens=9, messages=HI)).content
            with pytest.raises(anthropic.PermissionDeniedError):
                await other.messages.create(model="models/claude", max_tokens=9, messages=HI)
        async with front.anthropic("nobody") as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(model="models/claude", max_tokens=9, messages=HI)


async def test_requests_of_both_protocols_count_against_the_tenants_limit(tmp_path: Path) -> None:
    async with running(quick(rules=[{"text": TEXT}])) as (url, simulator):
        keys = key_file(tmp_path, requests_per_minute=3)
        async with in_process(WORKFLOW, tmp_path, models=models_file(tmp_path, url), api_keys=keys) as app:
            front = Front(app, simulator)
            async with front.openai("both") as one, front.anthropic("both") as other:
                await one.chat.completions.create(model="models/gpt", messages=HI)
                await other.messages.create(model="models/claude", max_tokens=9, messages=HI)
                await one.chat.completions.create(model="shop", messages=[{"role": "user", "content": "opening hours"}])
                with pytest.raises(openai.RateLimitError) as caught:
                    await one.chat.completions.create(model="models/gpt", messages=HI)
                assert caught.value.code == "rate_limited"
                with pytest.raises(anthropic.RateLimitError):
                    await other.messages.create(model="models/claude", max_tokens=9, messages=HI)


async def test_what_the_provider_refuses_it_says_itself(tmp_path: Path) -> None:
    async with (
        fronted(tmp_path, quick(faults=[{"kind": "400", "every": 1}])) as front,
        front.openai() as one,
        front.anthropic() as other,
    ):
        for stream in (True, False):
            with pytest.raises(openai.BadRequestError, match="simulated: the request is refused"):
                await one.chat.completions.create(model="models/gpt", messages=HI, stream=stream)
            with pytest.raises(anthropic.BadRequestError, match="simulated: the request is refused"):
                await other.messages.create(model="models/claude", max_tokens=9, messages=HI, stream=stream)


@pytest.mark.parametrize("stream", [True, False])
async def test_other_failures_are_ours_and_say_nothing_of_the_provider(tmp_path: Path, stream: bool) -> None:
    async with (
        fronted(tmp_path, quick(faults=[{"kind": "401", "every": 1}])) as front,
        front.openai() as one,
        front.anthropic() as other,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await one.chat.completions.create(model="models/gpt", messages=HI, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (502, "llm_error")
        assert "simulated" not in str(caught.value)
        with pytest.raises(anthropic.APIStatusError) as told:
            await other.messages.create(model="models/claude", max_tokens=9, messages=HI, stream=stream)
        assert told.value.status_code == 502


async def test_another_target_takes_over_unseen(tmp_path: Path) -> None:
    faults = [{"kind": "reset", "every": 1, "when": {"model": "bad"}}]
    async with fronted(tmp_path, quick(rules=[{"text": TEXT}], faults=faults)) as front:
        async with front.openai() as one, front.anthropic() as other:
            chunks = [c async for c in await one.chat.completions.create(model="models/spare", messages=HI, stream=True)]
            assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT
            assert {c.model for c in chunks} == {"good"}
            assert (await other.messages.create(model="models/spare", max_tokens=9, messages=HI)).model == "good"
        assert front.simulator.by_model == {"bad": 2, "good": 2}


@pytest.mark.parametrize("kind", ["reset", "eof", "garbage", "error_event", "stall"])
async def test_a_fault_behind_the_first_byte_is_an_event_of_the_protocol(tmp_path: Path, kind: str) -> None:
    faults = [{"kind": kind, "every": 1, "after_tokens": 2, "when": {"model": "bad"}}]
    async with fronted(tmp_path, quick(rules=[{"text": TEXT, "token_ms": 5}], faults=faults)) as front:
        async with front.openai() as one, front.anthropic() as other:
            said: list[str] = []
            with pytest.raises(openai.APIError) as caught:
                await _collect_chunks(one, said)
            assert caught.value.code == "llm_error"
            assert "".join(said) == "one two"
            with pytest.raises(anthropic.APIError) as told:
                await _collect_events(other, said)
            body: Any = told.value.body
            assert body["error"]["code"] == "llm_error"
            assert "simulated" not in str(body)
        assert front.simulator.by_model == {"bad": 2}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_call_upstream(tmp_path: Path, stream: bool) -> None:
    async with fronted(tmp_path, quick(rules=[{"text": TEXT * 200, "token_ms": 20}])) as front, front.openai() as client:
        if stream:
            answer = await client.chat.completions.create(model="models/gpt", messages=HI, stream=True)
            await anext(aiter(answer))
            await answer.close()
        else:
            asked = asyncio.create_task(client.chat.completions.create(model="models/gpt", messages=HI))
            await wait_until(lambda: front.simulator.open, "the call is made")
            asked.cancel()
            await asyncio.wait([asked])
        await wait_until(lambda: not front.simulator.open, "the call upstream is closed", 1)


async def test_the_deadline_of_the_caller_holds(tmp_path: Path) -> None:
    async with (
        fronted(tmp_path, quick(rules=[{"text": TEXT}], faults=[{"kind": "stall", "every": 1, "seconds": 20}])) as front,
        front.openai() as client,
    ):
        for timeout, status in (("0.1", 504), ("1", 504), ("soon", 400)):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(model="models/gpt", messages=HI, extra_headers={"X-Loadsplit-Timeout": timeout})
            assert caught.value.status_code == status


async def test_bodies_that_are_none(front: Front) -> None:
    for path, body, status in (
        ("/v1/messages", b"{", 400),
        ("/v1/messages", b'{"max_tokens":1}', 400),
        ("/v1/messages", b'{"model":"models/claude","model":"models/gpt"}', 400),
        ("/v1/chat/completions", b'{"model":"models/gpt","stream":"yes"}', 400),
        ("/v1/chat/completions", b'{"model":"models/gpt","messages":', 400),
    ):
        found, problem = await front.app.call("POST", path, body, headers={"content-type": "application/json"})
        assert (found, "error" in problem) == (status, True), (path, body, problem)
    assert front.simulator.calls == 0
    status, problem = await front.app.call("GET", "/v1/messages")
    assert (status, problem["type"]) == (405, "error")
    status, problem = await front.app.call("GET", "/v1/nothing")
    assert (status, problem["error"]["code"]) == (404, "not_found")


async def _collect_chunks(client: openai.AsyncOpenAI, said: list[str]) -> None:
    async for chunk in await client.chat.completions.create(model="models/spare", messages=HI, stream=True):
        said.append(chunk.choices[0].delta.content or "")


async def _collect_events(client: anthropic.AsyncAnthropic, said: list[str]) -> None:
    async for event in await client.messages.create(model="models/spare", max_tokens=9, messages=HI, stream=True):
        said.append(event.type)


async def test_a_call_takes_a_place_of_the_node_as_long_as_it_lasts(tmp_path: Path) -> None:
    """A full node says so at once, in the client's protocol, and a call that ends makes room."""
    profile, size = quick(rules=[{"text": TEXT, "first_token_ms": 2000}]), {"MAX_INFLIGHT": "1", "QUEUE_SECONDS": "0"}
    async with fronted(tmp_path, profile, **size) as front, front.openai() as gpt, front.anthropic() as claude:
        entrance = front.app.heavy.turns.entrance
        first = asyncio.create_task(gpt.chat.completions.create(model="models/gpt", messages=HI))
        await wait_until(lambda: entrance.room == 0, "it has its place")
        with pytest.raises(openai.InternalServerError) as caught:
            await gpt.chat.completions.create(model="models/gpt", messages=HI, stream=True)
        assert (caught.value.status_code, caught.value.code, caught.value.response.headers["retry-after"]) == (503, "overloaded", "1")
        with pytest.raises(anthropic.APIStatusError) as other:
            await claude.messages.create(model="models/claude", messages=HI, max_tokens=10)
        assert (other.value.status_code, other.value.response.json()["error"]["type"]) == (503, "overloaded_error")
        assert (await first).choices[0].message.content == TEXT
        await wait_until(lambda: entrance.room == 1, "its place is free")
