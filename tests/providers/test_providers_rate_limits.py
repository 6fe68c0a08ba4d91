"""What providers' headers say about their limits reaches whoever chooses targets, with an answer as with a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from heavy.llm.types import Provider
from tests.providers.calls import ask, call, target
from tests.providers.raw import sending

ANSWERS: Mapping[str, Any] = {
    "openai": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]},
    "anthropic": {"content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn"},
}


def used_up(name: str, seconds: int) -> dict[str, str]:
    if name == "openai":
        return {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{seconds}s"}
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": at.strftime("%Y-%m-%dT%H:%M:%SZ")}


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_answer_says_when_there_is_room_again(name: str, provider: Provider, streaming: bool) -> None:
    body = [orjson.dumps(ANSWERS[name])]
    async with sending(body, content_type="application/json", headers=used_up(name, 40)) as url:
        out = await call(provider, target(name, url), ask(), streaming=streaming)
    assert out.done.pause == pytest.approx(40, abs=3)
    roomy = {key: "17" if "remaining" in key else value for key, value in used_up(name, 40).items()}
    async with sending(body, content_type="application/json", headers=roomy) as url:
        assert (await call(provider, target(name, url), ask(), streaming=streaming)).done.pause is None


async def test_a_refusal_without_retry_after_does_too(name: str, provider: Provider) -> None:
    body = [orjson.dumps({"type": "error", "error": {"type": "rate_limit_error", "message": "no"}})]
    async with sending(body, content_type="application/json", status=429, headers=used_up(name, 40)) as url:
        out = await call(provider, target(name, url), ask())
    assert out.error is not None
    assert (out.kind, out.error.retry_after) == ("rate_limited", pytest.approx(40, abs=3))
    async with sending(body, content_type="application/json", status=429, headers=used_up(name, 40) | {"retry-after": "2"}) as url:
        out = await call(provider, target(name, url), ask())
    assert out.error is not None
    assert out.error.retry_after == 2
