"""What the environment says to every role, read once, frozen, with one clear line for what is wrong. `.env` is read too.

It knows no tier: each extends `CommonSettings` in its own settings.py. This is the only file of `common` that reads os.environ.
"""

from __future__ import annotations

import difflib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

PREFIX = "LOADSPLIT_"
MOST_WORKERS = 64
# Every role knows every name, so that one environment can serve all of them.
KNOWN_NAMES = frozenset(
    {
        "LOADSPLIT_CONFIG",
        "LOADSPLIT_CONFIG_WATCH",
        "LOADSPLIT_CONFIG_MEMORY_MB",
        "LOADSPLIT_ADMIN_URL",
        "LOADSPLIT_ADMIN_KEY",
        "LOADSPLIT_DATABASE_URL",
        "LOADSPLIT_REDIS_URL",
        "LOADSPLIT_HANDOFF",
        "LOADSPLIT_HEAVY_URL",
        "LOADSPLIT_ADMIN_PORT",
        "LOADSPLIT_TICKET_SECRET",
        "LOADSPLIT_API_KEYS",
        "LOADSPLIT_CHAT_KEY",
        "LOADSPLIT_MODELS",
        "LOADSPLIT_EGRESS_ALLOW",
        "LOADSPLIT_WORKERS",
        "LOADSPLIT_MAX_INFLIGHT",
        "LOADSPLIT_MIN_INFLIGHT",
        "LOADSPLIT_QUEUE_SECONDS",
        "LOADSPLIT_DRAIN_SECONDS",
        "LOADSPLIT_LEASE_SECONDS",
        "LOADSPLIT_RETENTION_DAYS",
        "LOADSPLIT_RECORD_DAYS",
        "LOADSPLIT_TASKS_AT_ONCE",
        "LOADSPLIT_LOG_LEVEL",
        "LOADSPLIT_TURN_LOG",
        "LOADSPLIT_REDACT",
        "LOADSPLIT_DATA_DIR",
    }
)


class SettingsError(ValueError):
    """The environment cannot be used; `str()` is the one line that says which name and why."""


def _entries(value: Any) -> Any:
    return tuple(e.strip() for e in value.replace(";", ",").split(",") if e.strip()) if isinstance(value, str) else value


def _redis(value: str) -> str:
    if value.partition("://")[0] not in ("memory", "redis", "rediss", "unix"):
        raise ValueError("must be memory:// or a redis:// URL")
    return value


def _turn_log(value: str) -> str:
    share = {"heavy": "0", "all": "1"}.get(value.lower(), value)
    try:
        if 0 <= float(share) <= 1:
            return value.lower()
    except ValueError:
        pass
    raise ValueError("must be heavy, all, or a share of the turns that rules answer, such as 0.01")


def _workers(value: Any) -> Any:
    if not isinstance(value, str) or value.strip().isdecimal():
        return value
    if value.strip().lower() != "auto":
        raise ValueError(f"must be a number from 1 to {MOST_WORKERS}, or auto for as many as this process has CPUs")
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class CommonSettings(BaseModel):
    """Settings of every role. Fields are the environment's names without LOADSPLIT_, in lower case. Secrets are starred in the repr.
    `workers` processes share the port of a tier.
    Without `config_watch` workflow files are read at start only; `config_memory_mb` is about what compiled versions of agents may take."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    config: str | None = None
    config_watch: bool = True
    config_memory_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    redis_url: Annotated[str, Field(repr=False), AfterValidator(_redis)] = "memory://"
    ticket_secret: SecretStr | None = None
    api_keys: Path | None = None
    egress_allow: Annotated[tuple[str, ...], BeforeValidator(_entries)] = ()
    workers: Annotated[int, BeforeValidator(_workers), Field(ge=1, le=MOST_WORKERS)] = 1
    max_inflight: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    min_inflight: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(lambda v: v.lower() if isinstance(v, str) else v)
    ] = "info"
    turn_log: Annotated[str, AfterValidator(_turn_log)] = "heavy"
    redact: Path | None = None
    data_dir: Path = Path(".data")
    environ: Mapping[str, str] = Field(default_factory=dict, repr=False, exclude=True)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **given: Any) -> Self:
        """Settings from the environment (`environ` instead of the process's own and `.env`, if given); `given` values, such as those of
        the command line, win unless None. Raises SettingsError.

        The ticket secret is made once in the data directory, unless the environment has one.
        """
        env = read_environ(environ)
        _refuse_unknown(env, cls)
        values: dict[str, Any] = {}
        for name in cls.model_fields:
            if value := env.get(PREFIX + name.upper(), "").strip():
                values[name] = value
        values.update({k: v for k, v in given.items() if v is not None})
        try:
            settings = cls(**{**values, "environ": env})
        except ValidationError as e:
            first = e.errors(include_url=False, include_input=False)[0]
            name = PREFIX + str(first["loc"][0] if first["loc"] else "").upper()
            raise SettingsError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None
        if settings.ticket_secret is None:
            made = SecretStr(_ticket_secret(settings.data_dir))
            settings = settings.model_copy(update={"ticket_secret": made})
        return settings

    @property
    def config_memory(self) -> int:
        """What compiled versions of agents may take, in bytes."""
        return self.config_memory_mb * 1024 * 1024

    @property
    def rule_turns_logged(self) -> float:
        """The share of rule-answered turns that get a log line of their own."""
        return float({"heavy": "0", "all": "1"}.get(self.turn_log, self.turn_log))

    @property
    def ticket_key(self) -> bytes:
        """The secret that signs tickets. Raises SettingsError for settings that were not made by `load` and have none."""
        if self.ticket_secret is None:
            raise SettingsError(f"{PREFIX}TICKET_SECRET is not set")
        return self.ticket_secret.get_secret_value().encode()


def read_environ(environ: Mapping[str, str] | None = None, env_file: Path | None = None) -> dict[str, str]:
    """The process's environment over that of `.env` in the working directory; a given mapping is taken as it is."""
    if environ is not None:
        return dict(environ)
    path = env_file or Path(".env")
    try:
        written = dotenv_values(path, interpolate=False) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path} cannot be read: {getattr(e, 'strerror', None) or 'it is not UTF-8'}") from None
    return {**{k: v for k, v in written.items() if v is not None}, **os.environ}


def _refuse_unknown(env: Mapping[str, str], cls: type[CommonSettings]) -> None:
    known = KNOWN_NAMES | {PREFIX + name.upper() for name in cls.model_fields if name != "environ"}
    for name in sorted(env):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            raise SettingsError(f"{name} is no setting of loadsplit" + (f"; did you mean {near[0]}?" if near else ""))


def _ticket_secret(data_dir: Path) -> str:
    """The secret of all roles that share this data directory, readable by its owner only. Raises SettingsError where it cannot be kept."""
    path = data_dir / "ticket.secret"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # several roles may start at once: each writes its own file whole, the first link wins
            draft = data_dir / f".ticket.{secrets.token_hex(8)}"
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
                f.write(secrets.token_urlsafe(32))
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        secret = path.read_text().strip()
    except OSError as e:
        raise SettingsError(f"{PREFIX}DATA_DIR: {path} cannot be kept: {e.strerror}") from None
    if not secret:
        raise SettingsError(f"{path} is empty: remove it, or set {PREFIX}TICKET_SECRET")
    return secret
