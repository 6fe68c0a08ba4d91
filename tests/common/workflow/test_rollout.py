"""Versions of agents in one process: compiled when needed, swapped as a whole, refused without harm, bounded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from common.contracts.rollout import Manifest, Serving, in_canary
from common.errors import ConfigInvalid, DependencyUnavailable
from common.workflow.patterns import foreign_construct
from common.workflow.rollout import BASE_BYTES, BYTES_PER_BYTE, Rollout, Unusable, workflow_of
from common.workflow.schema import Workflow

Compiled = tuple[str, str]


class Source:
    """Workflows by hash; `away` ones cannot be had now, `broken` ones do not compile."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.broken: set[str] = set()
        self.brought: list[Compiled] = []
        self.size = 1

    async def bring(self, agent_id: str, config_hash: str) -> tuple[Workflow, int]:
        self.brought.append((agent_id, config_hash))
        if config_hash in self.away:
            raise DependencyUnavailable("it is away")
        return Workflow(agent_id=agent_id).model_copy(update={"config_hash": config_hash}), self.size

    def compile(self, workflow: Workflow) -> Compiled:
        if workflow.config_hash in self.broken:
            raise ConfigInvalid("shop.json:3:7: error bad_pattern it does not compile")
        return workflow.agent_id, workflow.config_hash


@pytest.fixture
def source() -> Source:
    return Source()


def rollout_of(source: Source, **more: Any) -> Rollout[Compiled]:
    return Rollout(source.compile, source.bring, **more)


def manifest(number: int, **agents: Serving) -> Manifest:
    return Manifest(number, agents)


async def test_agents_come_into_force_and_go(source: Source) -> None:
    rollout = rollout_of(source)
    assert rollout.empty
    assert await rollout.find("shop", "t", "s") is None
    assert await rollout.apply(manifest(1, shop=Serving("v1"), desk=Serving("w1")))
    assert rollout.at_hand(None, "t", "s") == rollout.at_hand("shop", "t", "s") == ("shop", "v1")
    assert (rollout.names, rollout.name_of(None), rollout.in_force("desk")) == (["shop", "desk"], "shop", "w1")
    assert await rollout.apply(manifest(2, desk=Serving("w2")))
    assert rollout.at_hand(None, "t", "s") == ("desk", "w2")
    assert rollout.at_hand("shop", "t", "s") is None
    assert rollout.in_force("shop") == ""


async def test_a_canary_gets_its_sessions_only(source: Source) -> None:
    rollout, serving = rollout_of(source), Serving("v1", "v2", 30.0)
    await rollout.apply(manifest(1, shop=serving))
    for i in range(100):
        expected = "v2" if in_canary(serving, "t", f"s{i}") else "v1"
        assert rollout.at_hand("shop", "t", f"s{i}") == ("shop", expected)
        assert await rollout.find("shop", "t", f"s{i}") == ("shop", expected)


async def test_what_does_not_compile_is_refused_and_what_served_goes_on(source: Source) -> None:
    rollout = rollout_of(source)
    await rollout.apply(manifest(1, shop=Serving("v1")))
    source.broken = {"v2", "v3"}
    assert await rollout.apply(manifest(2, shop=Serving("v2", previous="v1")))
    assert rollout.at_hand("shop", "t", "s") == ("shop", "v1")
    assert "3:7" in rollout.refused["shop"]
    assert await rollout.apply(manifest(3, shop=Serving("v3", previous="v2")))
    assert rollout.at_hand("shop", "t", "s") == ("shop", "v1")
    assert rollout.in_force("shop") == "v1"
    assert await rollout.apply(manifest(4, shop=Serving("v4", previous="v3")))
    assert rollout.at_hand("shop", "t", "s") == ("shop", "v4")
    assert rollout.refused == {}


async def test_a_process_that_starts_with_a_bad_version_serves_the_one_before(source: Source) -> None:
    rollout = rollout_of(source)
    source.broken = {"v2"}
    await rollout.apply(manifest(1, shop=Serving("v2", previous="v1"), desk=Serving("v2")))
    assert rollout.at_hand("shop", "t", "s") == ("shop", "v1")
    assert rollout.at_hand("desk", "t", "s") is None
    with pytest.raises(DependencyUnavailable, match="desk"):
        await rollout.find("desk", "t", "s")


async def test_a_broken_canary_leaves_its_sessions_to_the_active_version(source: Source) -> None:
    rollout = rollout_of(source)
    source.broken = {"v2"}
    await rollout.apply(manifest(1, shop=Serving("v1", "v2", 100.0)))
    assert rollout.at_hand("shop", "t", "s") == ("shop", "v1")
    assert "shop" in rollout.refused


async def test_a_text_that_is_away_is_asked_for_again(source: Source) -> None:
    rollout = rollout_of(source)
    await rollout.apply(manifest(1, shop=Serving("v1"), desk=Serving("w1")))
    source.away = {"v2"}
    assert not await rollout.apply(manifest(2, shop=Serving("v2"), desk=Serving("w2")))
    assert rollout.at_hand("shop", "t", "s") == ("shop", "v1")
    assert rollout.at_hand("desk", "t", "s") == ("desk", "w2")
    source.away = set()
    assert await rollout.apply(manifest(2, shop=Serving("v2"), desk=Serving("w2")))
    assert rollout.at_hand("shop", "t", "s") == ("shop", "v2")


async def test_a_thousand_agents_are_compiled_on_demand_within_a_bound(source: Source) -> None:
    size = BASE_BYTES + BYTES_PER_BYTE
    rollout = rollout_of(source, limit_bytes=20 * size)
    await rollout.apply(manifest(1, **{f"a{i}": Serving(f"h{i}") for i in range(1000)}))
    assert source.brought == []
    for i in range(100):
        assert await rollout.find(f"a{i}", "t", "s") == (f"a{i}", f"h{i}")
        assert rollout.at_hand("a0", "t", "s") is not None, "what is used all the time stays"
    assert len(list(rollout.at_work)) <= 20
    assert rollout.at_hand("a5", "t", "s") is None
    assert rollout.in_force("a5") == "h5"
    assert await rollout.find("a5", "t", "s") == ("a5", "h5")
    asked = len(source.brought)
    found = await asyncio.gather(*(rollout.find("a777", "t", f"s{i}") for i in range(20)))
    assert set(found) == {("a777", "h777")}
    assert len(source.brought) == asked + 1, "whoever asks meanwhile waits for the same"


async def test_versions_out_of_force_stay_at_hand_for_turns_and_then_go(source: Source) -> None:
    rollout = rollout_of(source)
    for i in range(1, 7):
        await rollout.apply(manifest(i, shop=Serving(f"v{i}")))
    held = [v for v in (f"v{i}" for i in range(1, 7)) if rollout.compiled("shop", v)]
    assert held == ["v4", "v5", "v6"]
    assert await rollout.version("shop", "v1") == ("shop", "v1")
    source.broken = {"v9"}
    with pytest.raises(Unusable):
        await rollout.version("shop", "v9")


def test_a_stored_text_is_checked_against_its_hash() -> None:
    text = json.dumps({"greeting": "Welcome."})
    with pytest.raises(Unusable, match="is not that of the version"):
        workflow_of("shop", "0" * 16, "json", text, {}, foreign_construct)
    with pytest.raises(Unusable, match=r"shop\.json:1:14"):
        workflow_of("shop", "0" * 16, "json", '{"greeting": 5}', {}, foreign_construct)
