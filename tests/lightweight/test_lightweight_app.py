"""The tier as a whole: its own pages, a real process, its settings, and what it says when it can't start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.contracts.access import Access, Key, digest_of, encode
from common.errors import ConfigInvalid
from common.hotstore import keys
from common.settings import SettingsError
from lightweight.__main__ import main
from lightweight.app import create_app
from lightweight.settings import LightweightSettings
from tests.lightweight.asking import SECRET, call, desk, lightweight_settings
from tests.lightweight.test_lightweight_query import SHOP
from tests.support.client import Client
from tests.support.services import free_port
from tests.support.waiting import wait_until, wait_until_sync


async def test_own_pages_carry_the_tiers_headers() -> None:
    async with desk(SHOP) as shop:
        for path in ("/livez", "/readyz", "/metrics", "/api/v1/health"):
            reply = await call(shop.app, "GET", path)
            assert reply.status == 200, path
            assert reply.headers["x-loadsplit-tier"] == "lightweight"
        health = (await call(shop.app, "GET", "/api/v1/health")).json
        assert (health["status"], health["tier"], health["sessions_count"]) == ("healthy", "lightweight", 0)
        assert health["config_hash"]
        assert health["checks"]["hotstore"]["ok"]
        assert b"# HELP loadsplit_requests_total" in (await call(shop.app, "GET", "/metrics")).body


def test_settings_name_what_is_wrong() -> None:
    assert LightweightSettings.load({"LOADSPLIT_HANDOFF": "accel", "LOADSPLIT_TICKET_SECRET": "x"}).handoff == "accel"
    with pytest.raises(SettingsError, match="LOADSPLIT_HANDOFF"):
        LightweightSettings.load({"LOADSPLIT_HANDOFF": "teleport", "LOADSPLIT_TICKET_SECRET": "x"})
    with pytest.raises(SettingsError, match="LOADSPLIT_HEAVY_URL"):
        LightweightSettings.load({"LOADSPLIT_HEAVY_URL": "heavy:80", "LOADSPLIT_TICKET_SECRET": "x"})


def test_a_config_is_needed_and_must_hold(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LOADSPLIT_CONFIG"):
        create_app(lightweight_settings())
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({**SHOP, "flows": [{"flow_id": "x", "trigger_patterns": ["(?=a)b"], "response_template": "x"}]}))
    with pytest.raises(ConfigInvalid, match="look-ahead"):
        create_app(lightweight_settings(config=str(bad)))


def test_keys_of_the_database_come_through_redis() -> None:
    with pytest.raises(SettingsError, match="LOADSPLIT_API_KEYS=db: needs LOADSPLIT_REDIS_URL"):
        create_app(lightweight_settings(api_keys=Path("db:")), workflows={})


def test_versions_of_the_config_centre_come_through_redis() -> None:
    with pytest.raises(SettingsError, match="LOADSPLIT_CONFIG=db: needs LOADSPLIT_REDIS_URL"):
        create_app(lightweight_settings(config="db:"))


async def test_keys_that_are_not_known_yet_are_no_401() -> None:
    """Asked for and not told: 503 for who has a key, and the tier says so of itself; then the keys that heavy shares."""
    async with desk(SHOP, api_keys=Path("db:")) as shop:
        mine = {"Authorization": "Bearer one"}
        assert (await shop.ask("opening hours")).status == 401
        unknown = await shop.ask("opening hours", headers=mine)
        assert (unknown.status, unknown.json["code"], unknown.headers["retry-after"]) == (503, "dependency_unavailable", "1")
        health = (await call(shop.app, "GET", "/api/v1/health")).json
        assert (health["status"], health["checks"]["keys"]["ok"]) == ("degraded", False)
        held = (Key("k1", "acme", frozenset({"query"}), digest_of(b"one")),)
        snapshot = encode(Access(3, True, held, {"acme": {"requests_per_minute": 2}}), SECRET.encode())
        await shop.hotstore.write_version(keys.ACCESS, 3, snapshot, 60)

        async def is_let_in() -> bool:
            return (await shop.ask("opening hours", headers=mine)).status == 200

        await wait_until(is_let_in, "the key is known", 2)
        assert await is_let_in()
        refused = await shop.ask("opening hours", headers=mine)
        assert (refused.status, refused.json["limit"], refused.headers["x-loadsplit-tier"]) == (429, "requests_per_minute", "lightweight")


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "LOADSPLIT_CONFIG is not set"),
        ({"LOADSPLIT_HANDOF": "accel"}, "LOADSPLIT_HANDOFF"),
        ({"LOADSPLIT_CONFIG": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_a_start_that_fails_is_one_line(
    environ: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["--port", str(free_port())]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[0]
    assert "Traceback" not in "".join(said)


def test_a_process_serves_and_drains(tmp_path: Path) -> None:
    config = tmp_path / "shop.json"
    config.write_text(json.dumps(SHOP))
    port = free_port()
    env = {**os.environ, "LOADSPLIT_CONFIG": str(config), "LOADSPLIT_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "lightweight", "--port", str(port)]
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stderr=out)
    client = Client(f"http://127.0.0.1:{port}")
    try:
        wait_until_sync(lambda: answers(client) or process.poll() is not None, "the process serves", 30)
        reply = client.ask("opening hours", "s-1")
        assert (reply.status, reply.json["message"]) == (200, 'We open at "9".')
        assert [e.type for e in client.stream("opening hours", "s-1")] == ["start", "route", "text", "complete"]
        assert client.call("GET", "/nope").json["code"] == "not_found"
    finally:
        process.terminate()
    assert process.wait(15) == 0


def answers(client: Client) -> bool:
    """Whether anything listens there yet."""
    try:
        return client.call("GET", "/readyz").status == 200
    except OSError:
        return False
