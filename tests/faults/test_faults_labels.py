"""However many flows a file has, and whatever callers send, /metrics stays a page of bounded size: a running rule tier, asked for many of
them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.telemetry.metrics import MAX_LABEL_VALUES
from tests.support.running import role
from tests.support.split import metric

FLOWS, ASKED = 2000, 400


@pytest.mark.parametrize("agents", [1, pytest.param(50, marks=pytest.mark.long)])
def test_labels_stay_bounded(agents: int, tmp_path: Path) -> None:
    config = tmp_path / "agents"
    config.mkdir()
    for agent in range(agents):
        flows = [
            {"flow_id": f"f_{agent}_{n}", "name": f"F {agent} {n}", "trigger_patterns": [f"word{n}x"], "response_template": "Yes."}
            for n in range(FLOWS)
        ]
        (config / f"{agent}.json").write_text(json.dumps({"agent_id": f"many-{agent}", "flows": flows}))
    with role("lightweight", config, tmp_path, {}) as running:
        for n in range(ASKED):
            message = {"message": f"word{n * (FLOWS // ASKED)}x", "session_id": f"s{n}", "agent_id": f"many-{n % agents}"}
            assert running.client.call("POST", "/api/v1/query", message).status == 200
        page = running.client.call("GET", "/metrics").body.decode()
        assert page.count("loadsplit_rule_hits_total{") <= MAX_LABEL_VALUES + agents  # each agent may have its `other`
        assert metric(running.client, "rule_hits_total") == ASKED  # none is lost: they are under `other`
        assert metric(running.client, "rule_hits_total", action="other") >= ASKED - MAX_LABEL_VALUES
        assert len(page) < 200_000
