"""Connections to providers: requests carry what the SDKs would send, go through the proxy that the environment names, follow nothing."""

from __future__ import annotations

from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from aiohttp import web

from heavy.llm.connections import Connections
from loadtests.simulators.serving import serving
from tests.providers.calls import ask, call, open_provider, target

SEEN: web.AppKey[list[web.BaseRequest]] = web.AppKey("seen", list)
# What the SDKs tell of a request's own life: they never repeat one for us, and have no time limit of ours.
OF_THE_SDK = {"x-stainless-retry-count", "x-stainless-read-timeout", "x-stainless-timeout", "x-stainless-raw-response", "connection"}
OF_THE_BODY = {"content-length", "host"}


def recording(answer: web.Response) -> web.Application:
    """Answers everything so, and keeps the requests."""
    app = web.Application()
    app[SEEN] = []

    async def serve(request: web.Request) -> web.Response:
        await request.read()
        app[SEEN].append(request)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    app.router.add_route("*", "/{path:.*}", serve)
    return app


async def by_the_sdk(name: str, url: str) -> None:
    """One call as a program makes it that only has the SDK."""
    client: Any
    if name == "openai":
        client = openai.AsyncOpenAI(api_key="k-123", base_url=f"{url}/v1", max_retries=0)
        messages = client.chat.completions
    else:
        client = anthropic.AsyncAnthropic(api_key="k-123", base_url=url, max_retries=0)
        messages = client.messages
    async with client:
        with pytest.raises((openai.OpenAIError, anthropic.AnthropicError)):
            await messages.create(model="demo", max_tokens=9, messages=[{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_a_request_has_the_address_and_the_headers_of_the_sdk(name: str) -> None:
    app = recording(web.Response(status=400))
    async with serving(app, "127.0.0.1", 0) as url, open_provider(name) as provider:
        await by_the_sdk(name, url)
        await call(provider, target(name, url), ask())
    theirs, ours = app[SEEN]
    assert ours.path == theirs.path

    def told(request: web.BaseRequest) -> dict[str, str]:
        leave_out = OF_THE_SDK | OF_THE_BODY | {"accept-encoding", "x-loadsplit-purpose"}
        return {k.lower(): v for k, v in request.headers.items() if k.lower() not in leave_out}

    assert told(ours) == told(theirs)
    assert ours.headers["X-Loadsplit-Purpose"] == "message"


async def test_the_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    app = recording(web.Response(text="from the proxy"))
    async with serving(app, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "inside.test")
        connections = Connections()
        try:
            reply = await connections.post("http://llm.test/v1/chat", b"{}", {}, connect_timeout=5)
            assert await reply.text() == "from the proxy"
            reply.close()
            with pytest.raises(aiohttp.ClientConnectorError):
                await connections.post("http://inside.test/v1/chat", b"{}", {}, connect_timeout=5)
        finally:
            await connections.aclose()
    assert [request.headers["Host"] for request in app[SEEN]] == ["llm.test"]


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    app = recording(web.Response(status=307, headers={"Location": "http://127.0.0.1:9/elsewhere"}))
    async with serving(app, "127.0.0.1", 0) as url, open_provider("openai") as provider:
        out = await call(provider, target("openai", url), ask())
    assert (len(app[SEEN]), out.kind) == (1, "server_error")
