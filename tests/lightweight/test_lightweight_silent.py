"""Rules whose flows answer nothing, and rules whose actions only heavy can run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.contracts import gate, journal
from common.hotstore import keys
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from tests.lightweight.asking import desk
from tests.support.recording_api import RecordingApi


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[HotStore]:
    """Each kind of hot store; `desk` closes it."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_database")
    return open_hotstore(url)


@pytest.fixture
async def api() -> AsyncIterator[RecordingApi]:
    async with RecordingApi({"/empty": None, "/fail": 500}) as api:
        yield api


def shop(url: str, **fields: Any) -> dict[str, Any]:
    call = {"method": "POST", "body": {"said": "{raw_input}"}, "retries": 0}
    return {
        "agent_id": "shop",
        "flows": [
            {"flow_id": "hours", "trigger_patterns": ["hours"], "response_template": "We open at 9."},
            {"flow_id": "ignore", "trigger_patterns": ["^ok$"], "silent": True},
            {"flow_id": "log", "trigger_patterns": ["log"], "silent": True, "endpoint": {"url": url + "/log", **call}},
            {"flow_id": "void", "trigger_patterns": ["void"], "silent": True, "endpoint": {"url": url + "/empty", **call}},
            {"flow_id": "broken", "trigger_patterns": ["broken"], "silent": True, "endpoint": {"url": url + "/fail", **call}},
            {
                "flow_id": "excused",
                "trigger_patterns": ["excuse"],
                "silent": True,
                "endpoint": {"url": url + "/fail", **call},
                "on_error": "Not now.",
            },
            {"flow_id": "who", "trigger_patterns": ["who am i"], "response_template": "You are {profile.name}."},
        ],
        "tools": [
            {
                "name": "refund",
                "endpoint": {"url": url + "/refund", **call},
                "trigger_patterns": ["refund (?P<order>\\w+)"],
                "approval": True,
            }
        ],
        **fields,
    }


async def test_a_silent_flow_is_called_and_answers_nothing(store: HotStore, api: RecordingApi) -> None:
    async with desk(shop(api.url), hotstore=store) as it:
        for message, target in (("ok", "ignore"), ("log this", "log"), ("into the void", "void")):
            reply = (await it.ask(message)).json
            assert (reply["message"], reply["status"], reply["route"]["action_target"]) == ("", "silent", target)
            entry = journal.decode((await store.pending(keys.pending("default", "s-1")))[reply["turn_id"]].entry)
            assert entry.reply == reply
        assert [(a.path, a.body) for a in api.asked] == [("/log", {"said": "log this"}), ("/empty", {"said": "into the void"})]
        assert it.handoff.tickets == []


async def test_a_silent_turn_streams_no_text(api: RecordingApi) -> None:
    async with desk(shop(api.url)) as it:
        events = (await it.stream("log this")).events
        assert [(number, kind) for number, kind, _ in events] == [(1, "start"), (2, "route"), (3, "complete")]
        assert (events[2][2]["status"], events[2][2]["message"]) == ("silent", "")


async def test_a_silent_flow_that_fails_is_not_silent(api: RecordingApi) -> None:
    async with desk(shop(api.url)) as it:
        assert (await it.ask("broken")).status == 299
        assert (it.plan.action_target, it.plan.escalated) == ("broken", "flow broken: the API answered 500")
        reply = (await it.ask("excuse me")).json
        assert (reply["message"], reply["status"]) == ("Not now.", "success")


async def test_the_greeting_waits_for_an_answer(store: HotStore, api: RecordingApi) -> None:
    async with desk(shop(api.url, greeting="Welcome!"), hotstore=store) as it:
        assert (await it.ask("ok")).json["message"] == ""
        assert (await it.ask("log this")).json["message"] == ""
        assert await store.get(keys.gate("default", "s-1")) is None
        assert (await it.ask("your hours")).json["message"] == "Welcome!\n\nWe open at 9."


@pytest.mark.parametrize("status", ["transferred", "closed"])
async def test_silent_rules_too_stop_at_a_closed_gate(store: HotStore, api: RecordingApi, status: str) -> None:
    async with desk(shop(api.url), hotstore=store) as it:
        await store.set(keys.gate("default", "s-1"), gate.write(gate.of_status(status, "")), 60)
        assert [(await it.ask(message)).status for message in ("ok", "log this")] == [299, 299]
        assert (api.asked, it.plan.action_target) == ([], "log")


async def test_what_needs_a_person_or_the_profile_is_heavys(api: RecordingApi) -> None:
    async with desk(shop(api.url)) as it:
        assert (await it.ask("refund A7")).status == 299
        assert (it.plan.action_type, it.plan.action_target, it.plan.groups) == ("tool", "refund", {"order": "A7"})
        assert (await it.ask("who am I?")).status == 299
        assert (it.plan.action_type, it.plan.action_target, it.plan.escalated) == ("flow", "who", None)
        assert api.asked == []
