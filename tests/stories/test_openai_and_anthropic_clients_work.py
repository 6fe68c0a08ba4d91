"""Programs that were written for OpenAI or Anthropic talk to agents and models through loadsplit, with nothing changed but the address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.support.client import Client


@pytest.fixture
def gpt(client: Client) -> Iterator[openai.OpenAI]:
    """The official OpenAI client."""
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture
def claude(client: Client) -> Iterator[anthropic.Anthropic]:
    """The official Anthropic client."""
    with anthropic.Anthropic(base_url=client.url, api_key="any", max_retries=0) as opened:
        yield opened


def ask(gpt: openai.OpenAI, talk: list[Any], text: str) -> Any:
    """Says something and keeps the answer, as a chat front end does: all of the conversation goes along each time."""
    talk.append({"role": "user", "content": text})
    done = gpt.chat.completions.create(model="shop", messages=talk)
    talk.append({"role": "assistant", "content": done.choices[0].message.content})
    return done


def test_a_conversation_with_an_agent_stays_one_session(gpt: openai.OpenAI, client: Client) -> None:
    talk: list[Any] = [{"role": "system", "content": "You are a helpful assistant."}]
    ruled = ask(gpt, talk, "What are your opening hours?")
    assert ruled.choices[0].message.content == "We open at 9."
    assert ruled.loadsplit["route"]["tier"] == "lightweight"
    asked = ask(gpt, talk, "tell me something")
    assert asked.choices[0].message.content == "Plain words."
    assert asked.loadsplit["route"]["tier"] == "heavy"
    again = ask(gpt, talk, "Where is my order A1001?")
    assert again.loadsplit["route"]["action_target"] == "order_status"
    session = again.loadsplit["session_id"]
    assert {ruled.loadsplit["session_id"], asked.loadsplit["session_id"]} == {session}
    assert [text for _, text in client.messages(session)] == [m["content"] for m in talk if m["role"] != "system"]


def test_a_skill_goes_on_where_it_was(gpt: openai.OpenAI) -> None:
    talk: list[Any] = []
    done = ask(gpt, talk, "returns desk please")
    assert done.choices[0].message.content == "Let me look.\n\nYour return is open."
    assert done.usage.completion_tokens > 0
    assert done.loadsplit["usage"]["llm_calls"] == 3


def test_an_agent_streams(gpt: openai.OpenAI) -> None:
    for text, answer in (("tell me something", "Plain words."), ("opening hours", "We open at 9.")):
        with gpt.chat.completions.stream(model="shop", messages=[{"role": "user", "content": text}]) as stream:
            pieces = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        assert "".join(pieces) == final.choices[0].message.content == answer
        assert final.choices[0].finish_reason == "stop"


def test_a_turn_of_theirs_is_a_turn_like_any_other(gpt: openai.OpenAI, client: Client) -> None:
    done = gpt.chat.completions.create(
        model="shop", messages=[{"role": "user", "content": "opening hours"}], metadata={"session_id": "openai-named"}
    )
    turn = client.call("GET", f"/api/v1/turns/{done.id.removeprefix('chatcmpl-')}").json
    assert (turn["state"], turn["session_id"], turn["result"]["message"]) == ("done", "openai-named", "We open at 9.")


def test_what_fails_is_raised_as_their_programs_know_it(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    talk: Any = [{"role": "user", "content": "fail at once"}]
    with pytest.raises(openai.InternalServerError) as failed:
        gpt.chat.completions.create(model="shop", messages=talk)
    assert (failed.value.status_code, failed.value.code) == (502, "llm_error")
    with pytest.raises(openai.NotFoundError):
        gpt.chat.completions.create(model="no-agent", messages=talk)
    with pytest.raises(openai.BadRequestError, match="agents have their own tools"):
        gpt.chat.completions.create(model="shop", messages=talk, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="models/nothing", max_tokens=9, messages=talk)


def test_a_model_is_asked_directly(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    talk: Any = [{"role": "user", "content": "tell me something"}]
    assert {m.id for m in gpt.models.list()} == {"shop", "models/default"}
    assert gpt.models.retrieve("models/default").id == "models/default"
    speaks_openai = _speaks_openai(gpt, talk)
    if speaks_openai:
        assert gpt.chat.completions.create(model="models/default", messages=talk).choices[0].message.content == "Plain words."
        with gpt.chat.completions.stream(model="models/default", messages=talk) as chunks:
            assert chunks.get_final_completion().choices[0].message.content == "Plain words."
    else:
        whole = claude.messages.create(model="models/default", max_tokens=50, messages=talk)
        assert whole.content[0].type == "text"
        assert whole.content[0].text == "Plain words."
        with claude.messages.stream(model="models/default", max_tokens=50, messages=talk) as events:
            assert events.get_final_text() == "Plain words."
            assert events.get_final_message().usage.output_tokens > 0


def _speaks_openai(gpt: openai.OpenAI, talk: Any) -> bool:
    """Which protocol the model has: one that has another says so."""
    try:
        return bool(gpt.chat.completions.create(model="models/default", messages=talk).choices)
    except openai.BadRequestError as e:
        return "POST /v1/messages" not in e.message
