"""Learned routes: what the LLM chose again and again for the same words is answered without it, until it is forgotten."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.stories.conftest import environment
from tests.support.client import Client
from tests.support.redis_client import redis_command
from tests.support.running import Running, role, serve
from tests.support.services import PostgresServer, RedisServer, free_port
from tests.support.waiting import wait_until_sync

REPEAT = 3
ORDER = {"name": "order", "arguments": {"order_id": "A1001"}}
PROFILE = {
    "first_token_ms": 1,
    "rules": [
        {"when": {"purpose": "intent", "user": "shipping"}, "tool_calls": [{"name": "prices"}]},
        {"when": {"purpose": "intent", "user": "A1001"}, "tool_calls": [ORDER]},
        {"when": {"purpose": "intent", "user": "take goods back"}, "tool_calls": [{"name": "desk"}]},
        {"when": {"purpose": "intent"}, "tool_calls": [{"name": "reply_directly"}]},
        {"when": {"system": "DESK"}, "text": "Which order?"},
        {"when": {}, "text": "Plain words."},
    ],
}
WORKFLOW: dict[str, Any] = {
    "agent_id": "shop",
    "greeting": "Welcome.",
    "learned_routes": {"enabled": True, "repeat": REPEAT},
    "flows": [
        {"flow_id": "prices", "type": "intent", "description": "Prices", "response_template": "All is free."},
        {
            "flow_id": "order",
            "type": "intent",
            "description": "Orders",
            "endpoint": {"url": "${BUSINESS}/orders/{order_id}", "method": "GET"},
            "response_template": "Order {order_id} is {result.status}.",
        },
    ],
    "skills": [{"skill_id": "desk", "description": "Takes goods back", "system_prompt": "DESK"}],
}
LEARNED = "/admin/api/agents/shop/learned"


class Shop:
    """A running loadsplit: `client` asks, `admin` is where the learned routes are seen, `heavy` the process that learns."""

    def __init__(self, client: Client, admin: Client, heavy: Running, redis: RedisServer | None = None) -> None:
        self.client, self.admin, self.heavy, self.redis = client, admin, heavy, redis
        self._sessions = itertools.count(1)

    def ask(self, message: str, session: str | None = None) -> Any:
        """The reply in a new session."""
        return self.client.ask(message, session or f"learned-{next(self._sessions)}").json

    def routes(self) -> dict[str, Any]:
        """The active routes by message."""
        return {r["message"]: r for r in self.admin.call("GET", LEARNED).json["routes"] if r["state"] == "active"}

    def teach(self, message: str) -> None:
        """Asks as often as it takes, and waits until it is learned."""
        for _ in range(REPEAT):
            reply = self.ask(message)
            assert (reply["route"]["matched_by"], reply["route"]["tier"]) == ("llm", "heavy")
        wait_until_sync(lambda: message.casefold() in self.routes(), f"{message!r} is learned", 10)


@pytest.fixture(scope="module", params=["single", "split"])
def shop(
    request: pytest.FixtureRequest,
    business: Running,
    postgres_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("learned")
    config, profile, port = folder / "workflow.json", folder / "profile.json", free_port()
    config.write_text(json.dumps(WORKFLOW))
    profile.write_text(json.dumps(PROFILE))
    with ExitStack() as stack:
        simulate = ["simulate", "llm", "--port", str(port), "--profile", str(profile)]
        llm = stack.enter_context(Running(simulate, folder, port=port, ready="/stats"))
        env = environment("openai", llm, business)
        if request.param == "single":
            server = stack.enter_context(serve(config, folder, env))
            yield Shop(server.client, server.client, server)
            return
        redis = RedisServer()  # its own: another split's heavy would move this one's journal
        stack.callback(redis.close)
        redis.start()
        env |= {"LOADSPLIT_REDIS_URL": redis.url, "LOADSPLIT_DATABASE_URL": postgres_server.create_database()}
        heavy = stack.enter_context(role("heavy", config, folder, env))
        lightweight = stack.enter_context(role("lightweight", config, folder, {**env, "LOADSPLIT_HEAVY_URL": heavy.url}))
        yield Shop(lightweight.client, heavy.client, heavy, redis)


def test_a_repeated_question_is_answered_without_an_llm(shop: Shop) -> None:
    shop.teach("What does shipping cost")
    reply = shop.ask("what does  SHIPPING cost", "learned-here")
    assert reply["message"] == "Welcome.\n\nAll is free."
    route = {"tier": "lightweight", "action_type": "flow", "action_target": "prices", "matched_by": "learned", "pattern": None}
    assert reply["route"] == route
    assert reply["usage"]["llm_calls"] == 0
    assert shop.client.messages("learned-here")[-1] == ("assistant", "Welcome.\n\nAll is free.")
    wait_until_sync(lambda: shop.routes()["what does shipping cost"]["hits"] >= 1, "the hit is counted", 10)


def test_its_parameters_are_those_of_the_message(shop: Shop) -> None:
    shop.teach("how is A1001 doing")
    reply = shop.ask("How is A1001 doing")
    assert reply["message"].startswith("Welcome.\n\nOrder A1001 is ")
    assert (reply["route"]["matched_by"], reply["usage"]["llm_calls"]) == ("learned", 0)
    assert shop.routes()["how is a1001 doing"]["parameters"] == ["order_id"]


def test_a_skill_is_picked_without_asking_which(shop: Shop) -> None:
    shop.teach("please take goods back")
    reply = shop.ask("please take goods back")
    assert reply["message"].endswith("Which order?")
    route = reply["route"]
    assert (route["tier"], route["action_target"], route["matched_by"]) == ("heavy", "desk", "learned")
    assert reply["usage"]["llm_calls"] == 1  # the skill's own


def test_a_negated_question_is_never_learned(shop: Shop) -> None:
    for _ in range(REPEAT + 1):
        assert shop.ask("I do not want shipping")["route"]["matched_by"] == "llm"
    assert "i do not want shipping" not in shop.routes()


def test_matching_explains_it(shop: Shop) -> None:
    shop.teach("shipping prices please")
    told = shop.admin.call("POST", "/admin/api/agents/shop/match", {"text": "Shipping prices please"}).json
    assert (told["matched_by"], told["action_target"]) == ("learned", "prices")
    other = shop.admin.call("POST", "/admin/api/agents/shop/match", {"text": "something else"}).json
    assert other["matched_by"] == "none"


def test_a_rule_is_proposed_with_what_it_would_have_caught(shop: Shop) -> None:
    shop.teach("shipping costs how much")
    shop.teach("how much are shipping costs")
    proposals = shop.admin.call("GET", f"{LEARNED}/proposals").json["proposals"]
    [proposal] = [p for p in proposals if "how much are shipping costs" in p["messages"]]
    assert proposal["action_target"] == "prices"
    assert proposal["pattern"]
    assert {"how much are shipping costs"} <= {e["message"] for e in proposal["caught_rightly"]}


def test_forgetting_brings_the_llm_back(shop: Shop) -> None:
    shop.teach("shipping abroad costs what")
    assert shop.ask("shipping abroad costs what")["route"]["matched_by"] == "learned"
    assert shop.admin.call("DELETE", f"{LEARNED}?message=shipping%20abroad%20costs%20what").json == {"forgotten": 1}
    assert shop.ask("shipping abroad costs what")["route"]["matched_by"] == "llm"
    shop.teach("shipping home costs what")
    assert shop.admin.call("DELETE", LEARNED).json["forgotten"] >= 1
    assert shop.ask("shipping home costs what")["route"]["matched_by"] == "llm"


def test_what_was_learned_survives_kill_9_and_an_emptied_redis(shop: Shop) -> None:
    shop.teach("shipping to the moon")
    shop.heavy.kill()
    if shop.redis is not None:
        redis_command(shop.redis.port, "FLUSHALL")
    shop.heavy.start()

    def learned() -> bool:
        return bool(shop.ask("shipping to the moon")["route"]["matched_by"] == "learned")

    wait_until_sync(learned, "the route is there again", 10)


def test_the_admin_paths_are_not_public(shop: Shop) -> None:
    if shop.client is not shop.admin:
        assert shop.client.call("GET", LEARNED).status == 404
    assert shop.admin.call("GET", "/admin/api/agents/unknown/learned").status == 404
    for body in ({}, {"text": ""}, {"text": 3}, {"text": "x" * 40_000}):
        assert shop.admin.call("POST", "/admin/api/agents/shop/match", body).status == 400
