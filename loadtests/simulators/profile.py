"""The profile of the LLM simulator: rules that fix answers, times, and seeded faults. Without rules the built-in model answers.

Example (YAML or JSON):
    first_token_ms: 200
    rules: [{when: {user: "refund", tool_results: 0}, tool_calls: [{name: get_order, arguments: {order_id: A1001}}]}]
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from loadtests.simulators.asked import Asked

FaultKind = Literal[
    "400", "401", "404", "429", "500", "503", "529",
    "spend_limit", "stall", "reset", "eof", "garbage", "truncated_tool_json", "error_event", "held_open",
]  # fmt: skip
MAX_TOKENS = 100_000
WORD = "and "  # one token as the simulator counts
_Milliseconds = Annotated[float, Field(ge=0, le=600_000)]


class ProfileInvalid(ValueError):
    """The profile does not hold; the text is one line that names the place."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class When(_Part):
    """Conditions on a request, all of which must hold. `user` and `system` are regular expressions, found anywhere, case ignored.

    `tool_results` counts results since the last user message; `has_tool` is a tool's name; `purpose` is the caller's header.
    """

    user: str | None = None
    system: str | None = None
    tool_results: int | None = None
    has_tool: str | None = None
    purpose: str | None = None
    provider: Literal["openai", "anthropic"] | None = None
    model: str | None = None
    stream: bool | None = None

    @field_validator("user", "system")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as e:
                raise ValueError(f"not a regular expression: {e}") from None
        return pattern

    def caught(self, asked: Asked) -> Mapping[str, str]:
        """What the named groups of `user` find in the last user message; a group that found nothing is empty."""
        found = None if self.user is None else re.search(self.user, asked.user, re.IGNORECASE)
        return {} if found is None else found.groupdict("")

    def holds(self, asked: Asked) -> bool:
        """Whether the request meets every condition."""
        return (
            (self.user is None or re.search(self.user, asked.user, re.IGNORECASE) is not None)
            and (self.system is None or re.search(self.system, asked.system, re.IGNORECASE) is not None)
            and self.tool_results in (None, len(asked.results))
            and (self.has_tool is None or any(t.name == self.has_tool for t in asked.tools))
            and self.purpose in (None, asked.purpose)
            and self.provider in (None, asked.provider)
            and self.model in (None, asked.model)
            and self.stream in (None, asked.stream)
        )


class Call(_Part):
    """A tool call to make. Text as `arguments` is sent as it stands, however broken, but for what `Rule.filled` puts in."""

    name: str
    arguments: dict[str, Any] | str = {}
    id: str | None = None


class Rule(_Part):
    """What to answer when `when` holds: text, tool calls (beside the text, if both), or JSON. `{name}` in the text and in arguments
    stands for what the named group of `when.user` has caught. `tokens` makes a text of so many, a number or such a name."""

    when: When = When()
    text: str | None = None
    tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | Annotated[str, Field(pattern=r"^\{\w+\}$")] | None = None
    tool_calls: tuple[Call, ...] = ()
    json_: Any = Field(default=None, alias="json")
    first_token_ms: _Milliseconds | None = None
    token_ms: _Milliseconds | None = None

    def filled(self, asked: Asked) -> Rule:
        """The rule as it answers this request. Braces around anything but a group's name stay as they are."""
        caught = self.when.caught(asked)
        if self.tokens is not None:
            number = str(self.tokens) if isinstance(self.tokens, int) else _fill(self.tokens, caught)
            count = min(int(number), MAX_TOKENS) if number.isdecimal() else 1
            return self.model_copy(update={"text": WORD * max(1, count)})
        if not caught:
            return self
        calls = tuple(call.model_copy(update={"arguments": _fill(call.arguments, caught)}) for call in self.tool_calls)
        return self.model_copy(update={"text": _fill(self.text, caught), "tool_calls": calls})


class Fault(_Part):
    """One way to fail: by chance (`probability`, seeded) or every n-th call that `when` admits, after so many tokens.

    stall waits `seconds`; 429, 503 and 529 send `retry_after` if given; held_open keeps the socket for `seconds` after the end.
    """

    kind: FaultKind
    when: When = When()
    probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    every: Annotated[int, Field(ge=1)] | None = None
    after_tokens: Annotated[int, Field(ge=0)] = 0
    retry_after: Annotated[float, Field(ge=0)] | None = None
    seconds: Annotated[float, Field(ge=0)] = 120.0

    @field_validator("kind", mode="before")
    @classmethod
    def _as_text(cls, kind: Any) -> Any:
        return str(kind) if type(kind) is int else kind


class Profile(_Part):
    """How the simulator behaves. Times are milliseconds: before the first token, and between tokens. With `cache_writes` Anthropic's input
    that was not read from the cache counts as written into it."""

    first_token_ms: _Milliseconds = 120.0
    token_ms: _Milliseconds = 12.0
    seed: int = 1
    cache: bool = True
    cache_writes: bool = False
    rules: tuple[Rule, ...] = ()
    faults: tuple[Fault, ...] = ()

    def rule(self, asked: Asked) -> Rule | None:
        """The first rule that holds."""
        return next((rule for rule in self.rules if rule.when.holds(asked)), None)


class FaultPlan:
    """Which call fails how. The same seed and the same order of calls give the same faults."""

    def __init__(self, profile: Profile) -> None:
        self._faults = profile.faults
        self._random = random.Random(profile.seed)
        self._counts = [0] * len(profile.faults)

    def draw(self, asked: Asked) -> Fault | None:
        """The fault of this call, if any: the first that strikes."""
        hit: Fault | None = None
        for n, fault in enumerate(self._faults):
            if not fault.when.holds(asked):
                continue
            self._counts[n] += 1
            chance = self._random.random() if fault.probability else 1.0  # drawn for each, so that faults stay independent
            if hit is None and (chance < fault.probability or (fault.every is not None and self._counts[n] % fault.every == 0)):
                hit = fault
        return hit


def _fill(value: Any, caught: Mapping[str, str]) -> Any:
    """The value with `{name}` replaced in every text of it."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: caught.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {key: _fill(item, caught) for key, item in value.items()}
    return [_fill(item, caught) for item in value] if isinstance(value, list) else value


def load_profile(path: Path) -> Profile:
    """Reads a profile file. Raises ProfileInvalid."""
    try:
        return parse_profile(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise ProfileInvalid(f"{path}: cannot be read: {e}") from None
    except ProfileInvalid as e:
        raise ProfileInvalid(f"{path}: {e}") from None


def parse_profile(text: str) -> Profile:
    """The same for text."""
    try:
        doc = yaml.safe_load(text)
        return Profile.model_validate({} if doc is None else doc)
    except yaml.YAMLError as e:
        raise ProfileInvalid(" ".join(str(e).split())) from None
    except ValidationError as e:
        first = e.errors()[0]
        raise ProfileInvalid(f"{'.'.join(map(str, first['loc'])) or 'the profile'}: {first['msg']}") from None
