"""What an operator sees of a model with a limit: every replica keeps it, who comes too late is told when to come back, and a changed models
file helps within a moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.stories.conftest import environment
from tests.support.client import Client
from tests.support.running import Running, serve
from tests.support.services import PostgresServer
from tests.support.shop import write_workflow
from tests.support.split import split_of
from tests.support.waiting import wait_until_sync


class Shop:
    """A running loadsplit and its models file."""

    def __init__(self, client: Client, path: Path, llm: Running) -> None:
        self.client, self._path, self._llm = client, path, llm

    def models(self, **aliases: dict[str, Any]) -> None:
        """Writes the models file; each target is one of the simulator's."""
        url = self._llm.url + "/v1"
        for alias in aliases.values():
            alias["targets"] = [{"provider": "openai", "base_url": url, **target} for target in alias["targets"]]
        self._path.write_text(json.dumps({"models": aliases}))

    def spoil(self) -> None:
        """Writes a models file that does not hold."""
        self._path.write_text("models: {default: {targets: []}}")

    def asked(self, model: str) -> int:
        """How many calls a model has had."""
        return int(self._llm.client.call("GET", "/stats").json["by_model"].get(model, 0))


@pytest.fixture(scope="module", params=["single", "split"])
def shop(
    request: pytest.FixtureRequest, llm: Running, business: Running, redis_url: str, postgres_server: PostgresServer, folder: Path
) -> Iterator[Shop]:
    place = folder / f"models-{request.param}"
    place.mkdir(exist_ok=True)
    path, single = place / "models.json", request.param == "single"
    env = {
        **environment("openai", llm, business),
        "LOADSPLIT_MODELS": str(path),
        "LOADSPLIT_REDIS_URL": "memory://" if single else f"{redis_url.rpartition('/')[0]}/12",
        "LOADSPLIT_DATABASE_URL": f"sqlite:///{place}/one.db" if single else postgres_server.create_database(),
    }
    opened = Shop(Client(""), path, llm)
    opened.models(default={"targets": [{"model": f"few-{request.param}", "rpm": 2}]})  # one turn: it routes, then answers
    with ExitStack() as stack:
        if single:
            client = stack.enter_context(serve(write_workflow(place), place, env)).client
        else:
            client = stack.enter_context(split_of(write_workflow(place), place, env)).client
        yield Shop(client, path, llm)


def test_a_limit_is_kept_told_and_lifted(shop: Shop, request: pytest.FixtureRequest) -> None:
    name = "single" if "single" in request.node.name else "split"
    answers = [shop.client.ask("tell me something", f"limited-{n}") for n in range(6)]
    assert [a.status for a in answers] == [200] + [429] * 5
    problem = answers[-1].json
    assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
    assert 10 <= int(answers[-1].headers["retry-after"]) <= 30
    assert shop.asked(f"few-{name}") == 2
    assert shop.client.ask("opening hours", "limited-0").status == 200  # rules need no model

    shop.spoil()
    assert shop.client.ask("tell me something", "limited-0").status == 429  # what was read last holds
    few = {"targets": [{"model": f"few-{name}", "rpm": 2}], "fallback": ["spare"]}
    shop.models(default=few, spare={"targets": [{"model": f"spare-{name}"}]})
    wait_until_sync(lambda: all(shop.client.ask("tell me something", f"limited-{n}").status == 200 for n in range(4)), "the spare answers")
    assert shop.asked(f"spare-{name}") >= 4
    assert shop.asked(f"few-{name}") <= 4  # some may have come in since
