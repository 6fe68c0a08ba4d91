"""Workflow files that change while a process runs: swapped in when they hold, refused when not, and the last good ones kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import DependencyUnavailable
from common.web.config_files import FileConfigs
from common.workflow.problems import WorkflowInvalid
from common.workflow.rollout import Rollout, Unusable
from common.workflow.schema import Workflow
from tests.support.waiting import wait_until

SECRET = b"a secret"


def write(path: Path, greeting: str, **more: object) -> Path:
    path.write_text(json.dumps({"greeting": greeting, **more}))
    return path


def configs(path: Path, tmp_path: Path, *, secret: bytes = SECRET, watch: bool = True) -> FileConfigs:
    return FileConfigs(path, {}, data_dir=tmp_path / "data", secret=secret, watch=watch)


@contextlib.asynccontextmanager
async def followed(source: FileConfigs) -> AsyncIterator[Rollout[str]]:
    """A rollout of greetings that follows the files."""
    rollout = Rollout(lambda workflow: workflow.greeting or "", source.bring)
    await source.begin(rollout)
    follow = asyncio.create_task(source.follow())
    yield rollout
    follow.cancel()


async def test_a_changed_file_is_in_force_soon(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.json", "One.", agent_id="shop")
    source = configs(path, tmp_path)
    assert [w.greeting for w in source.read().values()] == ["One."]
    async with followed(source) as rollout:
        before = rollout.in_force("shop")
        write(path, "Two.", agent_id="shop")
        await wait_until(lambda: rollout.at_hand("shop", "t", "s") == "Two.", "the change is in force", 5)
        assert await rollout.version("shop", before) == "One.", "a turn that began with it goes on"
        assert source.manifest.agents["shop"].previous == before
        await source.check()


async def test_what_does_not_hold_is_refused_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "shop.json", "One.", agent_id="shop")
    source = configs(path, tmp_path)
    source.read()
    caplog.set_level(logging.ERROR)
    async with followed(source) as rollout:
        path.write_text('{"agent_id": "shop",\n "greeting": 5}')
        await wait_until(lambda: caplog.records, "the refusal is logged", 5)
        assert f"refused: {path}:2:14: error" in caplog.text
        assert rollout.at_hand("shop", "t", "s") == "One."
        with pytest.raises(DependencyUnavailable, match="2:14"):
            await source.check()
        write(path, "Three.", agent_id="shop")
        await wait_until(lambda: rollout.at_hand("shop", "t", "s") == "Three.", "the mended file is in force", 5)
        await source.check()


async def test_the_last_good_files_serve_after_a_restart(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.json", "One.", agent_id="shop")
    configs(path, tmp_path).read()
    path.write_text("{")
    later = configs(path, tmp_path)
    assert later.read() == {}
    async with followed(later) as rollout:
        assert await rollout.find("shop", "t", "s") == "One."
        with pytest.raises(DependencyUnavailable, match=r"shop\.json:1"):
            await later.check()
        write(path, "Two.", agent_id="shop")
        await wait_until(lambda: rollout.at_hand("shop", "t", "s") == "Two.", "the mended file is in force", 5)
    with pytest.raises(WorkflowInvalid):
        configs(tmp_path / "other.json", tmp_path).read()
    path.write_text("{")
    with pytest.raises(WorkflowInvalid):
        configs(path, tmp_path, secret=b"another").read()


async def test_a_directory_is_taken_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    write(folder / "a.json", "A.")
    write(folder / "b.json", "B.", agent_id="second")
    source = configs(folder, tmp_path)
    assert list(source.read()) == ["a", "second"]
    async with followed(source) as rollout:
        write(folder / "c.json", "C.")
        await wait_until(lambda: rollout.at_hand("c", "t", "s") == "C.", "the new agent is there", 5)
        (folder / "b.json").unlink()
        await wait_until(lambda: rollout.name_of("second") is None, "the agent is gone", 5)
        write(folder / "d.json", "D.", agent_id="a")  # the id is taken
        write(folder / "a.json", "A again.")
        await wait_until(lambda: source._fault is not None, "both are refused", 5)
        assert rollout.at_hand("a", "t", "s") == "A."


async def test_without_watching_nothing_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.json", "One.", agent_id="shop")
    source = configs(path, tmp_path, watch=False)
    source.read()
    rollout: Rollout[Workflow] = Rollout(lambda workflow: workflow, source.bring)
    await source.begin(rollout)
    following = asyncio.create_task(source.follow())
    write(path, "Two.", agent_id="shop")
    done, _ = await asyncio.wait([following], timeout=0.2)
    following.cancel()
    assert not done
    assert rollout.at_hand("shop", "t", "s").greeting == "One."  # type: ignore[union-attr]
    with pytest.raises(Unusable):
        await source.bring("shop", "0" * 16)


async def test_of_many_agents_only_those_asked_for_are_compiled(tmp_path: Path) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    for i in range(60):
        write(folder / f"a{i:02}.json", f"I am {i}.")
    source = configs(folder, tmp_path)
    assert source.read() == {}
    async with followed(source) as rollout:
        assert list(rollout.at_work) == []
        assert await rollout.find("a42", "t", "s") == "I am 42."
        assert list(rollout.at_work) == ["I am 42."]
