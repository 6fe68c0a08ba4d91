"""The log line of a rule's turn: for all of them, for a share, for none; and the setting that says so."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from common.settings import SettingsError
from lightweight.query.lines import turn_lines
from lightweight.settings import LightweightSettings
from tests.lightweight.asking import desk

SHOP: dict[str, Any] = {
    "agent_id": "shop",
    "flows": [{"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."}],
}


def settings(value: str, tmp_path: Any) -> LightweightSettings:
    return LightweightSettings.load({"LOADSPLIT_TURN_LOG": value, "LOADSPLIT_DATA_DIR": str(tmp_path)})


@pytest.mark.parametrize(("value", "share"), [("heavy", 0.0), ("ALL", 1.0), ("0.01", 0.01), ("1", 1.0), ("", 0.0)])
def test_the_share_that_is_set(value: str, share: float, tmp_path: Any) -> None:
    assert settings(value, tmp_path).rule_turns_logged == share
    assert (turn_lines(share) is None) is (share == 0)


@pytest.mark.parametrize("value", ["some", "2", "-0.1", "nan"])
def test_another_value_is_told(value: str, tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match="LOADSPLIT_TURN_LOG: must be heavy, all, or a share"):
        settings(value, tmp_path)


async def test_what_a_line_tells(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lightweight.query.lines")
    async with desk(SHOP, turn_log="all") as shop:
        assert (await shop.ask("opening hours")).status == 200
    (record,) = [r for r in caplog.records if r.getMessage() == "turn ended"]
    told = vars(record)
    assert (told["action_target"], told["matched_by"], told["status"], told["llm_calls"]) == ("hours", "rule", "done", 0)
    assert told["turn_id"].startswith("t_")
    assert 0 < told["match_ms"] < told["ms"]


async def test_a_share_of_the_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lightweight.query.lines")
    async with desk(SHOP, turn_log="0.5") as shop:
        for n in range(60):
            await shop.ask("opening hours", session_id=f"s{n}")
    assert 10 < len([r for r in caplog.records if r.getMessage() == "turn ended"]) < 50
