"""What may become of an agent's state, when a canary has to go, and what a version that came through the API may not do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import Conflict, InvalidRequest
from common.workflow.load import load_text
from heavy.configs.admission import refused
from heavy.configs.comparison import MIN_TURNS, Figures, complaint, lowest, summed
from heavy.configs.force import activated, rolled_back
from heavy.configs.stores import AgentRow, TurnFigures


def state(**values: Any) -> AgentRow:
    return AgentRow("shop", **values)


def test_activation() -> None:
    first, action = activated(state(), 1, None)
    assert (first.active, first.previous, action) == (1, None, "activate")
    canary, action = activated(first, 2, 5)
    assert (canary.active, canary.canary, canary.percent, action) == (1, 2, 5.0, "canary")
    whole, _ = activated(canary, 2, 100)
    assert (whole.active, whole.canary, whole.percent, whole.previous) == (2, None, 0.0, 1)
    again, _ = activated(whole, 2, None)
    assert again == whole
    kept, _ = activated(canary, 1, None)  # the active one for all: the canary is out
    assert (kept.active, kept.canary, kept.previous) == (1, None, None)
    other, _ = activated(canary, 3, 10)
    assert (other.canary, other.percent) == (3, 10.0)
    with pytest.raises(Conflict, match="no version is active"):
        activated(state(), 1, 5)
    with pytest.raises(Conflict, match="its own canary"):
        activated(first, 1, 5)
    with pytest.raises(InvalidRequest):
        activated(first, 2, 0)


def test_rollback() -> None:
    after, out = rolled_back(state(active=1, canary=2, percent=5.0, previous=7))
    assert (after.active, after.canary, after.previous, out) == (1, None, 7, 2)
    after, out = rolled_back(state(active=2, previous=1))
    assert (after.active, after.previous, out) == (1, None, 2)
    for nothing in (state(), state(active=1)):
        with pytest.raises(Conflict, match="go back"):
            rolled_back(nothing)


def figures(turns: int, errors: int) -> Figures:
    return summed([TurnFigures(i < errors, False, 1, 0.01, i / 100) for i in range(turns)])


@pytest.mark.parametrize(
    ("active", "canary", "goes"),
    [
        ((100, 1), (MIN_TURNS, MIN_TURNS), True),
        ((100, 1), (MIN_TURNS - 1, MIN_TURNS - 1), False),  # too few to say anything
        ((0, 0), (20, 20), True),
        ((100, 2), (20, 1), False),  # one error may be chance
        ((100, 2), (20, 6), True),
        ((100, 40), (100, 60), False),  # worse, and not twice as bad
        ((1000, 300), (1000, 700), True),
        ((100, 0), (0, 0), False),
    ],
)
def test_when_a_canary_has_to_go(active: tuple[int, int], canary: tuple[int, int], *, goes: bool) -> None:
    why = complaint(figures(*active), figures(*canary))
    assert (why is not None) is goes
    if why is not None:
        assert f"{canary[1]} of its {canary[0]} turns" in why


def test_equal_versions_are_left_alone() -> None:
    """Of every count of turns: with the errors that the active version's rate makes likely nothing is taken back."""
    for turns in range(MIN_TURNS, 500, 7):
        for rate in (0.0, 0.02, 0.1, 0.5):
            errors = round(rate * turns + 2 * (rate * (1 - rate) * turns) ** 0.5)
            assert complaint(figures(1000, round(rate * 1000)), figures(turns, min(errors, turns))) is None


def test_the_figures() -> None:
    turns = [TurnFigures(False, True, 2, 0.5, 4.0), TurnFigures(True, True, 1, 0.25, 1.0), TurnFigures(False, False, 0, 0.0, 0.0)]
    told = summed([*turns, TurnFigures(False, False, 0, 0.0, 0.0)]).as_dict()
    assert (told["turns"], told["failed"], told["escalated"], told["errors"], told["error_rate"]) == (4, 1, 1, 2, 0.5)
    assert (told["llm_share"], told["p50_seconds"], told["p95_seconds"], told["cost_usd"]) == (0.5, 0.0, 4.0, 0.75)
    assert summed([]) == Figures()
    assert lowest(0, 10) == 0.0
    assert 0.6 < lowest(10, 10) < 0.8


def test_what_comes_through_the_api_may_do_less() -> None:
    workflow = {
        "agent_id": "other",
        "mcp_servers": [{"name": "m", "command": ["x"]}, {"name": "n", "url": "https://mcp.example/${MCP_PLACE}"}],
        "flows": [
            {"flow_id": "f", "trigger_patterns": ["x"], "endpoint": {"url": "https://a.example", "headers": {"K": "${OPENAI_API_KEY}"}}}
        ],
    }
    loaded = load_text(json.dumps(workflow), env={"OPENAI_API_KEY": "k", "MCP_PLACE": "p"})
    assert [p.code for p in refused("shop", loaded)] == ["agent_id_differs", "command_refused", "env_refused"]
    assert list(refused("shop", load_text('{"agent_id": "shop"}'))) == []
    assert list(refused("shop", load_text("{}"))) == []
