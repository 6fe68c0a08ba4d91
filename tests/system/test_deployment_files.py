"""Dockerfile, compose file and .env.example agree with the settings, the roles' ports and the Nginx templates."""

from __future__ import annotations

import asyncio
import json
import os
import re
from asyncio.subprocess import DEVNULL
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings import KNOWN_NAMES

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
LLM_NAMES = {"OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file, anchors resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
    return found


def test_every_setting_is_explained() -> None:
    explained = set(re.findall(r"^#?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))
    assert explained >= KNOWN_NAMES | LLM_NAMES | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert explained >= set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))


def test_the_example_env_sets_nothing_by_itself() -> None:
    assert not re.findall(r"^[^#\n]", (ROOT / ".env.example").read_text(), re.M)


def test_compose_gives_only_known_settings(services: dict[str, Any]) -> None:
    for role in ("lightweight", "heavy", "worker"):
        names = {name for name in services[role]["environment"] if name.startswith("LOADSPLIT_")}
        assert names <= KNOWN_NAMES
        assert services[role]["environment"]["LOADSPLIT_HANDOFF"] == "accel"


def test_ports_agree_with_the_rendered_names(services: dict[str, Any]) -> None:
    prepare = services["prepare"]["command"]
    for role, port in (("lightweight", "8101"), ("heavy", "8201")):
        assert prepare[prepare.index(f"--{role}") + 1] == f"{role}:{port}"
        assert services[role]["environment"]["PORT"] == port
        assert f'"--port", "{port}"' in COMPOSE or f"--port {port}" in services[role]["command"][0]
        assert "container_name" not in services[role]


def test_workers_run_the_tasks_of_heavy(services: dict[str, Any]) -> None:
    heavy, worker = services["heavy"], services["worker"]
    assert "exec loadsplit worker --host 0.0.0.0 --port 8301 --insecure" in worker["command"][0]
    assert worker["environment"]["PORT"] == "8301"
    differing = {k for k in heavy["environment"] | worker["environment"] if heavy["environment"].get(k) != worker["environment"].get(k)}
    assert differing == {"PORT", "LOADSPLIT_ADMIN_PORT", "LOADSPLIT_TASKS_AT_ONCE"}
    assert (heavy["depends_on"], "ports" in worker) == (worker["depends_on"], False)


def test_what_is_published_is_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "nginx": ["${PUBLISH:-127.0.0.1:8080}:8080"],
        "heavy": [f"127.0.0.1::{services['heavy']['environment']['LOADSPLIT_ADMIN_PORT']}"],  # each replica at a port of its own
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_every_container_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp:mode=1777" in service["tmpfs"], name
        assert service["image"] == "loadsplit" or service["user"] not in ("root", "0"), name
        assert not any("docker.sock" in volume for volume in service.get("volumes", ())), name


def test_monitoring_is_a_profile_over_the_same_files_as_elsewhere(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if service.get("profiles") == ["monitoring"]} == {"prometheus", "grafana"}
    mounted = {v.split(":")[0] for name in ("prometheus", "grafana") for v in services[name]["volumes"] if v.startswith("./")}
    assert mounted == {"./deploy/prometheus", "./deploy/grafana/provisioning", "./deploy/grafana/dashboards"}
    assert all(any((ROOT / folder).rglob("*.*")) for folder in mounted)
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    ports = {names[0]: d["port"] for job in scraped for d in job["dns_sd_configs"] if (names := d["names"])}
    assert ports == {"lightweight": 8101, "heavy": int(services["heavy"]["environment"]["LOADSPLIT_ADMIN_PORT"]), "worker": 8301}
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/loadsplit.yaml").read_text())["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


async def test_the_images_check_asks_livez() -> None:
    said, asked = b"HTTP/1.1 200 OK\r\n\r\nok\n", []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(said)
        writer.close()

    (check,) = re.findall(r"HEALTHCHECK .*\\\n +CMD (\[.*\])\n", (ROOT / "Dockerfile").read_text())

    async def exit_code(port: int) -> int:
        process = await asyncio.create_subprocess_exec(
            *json.loads(check), env={"PATH": os.environ["PATH"], "PORT": str(port)}, stderr=DEVNULL
        )
        return await process.wait()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await exit_code(port) == 0
        said = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
        assert await exit_code(port) != 0
    assert asked == [b"GET /livez HTTP/1.0\r\n"] * 2
    assert await exit_code(port) != 0, "nobody listens"


def test_the_image_holds_every_package_and_runs_as_nobody_special() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for package in ("common", "lightweight", "heavy", "standalone", "loadtests", "nginx", "examples"):
        assert f"COPY {package} {package}\n" in dockerfile
        assert f"!{package}\n" in (ROOT / ".dockerignore").read_text()
    assert "p['optional-dependencies'].items() if name != 'load'" in dockerfile
    assert "USER 10001:10001" in dockerfile
    assert "/livez" in dockerfile
    assert "EXPOSE 8000 8101 8201 8202 8301\n" in dockerfile
