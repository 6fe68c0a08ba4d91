"""Traces against a collector: ids, parents, times, sampling, what is struck out; and what a wrong environment is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from common.settings import SettingsError
from common.telemetry.traces import open_tracing
from common.telemetry.tracing import NO_SPAN, NO_TRACING, checked_parent, current_span, work_under
from tests.support.collector import Collector

RID = "0123456789abcdef0123456789abcdef"
PARENT = f"00-{RID[::-1]}-00f067aa0ba902b7-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def environ(collector: Collector, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **more}


async def test_a_trace_reaches_the_collector(collector: Collector) -> None:
    tracing = open_tracing(environ(collector, OTEL_EXPORTER_OTLP_HEADERS="x-key=abc"), "heavy")
    span = tracing.begin("POST /api/v1/query", request_id=RID, kind="server")
    span.set({"a": 1, "none": None})
    span.child("chat m", began=1000.0, seconds=1.5, error="timeout", attributes={"gen_ai.usage.input_tokens": 7})
    inner = tracing.begin("invoke_agent shop", parent=span.traceparent)
    inner.end()
    span.end()
    span.end(error="late")
    await tracing.aclose()
    found = {s.name: s for s in collector.spans}
    assert len(collector.spans) == 3
    outer, chat, agent = found["POST /api/v1/query"], found["chat m"], found["invoke_agent shop"]
    assert (outer.trace_id, outer.parent_id, outer.service, outer.failed, outer.attributes) == (RID, "", "loadsplit-heavy", False, {"a": 1})
    assert {chat.parent_id, agent.parent_id} == {outer.span_id}
    assert (chat.began, chat.ended, chat.failed) == (1000.0, 1001.5, True)
    assert chat.attributes == {"gen_ai.usage.input_tokens": 7, "error.type": "timeout"}
    assert span.traceparent.startswith(f"00-{RID}-{outer.span_id}-")
    assert collector.headers[0]["x-key"] == "abc"


async def test_a_caller_may_bring_its_own_trace(collector: Collector) -> None:
    tracing = open_tracing(environ(collector), "heavy")
    tracing.begin("a", parent=PARENT, request_id=RID).end()
    tracing.begin("b", parent="nonsense", request_id="ticket-7").end()
    tracing.begin("c", parent="nonsense", request_id="ticket-7").end()
    await tracing.aclose()
    a, b, c = collector.spans
    assert (a.trace_id, a.parent_id) == (RID[::-1], "00f067aa0ba902b7")
    assert b.trace_id == c.trace_id != RID


async def test_nothing_that_must_not_be_seen_is_sent(collector: Collector) -> None:
    tracing = open_tracing(environ(collector), "heavy")
    span = tracing.begin("GET ann@example.com")
    span.set({"session": "ann@example.com", "api_key": "key-of-ann", "said": "Bearer abcdef123456"})
    span.child("sk-abcdefghijk", began=1.0, seconds=0.0, attributes={"card": "4111 1111 1111 1111"})
    span.end()
    await tracing.aclose()
    sent = b"".join(collector.bodies)
    assert not any(secret in sent for secret in (b"ann@example.com", b"key-of-ann", b"abcdef123456", b"1111 1111", b"fghijk"))
    assert b"<email>" in sent


@pytest.mark.parametrize(
    ("sampler", "least", "most"), [("always_off", 0, 0), ("traceidratio", 60, 140), ("parentbased_always_on", 200, 200)]
)
async def test_a_share_is_sampled(collector: Collector, sampler: str, least: int, most: int) -> None:
    tracing = open_tracing(environ(collector, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG="0.5"), "heavy")
    for _ in range(200):
        span = tracing.begin("a")
        span.child("b", began=1.0, seconds=1.0)
        span.end()
    await tracing.aclose()
    assert least <= len([s for s in collector.spans if s.name == "a"]) <= most
    assert len(collector.spans) % 2 == 0


async def test_what_a_parent_was_not_sampled_for_is_not_sent(collector: Collector) -> None:
    tracing = open_tracing(environ(collector), "heavy")
    span = tracing.begin("a", parent=PARENT[:-2] + "00")
    span.end()
    await tracing.aclose()
    assert collector.spans == []
    assert span.traceparent.endswith("-00")


async def test_tasks_work_under_their_span() -> None:
    async def work() -> bool:
        return current_span() is span

    tracing = open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "heavy")
    span = tracing.begin("a", parent=PARENT[:-2] + "00")
    work_under(span)
    assert await asyncio.create_task(work())
    await tracing.aclose()


async def test_a_collector_that_is_away_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.telemetry.otel.LEAVE_SECONDS", 0.3)
    tracing = open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "heavy")
    began = time.monotonic()
    tracing.begin("a").end()
    assert time.monotonic() - began < 1
    await tracing.aclose()
    assert time.monotonic() - began < 5


def test_without_an_endpoint_there_are_none() -> None:
    for env in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}):
        assert open_tracing(env, "heavy") is NO_TRACING
    span = NO_TRACING.begin("a", request_id=RID)
    span.child("b", began=1.0, seconds=1.0)
    assert (span, span.traceparent, current_span()) == (NO_SPAN, "", NO_SPAN)


def test_the_sdk_is_imported_only_for_traces() -> None:
    code = "import sys, lightweight.__main__, heavy.__main__; print('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be an http"),
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER must be one of always_on"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG must be a share"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "soon"}, "OTEL_BSP_SCHEDULE_DELAY must be a number"),
    ],
)
def test_a_wrong_environment_is_told(env: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **env}, "heavy")


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.telemetry.traces._installed", lambda: False)
    with pytest.raises(SettingsError, match=r"traces need the extra `otel`: pip install 'loadsplit\[otel\]'"):
        open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "heavy")


@pytest.mark.parametrize("value", [None, b"", b"x", PARENT.upper(), PARENT.replace(RID[::-1], "0" * 32), PARENT + "-more", 5])
def test_what_is_no_parent(value: object) -> None:
    assert checked_parent(value) == ""
    assert checked_parent(PARENT.encode()) == PARENT
