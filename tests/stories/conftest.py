"""What the stories start: the two simulators once, a single process and a split, each for both providers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.desks import write_desks, write_script
from tests.support.running import Running, serve
from tests.support.services import PostgresServer, free_port
from tests.support.shop import write_profile, write_workflow
from tests.support.split import Split, split_of


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stories")


@pytest.fixture(scope="session")
def llm(folder: Path) -> Iterator[Running]:
    """The LLM simulator with the shop's script."""
    port = free_port()
    arguments = ["simulate", "llm", "--port", str(port), "--profile", str(write_profile(folder))]
    with Running(arguments, folder, port=port, ready="/stats") as simulator:
        yield simulator


@pytest.fixture(scope="session")
def business(folder: Path) -> Iterator[Running]:
    """The business simulator."""
    port = free_port()
    with Running(["simulate", "business", "--port", str(port)], folder, port=port, ready="/effects") as simulator:
        yield simulator


@pytest.fixture(scope="session")
def env(llm: Running, business: Running) -> dict[str, str]:
    """The environment of a tier that speaks OpenAI's protocol to the simulator."""
    return environment("openai", llm, business)


# Each topology and each provider once; the other two pairs are for `make test-long`.
PAIRS = ["single-anthropic", "split-openai", *(pytest.param(p, marks=pytest.mark.long) for p in ("single-openai", "split-anthropic"))]


@pytest.fixture(scope="session", params=PAIRS)
def client(
    request: pytest.FixtureRequest, llm: Running, business: Running, redis_url: str, postgres_server: PostgresServer, folder: Path
) -> Iterator[Client]:
    """A running loadsplit: as a single process and as a split, over one provider and the other."""
    topology, _, provider = request.param.partition("-")
    place = folder / request.param
    place.mkdir(exist_ok=True)  # a parallel run may come back to a topology
    env = environment(provider, llm, business)
    if topology == "single":
        with serve(write_workflow(place), place, env) as server:
            yield server.client
    else:
        number = 14 if provider == "openai" else 15  # a Redis database each, so that the two do not see each other's sessions
        stores = {
            "LOADSPLIT_REDIS_URL": f"{redis_url.rpartition('/')[0]}/{number}",
            "LOADSPLIT_DATABASE_URL": postgres_server.create_database(),
        }
        with split_of(write_workflow(place), place, {**env, **stores}) as split:
            yield split.client


@pytest.fixture(scope="session")
def desks_llm(folder: Path) -> Iterator[Running]:
    """The LLM simulator with the script of the agents in tests.support.desks."""
    port = free_port()
    arguments = ["simulate", "llm", "--port", str(port), "--profile", str(write_script(folder))]
    with Running(arguments, folder, port=port, ready="/stats") as simulator:
        yield simulator


@pytest.fixture(scope="session", params=["single-anthropic", "split-openai"])
def desks(
    request: pytest.FixtureRequest, desks_llm: Running, business: Running, redis_url: str, postgres_server: PostgresServer, folder: Path
) -> Iterator[Client]:
    """All agents of tests.support.desks, as a single process over one provider and as a split over the other."""
    topology, _, provider = request.param.partition("-")
    place = folder / f"desks-{request.param}"
    place.mkdir(exist_ok=True)  # a parallel run may come back to a topology
    env = environment(provider, desks_llm, business)
    if topology == "single":
        with serve(write_desks(place), place, env) as server:
            yield server.client
    else:
        stores = {
            "LOADSPLIT_REDIS_URL": f"{redis_url.rpartition('/')[0]}/12",
            "LOADSPLIT_DATABASE_URL": postgres_server.create_database(),
        }
        with split_of(write_desks(place), place, {**env, **stores}) as split:
            yield split.client


@pytest.fixture
def desks_env(desks_llm: Running, business: Running) -> dict[str, str]:
    """The environment of a tier with those agents, over OpenAI's protocol."""
    return environment("openai", desks_llm, business)


@pytest.fixture
def desks_split(desks_env: dict[str, str], redis_database: str, postgres_database: str, tmp_path: Path) -> Iterator[Split]:
    """A split of its own with those agents, for tests that kill parts of it."""
    stores = {"LOADSPLIT_REDIS_URL": redis_database, "LOADSPLIT_DATABASE_URL": postgres_database}
    with split_of(write_desks(tmp_path), tmp_path, {**desks_env, **stores}) as split:
        yield split


@pytest.fixture
def split(env: dict[str, str], redis_database: str, postgres_database: str, tmp_path: Path) -> Iterator[Split]:
    """A split of its own, for tests that kill parts of it."""
    stores = {"LOADSPLIT_REDIS_URL": redis_database, "LOADSPLIT_DATABASE_URL": postgres_database}
    with split_of(write_workflow(tmp_path), tmp_path, {**env, **stores}) as split:
        yield split


def environment(provider: str, llm: Running, business: Running) -> dict[str, str]:
    """What a tier must know of the simulators."""
    name = provider.upper()
    url = llm.url + ("/v1" if provider == "openai" else "")
    return {f"{name}_API_KEY": "sk-test", f"{name}_BASE_URL": url, "BUSINESS": business.url}
