"""The admin endpoints of the config centre. Agents are shared by all tenants: a key with the scope `admin` may look, an operator's
(tenant `*`) may change. Without any key everyone may, as everywhere: such a server listens on a loopback address only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import MAX_MESSAGE_BYTES, check_id, parse_object
from common.errors import Forbidden, InvalidRequest, UnsupportedMediaType
from common.web.asgi import read_body
from common.web.auth import Caller
from heavy.configs.centre import document, summary
from heavy.configs.rulebook import form_of
from heavy.configs.stores import VersionRow
from heavy.routes.sessions import number
from heavy.routes.state import Heavy, caller_of, heavy_of

MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_NOTE = 500
MAX_VERSIONS, MAX_CHANGES, MAX_SAID = 500, 50, 10_000


async def list_agents(request: Request) -> Response:
    """Every agent: what is in force, and where it comes from."""
    heavy, _ = _looking(request)
    stored = {row.agent_id: document(row) for row in await heavy.stores.configs.agents()} if heavy.centre.source == "db" else {}
    refused = heavy.agents.refused
    found = []
    for agent_id in dict.fromkeys([*stored, *heavy.agents.names]):
        serving = {"agent_id": agent_id, "config_hash": heavy.agents.in_force(agent_id), "refused": refused.get(agent_id)}
        found.append({**stored.get(agent_id, {}), **serving})
    return JSONResponse({"source": heavy.centre.source, "agents": found})


async def get_agent(request: Request) -> Response:
    """One agent of the centre with its last changes, the newest first."""
    heavy, agent_id = _looking(request)
    row = await heavy.centre.agent(agent_id)
    changes = await heavy.stores.configs.changes(agent_id, limit=MAX_CHANGES)
    in_force = {"config_hash": heavy.agents.in_force(agent_id), "refused": heavy.agents.refused.get(agent_id)}
    return JSONResponse({**document(row), **in_force, "changes": [asdict(change) for change in changes]})


async def put_config(request: Request) -> Response:
    """Stores a version: JSON, or YAML by its content type. ?note= says what it is for; with ?dry_run=true it is only examined."""
    dry = request.query_params.get("dry_run") in ("true", "1")
    heavy, agent_id = _looking(request) if dry else _changing(request)
    form = form_of(request.headers.get("content-type"))
    if form is None:
        raise UnsupportedMediaType("a workflow is application/json or application/yaml")
    body = await read_body(_untyped(request), request.receive, MAX_TEXT_BYTES)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the text is not UTF-8") from None
    if dry:
        found = await heavy.centre.examine(agent_id, text, form)
        told = {"valid": not found.failed, "hash": found.workflow.config_hash if found.workflow else None}
        return JSONResponse({**told, "problems": [p.as_dict() for p in found.problems], "tests": summary(found)})
    note = _note(request.query_params.get("note", ""))
    row, found = await heavy.centre.push(agent_id, text, form, author=_author(request), note=note)
    problems = [p.as_dict() for p in found.problems]
    return JSONResponse(
        {"agent_id": agent_id, "version": row.version, "hash": row.config_hash, "problems": problems, "tests": summary(found)}
    )


async def list_versions(request: Request) -> Response:
    """The versions, the newest first, without their texts: ?limit="""
    heavy, agent_id = _looking(request)
    agent = await heavy.centre.agent(agent_id)
    rows = await heavy.stores.configs.versions(agent_id, limit=number(request, "limit", 100, MAX_VERSIONS))
    return JSONResponse({**document(agent), "versions": [_version(row, agent.active, agent.canary) for row in rows]})


async def get_version(request: Request) -> Response:
    """One version with its text."""
    heavy, agent_id = _looking(request)
    agent = await heavy.centre.agent(agent_id)
    row = await heavy.centre.version(agent_id, _path_version(request))
    return JSONResponse({**_version(row, agent.active, agent.canary), "text": row.text})


async def activate(request: Request) -> Response:
    """Brings a version into force: {version, canary_percent?, note?}. Every replica serves it within two seconds."""
    heavy, agent_id = _changing(request)
    doc = parse_object(await read_body(request.scope, request.receive))
    _only(doc, "version", "canary_percent", "note")
    percent = doc.get("canary_percent")
    if percent is not None and (isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < percent <= 100):
        raise InvalidRequest("canary_percent must be a number above 0 and at most 100", field="canary_percent")
    version, note = _asked_version(doc), _note(doc.get("note", ""))
    row = await heavy.centre.activate(agent_id, version, percent, author=_author(request), note=note)
    return JSONResponse(document(row))


async def rollback(request: Request) -> Response:
    """Takes the canary out; without one goes back to the version before: {note?}."""
    heavy, agent_id = _changing(request)
    body = await read_body(_untyped(request), request.receive)
    if body and form_of(request.headers.get("content-type")) != "json":
        raise UnsupportedMediaType("the body must be application/json")
    doc = parse_object(body) if body else {}
    _only(doc, "note")
    row = await heavy.centre.rollback(agent_id, author=_author(request), note=_note(doc.get("note", "")))
    return JSONResponse(document(row))


async def diff(request: Request) -> Response:
    """Which messages a version would route otherwise than the active one: {version, messages?}; without messages the last ones of users."""
    heavy, agent_id = _looking(request)
    doc = parse_object(await read_body(request.scope, request.receive, MAX_TEXT_BYTES))
    _only(doc, "version", "messages")
    return JSONResponse(await heavy.centre.diff(agent_id, _asked_version(doc), _said(doc.get("messages"))))


async def get_comparison(request: Request) -> Response:
    """How the active version and the canary do, from stored turns."""
    heavy, agent_id = _looking(request)
    return JSONResponse(await heavy.centre.comparison(agent_id))


def _version(row: VersionRow, active: int | None, canary: int | None) -> dict[str, Any]:
    told = {name: value for name, value in asdict(row).items() if name not in ("text", "config_hash")}
    state = "active" if row.version == active else "canary" if row.version == canary else "stored"
    return {**told, "hash": row.config_hash, "state": state}


def _looking(request: Request) -> tuple[Heavy, str]:
    caller = caller_of(request.scope)
    caller.need("admin")
    return heavy_of(request.scope), check_id(request.path_params.get("agent_id", "any"), "agent_id")


def _changing(request: Request) -> tuple[Heavy, str]:
    heavy, agent_id = _looking(request)
    caller: Caller = caller_of(request.scope)
    if caller.key_id is not None and not caller.operator:
        raise Forbidden("agents are shared by all tenants: an operator's key (tenant *) changes them")
    return heavy, agent_id


def _untyped(request: Request) -> dict[str, Any]:
    """The request's scope without the content type: for bodies that are not JSON, or none."""
    return {**request.scope, "headers": [h for h in request.scope["headers"] if h[0] != b"content-type"]}


def _author(request: Request) -> str:
    return caller_of(request.scope).key_id or ""


def _note(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NOTE:
        raise InvalidRequest(f"note must be a string of at most {MAX_NOTE} characters", field="note")
    return value


def _path_version(request: Request) -> int:
    text = request.path_params["version"]
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10):
        raise InvalidRequest("version must be a whole number", field="version")
    return int(text)


def _asked_version(doc: Mapping[str, Any]) -> int:
    version = doc.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 10**9:
        raise InvalidRequest("version must be the number of a version", field="version")
    return version


def _said(value: Any) -> Sequence[Mapping[str, Any]] | None:
    """The messages of a request: texts, or objects with message, context and session_id."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_SAID:
        raise InvalidRequest(f"messages must be a list of at most {MAX_SAID}", field="messages")
    found = []
    for index, one in enumerate(value):
        said = {"message": one} if isinstance(one, str) else one
        message = said.get("message") if isinstance(said, dict) else None
        if not isinstance(message, str) or not 0 < len(message.encode(errors="replace")) <= MAX_MESSAGE_BYTES:
            raise InvalidRequest(f"messages[{index}] must be a text, or an object with one under message", field=f"messages[{index}]")
        if not isinstance(said.get("context") or {}, dict):
            raise InvalidRequest(f"messages[{index}].context must be an object", field=f"messages[{index}].context")
        found.append(said)
    return found


def _only(doc: Mapping[str, Any], *names: str) -> None:
    for name in doc:
        if name not in names:
            raise InvalidRequest(f"{name[:64]!r} is no field of this request; there are {', '.join(names)}", field=name[:64])
