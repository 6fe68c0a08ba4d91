"""Provider-neutral words of an LLM call. Everything above the gateway speaks these; only provider files know a wire format."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from common.contracts.query import Usage
from common.errors import LLMError

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "tool_calls", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is the JSON text as the model wrote it; it may be wrong."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. `tool_calls` only on assistant messages, `tool_call_id` only on tool messages (their results).

    `author` is who wrote it where the role does not tell: `human` (a colleague, as assistant), `timer` (a note in the user's place),
    `shown` (a tool's result that the user has read as it stands). `ms` is how long a tool's call took, on its result. Providers are sent
    neither.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    author: str | None = None
    ms: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it; `parameters` is a JSON Schema of type object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spender:
    """On whose account a call goes. `key_id` is the API key's where one asks for a model directly; `purpose` as in LLMRequest."""

    tenant: str = ""
    agent_id: str | None = None
    skill: str | None = None
    session_id: str | None = None
    turn_id: str | None = None
    key_id: str | None = None
    purpose: str = "message"


@dataclass(frozen=True, slots=True)
class LLMRequest:
    """One call. `model` is an alias of the models file. `tool_choice` is auto, none, required or the name of one tool.

    `timeout` is how many seconds are left for the whole call, None for the target's own limit. `deterministic` marks classification-like
    calls (temperature 0 where the model takes it). `purpose` (intent, skill, message, compaction) is for metrics and the simulator's log.
    `spender` is on whose account it goes. `told` is filled in with the provider's counts as they come, for whoever leaves before the end.
    """

    model: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    tool_choice: str = "auto"
    max_tokens: int | None = None
    timeout: float | None = None
    deterministic: bool = False
    purpose: str = "message"
    spender: Spender | None = None
    told: CallUsage | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text, as it arrives."""

    text: str


@dataclass(slots=True)
class CallUsage(Usage):
    """What one call has used. `cache_write_tokens` is the part of the input that the provider has written into its cache, at a price of its
    own; clients are not told of it."""

    cache_write_tokens: int = 0


def cache_writes(usage: Usage) -> int:
    """Input tokens that were written into the provider's cache; 0 where that is not known."""
    return usage.cache_write_tokens if isinstance(usage, CallUsage) else 0


@dataclass(frozen=True, slots=True)
class Completed:
    """The end of a call: the whole answer and what it cost. Always the last chunk, always there unless the call raised.

    `pause` is how many seconds the provider wants no further call, by its rate-limit headers; None when it has room.
    """

    message: Message
    usage: Usage
    finish_reason: FinishReason
    model: str = ""
    target: str = ""
    pause: float | None = None


Chunk = TextDelta | Completed


class LLMCallFailed(LLMError):
    """A call failed at one target. `kind` says how; `partial` is the text that had arrived; `after_first_token` whether any had;
    `calls_begun` whether the model had begun to call a tool.

    kind: rate_limited, overloaded, server_error, connect, timeout, reset, incomplete (a clean end without the terminal event),
    garbage, error_event, invalid_request, auth, not_found (the model or the path), spend_limit.
    """

    def __init__(self, detail: str, *, kind: str, partial: str = "", retry_after: float | None = None, usage: Usage | None = None) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.kind = kind
        self.partial = partial
        self.usage = usage
        self.calls_begun = False

    @property
    def after_first_token(self) -> bool:
        """Whether some of the answer may already have reached the user."""
        return bool(self.partial)


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens. `cache_write` is the price of input that is written into the cache, None where that costs nothing
    beside the input's price."""

    input: float = 0.0
    cached_input: float = 0.0
    output: float = 0.0
    cache_write: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One model of one provider, as the models file declares it. Time-outs are seconds. `api_key` never appears in a repr.

    `weight` is its share among the targets of a balanced alias. `rpm` and `tpm` (requests and tokens a minute) hold for all replicas,
    `max_concurrency` for this process; None is no limit. After `eject_after` failures in a row it gets no calls for a while (0: never).
    """

    provider: Literal["openai", "anthropic"]
    model: str
    base_url: str | None = None
    api_key: str = field(default="", repr=False)
    max_tokens: int = 4096
    context_tokens: int = 128_000
    connect_timeout: float = 5.0
    first_token_timeout: float = 30.0
    idle_timeout: float = 20.0
    total_timeout: float = 120.0
    prices: Prices = Prices()
    weight: float = 1.0
    rpm: int | None = None
    tpm: int | None = None
    max_concurrency: int | None = None
    eject_after: int = 5
    prompt_cache: bool = True

    @property
    def account(self) -> tuple[str, str | None, str, str]:
        """What the provider counts by: targets that share it share their limits and their health."""
        return self.provider, self.base_url, self.model, self.api_key

    @property
    def name(self) -> str:
        """For logs and metrics."""
        return f"{self.provider}/{self.model}"


class Provider(Protocol):
    """One wire protocol. Streams one call at one target; raises LLMCallFailed; never retries."""

    def stream(self, target: Target, request: LLMRequest, *, streaming: bool) -> AsyncIterator[Chunk]:
        """Text deltas and then one Completed. With `streaming` false one JSON call is made and only Completed comes."""

    async def aclose(self) -> None:
        """Closes connections."""


class Gateway(Protocol):
    """The only door to an LLM for everything above."""

    def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """Text deltas and then one Completed, after fail-over where that is invisible. Raises LLMError or a subclass."""

    async def complete(self, request: LLMRequest) -> Completed:
        """The same without deltas (one JSON call upstream)."""

    def context_tokens(self, model: str) -> int:
        """The context size of the alias's first target, in tokens."""
