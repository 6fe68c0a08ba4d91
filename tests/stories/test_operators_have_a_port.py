"""With LOADSPLIT_ADMIN_PORT operators have a port of their own: the one that clients reach knows nothing of /admin and /metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.running import Running, role, serve
from tests.support.services import free_port

RULE = {"flow_id": "hello", "trigger_patterns": ["hello"], "response_template": "Good day."}
ASK = {"message": "hello", "session_id": "s-1"}


@pytest.mark.parametrize("start", [serve, lambda *given: role("heavy", *given)], ids=["serve", "heavy"])
def test_operators_have_a_port(tmp_path: Path, start: Callable[..., Running]) -> None:
    config, port = tmp_path / "workflow.json", free_port()
    config.write_text(json.dumps({"agent_id": "shop", "flows": [RULE]}))
    with start(config, tmp_path, {"LOADSPLIT_ADMIN_PORT": str(port)}) as server:
        operators = Client(f"http://127.0.0.1:{port}")

        assert server.client.call("GET", "/api/v1/tasks").status == 200
        assert server.client.call("GET", "/admin/api/keys").status == 404
        assert server.client.call("GET", "/metrics").status == 404

        assert operators.call("GET", "/admin/api/keys").json == {"keys": []}
        assert b"loadsplit_requests_total" in operators.call("GET", "/metrics").body
        assert operators.call("GET", "/readyz").status == 200
        assert operators.call("POST", "/api/v1/query", ASK).status == 404
        assert operators.call("GET", "/").status == 404
    assert server.process.returncode == 0
