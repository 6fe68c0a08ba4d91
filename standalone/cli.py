"""The command `loadsplit`: parses arguments, calls the room that does the work, turns foreseen errors into one line and exit code 2."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from common.errors import LoadsplitError
from common.web.listening import CannotServe
from common.web.siblings import Place
from common.web.workers import AS_WORKER
from common.workflow.problems import WorkflowInvalid
from standalone.commands import access, config, costs

if TYPE_CHECKING:
    from heavy.jobs.stores import JobStores

app = typer.Typer(
    name="loadsplit",
    help="Serve workflow agents at high QPS: rules in a stateless tier, LLM work in a separately scaled one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
simulate = typer.Typer(help="The two stand-ins for trials and tests: an LLM provider, a business API.", no_args_is_help=True)
app.add_typer(simulate, name="simulate")
webhooks = typer.Typer(help="What receivers of webhooks need to know.", no_args_is_help=True)
app.add_typer(webhooks, name="webhooks")


async def _database(data_dir: Path | None) -> JobStores:
    """The stores of LOADSPLIT_DATABASE_URL, or of the data directory's SQLite."""
    from heavy.settings import HeavySettings
    from heavy.storage.open import open_stores

    return await open_stores(HeavySettings.load(data_dir=data_dir).database)


keys, tenants = access.commands(_database)
app.add_typer(keys, name="keys")
app.add_typer(tenants, name="tenants")
costs.register(app, _database)
config.register(app)

API_PORT = "Port to listen on; /admin and /metrics are on LOADSPLIT_ADMIN_PORT instead, where that is set."
Config = Annotated[Path, typer.Option("--config", help="Workflow file (JSON or YAML), a directory of them, or db: for the config centre.")]
RoleConfig = Annotated[Path | None, typer.Option("--config", help="Workflow file, directory of them, or db: [default: LOADSPLIT_CONFIG].")]
Host = Annotated[str, typer.Option(help="Address to listen on; without API keys only a loopback address, unless --insecure.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Listen on a public address without API keys.")]
Workers = Annotated[
    str | None, typer.Option(metavar="N|auto", help="Processes that share the port; auto: one a CPU [default: LOADSPLIT_WORKERS, else 1].")
]
Uds = Annotated[Path | None, typer.Option(help="A unix socket to listen on beside the port, for an Nginx on this machine.")]
AsWorker = Annotated[Any, typer.Option(AS_WORKER, parser=Place.read, hidden=True)]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where SQLite and generated secrets are kept [default: .data].")]


@app.command()
def serve(
    config: RoleConfig = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help=API_PORT)] = 8000,
    data_dir: DataDir = None,
    demo: Annotated[bool, typer.Option("--demo", help="Also start the two simulators.")] = False,
    insecure: Insecure = False,
) -> None:
    """Both tiers in one process: the single-machine deployment."""
    from standalone.serve import serve as run

    run(config=_text(config), host=host, port=port, data_dir=data_dir, demo=demo, insecure=insecure)


@app.command()
def lightweight(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8101,
    host: Host = "127.0.0.1",
    config: RoleConfig = None,
    insecure: Insecure = False,
    workers: Workers = None,
    uds: Uds = None,
    as_worker: AsWorker = None,
) -> None:
    """The stateless tier: rules. Settings come from the environment."""
    from lightweight.__main__ import run
    from lightweight.settings import LightweightSettings

    settings = LightweightSettings.load(config=_text(config), workers=workers)
    raise typer.Exit(run(settings, host, port, insecure=insecure, uds=uds, place=as_worker))


@app.command()
def heavy(
    port: Annotated[int, typer.Option(help=API_PORT)] = 8201,
    host: Host = "127.0.0.1",
    config: RoleConfig = None,
    insecure: Insecure = False,
    workers: Workers = None,
    uds: Uds = None,
    as_worker: AsWorker = None,
) -> None:
    """The stateful tier: conversations and LLM work. Settings come from the environment."""
    from heavy.__main__ import run
    from heavy.settings import HeavySettings
    from standalone.rulebook import Rules

    settings = HeavySettings.load(config=_text(config), workers=workers)
    raise typer.Exit(run(settings, host, port, insecure=insecure, rulebook=Rules(), uds=uds, place=as_worker))


@app.command()
def worker(
    port: Annotated[int, typer.Option(help="Port of /livez, /readyz, /metrics and /api/v1/health.")] = 8301,
    host: Host = "127.0.0.1",
    config: RoleConfig = None,
    insecure: Insecure = False,
) -> None:
    """Background work of the stateful tier, without its API: tasks, timers, schedules. Settings come from the environment."""
    from heavy.__main__ import run_worker
    from heavy.settings import HeavySettings
    from standalone.rulebook import Rules

    run_worker(HeavySettings.load(config=_text(config)), host, port, insecure=insecure, rulebook=Rules())


@app.command()
def up(
    config: Config,
    lightweight: Annotated[int, typer.Option(min=1, max=64, help="Processes of the lightweight tier.")] = 2,
    heavy: Annotated[int, typer.Option(min=1, max=64, help="Processes of the heavy tier.")] = 2,
    port: Annotated[int, typer.Option(help="Port of Nginx.")] = 8080,
    data_dir: DataDir = None,
    demo: Annotated[bool, typer.Option("--demo", help="Also start the two simulators.")] = False,
) -> None:
    """The split on one machine: Nginx, N lightweight and M heavy processes, supervised. Ctrl-C drains."""
    from standalone.up import UpOptions
    from standalone.up import up as run

    options = UpOptions(config=config, lightweight=lightweight, heavy=heavy, port=port, data_dir=data_dir, demo=demo)
    raise typer.Exit(asyncio.run(run(options)))


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Workflow files, or directories of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML, for CI.")] = None,
    replay: Annotated[Path | None, typer.Option("--replay", metavar="FILE", help="Past messages (JSON lines) to route.")] = None,
    against: Annotated[Path | None, typer.Option("--against", metavar="FILE", help="Old version: what routes otherwise?")] = None,
) -> None:
    """Validate and lint workflow files and run their tests. Exit code 0 when clean (warnings allowed), 1 otherwise."""
    from standalone.commands.check import run

    raise typer.Exit(run(files, as_json=as_json, junit=junit, log=replay, against=against))


@app.command()
def match(
    file: Annotated[Path, typer.Argument(help="Workflow file.")],
    text: Annotated[str, typer.Argument(help="A message of a user.")],
    context: Annotated[str, typer.Option(metavar="JSON", help="The request's context, for rules with `when`.")] = "{}",
    in_conversation: Annotated[bool, typer.Option("--in-conversation", help="As in the middle of a conversation.")] = False,
) -> None:
    """Explain the routing of a text without calling anything. Prints JSON."""
    from standalone.commands.match import run

    run(file, text, context=context, in_conversation=in_conversation)


@app.command()
def chat(
    url: Annotated[str, typer.Option(help="A running server.")] = "http://127.0.0.1:8000",
    session: Annotated[str | None, typer.Option(help="Session id [default: a new one].")] = None,
    key: Annotated[str | None, typer.Option(help="API key [default: LOADSPLIT_CHAT_KEY].")] = None,
) -> None:
    """Talk to a running server in the terminal."""
    from common.settings import read_environ
    from standalone.chat import chat as run

    raise typer.Exit(asyncio.run(run(url, session, key or read_environ().get("LOADSPLIT_CHAT_KEY"))))


@app.command()
def migrate() -> None:
    """Bring the database of LOADSPLIT_DATABASE_URL to the current schema (servers also do it at their start)."""
    from heavy.settings import HeavySettings
    from heavy.storage.open import migrate as run

    done = asyncio.run(run(HeavySettings.load().database))
    typer.echo("\n".join(f"applied {name}" for name in done) or "the schema is current")


@app.command()
def purge(
    days: Annotated[float | None, typer.Option(min=0, help="Sessions and turns older than this [LOADSPLIT_RETENTION_DAYS].")] = None,
    record_days: Annotated[float | None, typer.Option(min=0, help="Tasks, webhook messages, LLM calls [LOADSPLIT_RECORD_DAYS].")] = None,
    data_dir: DataDir = None,
) -> None:
    """Erase what is too old (servers do it once a day). 0 days means: keep for ever."""
    from common.hotstore.open import open_hotstore
    from heavy.app import retention
    from heavy.settings import HeavySettings
    from standalone.commands.purge import run

    settings = HeavySettings.load(data_dir=data_dir, retention_days=days, record_days=record_days)
    how_long = retention(settings)
    if how_long.nothing:
        raise ValueError("nothing is ever too old: give --days, or set LOADSPLIT_RETENTION_DAYS")
    raise typer.Exit(asyncio.run(run(partial(_database, data_dir), open_hotstore(settings.redis_url), how_long)))


@webhooks.command(name="secret")
def webhooks_secret(
    tenant: Annotated[str, typer.Option(help="Whose secret.")] = "default",
    data_dir: DataDir = None,
) -> None:
    """Print a tenant's secret, which signs for webhooks of requests that bring none. It follows from the ticket secret."""
    from common.contracts.webhooks import tenant_secret
    from common.settings import CommonSettings

    typer.echo(tenant_secret(CommonSettings.load(data_dir=data_dir).ticket_key, tenant))


@simulate.command(name="llm")
def simulate_llm(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8900,
    profile: Annotated[Path | None, typer.Option(help="Profile file (YAML or JSON): what it answers, how fast, with which faults.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """A stand-in for OpenAI and Anthropic."""
    from loadtests.simulators.llm import run
    from loadtests.simulators.profile import load_profile

    run(port, load_profile(profile) if profile else None, host=host)


@simulate.command(name="business")
def simulate_business(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8910,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """A stand-in for the business API that the example calls."""
    from loadtests.simulators.business import run

    run(port, host=host)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def main() -> None:
    """Entry point of the console script."""
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        sys.exit(130)
    except typer.TyperException as e:  # a wrong option, argument or command
        context = getattr(e, "ctx", None)
        where = context.command_path if context else "loadsplit"
        if not e.format_message():  # no command at all: typer has printed the list of them
            sys.exit(2)
        _fail(f"{where}: {e.format_message()} (see {where} --help)")
    except WorkflowInvalid as e:
        _fail(f"loadsplit: {e}")
    except (CannotServe, ValueError, LoadsplitError, OSError) as e:
        _fail(f"loadsplit: {e.detail if isinstance(e, LoadsplitError) else e}")


def _fail(line: str) -> NoReturn:
    sys.stderr.write(line + "\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
