"""What the fault tests share: one split with two heavy replicas on a Redis and a PostgreSQL of its own, and the simulators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fault_agents import write_agents, write_models, write_script
from tests.support.odd_api import OddApi
from tests.support.receiver import Receiver
from tests.support.running import Running
from tests.support.services import PostgresServer, RedisServer, free_port
from tests.support.split import Split, split_of

# No prefix such as sk- that would give them away.
LLM_KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
SHOP_TOKEN = "4d3c2b1a0f9e8d7c6b5a493827160504"
TICKET_SECRET = "9a8b7c6d5e4f30211203f4e5d6c7b8a9"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def llm(folder: Path) -> Iterator[Running]:
    """The LLM simulator with the script of the fault tests."""
    port = free_port()
    arguments = ["simulate", "llm", "--port", str(port), "--profile", str(write_script(folder))]
    with Running(arguments, folder, port=port, ready="/stats") as simulator:
        yield simulator


@pytest.fixture(scope="session")
def business(folder: Path) -> Iterator[Running]:
    """The business simulator."""
    port = free_port()
    with Running(["simulate", "business", "--port", str(port)], folder, port=port, ready="/effects") as simulator:
        yield simulator


@pytest.fixture(scope="session")
def odd_api() -> Iterator[OddApi]:
    """The API that misbehaves."""
    with OddApi() as api:
        yield api


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks; each test has paths of its own."""
    with Receiver() as it:
        yield it


@pytest.fixture(scope="session")
def env(llm: Running, business: Running, odd_api: OddApi, receiver: Receiver) -> dict[str, str]:
    """The environment of a tier that speaks to the simulators."""
    allow = {"LOADSPLIT_EGRESS_ALLOW": receiver.allowed}
    urls = {"OPENAI_BASE_URL": llm.url + "/v1", "BUSINESS": business.url, "ODD": odd_api.url}
    keys = {"OPENAI_API_KEY": LLM_KEY, "ANTHROPIC_API_KEY": LLM_KEY, "SHOP_TOKEN": SHOP_TOKEN, "LOADSPLIT_TICKET_SECRET": TICKET_SECRET}
    return {**urls, **keys, **allow}


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """The split's own Redis, which tests may freeze and kill."""
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The split's own PostgreSQL, which tests may stop."""
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def database(postgres: PostgresServer) -> str:
    return postgres.create_database()


@pytest.fixture(scope="session")
def running_split(
    llm: Running, odd_api: OddApi, env: dict[str, str], redis: RedisServer, postgres: PostgresServer, database: str, folder: Path
) -> Iterator[Split]:
    """The split for the whole run."""
    stores = {"LOADSPLIT_REDIS_URL": redis.url, "LOADSPLIT_DATABASE_URL": database}
    models = {"LOADSPLIT_MODELS": str(write_models(folder, llm.url, odd_api.url))}
    with split_of(write_agents(folder, odd_api.port), folder, {**env, **stores, **models}) as split:
        yield split


@pytest.fixture
def split(running_split: Split) -> Iterator[Split]:
    """The split. Every test leaves it whole, also one that fails after it has killed a process."""
    yield running_split
    for process in (running_split.lightweight, *running_split.heavy):
        if process.process.poll() is not None:
            process.start()
