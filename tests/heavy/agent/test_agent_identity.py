"""Who the agent is, as `basic_settings` say it: in the prompt, and in the texts that no model writes."""

from __future__ import annotations

import pytest

from common.workflow.schema import Workflow
from heavy.agent.prompts import identity, language_of


def workflow(**settings: str) -> Workflow:
    return Workflow.model_validate({"basic_settings": settings})


def test_the_settings_stand_in_the_prompt() -> None:
    prompt = identity(workflow(name="Lumi", description="The desk of a lamp shop.", tone="brief", language="German"))
    for part in ("Lumi", "The desk of a lamp shop.", "brief", "Answer in German."):
        assert part in prompt
    assert "Answer in the language of the user's message." in identity(workflow(name="Lumi"))


@pytest.mark.parametrize(
    ("setting", "message", "language"),
    [("中文", "hello", "zh"), ("zh-CN", "hello", "zh"), ("English", "你好", "en"), ("", "你好", "zh"), ("", "hello", "en")],
)
def test_the_language_of_built_in_texts(setting: str, message: str, language: str) -> None:
    assert language_of(workflow(language=setting), message) == language
