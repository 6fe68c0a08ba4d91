"""The log's level over HTTP: changed for a time everywhere, by an operator only."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.hotstore import keys
from common.web.auth import hash_key
from common.web.log_level import LogLevel
from tests.heavy.routes.conftest import WORKFLOW
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess, in_process
from tests.support.waiting import wait_until

PATH = "/admin/api/log-level"


@pytest.fixture(autouse=True)
def level_afterwards() -> Iterator[None]:
    loggers = [logging.getLogger(), *map(logging.getLogger, ("httpx", "openai", "asyncio"))]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


async def test_a_change_holds_here_and_elsewhere_until_it_ends(shop: InProcess) -> None:
    other = LogLevel(shop.heavy.hotstore, "warning")
    following = asyncio.create_task(other.follow())
    status, told = await shop.call("PUT", PATH, {"level": "debug", "seconds": 60})
    assert (status, told) == (200, {"level": "debug", "configured": "info"})
    checked("LogLevel", told)
    assert logging.getLogger().level == logging.DEBUG
    await wait_until(lambda: other.now == "debug", "another process has the level")
    status, told = await shop.call("DELETE", PATH)
    assert (status, told["level"]) == (200, "info")
    await wait_until(lambda: other.now == "warning", "it has gone back to its own")
    assert (await shop.call("GET", PATH))[1] == {"level": "info", "configured": "info"}
    following.cancel()


async def test_a_change_ends_by_itself(shop: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.web.log_level.LOOK_SECONDS", 0.05)
    await shop.call("PUT", PATH, {"level": "error", "seconds": 1})
    assert await shop.heavy.hotstore.get(keys.LOG_LEVEL) == b"error"
    await wait_until(lambda: shop.heavy.log_level.now == "info", "the time is over")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"level": "loud"}, "level"),
        ({}, "level"),
        ({"level": "info", "seconds": 0}, "seconds"),
        ({"level": "info", "seconds": True}, "seconds"),
    ],
)
async def test_a_wrong_level_is_told(shop: InProcess, body: Any, field: str) -> None:
    status, problem = await shop.call("PUT", PATH, body)
    assert (status, problem["field"]) == (400, field)


async def test_it_needs_an_operator(tmp_path: Path) -> None:
    holders = [("op", "*", "admin"), ("a", "acme", "admin"), ("q", "acme", "query")]
    entries = [{"id": i, "tenant": t, "scopes": [s], "hash": hash_key(i)} for i, t, s in holders]
    (tmp_path / "keys.json").write_text(json.dumps(entries))
    async with in_process(WORKFLOW, tmp_path, api_keys=str(tmp_path / "keys.json")) as running:
        found = [(await running.call("GET", PATH, headers={"Authorization": f"Bearer {key}"}))[0] for key in ("op", "a", "q", "none")]
    assert found == [200, 403, 403, 401]
