"""What a turn has cost is told with its reply, stands in the ledger call by call, and stays there when its session is erased."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stories.conftest import environment
from tests.support.client import Client
from tests.support.running import Running, serve
from tests.support.shop import write_workflow
from tests.support.waiting import wait_until_sync


@pytest.fixture(scope="module", params=["openai", "anthropic"])
def client(request: pytest.FixtureRequest, llm: Running, business: Running, folder: Path) -> Iterator[Client]:
    """A single process: in a split /admin is not what the public reaches."""
    place = folder / f"costs-{request.param}"
    place.mkdir(exist_ok=True)
    with serve(write_workflow(place), place, environment(request.param, llm, business)) as server:
        yield server.client


def lines(client: Client, turn_id: str) -> list[dict[str, Any]]:
    """The turn's lines of the ledger."""
    found: list[dict[str, Any]] = client.call("GET", f"/admin/api/calls?turn_id={turn_id}").json["calls"]
    return found


def test_what_a_turn_costs(client: Client) -> None:
    reply = client.ask("tell me something", "ledger-1").json
    usage, turn_id = reply["usage"], reply["turn_id"]
    assert set(usage) == {"llm_calls", "input_tokens", "cached_tokens", "output_tokens", "cost_usd"}
    assert usage["llm_calls"] > 0
    wait_until_sync(lambda: len(lines(client, turn_id)) == usage["llm_calls"], "the turn's calls are in the ledger", 5)
    mine = lines(client, turn_id)
    for kind in ("input_tokens", "cached_tokens", "output_tokens"):
        assert sum(one[kind] for one in mine) == usage[kind]
    assert {(one["tenant"], one["session_id"], one["outcome"]) for one in mine} == {("default", "ledger-1", "ok")}
    assert {one["agent_id"] for one in mine} == {client.call("GET", "/api/v1/session/ledger-1").json["agent_id"]}
    assert "something" not in str(mine)  # what was said is nobody's business here


def test_an_erased_session_leaves_the_money(client: Client) -> None:
    reply = client.ask("tell me something", "ledger-2").json
    wait_until_sync(lambda: lines(client, reply["turn_id"]), "the turn is in the ledger", 5)
    mine = {one["call_id"] for one in lines(client, reply["turn_id"])}
    assert client.call("DELETE", "/api/v1/session/ledger-2").json == {"status": "deleted"}
    assert lines(client, reply["turn_id"]) == []
    every = {one["call_id"]: one for one in client.call("GET", "/admin/api/calls?limit=1000").json["calls"]}
    assert {(every[call_id]["session_id"], every[call_id]["turn_id"]) for call_id in mine} == {(None, None)}
