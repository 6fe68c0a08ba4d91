"""A models file that is changed while it is in use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path

import pytest

from common.errors import ConfigInvalid, DependencyUnavailable
from heavy.llm.gateway import open_gateway
from heavy.llm.models_file import ModelsFile, watch_models
from heavy.llm.types import LLMRequest, Message
from loadtests.simulators.llm import running
from loadtests.simulators.profile import Profile
from tests.support.waiting import wait_until

ENV = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
QUICK = Profile(first_token_ms=0, token_ms=0)


def write(path: Path, *targets: tuple[str, str, str]) -> None:
    """One alias after the provider's name for each (provider, model, address)."""
    models = {p: {"targets": [{"provider": p, "model": m, "base_url": url}]} for p, m, url in targets}
    path.write_text(json.dumps({"models": models}))


def test_only_a_change_is_news(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    write(path, ("openai", "one", "http://x/v1"))
    file = ModelsFile(path, ENV)
    assert file.read()["openai"].targets[0].model == "one"
    assert file.news() is None
    write(path, ("openai", "another", "http://x/v1"))
    news = file.news()
    assert news is not None
    assert news["openai"].targets[0].model == "another"
    assert file.news() is None


def test_without_a_file_the_environment_says_what_there_is_and_nothing_changes() -> None:
    file = ModelsFile(None, {}, "http://127.0.0.1:8900/v1")
    assert file.read()["default"].targets[0].model == "demo"
    assert file.news() is None


@pytest.mark.parametrize("text", ["models: {a: {targets: [{provider: openai, modle: x}]}}", "no: [models", ""])
def test_a_file_that_does_not_hold_is_one_line_and_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    path = tmp_path / "models.json"
    write(path, ("openai", "one", "http://x/v1"))
    file = ModelsFile(path, ENV)
    file.read()
    path.write_text(text)
    assert (file.news(), file.news()) == (None, None)
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert f"{path}:" in caplog.records[0].getMessage()
    path.unlink()
    assert file.news() is None  # gone for a moment, or for good: what was read last holds
    write(path, ("openai", "two", "http://x/v1"))
    assert file.news() is not None


def test_a_file_that_does_not_hold_at_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid):
        ModelsFile(tmp_path / "none.yaml", ENV).read()


async def test_a_changed_file_is_in_force_a_moment_later_also_with_another_provider(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "models.json"
    async with running(QUICK) as (url, simulator):
        write(path, ("openai", "one", f"{url}/v1"))
        file = ModelsFile(path, ENV)
        async with open_gateway(file.read()) as gateway:
            watching = asyncio.create_task(watch_models(file, gateway))
            assert (await gateway.complete(LLMRequest("openai", [Message("user", "Hello")]))).target == "openai/one"
            path.write_text("models: nonsense")
            await wait_until(lambda: "stay as they are" in caplog.text, "the bad file is refused")
            assert (await gateway.complete(LLMRequest("openai", [Message("user", "Hello")]))).target == "openai/one"
            write(path, ("openai", "two", f"{url}/v1"), ("anthropic", "three", url))
            with caplog.at_level(logging.INFO):
                await wait_until(lambda: "anthropic" in gateway.catalogue(), "the changed file is in force")
            assert (await gateway.complete(LLMRequest("openai", [Message("user", "Hello")]))).target == "openai/two"
            assert (await gateway.complete(LLMRequest("anthropic", [Message("user", "Hello")]))).target == "anthropic/three"
            with pytest.raises(DependencyUnavailable):
                gateway.targets("default")
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        assert simulator.by_model == {"one": 2, "two": 1, "three": 1}
