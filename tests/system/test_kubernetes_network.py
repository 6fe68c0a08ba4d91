"""The network policies of deploy/kubernetes, read as a network plugin reads them: who reaches whom, and what gets out."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from tests.support.kustomize import Document, build

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
POLICIES = [d for d in build(FOLDER / "overlays" / "production") if d["kind"] == "NetworkPolicy"]
PODS = ("nginx", "lightweight", "heavy", "worker", "migrate")
PORTS = (53, 443, 80, 5432, 6379, 8080, 8101, 8201, 8202, 8301)
HERE = "loadsplit"


def labels_of(pod: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": pod, "app.kubernetes.io/part-of": "loadsplit"}


def selected(selector: Document, labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", ())
    assert all(e["operator"] == "In" for e in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(labels.get(e["key"]) in e["values"] for e in expressions)


def of_pod(peer: Document, pod: str) -> bool:
    """Whether a peer is that pod of our namespace."""
    if "ipBlock" in peer or "namespaceSelector" in peer:
        return False
    return selected(peer["podSelector"], labels_of(pod))


def rules(pod: str, way: str) -> list[Document]:
    """The rules of one direction that hold for a pod: with at least one policy, what no rule allows is refused."""
    mine = [p["spec"] for p in POLICIES if selected(p["spec"]["podSelector"], labels_of(pod)) and way in p["spec"]["policyTypes"]]
    assert mine, f"{pod} is not closed for {way}"
    return [rule for spec in mine for rule in spec.get(way.lower(), ())]


def on_port(rule: Document, port: int) -> bool:
    return "ports" not in rule or port in [p["port"] for p in rule["ports"]]


def may_call(source: str, target: str, port: int) -> bool:
    out = any(on_port(r, port) and any(of_pod(peer, target) for peer in r["to"]) for r in rules(source, "Egress"))
    back = any(on_port(r, port) and ("from" not in r or any(of_pod(peer, source) for peer in r["from"])) for r in rules(target, "Ingress"))
    return out and back


def may_reach(pod: str, address: str, port: int) -> bool:
    def covers(block: Any) -> bool:
        at = ipaddress.ip_address(address)
        return at in ipaddress.ip_network(block["cidr"]) and not any(at in ipaddress.ip_network(e) for e in block.get("except", ()))

    return any(on_port(r, port) and any("ipBlock" in peer and covers(peer["ipBlock"]) for peer in r["to"]) for r in rules(pod, "Egress"))


def namespaces_let_in(pod: str, port: int) -> set[str]:
    peers = [peer for r in rules(pod, "Ingress") if on_port(r, port) for peer in r.get("from", ()) if "namespaceSelector" in peer]
    return {peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers}


def test_every_pod_is_closed_in_both_directions() -> None:
    (deny,) = [p["spec"] for p in POLICIES if p["metadata"]["name"] == "deny-all"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert {p["metadata"]["namespace"] for p in POLICIES} == {HERE}


def test_only_these_calls_are_possible_inside() -> None:
    calls = {(a, b, port) for a in PODS for b in PODS for port in PORTS if may_call(a, b, port)}
    assert calls == {("nginx", "lightweight", 8101), ("nginx", "heavy", 8201), ("lightweight", "heavy", 8201)}


def test_only_prometheus_reads_metrics_and_nobody_reaches_admin_through_nginx() -> None:
    scraped = {"lightweight": 8101, "heavy": 8202, "worker": 8301}
    assert {(pod, port) for pod in PODS for port in PORTS if namespaces_let_in(pod, port)} == set(scraped.items())
    assert all(namespaces_let_in(pod, port) == {"monitoring"} for pod, port in scraped.items())


@pytest.mark.parametrize("pod", ["heavy", "worker", "migrate"])
def test_the_heavy_tier_reaches_its_stores_and_the_providers(pod: str) -> None:
    assert may_reach(pod, "10.1.2.3", 5432)
    assert may_reach(pod, "192.168.7.7", 6379)
    assert may_reach(pod, "8.8.8.8", 443)
    assert may_reach(pod, "2001:4860:4860::8888", 443)
    for address in ("169.254.169.254", "10.1.2.3", "127.0.0.1", "100.100.100.200", "fd00:ec2::254", "fe80::1"):
        assert not may_reach(pod, address, 443), address
        assert not may_reach(pod, address, 80), address
    assert not may_reach(pod, "8.8.8.8", 80)
    assert not may_reach(pod, "8.8.8.8", 5432)


def test_the_rule_tier_reaches_redis_and_no_database() -> None:
    assert may_reach("lightweight", "10.1.2.3", 6379)
    assert not may_reach("lightweight", "10.1.2.3", 5432)
    assert not may_reach("lightweight", "8.8.8.8", 443)


def test_nginx_reaches_the_tiers_and_dns_only() -> None:
    assert not any(may_reach("nginx", address, port) for address in ("10.1.2.3", "8.8.8.8", "169.254.169.254") for port in PORTS)


@pytest.mark.parametrize("pod", PODS)
def test_names_are_looked_up_in_the_cluster(pod: str) -> None:
    dns = [r for r in rules(pod, "Egress") if on_port(r, 53) and r.get("ports")]
    assert [peer["podSelector"]["matchLabels"] for r in dns for peer in r["to"]] == [{"k8s-app": "kube-dns"}]


@pytest.mark.parametrize("pod", ["lightweight", "heavy", "worker"])
def test_business_apis_are_in_namespaces_that_say_so(pod: str) -> None:
    labels = [
        peer.get("namespaceSelector", {}).get("matchLabels", {}) for r in rules(pod, "Egress") if "ports" not in r for peer in r["to"]
    ]
    assert labels == [{"loadsplit.dev/business-api": "true"}]
