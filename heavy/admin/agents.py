"""Agents: what is in force, versions, the editor that lints while somebody types, canary, rollback, and which messages a version moves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.responses import Response

from common.contracts.query import check_id
from common.errors import ConfigInvalid, Conflict, InvalidRequest, NotFound
from heavy.admin.frame import Visit
from heavy.routes.configs import activate, diff, get_agent, get_comparison, get_version, list_agents, list_versions, put_config, rollback

SHOWN = 50
NEW = '{\n "basic_settings": {"name": "A new agent"},\n "flows": []\n}\n'
TYPES = {"json": "application/json", "yaml": "application/yaml"}


async def agents(visit: Visit) -> Response:
    """Every agent, and where it comes from."""
    return visit.page("agents.html", found=await visit.ask(list_agents, own=True), may=_may(visit))


async def agent(visit: Visit) -> Response:
    """One agent: versions, what is in force, how a canary does, and the last changes."""
    agent_id = _agent_id(visit)
    listed = await visit.ask(list_agents, own=True)
    if listed["source"] != "db":
        of_file = next((one for one in listed["agents"] if one["agent_id"] == agent_id), None)
        if of_file is None:
            raise NotFound("there is no such agent")
        return visit.page("agent_of_file.html", found=of_file)
    path = {"agent_id": agent_id}
    found, stored, compared = await asyncio.gather(
        visit.ask(get_agent, own=True, path=path),
        visit.ask(list_versions, own=True, path=path, query={"limit": SHOWN}),
        visit.ask(get_comparison, own=True, path=path),
    )
    return visit.page("agent.html", found=found, versions=stored["versions"], comparison=compared, may=_may(visit))


async def comparison(visit: Visit) -> Response:
    """How the active version and the canary do now."""
    found = await visit.ask(get_comparison, own=True, path={"agent_id": _agent_id(visit)})
    return visit.page("agent_comparison.html", comparison=found, agent_id=_agent_id(visit))


async def new(visit: Visit) -> Response:
    """Leads to the editor of the agent that ?agent_id= names."""
    return visit.go(f"/agents/{check_id(visit.query.get('agent_id', ''), 'agent_id')}/edit")


async def editor(visit: Visit) -> Response:
    """The text of a version to change; the active one unless ?version= says otherwise, an empty agent where there is none."""
    agent_id = _agent_id(visit)
    try:
        found = await visit.ask(get_agent, own=True, path={"agent_id": agent_id})
        version = visit.query.get("version") or found["active"] or found["version_count"]
        of = await visit.ask(get_version, own=True, path={"agent_id": agent_id, "version": str(version)})
        text, form = of["text"], of["form"]
    except NotFound:
        version, text, form = None, NEW, "json"
    return visit.page("editor.html", agent_id=agent_id, version=version, text=text, form=form, checked=None, refused=None, note="")


async def lint(visit: Visit) -> Response:
    """What there is to say of the text in the editor; nothing is stored."""
    return visit.page("editor_checked.html", checked=await _examined(visit))


async def push(visit: Visit) -> Response:
    """Stores the text as a version; one that does not hold comes back with every problem."""
    agent_id, form = _agent_id(visit), visit.form
    if form.get("action") == "check":
        return await _edited(visit, None)
    try:
        await visit.change(
            "config.push",
            put_config,
            own=True,
            path={"agent_id": agent_id},
            query={"note": form.get("note")},
            body=_text(visit),
            content_type=_content_type(visit),
        )
    except (ConfigInvalid, Conflict) as e:
        return await _edited(visit, e)
    return visit.go(f"/agents/{agent_id}", "pushed")


async def act(visit: Visit) -> Response:
    """Brings a version into force, for all sessions or a share, or goes back."""
    agent_id, form = _agent_id(visit), visit.form
    path, action, note = {"agent_id": agent_id}, form.get("action"), form.get("note", "")
    if action == "rollback":
        await visit.change("config.rollback", rollback, own=True, path=path, body={"note": note})
        return visit.go(f"/agents/{agent_id}", "rolled-back")
    version = form.get("version", "")
    body: dict[str, Any] = {"version": int(version) if version.isdecimal() and len(version) < 10 else 0, "note": note}
    if action == "canary":
        body["canary_percent"] = _percent(form.get("percent", ""))
    elif action != "activate":
        raise InvalidRequest("action must be activate, canary or rollback", field="action")
    told: dict[str, Any] = {name: body[name] for name in ("version", "canary_percent") if name in body}
    await visit.change(f"config.{action}", activate, own=True, path=path, body=body, told=told)
    return visit.go(f"/agents/{agent_id}", "canary" if action == "canary" else "activated")


async def version(visit: Visit) -> Response:
    """One version with its text, and which of the last messages it would route otherwise than the active one."""
    agent_id, number = _agent_id(visit), visit.request.path_params["version"]
    path = {"agent_id": agent_id, "version": number}
    found = await visit.ask(get_version, own=True, path=path)
    moved = None
    if found["state"] != "active":
        with contextlib.suppress(Conflict, ConfigInvalid):  # nothing is active yet, or it cannot be used here: there is nothing to compare
            moved = await visit.ask(diff, own=True, path={"agent_id": agent_id}, body={"version": found["version"]})
    return visit.page("version.html", agent_id=agent_id, found=found, moved=moved)


async def _edited(visit: Visit, refused: ConfigInvalid | Conflict | None) -> Response:
    form, checked = visit.form, await _examined(visit)
    values = {
        "agent_id": _agent_id(visit),
        "version": form.get("version") or None,
        "text": form.get("text", ""),
        "note": form.get("note", ""),
    }
    return visit.page("editor.html", refused.status if refused else 200, **values, form=form.get("form"), checked=checked, refused=refused)


async def _examined(visit: Visit) -> Any:
    return await visit.ask(
        put_config,
        own=True,
        path={"agent_id": _agent_id(visit)},
        query={"dry_run": "true"},
        body=_text(visit),
        content_type=_content_type(visit),
    )


def _text(visit: Visit) -> bytes:
    """The text of the editor; browsers send line ends as CR LF."""
    return visit.form.get("text", "").replace("\r\n", "\n").encode()


def _content_type(visit: Visit) -> str:
    return TYPES.get(visit.form.get("form", "json"), TYPES["json"])


def _percent(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidRequest("the share must be a number", field="percent") from None


def _agent_id(visit: Visit) -> str:
    return check_id(visit.request.path_params["agent_id"], "agent_id")


def _may(visit: Visit) -> bool:
    """Whether the visitor may change agents, which all tenants share."""
    return visit.visitor.open_to_all or visit.visitor.caller.operator
