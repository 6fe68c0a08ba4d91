"""deploy/kubernetes: valid for the API server, closed where it can be, and in agreement with settings, ports and metrics of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from common.settings import KNOWN_NAMES
from common.telemetry.metrics import CATALOGUE
from common.web.middleware import FAREWELL_SECONDS, WATCHERS
from tests.support.kustomize import Document, build, containers, pod_spec

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in FOLDER.glob("overlays/*/kustomization.yaml"))
ROLES = {"lightweight": 8101, "heavy": 8201, "worker": 8301}
ADMIN = 8202
SECRET_NAMES = {"LOADSPLIT_TICKET_SECRET", "LOADSPLIT_REDIS_URL", "LOADSPLIT_DATABASE_URL", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"}
NOT_OF_THE_CORE = ("keda.sh/", "monitoring.coreos.com/")  # the schemas of these are their operators'


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Document]:
    """What a cluster would get from one overlay."""
    return build(FOLDER / "overlays" / request.param)


@pytest.fixture(scope="module")
def production() -> dict[tuple[str, str], Document]:
    """The overlay `production` by kind and name."""
    return {(d["kind"], d["metadata"]["name"]): d for d in build(FOLDER / "overlays" / "production")}


def seconds_to_leave(document: Document) -> int:
    return int(containers(document)[-1]["lifecycle"]["preStop"]["sleep"]["seconds"])


def test_every_file_belongs_to_an_overlay() -> None:
    used = {FOLDER / "secrets.example.yaml", FOLDER / "components" / "monitoring" / "adapter-values.yaml"}
    for path in FOLDER.rglob("kustomization.yaml"):
        used |= {path, *((path.parent / name).resolve() for name in yaml.safe_load(path.read_text()).get("resources", ()))}
    assert set(FOLDER.rglob("*.yaml")) <= used
    assert OVERLAYS == ["keda", "production", "trial"]


def test_the_api_server_would_take_it(overlay: list[Document]) -> None:
    for document in overlay:
        if not document["apiVersion"].startswith(NOT_OF_THE_CORE):
            kubernetes_validate.validate(document, "1.37", strict=True)
    names = [(d["kind"], d["metadata"]["name"]) for d in overlay]
    assert len(names) == len(set(names))


def test_every_pod_is_confined(overlay: list[Document]) -> None:
    pods = [d for d in overlay if pod_spec(d)]
    assert len(pods) >= 5
    for document in pods:
        spec, name = pod_spec(document), document["metadata"]["name"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, f"{name}: names such as LOADSPLIT_PORT would stop the start"
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["seccompProfile"]) == (True, {"type": "RuntimeDefault"}), (
            name
        )
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not [v for v in spec.get("volumes", ()) if "hostPath" in v]
        for container in containers(document):
            bounds = container["securityContext"]
            assert (bounds["readOnlyRootFilesystem"], bounds["allowPrivilegeEscalation"]) == (True, False), name
            assert bounds["capabilities"] == {"drop": ["ALL"]}, name
            assert bounds.get("runAsUser", spec["securityContext"].get("runAsUser")), name
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert ":" in container["image"], f"{name}: an image without a tag"


def test_the_user_is_the_images(production: dict[tuple[str, str], Document]) -> None:
    for role in (*ROLES, "migrate"):
        kind = "Job" if role == "migrate" else "Deployment"
        context = pod_spec(production[kind, role])["securityContext"]
        assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in (ROOT / "Dockerfile").read_text()


def test_ports_are_those_of_the_image_and_of_compose(production: dict[tuple[str, str], Document]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for role, port in ROLES.items():
        container = containers(production["Deployment", role])[0]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        assert container["args"] == [role, "--host", "0.0.0.0", "--port", str(port)]
        assert ports == {"http": port, **({"admin": ADMIN} if role == "heavy" else {})}
        assert compose[role]["environment"]["PORT"] == str(port)
        assert re.search(rf"^EXPOSE .*\b{port}\b", (ROOT / "Dockerfile").read_text(), re.M)
    env = {e["name"]: e["value"] for e in containers(production["Deployment", "heavy"])[0]["env"]}
    assert env == {"LOADSPLIT_ADMIN_PORT": str(ADMIN), "LOADSPLIT_TASKS_AT_ONCE": "0"}


def test_probes_ask_what_there_is(production: dict[tuple[str, str], Document]) -> None:
    for role in ROLES:
        container = containers(production["Deployment", role])[0]
        assert container["livenessProbe"]["httpGet"] == container["startupProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
        assert {"/livez", "/readyz"} <= WATCHERS
    nginx = containers(production["Deployment", "nginx"])[-1]
    assert {nginx[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")} == {"/livez"}


def test_a_pod_that_ends_has_time_for_the_longest_run(production: dict[tuple[str, str], Document]) -> None:
    settings = production["ConfigMap", "loadsplit-settings"]["data"]
    drain = float(settings["LOADSPLIT_DRAIN_SECONDS"])
    assert settings["LOADSPLIT_CONFIG"].startswith("/app/examples/")
    agent = json.loads((ROOT / settings["LOADSPLIT_CONFIG"].removeprefix("/app/") / "workflow.json").read_text())
    runs = [agent["limits"]["seconds"], *(skill.get("limits", {}).get("seconds", 0) for skill in agent["skills"])]
    assert drain > max(runs), "the longest run that the agent allows would be cut"
    grace = {}
    for name in (*ROLES, "nginx"):
        grace[name] = pod_spec(production["Deployment", name])["terminationGracePeriodSeconds"]
        assert grace[name] >= seconds_to_leave(production["Deployment", name]) + FAREWELL_SECONDS + drain + 10
    assert grace["nginx"] > grace["heavy"], "Nginx ends behind what it serves"


def test_nginx_forgets_a_pod_before_it_ends(production: dict[tuple[str, str], Document]) -> None:
    valid = int(re.findall(r"valid=(\d+)s", (ROOT / "nginx" / "render.py").read_text())[0])
    dns_cache = 5  # seconds: what CoreDNS lets a record of a headless service live
    for role in ("lightweight", "heavy"):
        assert seconds_to_leave(production["Deployment", role]) > valid + dns_cache
        assert production["Service", role]["spec"]["clusterIP"] == "None"


def test_nginx_is_rendered_for_the_names_of_the_services(production: dict[tuple[str, str], Document]) -> None:
    render, nginx = containers(production["Deployment", "nginx"])
    told = [*render["command"], *render["args"]]
    for role in ("lightweight", "heavy"):
        port = production["Service", role]["spec"]["ports"][0]["port"]
        assert (
            told[told.index(f"--{role}") + 1]
            == f"{role}.$(NAMESPACE).svc.$(CLUSTER_DOMAIN):{port}"
            == f"{role}.$(NAMESPACE).svc.$(CLUSTER_DOMAIN):{ROLES[role]}"
        )
    assert {"NAMESPACE", "CLUSTER_DOMAIN"} == {e["name"] for e in render["env"]}
    assert told[told.index("--resolver") + 1] == "auto"
    assert nginx["image"] == yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["nginx"]["image"]
    assert told[told.index("--out") + 1] == nginx["command"][nginx["command"].index("-p") + 1]
    assert told[told.index("--listen") + 1] == str(nginx["ports"][0]["containerPort"])


def test_settings_exist_and_secrets_are_not_among_them(overlay: list[Document]) -> None:
    (settings,) = [d["data"] for d in overlay if d["kind"] == "ConfigMap"]
    given = set(settings) | {e["name"] for d in overlay for c in containers(d) for e in c.get("env", ())}
    assert {n for n in given if n.startswith("LOADSPLIT_")} <= KNOWN_NAMES
    assert not given & SECRET_NAMES
    assert not [d for d in overlay if d["kind"] == "Secret"]
    assert settings["LOADSPLIT_API_KEYS"] == "db:"
    assert settings["LOADSPLIT_HANDOFF"] == "accel"
    assert not any("--insecure" in c.get("args", ()) for d in overlay for c in containers(d))


def test_the_template_of_the_secrets_holds_none() -> None:
    shared, heavy = yaml.safe_load_all((FOLDER / "secrets.example.yaml").read_text())
    assert {**shared["stringData"], **heavy["stringData"]} == dict.fromkeys(SECRET_NAMES, "")
    assert {shared["metadata"]["name"], heavy["metadata"]["name"]} == {"loadsplit-shared", "loadsplit-heavy"}
    for document in (shared, heavy):
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_the_rule_tier_gets_no_database_and_no_llm_key(production: dict[tuple[str, str], Document]) -> None:
    def secrets(kind: str, name: str) -> set[str]:
        return {s["secretRef"]["name"] for c in containers(production[kind, name]) for s in c.get("envFrom", ()) if "secretRef" in s}

    assert secrets("Deployment", "lightweight") == {"loadsplit-shared"}
    assert secrets("Deployment", "nginx") == set()
    for kind, name in (("Deployment", "heavy"), ("Deployment", "worker"), ("Job", "migrate")):
        assert secrets(kind, name) == {"loadsplit-shared", "loadsplit-heavy"}
    assert containers(production["Job", "migrate"])[0]["args"] == ["migrate"]


def test_each_tier_scales_by_itself(production: dict[tuple[str, str], Document]) -> None:
    def metrics(name: str) -> list[Any]:
        spec = production["HorizontalPodAutoscaler", name]["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
        assert "replicas" not in production["Deployment", name]["spec"], "it would fight the autoscaler at every apply"
        return [m.get("pods", m.get("resource"))["metric" if m["type"] == "Pods" else "name"] for m in spec["metrics"]]

    assert metrics("lightweight") == ["cpu"]
    assert metrics("heavy") == [{"name": "loadsplit_heavy_inflight_ratio"}, "cpu"]
    for name in (*ROLES, "nginx"):
        budget = production["PodDisruptionBudget", name]["spec"]
        labels = production["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"].items() <= labels.items()
        spread = pod_spec(production["Deployment", name])["topologySpreadConstraints"]
        assert {s["topologyKey"] for s in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        assert all(s["labelSelector"]["matchLabels"].items() <= labels.items() for s in spread)
        assert production["Deployment", name]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_keda_takes_the_place_of_heavys_autoscaler() -> None:
    documents = build(FOLDER / "overlays" / "keda")
    scaled = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "ScaledObject"}
    assert scaled.keys() == {"heavy", "worker"}
    assert {d["metadata"]["name"] for d in documents if d["kind"] == "HorizontalPodAutoscaler"} == {"lightweight", "nginx"}
    assert all(spec["scaleTargetRef"] == {"name": name} for name, spec in scaled.items())


def test_metrics_that_are_asked_for_exist(production: dict[tuple[str, str], Document]) -> None:
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    named = set(re.findall(r"\bloadsplit_(\w+)", text))
    assert {"heavy_inflight_ratio", "tasks_waiting"} <= named <= CATALOGUE.keys()
    for pod in ("lightweight", "heavy", "worker"):
        template = production["Deployment", pod]["spec"]["template"]
        ports = {p["containerPort"] for p in containers(production["Deployment", pod])[0]["ports"]}
        assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ADMIN if pod == "heavy" else ROLES[pod])
        assert int(template["metadata"]["annotations"]["prometheus.io/port"]) in ports
    for monitor, port in (("loadsplit", "http"), ("loadsplit-heavy", "admin")):
        (endpoint,) = production["PodMonitor", monitor]["spec"]["podMetricsEndpoints"]
        assert (endpoint["port"], endpoint["path"]) == (port, "/metrics")
        assert endpoint["relabelings"][0]["replacement"] == "loadsplit-$1", "the jobs of deploy/prometheus/prometheus.yml"
