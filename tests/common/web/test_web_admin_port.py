"""What is an operator's is found on the admin port only, and there is little else."""

from __future__ import annotations

from typing import Any

import pytest

from common.web.admin_port import AdminPort
from common.web.asgi import Receive, Scope, Send, send_json
from common.web.listening import CannotServe, bind_admin
from tests.common.web.calls import Sent, body_of, scope
from tests.support.services import free_port

OPERATORS = ("/admin", "/admin/", "/admin/api/keys", "/admin/sessions", "/metrics")
PUBLIC = ("/", "/api/v1/query", "/v1/models", "/docs", "/assets/app.js", "/administrator", "/metrics/more")
HEALTH = ("/livez", "/readyz", "/api/v1/health")
API, ADMIN = 8201, 8202


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, 200, b"{}")


async def asked(path: str, port: int, kind: str = "http") -> Sent:
    sent = Sent()
    given: dict[str, Any] = {**scope("GET", path), "type": kind, "server": ("127.0.0.1", port)}
    await AdminPort(answers, ADMIN)(given, body_of(), sent)
    return sent


@pytest.mark.parametrize("path", OPERATORS)
async def test_operators_have_their_port(path: str) -> None:
    assert (await asked(path, ADMIN)).status == 200
    refused = await asked(path, API)
    assert (refused.status, refused.json["code"]) == (404, "not_found")
    assert refused.headers["x-request-id"] == refused.json["request_id"]


@pytest.mark.parametrize("path", PUBLIC)
async def test_the_api_is_not_on_it(path: str) -> None:
    assert (await asked(path, API)).status == 200
    assert (await asked(path, ADMIN)).status == 404


@pytest.mark.parametrize("path", HEALTH)
async def test_health_is_told_on_both(path: str) -> None:
    assert [(await asked(path, port)).status for port in (API, ADMIN)] == [200, 200]


async def test_a_socket_is_refused_in_its_own_words() -> None:
    assert (await asked("/api/v1/session/s-1/ws", ADMIN, "websocket")).messages == [{"type": "websocket.close", "code": 1008, "reason": ""}]


def test_the_port_of_the_api_is_no_admin_port() -> None:
    with pytest.raises(CannotServe, match="LOADSPLIT_ADMIN_PORT: 8201 is the port of the API"), bind_admin("127.0.0.1", 8201, 8201):
        pass


def test_a_port_in_use_is_named_with_its_setting() -> None:
    port = free_port()
    with bind_admin("127.0.0.1", port, API) as first:
        assert first is not None
        first.listen()
        with (
            pytest.raises(CannotServe, match=f"port {port} .* or choose another with LOADSPLIT_ADMIN_PORT"),
            bind_admin("127.0.0.1", port, API),
        ):
            pass


def test_without_a_setting_there_is_none() -> None:
    with bind_admin("127.0.0.1", None, API) as none:
        assert none is None
