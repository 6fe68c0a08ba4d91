"""From the database to every replica: heavy writes what is in force into the hot store, the rule tier follows, and both keep it on disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from common.contracts.rollout import Manifest, encode
from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable
from common.telemetry.metrics import Metrics
from common.web.config_news import ConfigNews
from common.workflow.load import load_text
from common.workflow.patterns import foreign_construct
from common.workflow.rollout import Rollout
from common.workflow.shelf import FOLDER, Shelf
from heavy.configs.centre import Centre
from heavy.configs.keeper import CentreKeeper
from heavy.configs.rulebook import NoRules
from heavy.configs.stores import NewChange, NewVersion
from heavy.configs.watchdog import Watchdog
from heavy.jobs.stores import JobStores
from heavy.storage.open import open_stores
from heavy.turns.agents import Agents
from tests.support.waiting import wait_until

SECRET = b"a secret"


class Away(MemoryHotStore):
    """A hot store that can be out of reach."""

    away = False

    async def read_version(self, key: str, known: int | None) -> tuple[int, bytes | None] | None:
        if self.away:
            raise HotStoreUnavailable("it is away")
        return await super().read_version(key, known)

    async def get(self, key: str) -> bytes | None:
        if self.away:
            raise HotStoreUnavailable("it is away")
        return await super().get(key)


@dataclass
class World:
    """A heavy process's centre over SQLite and a hot store, and what follows it."""

    stores: JobStores
    hotstore: Away
    keeper: CentreKeeper
    centre: Centre
    agents: Agents
    folder: Path

    async def push(self, greeting: str, agent_id: str = "shop") -> int:
        text = json.dumps({"agent_id": agent_id, "greeting": greeting})
        row, _ = await self.centre.push(agent_id, text, "json", author="k1", note="")
        return row.version

    async def release(self, greeting: str, percent: float | None = None, agent_id: str = "shop") -> str:
        version = await self.push(greeting, agent_id)
        row = await self.centre.activate(agent_id, version, percent, author="k1", note="")
        return (row.canary_hash if percent else row.active_hash) or ""

    def news(self, name: str = "light", secret: bytes = SECRET) -> ConfigNews:
        return ConfigNews(self.hotstore, secret, self.folder / name, {}, foreign_construct, Metrics())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    stores = await open_stores(f"sqlite:///{tmp_path}/loadsplit.db")
    hotstore, metrics = Away(), Metrics()
    keeper = CentreKeeper(stores.configs, hotstore, SECRET, Shelf(tmp_path / "heavy" / FOLDER), {}, foreign_construct, metrics)
    agents = Agents({}, keeper.bring)
    await keeper.begin(agents)
    watchdog = Watchdog(stores.configs, hotstore, metrics, keeper.catch_up)
    yield World(stores, hotstore, keeper, Centre(stores.configs, keeper, keeper, watchdog, agents, NoRules(), {}), agents, tmp_path)
    await stores.aclose()


@contextlib.asynccontextmanager
async def following(news: ConfigNews) -> AsyncIterator[Rollout[str]]:
    """A rule tier's rollout of greetings."""
    rollout = Rollout(lambda workflow: workflow.greeting or "", news.bring)
    await news.begin(rollout)
    follow = asyncio.create_task(news.follow())
    yield rollout
    follow.cancel()
    await asyncio.wait([follow])


async def test_a_release_reaches_who_follows(world: World) -> None:
    with pytest.raises(DependencyUnavailable, match="no agent is in force"):
        await world.keeper.check()
    news = world.news()
    async with following(news) as light:
        with pytest.raises(DependencyUnavailable, match="no agent is in force"):
            await news.check()
        await world.release("One.")
        await wait_until(lambda: light.at_hand("shop", "t", "s") == "One.", "the rule tier serves it", 2)
        assert (await world.agents.choose("shop", "t", "s")).workflow.greeting == "One."
        old = world.agents.in_force("shop")
        await world.release("Two.")
        await wait_until(lambda: light.at_hand("shop", "t", "s") == "Two.", "the rule tier serves the next", 2)
        assert (await world.agents.choose("shop", "t", "s", old)).workflow.greeting == "One.", "a ticket names its version"
        await world.centre.rollback("shop", author="k1", note="it was better")
        await wait_until(lambda: light.at_hand("shop", "t", "s") == "One.", "the rule tier is back", 2)
        await news.check()


async def test_both_tiers_agree_on_the_canary(world: World) -> None:
    async with following(world.news()) as light:
        await world.release("One.")
        canary = await world.release("Two.", 40)
        await wait_until(lambda: canary in {s.canary for s in (light.serving("shop"),) if s}, "the rule tier has the canary", 2)
        for i in range(50):
            heavy = (await world.agents.choose("shop", "t", f"s{i}")).workflow.greeting
            assert light.at_hand("shop", "t", f"s{i}") == heavy


async def test_a_process_starts_while_everything_is_away(world: World) -> None:
    await world.release("One.")
    async with following(world.news()):
        pass
    world.hotstore.away = True
    again = world.news()
    async with following(again) as light:
        assert await light.find("shop", "t", "s") == "One."
    async with following(world.news("another machine")) as light:
        assert light.empty
    async with following(world.news(secret=b"another")) as light:
        assert light.empty, "what was not signed with the secret is not used"


async def test_a_lost_text_is_brought_again(world: World) -> None:
    config_hash = await world.release("One.")
    serving = asyncio.create_task(world.keeper.serve_texts())
    await world.hotstore.delete(keys.config(config_hash))
    async with following(world.news()) as light:
        await wait_until(lambda: light.at_hand("shop", "t", "s") == "One.", "the text has come", 5)
    serving.cancel()


async def test_a_wiped_hot_store_is_filled_again(world: World) -> None:
    config_hash = await world.release("One.")
    await world.hotstore.delete(keys.CONFIGS, keys.config(config_hash))
    await world.keeper.look()
    assert await world.hotstore.get(keys.config(config_hash)) is not None
    async with following(world.news()) as light:
        assert await light.find("shop", "t", "s") == "One."


async def test_a_forged_manifest_or_text_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.release("One.")
    news = world.news()
    async with following(news) as light:
        forged = encode(Manifest(2**60, {}), b"another")
        assert await world.hotstore.write_version(keys.CONFIGS, 2**60, forged, 60)
        await world.hotstore.publish(keys.CONFIGS_NEWS, b"1")
        await wait_until(lambda: "is not signed" in caplog.text, "the forgery is noticed", 3)
        assert light.at_hand("shop", "t", "s") == "One."
    two = load_text('{"agent_id": "shop", "greeting": "Two."}').config_hash
    await world.hotstore.set(keys.config(two), b'json\n{"agent_id": "shop", "greeting": "Forged."}', 60)
    await world.hotstore.delete(keys.CONFIGS)
    await world.release("Two.")
    assert (await world.agents.choose("shop", "t", "s")).workflow.greeting == "Two."


async def test_a_stored_version_that_cannot_be_used_is_refused(world: World) -> None:
    """Whoever writes into the database goes past the checks; the replicas do not."""
    await world.release("One.")
    bad = '{"agent_id": "shop",\n "greeting": "${NOWHERE}", "flows": 7}'
    row = await world.stores.configs.add(NewVersion("shop", "f" * 16, "json", bad))
    with pytest.raises(Exception, match="2:"):
        await world.centre.activate("shop", row.version, None, author="", note="")
    before = await world.centre.agent("shop")
    after = replace(before, active=row.version, previous=before.active)
    assert await world.stores.configs.change(before, after, NewChange("c9", "activate", row.version))
    news = world.news()
    async with following(news) as light:
        await world.keeper.look()
        assert (await world.agents.choose("shop", "t", "s")).workflow.greeting == "One."
        await wait_until(lambda: light.refused, "the rule tier refuses it, too", 3)
        assert light.at_hand("shop", "t", "s") == "One."
        for check in (news.check, world.keeper.check):
            with pytest.raises(DependencyUnavailable, match="earlier version"):
                await check()
