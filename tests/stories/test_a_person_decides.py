"""A tool marked `approval: true` runs only after a person has said yes: by the API, or by the user's plain word. On any replica, also
after every process was killed."""

from __future__ import annotations

from typing import Any

from tests.support.client import Client, said
from tests.support.running import Running
from tests.support.split import Split
from tests.support.waiting import wait_until_sync


def effects(business: Running) -> int:
    return int(business.client.call("GET", "/effects").json["total"])


def turn(client: Client, turn_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.call("GET", f"/api/v1/turns/{turn_id}").json
    return found


def decide(client: Client, turn_id: str, decision: str, **fields: Any) -> Any:
    return client.call("POST", f"/api/v1/turns/{turn_id}/approval", {"decision": decision, **fields})


def ended(client: Client, turn_id: str) -> dict[str, Any]:
    wait_until_sync(lambda: turn(client, turn_id)["state"] in ("done", "failed"), "the turn ends", 30)
    return turn(client, turn_id)


def test_the_stream_waits_and_goes_on(desks: Client, business: Running) -> None:
    before = effects(business)
    stream = desks.stream("refund it please", "approve-1", agent_id="cashier")
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == "awaiting_approval":
            break
    turn_id = seen[0].data["turn_id"]
    assert [(c["name"], c["arguments"]) for c in seen[-1].data["calls"]] == [("refund", {"order_id": "A1001"})]
    assert turn(desks, turn_id)["state"] == "awaiting_approval"
    assert effects(business) == before
    answer = decide(desks, turn_id, "approve", call_id=seen[-1].data["calls"][0]["call_id"], by="ada")
    assert answer.status == 202
    rest = list(stream)
    assert rest[-1].type == "complete"
    assert rest[-1].data["message"] == said([*seen, *rest]) == "I look it up.\n\nThank you for waiting."
    assert [e.id for e in [*seen, *rest]] == list(range(1, len(seen) + len(rest) + 1))
    assert [e.data["ok"] for e in rest if e.type == "tool_result"] == [True]
    assert effects(business) == before + 1


def test_a_plain_yes_does_it(desks: Client, business: Running) -> None:
    before = effects(business)
    asked = desks.ask("refund it please", "approve-2", agent_id="cashier").json
    assert asked["status"] == "queued"
    assert "refund" in asked["message"]
    assert effects(business) == before
    done = desks.ask("Yes!", "approve-2", agent_id="cashier").json
    assert (done["status"], done["turn_id"]) == ("success", asked["turn_id"])
    assert done["message"] == "I look it up.\n\nThank you for waiting."
    assert effects(business) == before + 1


def test_a_plain_no_stops_it(desks: Client, business: Running) -> None:
    before = effects(business)
    asked = desks.ask("refund it please", "approve-3", agent_id="cashier").json
    denied = desks.ask("no", "approve-3", agent_id="cashier").json
    assert denied["turn_id"] == asked["turn_id"]
    assert effects(business) == before
    results = [
        m["content"] for m in desks.call("GET", "/api/v1/session/approve-3?include=messages").json["messages"] if m["role"] == "tool"
    ]
    assert [r for r in results if "denied" in r]


def test_the_session_is_not_held_up(desks: Client, business: Running) -> None:
    before = effects(business)
    asked = desks.ask("refund it please", "approve-4", agent_id="cashier").json
    assert desks.ask("opening hours", "approve-4", agent_id="cashier").json["message"] == "We open at 9."
    assert desks.ask("tell me a story", "approve-4", agent_id="cashier").json["message"] == "Plain words."
    assert decide(desks, asked["turn_id"], "approve").status == 202
    assert ended(desks, asked["turn_id"])["result"]["status"] == "success"
    assert effects(business) == before + 1
    assert desks.ask("tell me a story", "approve-4", agent_id="cashier").json["message"] == "Plain words."


def test_an_action_that_the_llm_chose_directly(desks: Client, business: Running) -> None:
    before = effects(business)
    asked = desks.ask("pay A1001 back", "approve-5", agent_id="cashier").json
    assert (asked["status"], effects(business)) == ("queued", before)
    assert desks.ask("ok", "approve-5", agent_id="cashier").json["message"] == "That is settled."
    assert effects(business) == before + 1


def test_approved_while_a_human_has_the_session(desks: Client, business: Running) -> None:
    before = effects(business)
    asked = desks.ask("refund it please", "approve-10", agent_id="cashier").json
    assert desks.ask("talk to a human", "approve-10", agent_id="cashier").json["status"] == "transferred"
    assert decide(desks, asked["turn_id"], "approve", by="ada").status == 202
    assert ended(desks, asked["turn_id"])["result"]["message"] == "I look it up.\n\nThank you for waiting."
    assert effects(business) == before + 1
    state = desks.call("GET", "/api/v1/session/approve-10").json["workflow_state"]["status"]
    assert state == "transferred"


def test_deciding_twice(desks: Client, business: Running) -> None:
    asked = desks.ask("refund it please", "approve-6", agent_id="cashier").json
    before = effects(business)
    assert decide(desks, asked["turn_id"], "approve").status == 202
    assert decide(desks, asked["turn_id"], "approve").status == 202
    other = decide(desks, asked["turn_id"], "deny")
    assert (other.status, other.json["code"]) == (409, "invalid_request")
    ended(desks, asked["turn_id"])
    assert effects(business) == before + 1


def test_bad_decisions(desks: Client) -> None:
    asked = desks.ask("refund it please", "approve-7", agent_id="cashier").json
    assert decide(desks, asked["turn_id"], "maybe").json["field"] == "decision"
    assert decide(desks, asked["turn_id"], "approve", call_id="nothing").status == 404
    assert decide(desks, "t_0", "approve").status == 404
    plain = desks.ask("tell me a story", "approve-7b", agent_id="cashier").json
    assert decide(desks, plain["turn_id"], "approve").status == 409
    assert desks.call("POST", f"/api/v1/turns/{asked['turn_id']}/cancel").status == 202
    assert turn(desks, asked["turn_id"])["state"] == "cancelled"
    assert decide(desks, asked["turn_id"], "approve").status == 409


def test_after_every_process_was_killed(desks_split: Split, business: Running) -> None:
    client = desks_split.client
    before = effects(business)
    asked = client.ask("refund it please", "approve-8", agent_id="cashier").json
    for process in (desks_split.lightweight, *desks_split.heavy):
        process.kill()
    desks_split.heavy[1].start()
    other = desks_split.heavy[1].client
    assert turn(other, asked["turn_id"])["state"] == "awaiting_approval"
    assert effects(business) == before
    assert decide(other, asked["turn_id"], "approve", by="operator").status == 202
    result = ended(other, asked["turn_id"])["result"]
    assert (result["message"], effects(business)) == ("I look it up.\n\nThank you for waiting.", before + 1)


def test_a_decision_survives_the_node_that_took_it(desks_split: Split, business: Running) -> None:
    """Killed right after it has said 202: the other replica goes on."""
    before = effects(business)
    asked = desks_split.client.ask("refund it please", "approve-9", agent_id="cashier").json
    assert decide(desks_split.heavy[0].client, asked["turn_id"], "approve").status == 202
    desks_split.heavy[0].kill()
    other = desks_split.heavy[1].client
    assert ended(other, asked["turn_id"])["result"]["message"] == "I look it up.\n\nThank you for waiting."
    assert effects(business) == before + 1
