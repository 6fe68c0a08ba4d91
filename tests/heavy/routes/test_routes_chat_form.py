"""An agent's answer as data: `response_format` with the official client, validated, mended once, an error where it never fits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.heavy.routes.test_routes_relay import Front, fronted
from tests.providers.calls import quick

INTENT = {"when": {"purpose": "intent"}, "tool_calls": [{"name": "reply_directly"}]}
TALE = {"text": "Once upon a time"}
GOOD = '{"mood": "calm", "words": 4}'


class Mood(BaseModel):
    """What is asked for."""

    mood: Literal["calm", "wild"]
    words: int


def given(arguments: str, results: int = 0) -> dict[str, Any]:
    when = {"purpose": "form", "tool_results": results}
    return {"when": when, "tool_calls": [{"name": "give_answer", "arguments": arguments}]}


def form(**schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "mood", "schema": {"type": "object", **schema}}}


MOOD = form(properties={"mood": {"enum": ["calm", "wild"]}, "words": {"type": "integer"}}, required=["mood", "words"])


@pytest.fixture
async def front(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Front]:
    rules = getattr(request, "param", [given(GOOD)])
    async with fronted(tmp_path, quick(rules=[INTENT, *rules, TALE])) as opened:
        yield opened


async def ask(client: openai.AsyncOpenAI, text: str, wanted: Any = MOOD, **more: Any) -> Any:
    return await client.chat.completions.create(model="shop", messages=[{"role": "user", "content": text}], response_format=wanted, **more)


async def test_the_clients_own_parse_works(front: Front) -> None:
    async with front.openai() as client:
        done = await client.chat.completions.parse(model="shop", messages=[{"role": "user", "content": "a story"}], response_format=Mood)
    assert done.choices[0].message.parsed == Mood(mood="calm", words=4)
    assert done.loadsplit["usage"]["llm_calls"] == 3  # type: ignore[attr-defined]  # intent, answer, form


async def test_a_rules_answer_is_given_as_data_by_one_call(front: Front) -> None:
    async with front.openai() as client:
        done = await ask(client, "opening hours")
        plain = await client.chat.completions.create(model="shop", messages=[{"role": "user", "content": "opening hours"}])
    assert done.choices[0].message.content == GOOD
    assert (done.loadsplit["route"]["matched_by"], done.loadsplit["usage"]["llm_calls"]) == ("rule", 1)
    assert (plain.choices[0].message.content, plain.loadsplit["usage"]["llm_calls"]) == ("We open at 9.", 0)  # type: ignore[attr-defined]


async def test_a_stream_gives_the_data_and_nothing_else(front: Front) -> None:
    async with front.openai() as client:
        chunks = [c async for c in await ask(client, "a story", stream=True)]
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == GOOD
        async with client.chat.completions.stream(
            model="shop", messages=[{"role": "user", "content": "another story"}], response_format=Mood
        ) as stream:
            await stream.until_done()
            assert (await stream.get_final_completion()).choices[0].message.parsed == Mood(mood="calm", words=4)


async def test_the_same_key_gives_the_same_data(front: Front) -> None:
    async with front.openai() as client:
        key = {"Idempotency-Key": "once", "X-Loadsplit-On-Busy": "enqueue"}
        first = await ask(client, "a story", extra_headers=key)
        again = await ask(client, "a story", extra_headers=key)
        assert (first.id, first.choices[0].message.content) == (again.id, again.choices[0].message.content)
        with pytest.raises(openai.UnprocessableEntityError):
            await ask(client, "a story", form(), extra_headers=key)


@pytest.mark.parametrize("front", [[given('{"mood": "sad"}'), given(GOOD, results=1)]], indirect=True)
async def test_what_does_not_fit_is_mended_once(front: Front) -> None:
    async with front.openai() as client:
        done = await ask(client, "a story")
    assert done.choices[0].message.content == GOOD
    assert done.loadsplit["usage"]["llm_calls"] == 4


@pytest.mark.parametrize("front", [[given('{"mood": "sad"}'), given('{"mood": "sad"}', results=1)]], indirect=True)
async def test_what_never_fits_is_an_error_that_says_why(front: Front) -> None:
    async with front.openai() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client, "a story")
    assert caught.value.status_code == 502
    assert "could not be brought into the form" in caught.value.message


@pytest.mark.parametrize("front", [[{"when": {"purpose": "form"}, "text": GOOD}]], indirect=True)
async def test_a_model_that_writes_the_data_as_text_will_do(front: Front) -> None:
    async with front.openai() as client:
        assert (await ask(client, "a story")).choices[0].message.content == GOOD
        assert (await ask(client, "a story", {"type": "json_object"})).choices[0].message.content == GOOD


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {"a": {"type": "strange"}}}, "no valid JSON Schema"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:1/schema.json"}}}, "only references inside"),
        ({"properties": {"a": {"pattern": "(a"}}}, "no valid JSON Schema"),
    ],
)
async def test_a_schema_that_is_none_is_refused_by_name(front: Front, schema: dict[str, Any], why: str) -> None:
    async with front.openai() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, "a story", form(**schema))
    assert why in caught.value.message
    assert caught.value.param == "response_format.json_schema.schema"
