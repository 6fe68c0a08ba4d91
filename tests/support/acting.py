"""A shop's workflow over a real business API on loopback and a scripted model, and what came of acting in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from aiohttp import web

from common.contracts.query import Usage
from common.endpoints.call import HttpCaller
from common.workflow.schema import Workflow
from heavy.actions.compiled import compile_workflow
from heavy.actions.context import ActionContext, ActionResult, ActionStep
from heavy.actions.dispatch import act
from heavy.agent.scripted import Script, ScriptedGateway
from heavy.agent.steps import Delta, Step
from heavy.intents.matcher import Intent
from heavy.llm.types import Message

NO_SOP = {"sop": ""}  # nothing is decided again after an answer in finished words
ORDER_ID = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}


def assert_valid(messages: Sequence[Message]) -> None:
    """Every tool call is answered exactly once, before anything else is said."""
    open_calls: set[str | None] = set()
    for m in messages:
        if m.role == "tool":
            assert m.tool_call_id in open_calls
            open_calls.remove(m.tool_call_id)
        else:
            assert not open_calls
            open_calls = {c.id for c in m.tool_calls}
            assert len(open_calls) == len(m.tool_calls)
    assert not open_calls


class Business:
    """Counts what it was asked; /fail fails, /empty has nothing."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.seen.append(
            {"path": request.path, "body": body, "key": request.headers.get("Idempotency-Key"), "bot": request.headers.get("X-Bot")}
        )
        if request.path == "/fail":
            return web.Response(status=500, text="secret stack trace")
        if request.path == "/empty":
            return web.json_response([])
        return web.json_response({"status": "shipped", "path": request.path})


def document(port: int) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}"
    return {
        "agent_id": "shop",
        "basic_settings": {"name": "Shop desk", "chatbot_id": "cb-77", "tone": "brief"},
        "sop": ["Understand.", "Act."],
        "constraints": "Never promise a date.",
        "fallback_message": "Sorry, I could not do that.",
        "tools": [
            {
                "name": "get_order",
                "description": "Look an order up",
                "parameters": ORDER_ID,
                "endpoint": {"url": url + "/orders/{order_id}", "headers": {"X-Bot": "{chatbotId}"}},
            },
            {
                "name": "refund",
                "description": "Refund",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "order_id": {"type": "string"},
                        "message": {"type": "string"},
                        "user_id": {"type": "string"},
                        "shop": {"type": "string"},
                    },
                },
                "endpoint": {
                    "url": url + "/refunds",
                    "method": "POST",
                    "body": {
                        "order": "{order_id}",
                        "message": "{message}",
                        "session": "{session_id}",
                        "user": "{user_id}",
                        "shop": "{shop}",
                    },
                },
            },
            {
                "name": "stock",
                "parameters": {"type": "object", "properties": {"item": {"type": "string"}}},
                "endpoint": {"url": url + "/stock"},
                "response_template": "Stock of {item}: {result.status}",
            },
            {"name": "broken", "endpoint": {"url": url + "/fail", "retries": 0}, "response_template": "never"},
            {"name": "erase", "endpoint": {"url": url + "/erase", "method": "POST"}, "approval": True},
        ],
        "skills": [
            {
                "skill_id": "refund_desk",
                "system_prompt": "SKILLMARK",
                "tools": ["get_order", "refund", "erase", "gone"],
                "max_iterations": 8,
            },
            {
                "skill_id": "mood",
                "execution_mode": "function",
                "endpoint": {"url": url + "/mood", "method": "POST", "body": {"text": "{input}"}},
                "response_template": "Mood: {result.status}",
            },
        ],
        "flows": [
            {"flow_id": "hours", "response_template": "We open at 9."},
            {"flow_id": "log", "silent": True, "endpoint": {"url": url + "/log", "method": "POST", "body": {"said": "{raw_input}"}}},
            {
                "flow_id": "status",
                "endpoint": {"url": url + "/orders/{order_id}"},
                "response_template": "Order {order_id} is {result.status}.",
            },
            {"flow_id": "failing", "endpoint": {"url": url + "/fail", "retries": 0}},
            {"flow_id": "excused", "endpoint": {"url": url + "/fail", "retries": 0}, "on_error": "Not today."},
            {"flow_id": "nothing", "endpoint": {"url": url + "/empty"}},
        ],
        "system_actions": [
            {"action_id": "human", "handler": "handoff", "response_template": "A person takes over."},
            {"action_id": "bye", "handler": "close"},
            {"action_id": "note", "handler": "update_profile", "silent": True},
            {"action_id": "remember", "handler": "update_profile", "response_template": "Noted."},
        ],
    }


class World:
    """An action context over the business API, and what came of acting in it."""

    def __init__(self, business: Business, caller: HttpCaller, script: Script, **changes: Any) -> None:
        message = changes.pop("message", "hello")
        self.matched_by = changes.pop("matched_by", "llm")
        workflow = Workflow.model_validate({**document(business.port), **changes.pop("doc", {})})
        self.business = business
        self.gateway = ScriptedGateway(script)
        self.ctx = ActionContext(
            compiled=compile_workflow(workflow, {}),
            gateway=self.gateway,
            caller=caller,
            message=message,
            turn_id="t_1",
            session_id="s-1",
            user_id="u-1",
            transcript=[Message("user", message)],
        )
        self.ctx = replace(self.ctx, **changes)
        self.items: list[ActionStep] = []
        self.usage = Usage()
        self.committed: list[Message] = []

    @property
    def transcript(self) -> list[Message]:
        """All messages of the turn, as the caller has committed them."""
        return [*self.ctx.committed, *self.committed]

    async def act(self, kind: Any, target: str | None = None, **parameters: Any) -> ActionResult:
        async with aclosing(act(self.ctx, Intent(kind, target, parameters, self.matched_by))) as steps:
            self.items = [step async for step in steps]
        result = self.items[-1]
        assert isinstance(result, ActionResult)
        assert [i for i in self.items if isinstance(i, ActionResult)] == [result]
        if len(self.ctx.committed) == 1:
            assert "".join(i.text for i in self.items if isinstance(i, Delta)) == result.text
        for item in self.items:
            if isinstance(item, Step | ActionResult):
                self.usage.add(item.usage)
                self.committed += item.messages
        if result.reason != "awaiting_approval":
            assert_valid(self.transcript)
        return result
