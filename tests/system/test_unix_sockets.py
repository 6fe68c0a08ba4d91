"""A tier behind Nginx over unix sockets: one address for clients, the port beside it for operators, and a dead replica is left out."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nginx.render import RenderSettings, render
from standalone.up import worker_user
from tests.support.client import Client
from tests.support.fronted import nginx_front
from tests.support.running import Running
from tests.support.services import free_port
from tests.support.waiting import wait_until_sync

RULE = {"flow_id": "hello", "trigger_patterns": ["hello"], "response_template": "Good day."}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose files belong to the group of Nginx's workers; not under pytest's own, which they cannot enter."""
    path = Path(tempfile.mkdtemp(prefix="loadsplit-uds-"))
    if user := worker_user():
        shutil.chown(path, group=user.split()[-1])
        path.chmod(0o2710)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def replica(role: str, index: int, folder: Path, tmp_path: Path) -> tuple[Running, str]:
    """One process of a tier, and its address for Nginx."""
    config, port, path = tmp_path / "workflow.json", free_port(), folder / f"{role}-{index}.sock"
    config.write_text(json.dumps({"agent_id": "shop", "flows": [RULE]}))
    arguments = [role, "--config", str(config), "--port", str(port), "--uds", str(path)]
    return Running(arguments, tmp_path, port=port, env={"LOADSPLIT_HANDOFF": "accel"}), f"unix:{path}"


def test_both_tiers_are_served_over_unix_sockets(folder: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        lightweight = [replica("lightweight", index, folder, tmp_path) for index in (1, 2)]
        heavy, heavy_at = replica("heavy", 1, folder, tmp_path)
        for running in (*(running for running, _ in lightweight), heavy):
            stack.enter_context(running)
        port = free_port()
        stack.enter_context(nginx_front(port, [at for _, at in lightweight], [heavy_at]))
        client = Client(f"http://127.0.0.1:{port}")

        assert client.ask("hello", "s-1").json["message"] == "Good day."
        assert client.call("GET", "/readyz").status == 200
        assert client.call("GET", "/api/v1/turns/unknown").json["code"] == "not_found"
        assert client.call("GET", "/metrics").status == 404
        assert b"loadsplit_requests_total" in heavy.client.call("GET", "/metrics").body  # at its port

        victim, victim_at = lightweight[0]
        victim.kill()
        assert stat.S_ISSOCK(os.stat(victim_at.removeprefix("unix:")).st_mode)  # nobody was left to remove it
        assert [client.ask("hello", f"s-{n}").status for n in range(10)] == [200] * 10
        victim.start()
        lightweight[1][0].kill()
        wait_until_sync(lambda: client.ask("hello", "s-2").status == 200, "Nginx has taken the one that is back")
        assert [client.ask("hello", f"s-{n}").status for n in range(10)] == [200] * 10
        assert victim.stop() == heavy.stop() == 0
        assert not Path(victim_at.removeprefix("unix:")).exists()


@pytest.mark.parametrize("address", ["unix:relative", "unix:/a b", "unix:/a;b", "unix:", 'unix:/a"b'])
def test_a_path_that_nginx_would_misread_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"lightweight: .* cannot stand in an Nginx file"):
        render(RenderSettings(lightweight=(address,), heavy=("127.0.0.1:8201",)))


def test_nginx_itself_listens_on_ports_only() -> None:
    with pytest.raises(ValueError, match="listen"):
        render(RenderSettings(lightweight=("unix:/run/a.sock",), heavy=("127.0.0.1:8201",), listen=("unix:/run/n.sock",)))
