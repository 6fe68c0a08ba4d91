"""Fills the templates of this folder: one configuration for `loadsplit up`, compose and the tests. It knows no tier and starts nothing.

A template is the text of an Nginx file in which `{{name}}` stands for one of the names that `_values` gives; nothing else is replaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parent
SUFFIX = ".template"

# A replica that refuses connections is left out for two seconds after each failure; a lone server is always tried.
SERVER_OPTIONS = "max_fails=1 fail_timeout=2s"

# Nginx counts in thousandths of a request, in 32 bits.
MOST_REQUESTS = 1_000_000

_NAME = re.compile(r"\{\{(\w+)\}\}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?\Z|\d{1,5}\Z")
_UPSTREAM = re.compile(rf"unix:/[A-Za-z0-9._/-]+\Z|{_ADDRESS.pattern}")
_PATH = re.compile(r"[^\"'$;{}\\\x00-\x1f]+\Z")  # the templates put paths in double quotes
_WORD = re.compile(r"[A-Za-z0-9_.-]+\Z")


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What differs between deployments. Addresses are `host:port`, those of tiers `unix:/path` too where Nginx may enter that; paths are
    absolute; a bad value raises ValueError in `render`.

    `resolver`: None lists the replicas one by one (any Nginx from 1.11); the address of a DNS server instead makes each entry of
    `lightweight` and `heavy` a name that stands for all replicas and is looked up again and again (Nginx 1.27.3 and later).
    `access_log`: a path or `off`. `error_log`: a path or `stderr`. `user`: `name` or `name group` for the workers of an Nginx that root
    starts; None where it is started by an ordinary user. `connections_per_client`: requests and streams open at once for one address.
    `requests_per_client`: requests a second of one address, None for no limit: behind a load balancer all clients are one address.
    """

    lightweight: tuple[str, ...]
    heavy: tuple[str, ...]
    listen: tuple[str, ...] = ("127.0.0.1:8080",)
    run_dir: str = "/tmp"  # noqa: S108 - the container's own; elsewhere the caller gives a private folder
    resolver: str | None = None
    access_log: str = "/dev/stdout"
    error_log: str = "stderr"
    error_level: str = "warn"
    worker_processes: str = "auto"
    worker_connections: int = 8192
    connections_per_client: int = 4096
    requests_per_client: int | None = None
    user: str | None = None


def render(settings: RenderSettings) -> dict[str, str]:
    """The configuration as {path inside the folder: text}. Raises ValueError for a value that Nginx would read as something else."""
    values = _values(settings)
    used: set[str] = set()
    files = {}
    for template in sorted(TEMPLATES.rglob(f"*{SUFFIX}")):
        path = template.relative_to(TEMPLATES).as_posix().removesuffix(SUFFIX)
        text = template.read_text(encoding="utf-8")
        used.update(_NAME.findall(text))
        files[path] = _NAME.sub(lambda found: values[found[1]], text)
    if unused := values.keys() - used:
        raise ValueError(f"no template uses {', '.join(sorted(unused))}")
    return files


def write(settings: RenderSettings, folder: Path) -> Path:
    """Writes the configuration into `folder` (made where missing) and returns the path of its nginx.conf."""
    for name, text in render(settings).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "nginx.conf"


def _values(settings: RenderSettings) -> dict[str, str]:
    """Every name that a template may use."""
    resolve = " resolve" if settings.resolver else ""
    resolver = f"resolver {_checked('resolver', settings.resolver, _ADDRESS)} valid=2s ipv6=off;" if settings.resolver else ""
    log = _checked("access_log", settings.access_log, _PATH)
    user = " ".join(_checked("user", word, _WORD) for word in (settings.user or "").split())
    return {
        "user": f"user {user};" if user else "# Workers run as the user who starts Nginx.",
        "run_dir": _checked("run_dir", settings.run_dir, _PATH),
        "worker_processes": _checked("worker_processes", settings.worker_processes, _WORD),
        "worker_connections": str(int(settings.worker_connections)),
        "connections_per_client": str(int(settings.connections_per_client)),
        "requests_per_client": _request_rate(settings.requests_per_client),
        "error_log": _checked("error_log", settings.error_log, _PATH),
        "error_level": _checked("error_level", settings.error_level, _WORD),
        "access_log": "off" if log == "off" else f'"{log}" loadsplit buffer=64k flush=1s',
        "resolver": resolver or "# No resolver: the replicas are listed.",
        "listen": _lines("listen {} default_server backlog=4096;", "listen", settings.listen),
        "lightweight_servers": _lines(f"server {{}}{resolve} {SERVER_OPTIONS};", "lightweight", settings.lightweight, _UPSTREAM),
        "heavy_servers": _lines(f"server {{}}{resolve} {SERVER_OPTIONS};", "heavy", settings.heavy, _UPSTREAM),
    }


def _request_rate(rate: int | None) -> str:
    if rate is None:
        return "# No limit."
    if not 0 < rate <= MOST_REQUESTS:
        raise ValueError(f"requests_per_client: {rate} is not between 1 and {MOST_REQUESTS}")
    zone = f"limit_req_zone $binary_remote_addr zone=requests_of_client:10m rate={rate}r/s;"
    return f"{zone}\nlimit_req zone=requests_of_client burst={rate} nodelay;"


def _lines(form: str, name: str, addresses: tuple[str, ...], allowed: re.Pattern[str] = _ADDRESS) -> str:
    if not addresses:
        raise ValueError(f"{name}: at least one address is needed")
    return "\n    ".join(form.format(_checked(name, address, allowed)) for address in addresses)


def _checked(name: str, value: str, form: re.Pattern[str]) -> str:
    if not form.match(value):
        raise ValueError(f"{name}: {value!r} cannot stand in an Nginx file")
    return value
