"""Agents behind OpenAI's protocol with the official client: sessions that follow from the conversation, streams, errors, keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.heavy.routes.test_routes_relay import Front, fronted
from tests.providers.calls import quick
from tests.support.waiting import wait_until

HOURS, ANSWER = "opening hours", "We open at 9."
STORY = "tell me a story"
INTENT = {"when": {"purpose": "intent"}, "tool_calls": [{"name": "reply_directly"}]}
TALE = {"text": "Once upon a time"}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path, quick(rules=[INTENT, TALE])) as opened:
        yield opened


def talk(*texts: str) -> Any:
    """Messages of user and assistant in turn."""
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


async def complete(client: openai.AsyncOpenAI, *texts: str, **more: Any) -> tuple[str, Any]:
    """The answer, and what stands beside it."""
    done = await client.chat.completions.create(model="shop", messages=talk(*texts), **more)
    assert done.id == f"chatcmpl-{done.loadsplit['turn_id']}"  # type: ignore[attr-defined]
    return done.choices[0].message.content or "", done.loadsplit  # type: ignore[attr-defined]


async def history(front: Front, session: str) -> list[str]:
    """What the session holds."""
    status, doc = await front.app.call("GET", f"/api/v1/session/{session}?include=messages")
    assert status == 200, doc
    return [m["content"] for m in doc["messages"] if m["role"] in ("user", "assistant") and m["content"]]


async def test_a_conversation_finds_its_session_again(front: Front) -> None:
    async with front.openai() as client:
        said, first = await complete(client, HOURS)
        assert (said, first["route"]["tier"]) == (ANSWER, "lightweight")
        tale, second = await complete(client, HOURS, said, STORY)
        assert (tale, second["route"]["tier"]) == ("Once upon a time", "heavy")
        again, third = await complete(client, HOURS, said, STORY, f" {tale}\n", HOURS)
        assert again == ANSWER
        assert third["route"]["tier"] == "lightweight"
        assert {first["session_id"], second["session_id"], third["session_id"]} == {first["session_id"]}
        assert await history(front, first["session_id"]) == [HOURS, ANSWER, STORY, tale, HOURS, ANSWER]


async def test_a_stream_leads_to_the_same_session(front: Front) -> None:
    async with front.openai() as client:
        options: Any = {"include_usage": True}
        stream = await client.chat.completions.create(model="shop", messages=talk(STORY), stream=True, stream_options=options)
        chunks = [c async for c in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == "Once upon a time"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens > 0
        assert len({c.id for c in chunks}) == 1
        session = chunks[-2].loadsplit["session_id"]  # type: ignore[attr-defined]
        async with client.chat.completions.stream(model="shop", messages=talk(STORY, text, HOURS)) as ruled:
            final = await ruled.get_final_completion()
        assert final.choices[0].message.content == ANSWER
        assert await history(front, session) == [STORY, text, HOURS, ANSWER]


async def test_a_history_that_nobody_knows_is_taken_as_the_sessions(front: Front) -> None:
    async with front.openai() as client:
        _, beside = await complete(client, "Hello", "Hi there.", "My order is A1001", "Noted.", STORY)
        assert await history(front, beside["session_id"]) == [
            "Hello",
            "Hi there.",
            "My order is A1001",
            "Noted.",
            STORY,
            "Once upon a time",
        ]
        said, ruled = await complete(client, "Hello", "Hi there.", HOURS)
        assert said == ANSWER
        assert await history(front, ruled["session_id"]) == ["Hello", "Hi there.", HOURS, ANSWER]
        # from here on it is a session like any other
        said, after = await complete(client, "Hello", "Hi there.", HOURS, ANSWER, HOURS)
        assert (after["session_id"], after["route"]["tier"]) == (ruled["session_id"], "lightweight")


async def test_nobody_lands_in_a_session_that_went_on_without_him(front: Front) -> None:
    async with front.openai() as client:
        _, ann = await complete(client, HOURS)
        _, bob = await complete(client, HOURS)
        assert ann["session_id"] != bob["session_id"]
        taken = [(await complete(client, HOURS, ANSWER, text))[1]["session_id"] for text in (STORY, "my secret", "another")]
        assert len(set(taken)) == 3
        for session, text in zip(taken, (STORY, "my secret", "another"), strict=True):
            assert await history(front, session) == [HOURS, ANSWER, text, "Once upon a time"]


async def test_a_question_asked_again_begins_from_the_same_point(front: Front) -> None:
    async with front.openai() as client:
        _, first = await complete(client, HOURS)
        both = [await complete(client, HOURS, ANSWER, STORY) for _ in range(2)]
        assert both[0][1]["session_id"] == first["session_id"]
        assert await history(front, both[1][1]["session_id"]) == [HOURS, ANSWER, STORY, "Once upon a time"]


async def test_a_session_that_is_named(front: Front) -> None:
    async with front.openai() as client:
        await complete(client, HOURS, metadata={"session_id": "mine", "city": "Bern"}, user="ann")
        _, beside = await complete(client, "what was before", "is not asked", HOURS, metadata={"session_id": "mine"})
        assert beside["session_id"] == "mine"
        assert await history(front, "mine") == [HOURS, ANSWER, HOURS, ANSWER]
        _, by_user = await complete(client, STORY, user="bob@example.com")
        assert by_user["session_id"] == "bob@example.com"
        assert (await front.app.call("GET", "/api/v1/session/bob@example.com"))[1]["user_id"] == "bob@example.com"


async def test_a_request_that_comes_twice(front: Front) -> None:
    async with front.openai() as client:
        for texts in ([HOURS], [STORY], ["Hello", "Hi.", STORY], ["Hello", "Hi.", HOURS]):
            key = {"Idempotency-Key": f"key {texts}"}
            first, again = [
                await client.chat.completions.with_raw_response.create(model="shop", messages=talk(*texts), extra_headers=key)
                for _ in range(2)
            ]
            assert first.content == again.content, texts
            assert "idempotent-replayed" not in first.headers
            assert again.headers["idempotent-replayed"] == "true", texts
            with pytest.raises(openai.UnprocessableEntityError) as caught:
                await complete(client, *texts[:-1], "something else", extra_headers=key)
            assert caught.value.code == "idempotency_mismatch"
            if len(texts) > 1:
                with pytest.raises(openai.UnprocessableEntityError):
                    await complete(client, "other", "history", texts[-1], extra_headers=key)


async def test_errors_have_openais_shape(front: Front) -> None:
    async with front.openai() as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="nobody", messages=talk("hi"))
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        for refused in ({"n": 2}, {"logprobs": True}, {"tools": [{"type": "function", "function": {"name": "f"}}]}):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="shop", messages=talk("hi"), **refused)  # type: ignore[call-overload]
            assert caught.value.param == next(iter(refused))
            assert caught.value.code == "invalid_request"
            assert caught.value.response.headers["x-should-retry"] == "false"
        with pytest.raises(openai.BadRequestError) as odd:
            await complete(client, "hi", extra_headers={"X-Loadsplit-On-Busy": "never"})
        assert odd.value.param == "X-Loadsplit-On-Busy"
        assert "shop" in {m.id async for m in client.models.list()}
        assert (await client.models.retrieve("shop")).object == "model"


async def test_a_turn_that_fails_before_it_says_anything_has_a_status_also_as_a_stream(tmp_path: Path) -> None:
    faults = [{"kind": "500", "every": 1, "when": {"purpose": "message"}}]
    async with fronted(tmp_path, quick(rules=[INTENT, TALE], faults=faults)) as front, front.openai() as client:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="shop", messages=talk(STORY), stream=stream)
            assert (caught.value.status_code, caught.value.code) == (502, "llm_error")
            assert caught.value.response.headers["x-should-retry"] == "true"


async def test_a_turn_that_fails_behind_its_first_words_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    faults = [{"kind": "reset", "every": 1, "after_tokens": 2, "when": {"purpose": "message"}}]
    async with fronted(tmp_path, quick(rules=[INTENT, {**TALE, "token_ms": 5}], faults=faults)) as front, front.openai() as client:
        said: list[str] = []
        with pytest.raises(openai.APIError) as caught:
            await _collect(client, said)
        assert caught.value.code == "llm_error"
        assert "".join(said) == "Once upon"


async def test_retries_of_the_client_help(tmp_path: Path) -> None:
    faults = [{"kind": "500", "every": n, "when": {"purpose": "message"}} for n in (2, 3)]
    async with fronted(tmp_path, quick(rules=[INTENT, TALE], faults=faults)) as front, front.openai() as client:
        await complete(client, STORY)  # call 1; 2, 3 and 4 fail, and each request makes two
        said, _ = await complete(client.with_options(max_retries=2), STORY)
        assert said == "Once upon a time"
        assert front.simulator.by_purpose["message"] == 5


async def test_a_client_that_leaves_may_end_the_turn(tmp_path: Path) -> None:
    slow = quick(rules=[INTENT, {"text": "word " * 300, "token_ms": 20}])
    async with fronted(tmp_path, slow) as front, front.openai() as client:
        stream = await client.chat.completions.create(
            model="shop", messages=talk(STORY), stream=True, extra_query={"on_disconnect": "cancel"}
        )
        chunk = await anext(aiter(stream))
        await stream.close()
        await wait_until(lambda: not front.simulator.open, "the call of the model is closed", 2)

        async def cancelled() -> bool:
            _, turn = await front.app.call("GET", f"/api/v1/turns/{chunk.id.removeprefix('chatcmpl-')}")
            return turn["state"] == "cancelled"

        await wait_until(cancelled, "the turn is cancelled")


async def test_a_time_out_of_the_caller(front: Front) -> None:
    async with front.openai() as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await complete(client, STORY, extra_headers={"X-Loadsplit-Timeout": "0.01"})
        assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")


async def test_many_at_once_have_sessions_of_their_own(front: Front) -> None:
    async with front.openai() as client:
        found = await asyncio.gather(*(complete(client, HOURS) for _ in range(20)))
        assert len({beside["session_id"] for _, beside in found}) == 20
        nexts = await asyncio.gather(*(complete(client, HOURS, ANSWER, STORY) for _ in range(5)))
        assert len({beside["session_id"] for _, beside in nexts}) == 5


async def _collect(client: openai.AsyncOpenAI, said: list[str]) -> None:
    async for chunk in await client.chat.completions.create(model="shop", messages=talk(STORY), stream=True):
        said.append(chunk.choices[0].delta.content or "")
