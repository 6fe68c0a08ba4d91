"""`loadsplit config …`: versions of agents on a running server. Exit code 0 done, 1 the version does not hold, 2 anything else.

Everything is asked of the server's admin API: what it refuses is one line on stderr.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from standalone.commands.access import AsJson, table
from standalone.commands.admin_client import AdminClient, Refused

URL = "http://127.0.0.1:8000"
Url = Annotated[str | None, typer.Option(help=f"The single process, or a heavy process [default: LOADSPLIT_ADMIN_URL, else {URL}].")]
Key = Annotated[str | None, typer.Option(help="An operator's API key [default: LOADSPLIT_ADMIN_KEY].")]
Agent = Annotated[str, typer.Argument(help="The agent's id.")]
Number = Annotated[int, typer.Argument(min=1, help="The number of a version.")]
Note = Annotated[str, typer.Option(help="What it is for: stands in the list of changes.")]
AgentId = Annotated[str | None, typer.Option("--agent", help="The agent's id [default: the file's agent_id].")]


def register(app: typer.Typer) -> None:
    """Adds the commands to an app."""
    config = typer.Typer(help="Versions of agents in the config centre of a running server.", no_args_is_help=True)
    app.add_typer(config, name="config")
    _storing(config)
    _changing(config)
    _looking(config)


def _storing(app: typer.Typer) -> None:
    @app.command()
    def push(
        file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Workflow file (JSON or YAML).")],
        agent: AgentId = None,
        note: Note = "",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only have the server examine it.")] = False,
        activate: Annotated[bool, typer.Option("--activate", help="Bring it into force at once.")] = False,
        canary: Annotated[float | None, typer.Option(min=0.01, max=100, help="With --activate: for so many per cent of sessions.")] = None,
        url: Url = None,
        key: Key = None,
        as_json: AsJson = False,
    ) -> None:
        """Store a file as a version. Exit 1 with every problem when it does not hold."""
        if canary is not None and not activate:
            raise ValueError("--canary goes with --activate")
        form, data = ("json" if file.suffix.lower() == ".json" else "yaml"), file.read_bytes()
        agent_id = agent or _agent_of(file)
        query = {"note": note, **({"dry_run": "true"} if dry_run else {})}
        try:
            stored = _call("PUT", _path(agent_id, "config"), url, key, data=data, query=query, content_type=f"application/{form}")
        except Refused as e:
            if e.status != 422 or "problems" not in e.document:
                raise
            _told(file, e.document, as_json=as_json)
            raise typer.Exit(1) from None
        _told(file, stored, as_json=as_json)
        if dry_run:
            raise typer.Exit(0 if stored["valid"] else 1)
        if not as_json:
            typer.echo(f"{agent_id}: version {stored['version']} ({stored['hash']})")
        if activate:
            body = {"version": stored["version"], "note": note, **({} if canary is None else {"canary_percent": canary})}
            _state(_call("POST", _path(agent_id, "activate"), url, key, body), as_json=False)

    @app.command()
    def check(
        files: Annotated[list[Path], typer.Argument(help="Workflow files, or directories of them.")], as_json: AsJson = False
    ) -> None:
        """The same as `loadsplit check`: needs no server."""
        from standalone.commands.check import run

        raise typer.Exit(run(files, as_json=as_json))


def _changing(app: typer.Typer) -> None:
    @app.command()
    def activate(
        agent: Agent,
        version: Number,
        canary: Annotated[float | None, typer.Option(min=0.01, max=100, help="Only for so many per cent of the sessions.")] = None,
        note: Note = "",
        url: Url = None,
        key: Key = None,
        as_json: AsJson = False,
    ) -> None:
        """Bring a version into force, on every replica within two seconds."""
        body = {"version": version, "note": note, **({} if canary is None else {"canary_percent": canary})}
        _state(_call("POST", _path(agent, "activate"), url, key, body), as_json=as_json)

    @app.command()
    def rollback(agent: Agent, note: Note = "", url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
        """Take the canary out; without one go back to the version before."""
        _state(_call("POST", _path(agent, "rollback"), url, key, {"note": note}), as_json=as_json)


def _looking(app: typer.Typer) -> None:
    @app.command(name="list")
    def list_versions(
        agent: Annotated[str | None, typer.Argument(help="Its versions [default: all agents].")] = None,
        url: Url = None,
        key: Key = None,
        as_json: AsJson = False,
    ) -> None:
        """Show the agents, or the versions and last changes of one."""
        if agent is None:
            found = _call("GET", "/admin/api/agents", url, key)
            lines = [(a["agent_id"], _text(a.get("active")), _canary(a), a["config_hash"], a["refused"] or "") for a in found["agents"]]
            _show(found, ("AGENT", "ACTIVE", "CANARY", "HASH", "REFUSED"), lines, as_json=as_json)
            return
        found = _call("GET", _path(agent, "versions"), url, key)
        found["changes"] = _call("GET", _path(agent), url, key)["changes"]
        versions = [
            (str(v["version"]), v["hash"], v["state"], _day(v["created_at"]), v["author"], str(len(v["problems"])), v["note"])
            for v in found["versions"]
        ]
        _show(found, ("VERSION", "HASH", "STATE", "STORED", "BY", "WARNINGS", "NOTE"), versions, as_json=as_json)
        if not as_json and found["changes"]:
            typer.echo("")
            changes = [
                (_day(c["at"]), c["action"], str(c["version"]), _text(c["percent"]), c["author"], c["note"]) for c in found["changes"]
            ]
            table(("AT", "WHAT", "VERSION", "PER CENT", "BY", "WHY"), changes)

    @app.command()
    def diff(
        agent: Agent,
        version: Number,
        messages: Annotated[
            Path | None, typer.Option(exists=True, dir_okay=False, help="JSON lines of {message} [default: past ones].")
        ] = None,
        url: Url = None,
        key: Key = None,
        as_json: AsJson = False,
    ) -> None:
        """Show which messages a version would route otherwise than the active one. Exit 0 either way."""
        body: dict[str, Any] = {"version": version}
        if messages is not None:
            body["messages"] = [_line(messages, number, line) for number, line in enumerate(messages.read_text().splitlines(), 1) if line]
        found = _call("POST", _path(agent, "diff"), url, key, body)
        if as_json:
            typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
            return
        where = "given" if found["source"] == "given" else "past"
        touched = sum(found["changes"].values()) if "changes" in found else 0
        typer.echo(
            f"of {found['messages']} {where} messages {touched} are routed otherwise by version {version} than by {found['against']}"
        )
        for moved in found.get("moved", ()):
            typer.echo(f"  {moved['count']:7d}  {moved['before']} -> {moved['after']}")
            for example in moved["examples"]:
                typer.echo(f"             {example['message'][:120]!r}")


def _call(method: str, path: str, url: str | None, key: str | None, body: Any = None, **more: Any) -> Any:
    from common.settings import read_environ

    environ = read_environ()
    client = AdminClient(url or environ.get("LOADSPLIT_ADMIN_URL") or URL, key or environ.get("LOADSPLIT_ADMIN_KEY"))
    return asyncio.run(client.call(method, path, body, **more))


def _path(agent_id: str, *parts: str) -> str:
    return "/".join(("/admin/api/agents", quote(agent_id, safe=""), *parts))


def _agent_of(file: Path) -> str:
    """The agent_id that a file says. Raises ValueError."""
    from common.workflow.load import examine_file

    examined = examine_file(file)
    doc = examined.source.doc if examined.source else None
    agent_id = doc.get("agent_id") if isinstance(doc, dict) else None
    if not isinstance(agent_id, str) or not agent_id:
        raise ValueError(f"{file} names no agent_id: say --agent")
    return agent_id


def _told(file: Path, answer: dict[str, Any], *, as_json: bool) -> None:
    """Problems and failed tests, as `loadsplit check` prints them."""
    if as_json:
        typer.echo(json.dumps({k: answer.get(k) for k in ("agent_id", "version", "hash", "valid", "problems", "tests")}, indent=1))
        return
    for p in answer["problems"]:
        hint = f" — {p['hint']}" if p["hint"] else ""
        typer.echo(f"{file}:{p['line']}:{p['column']}: {p['level']} {p['code']} {p['message']}{hint}")
    for test in answer["tests"]["results"]:
        for reason in test["reasons"]:
            typer.echo(f"{file}:{test['line']}:{test['column']}: error test_failed {test['name']}: {reason}")


def _state(state: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(state, indent=1))
        return
    typer.echo(f"{state['agent_id']}: version {_text(state['active'])} is active; canary: {_canary(state)}")


def _canary(state: dict[str, Any]) -> str:
    return f"{state['canary']} for {state['percent']:g} %" if state.get("canary") else "none"


def _show(found: Any, head: tuple[str, ...], lines: Sequence[Sequence[str]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        table(head, lines)


def _line(file: Path, number: int, line: str) -> Any:
    try:
        value = json.loads(line)
    except ValueError:
        raise ValueError(f"{file}:{number}: not JSON") from None
    return value


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
