"""The models file: aliases, each a list of targets. Reads text and a mapping of names; never the environment.

{"models": {"default": {"targets": [{"provider": "openai", "model": "gpt-4.1-mini"}], "fallback": ["backup"]}, "backup": {…}}}
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import ConfigInvalid
from heavy.llm.aliases import Alias, Group
from heavy.llm.types import Prices, Target

DEFAULT_ALIAS = "default"
# Aliases that a workflow may name without the models file declaring them: they mean `default` then.
OPTIONAL_ALIASES = frozenset({"intent", "compaction"})
KEY_NAMES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
URL_NAMES = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL"}
OPENAI_MODEL = "gpt-4.1-mini"
ANTHROPIC_MODEL = "claude-sonnet-4-6"
DEMO_MODEL = "demo"

Aliases = dict[str, Alias]
_Seconds = Annotated[float, Field(gt=0, le=3600)]
_Count = Annotated[int, Field(ge=1)]
# What a provider counts by account and model: two entries for the same one cannot differ in it.
SHARED = ("rpm", "tpm", "max_concurrency", "eject_after")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PriceEntry(_Part):
    input: Annotated[float, Field(ge=0)] = 0.0
    cached_input: Annotated[float, Field(ge=0)] = 0.0
    output: Annotated[float, Field(ge=0)] = 0.0
    cache_write: Annotated[float, Field(ge=0)] | None = None


class _TargetEntry(_Part):
    provider: Literal["openai", "anthropic"]
    model: Annotated[str, Field(min_length=1)]
    base_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] = 4096
    context_tokens: Annotated[int, Field(ge=1000)] = 128_000
    connect_timeout: _Seconds = 5.0
    first_token_timeout: _Seconds = 30.0
    idle_timeout: _Seconds = 20.0
    total_timeout: _Seconds = 120.0
    prices: _PriceEntry | None = None
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    rpm: _Count | None = None
    tpm: _Count | None = None
    max_concurrency: _Count | None = None
    eject_after: Annotated[int, Field(ge=0)] = 5
    prompt_cache: bool = True


class _RetryEntry(_Part):
    attempts: Annotated[int, Field(ge=1, le=5)] | None = None
    backoff: Annotated[float, Field(gt=0, le=60)] = 0.25
    budget: Annotated[float, Field(ge=0, le=1)] = 0.2


class _CacheEntry(_Part):
    ttl: Annotated[float, Field(gt=0, le=7 * 86400)]


class _AliasEntry(_Part):
    targets: Annotated[tuple[_TargetEntry, ...], Field(min_length=1)]
    fallback: tuple[str, ...] = ()
    strategy: Literal["ordered", "balanced"] = "ordered"
    retry: _RetryEntry = _RetryEntry()
    cache: _CacheEntry | None = None
    continue_after_failure: bool = False


class _ModelsFile(_Part):
    models: Annotated[dict[Annotated[str, Field(min_length=1, max_length=64)], _AliasEntry], Field(min_length=1)]


def load_targets(path: Path, env: Mapping[str, str]) -> Aliases:
    """Reads a models file (YAML or JSON). Raises ConfigInvalid with every problem in `extra["problems"]`, each with its line."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigInvalid(f"{path}: cannot be read: {e}", problems=[f"{path}: {e}"]) from None
    return parse_targets(text, str(path), env)


def parse_targets(text: str, name: str, env: Mapping[str, str]) -> Aliases:
    """The same for text; `name` stands before each problem."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # JSON is YAML
        doc = yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
        raise _invalid(name, [f"{where}: {getattr(e, 'problem', None) or e}"]) from None
    try:
        models = _ModelsFile.model_validate(doc).models
    except ValidationError as e:
        raise _invalid(name, [f"{_where(name, root, p['loc'])}: {_path(p['loc'])}: {_says(p)}" for p in e.errors()]) from None
    problems = _check(models, name, root, env)
    if problems:
        raise _invalid(name, problems)
    return {alias: _alias(alias, models, env) for alias in models}


def default_targets(env: Mapping[str, str], demo_url: str | None = None) -> Aliases:
    """The alias without a models file: OpenAI when its key is there, else Anthropic, else the simulator at `demo_url`, else none.

    `demo_url` is the simulator's OpenAI base URL, such as http://127.0.0.1:8900/v1. OPENAI_MODEL and ANTHROPIC_MODEL name other models.
    """
    if env.get("OPENAI_API_KEY"):
        model, url = env.get("OPENAI_MODEL") or OPENAI_MODEL, env.get("OPENAI_BASE_URL") or None
        target = Target("openai", model, base_url=url, api_key=env["OPENAI_API_KEY"])
    elif env.get("ANTHROPIC_API_KEY"):
        model, url = env.get("ANTHROPIC_MODEL") or ANTHROPIC_MODEL, env.get("ANTHROPIC_BASE_URL") or None
        target = Target("anthropic", model, base_url=url, api_key=env["ANTHROPIC_API_KEY"], context_tokens=200_000)
    elif demo_url:
        target = Target("openai", DEMO_MODEL, base_url=demo_url, api_key="demo")
    else:
        return {}
    return {DEFAULT_ALIAS: Alias.of(target)}


def _check(models: Mapping[str, _AliasEntry], name: str, root: yaml.Node | None, env: Mapping[str, str]) -> list[str]:
    problems = []
    for alias, entry in models.items():
        for n, other in enumerate(entry.fallback):
            if other not in models:
                loc = ("models", alias, "fallback", n)
                problems.append(f"{_where(name, root, loc)}: {_path(loc)}: there is no alias {other!r}")
        for n, target in enumerate(entry.targets):
            key = target.api_key_env or KEY_NAMES[target.provider]
            # A local server needs no key; the providers themselves always do.
            if not env.get(key) and (target.api_key_env or not (target.base_url or env.get(URL_NAMES[target.provider]))):
                loc = ("models", alias, "targets", n)
                problems.append(f"{_where(name, root, loc)}: {_path(loc)}: the environment has no {key}")
    return problems + _differing(models, name, root, env)


def _differing(models: Mapping[str, _AliasEntry], name: str, root: yaml.Node | None, env: Mapping[str, str]) -> list[str]:
    """Entries for one account and model that disagree about what counts for all of them."""
    problems = []
    first: dict[tuple[str, str | None, str, str], Target] = {}
    for alias, entry in models.items():
        for n, declared in enumerate(entry.targets):
            target = _target(declared, env)
            held = first.setdefault(target.account, target)
            for field in SHARED:
                if getattr(held, field) != getattr(target, field):
                    loc = ("models", alias, "targets", n, field)
                    problems.append(
                        f"{_where(name, root, loc)}: {_path(loc)}: an earlier target for {target.name} at the same account "
                        f"has {field} {getattr(held, field)}; it must be the same in both"
                    )
    return problems


def _alias(name: str, models: Mapping[str, _AliasEntry], env: Mapping[str, str]) -> Alias:
    """The alias's own targets, then those of its fallbacks and of theirs; each target once, so circles end."""
    order, seen = [name], {name}
    for each in order:
        new = [other for other in models[each].fallback if other not in seen]
        seen.update(new)
        order.extend(new)
    groups, known = [], set[Target]()
    for each in order:
        targets = tuple(dict.fromkeys(t for t in (_target(entry, env) for entry in models[each].targets) if t not in known))
        known.update(targets)
        if targets:
            groups.append(Group(targets, models[each].strategy))
    own = models[name]
    return Alias(
        tuple(groups),
        attempts=own.retry.attempts,
        backoff=own.retry.backoff,
        retry_share=own.retry.budget,
        cache_seconds=own.cache.ttl if own.cache else 0.0,
        continues=own.continue_after_failure,
    )


def _target(entry: _TargetEntry, env: Mapping[str, str]) -> Target:
    fields = entry.model_dump(exclude={"api_key_env", "prices", "base_url"})
    url = entry.base_url or (env.get(URL_NAMES[entry.provider]) or None if not entry.api_key_env else None)
    prices = Prices(**entry.prices.model_dump()) if entry.prices else Prices()
    return Target(**fields, base_url=url, api_key=env.get(entry.api_key_env or KEY_NAMES[entry.provider], ""), prices=prices)


def _invalid(name: str, problems: list[str]) -> ConfigInvalid:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ConfigInvalid(f"{problems[0]}{more}", problems=problems, file=name)


def _says(problem: Any) -> str:
    """pydantic's sentence; for an unknown key the nearest known one."""
    if problem["type"] != "extra_forbidden":
        return str(problem["msg"])
    known = {name for part in (_ModelsFile, _AliasEntry, _TargetEntry, _PriceEntry, _RetryEntry, _CacheEntry) for name in part.model_fields}
    near = difflib.get_close_matches(str(problem["loc"][-1]), sorted(known), 1)
    return "unknown key" + (f"; did you mean {near[0]!r}?" if near else "")


def _path(loc: tuple[Any, ...]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def _where(name: str, node: yaml.Node | None, loc: tuple[Any, ...]) -> str:
    """`file:line:column` of the value at a path, or of the nearest thing around it that is there."""
    at = node
    for part in loc:
        child = None
        if isinstance(at, yaml.MappingNode):
            child = next((value for key, value in at.value if key.value == str(part)), None)
        elif isinstance(at, yaml.SequenceNode) and isinstance(part, int) and part < len(at.value):
            child = at.value[part]
        if child is None:
            break
        at = child
    return f"{name}:{at.start_mark.line + 1}:{at.start_mark.column + 1}" if at is not None else name
