"""The one door to an LLM: an alias becomes a list of targets, tried in order until the first token; after it a failure is final.

It knows targets and kinds of failure, no wire format and no SDK.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from common.contracts.query import Usage, new_turn_id
from common.errors import DeadlineExceeded, DependencyUnavailable
from heavy.llm.legs import Books, CallRecord, Purse
from heavy.llm.prices import cost, prices_of
from heavy.llm.targets import DEFAULT_ALIAS, OPTIONAL_ALIASES
from heavy.llm.types import CallUsage, Chunk, Completed, LLMCallFailed, LLMRequest, Provider, Spender, Target, TextDelta

if TYPE_CHECKING:
    from common.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# With less time than this left, no call is begun: it could not end well, and would cost money.
MIN_CALL_SECONDS = 0.5
# A longer Retry-After than this is not waited for within a request.
MAX_RETRY_AFTER_SECONDS = 2.0
# Worth one more try at the same target when there is no other.
TRANSIENT = frozenset({"connect", "overloaded", "server_error", "rate_limited", "reset", "incomplete", "garbage", "error_event"})
# The request itself is wrong: every target would say the same.
FINAL = frozenset({"invalid_request"})
# Someone has to act; they are logged as errors.
ALARMING = frozenset({"auth", "not_found", "spend_limit"})

NO_LLM = "no LLM is configured: set OPENAI_API_KEY or ANTHROPIC_API_KEY, or name a models file in LOADSPLIT_MODELS"
_PROVIDERS = {"openai": "OpenAIProvider", "anthropic": "AnthropicProvider"}


class LLMGateway:
    """Implements heavy.llm.types.Gateway over a plain fail-over list."""

    def __init__(
        self,
        targets: Mapping[str, tuple[Target, ...]],
        providers: Mapping[str, Provider],
        metrics: Metrics | None = None,
        *,
        books: Books | None = None,
        purse: Purse | None = None,
    ) -> None:
        self._targets = targets
        self._providers = providers
        self._metrics = metrics
        self._books = books
        self._purse = purse
        self._unpriced: set[str] = set()

    async def stream(self, request: LLMRequest) -> AsyncGenerator[Chunk, None]:
        """Text deltas and one Completed. Whoever stops early closes the generator (`aclosing`), which closes the connection upstream."""
        async with aclosing(self._run(request, streaming=True)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def complete(self, request: LLMRequest) -> Completed:
        """One JSON call; the same fail-over."""
        async with aclosing(self._run(request, streaming=False)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Completed):
                    return chunk
        raise LLMCallFailed("the LLM provider's answer ended too early", kind="incomplete")

    def context_tokens(self, model: str) -> int:
        """The context size of the alias's first target, in tokens; of an alias without targets, that of a small model."""
        targets = self._targets.get(model) or self._targets.get(DEFAULT_ALIAS) or ()
        return targets[0].context_tokens if targets else 8_000

    def targets(self, model: str) -> tuple[Target, ...]:
        """The targets of an alias, in order. Raises DependencyUnavailable where there are none."""
        if not self._targets:
            raise DependencyUnavailable(NO_LLM)
        found = self._targets.get(model)
        if found is None and model in OPTIONAL_ALIASES:
            found = self._targets.get(DEFAULT_ALIAS)
        if not found:
            raise DependencyUnavailable(
                f"no LLM is configured under the alias {model!r}; the models file has: {', '.join(sorted(self._targets))}"
            )
        return found

    async def _run(self, request: LLMRequest, *, streaming: bool) -> AsyncGenerator[Chunk, None]:
        targets = self.targets(request.model)
        loop = asyncio.get_running_loop()
        deadline = None if request.timeout is None else loop.time() + request.timeout
        tries = [(target, n) for target in targets for n in range(2 if len(targets) == 1 else 1)]
        error: LLMCallFailed | None = None
        for target, attempt in tries:
            if error is not None and attempt and not await self._wait(error, deadline):
                break
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left < MIN_CALL_SECONDS:
                raise DeadlineExceeded("the time for this request is over before the LLM could answer") from error
            try:
                async with aclosing(self._call(target, replace(request, timeout=left), streaming)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except LLMCallFailed as e:
                error = e
                self._log(target, e)
                if e.after_first_token or e.kind in FINAL:
                    raise
        if deadline is not None and deadline - loop.time() < MIN_CALL_SECONDS and error is not None and error.kind == "timeout":
            raise DeadlineExceeded("the LLM did not answer within the time for this request") from error
        raise error or DependencyUnavailable(NO_LLM)

    async def _wait(self, error: LLMCallFailed, deadline: float | None) -> bool:
        """Before a second try at the same target. False when it is not worth one."""
        if error.kind not in TRANSIENT:
            return False
        pause = random.uniform(0.1, 0.4) if error.retry_after is None else error.retry_after  # jitter
        if pause > MAX_RETRY_AFTER_SECONDS:
            return False
        if deadline is not None and asyncio.get_running_loop().time() + pause + MIN_CALL_SECONDS > deadline:
            return False
        await asyncio.sleep(pause)
        return True

    async def _call(self, target: Target, request: LLMRequest, streaming: bool) -> AsyncGenerator[Chunk, None]:
        """One call at one target, measured, paid for and booked. Raises BudgetExceeded before it is made."""
        spender = replace(request.spender or Spender(), purpose=request.purpose)
        settle = await self._reserve(target, request, spender)
        loop = asyncio.get_running_loop()
        began, began_at, first = loop.time(), time.time(), None
        told, text, outcome, estimated = CallUsage(llm_calls=1), "", "cancelled", False
        usage: Usage = told
        try:
            stream: AsyncIterator[Chunk] = self._providers[target.provider].stream(target, replace(request, told=told), streaming=streaming)
            async with aclosing(stream) as chunks:  # type: ignore[type-var]  # the providers' iterators are generators
                async for chunk in chunks:
                    if first is None:
                        first = loop.time() - began
                        self._first_token(target, first)
                    if isinstance(chunk, Completed):
                        outcome, usage = "ok", chunk.usage
                        self._price(target, usage)
                    elif isinstance(chunk, TextDelta):
                        text += chunk.text
                    yield chunk
        except LLMCallFailed as e:
            outcome = e.kind
            usage = e.usage or usage
            if e.after_first_token and not _told(usage):
                usage, estimated = _guess(request, e.partial), True
            e.usage = usage
            self._price(target, usage)
            raise
        finally:
            if outcome == "cancelled":
                usage, estimated = (told, False) if _told(told) else (_guess(request, text), True)
                self._price(target, usage)
            self._count(target, request.purpose, outcome, usage)
            if self._books is not None:
                times = (began_at, loop.time() - began, first)
                line = CallRecord("c_" + new_turn_id()[2:], spender, request.model, target.name, target.model, outcome, *times, usage)
                line.estimated, line.streamed = estimated, streaming
                self._books.record(line)
            settle(usage)

    async def _reserve(self, target: Target, request: LLMRequest, spender: Spender) -> Callable[[Usage | None], None]:
        """Sets aside what the call may cost at most."""
        if self._purse is None:
            return lambda usage: None
        most = _guess(request, "")
        most.output_tokens = request.max_tokens or target.max_tokens
        return await self._purse.reserve(spender, most.input_tokens + most.output_tokens, cost(most, prices_of(target)))

    def _price(self, target: Target, usage: Usage) -> None:
        prices = prices_of(target)
        if prices is None and target.model not in self._unpriced:
            self._unpriced.add(target.model)
            log.warning("the price of %s is not known: its calls count as free; set `prices` in the models file", target.name)
        usage.cost_usd = cost(usage, prices)

    def _log(self, target: Target, error: LLMCallFailed) -> None:
        level = logging.ERROR if error.kind in ALARMING else logging.WARNING
        why = "; ".join(getattr(error, "__notes__", ()))
        if target.api_key:  # providers quote a key that they refuse, and not every key looks like one
            why = why.replace(target.api_key, "***")
        log.log(level, "LLM call failed at %s: %s%s", target.name, error.kind, f" ({why})" if why else "")

    def _first_token(self, target: Target, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.llm_first_token_seconds.labels(target.name).observe(seconds)

    def _count(self, target: Target, purpose: str, outcome: str, usage: Usage | None) -> None:
        if self._metrics is None:
            return
        self._metrics.llm_calls_total.labels(target.name, outcome, purpose).inc()
        if usage is not None:
            fresh = usage.input_tokens - usage.cached_tokens
            for kind, tokens in (("input", fresh), ("cached", usage.cached_tokens), ("output", usage.output_tokens)):
                self._metrics.llm_tokens_total.labels(target.name, kind).inc(tokens)
            self._metrics.llm_cost_usd_total.labels(target.name).inc(usage.cost_usd)


def _told(usage: Usage) -> bool:
    return usage.input_tokens > 0 or usage.output_tokens > 0


def _guess(request: LLMRequest, text: str) -> CallUsage:
    """What a call may have used whose provider has not told it: a token for four characters."""
    asked = sum(len(m.content) + sum(len(c.name) + len(c.arguments) for c in m.tool_calls) for m in request.messages)
    return CallUsage(1, asked // 4 + 1, 0, len(text) // 4)


@asynccontextmanager
async def open_gateway(
    targets: Mapping[str, tuple[Target, ...]],
    metrics: Metrics | None = None,
    *,
    books: Books | None = None,
    purse: Purse | None = None,
) -> AsyncIterator[LLMGateway]:
    """A gateway with the providers that the targets need; closes their connections at the end. Without any target every call says so."""
    every = {target for alias in targets.values() for target in alias}
    wanted: set[str] = {target.provider for target in every}
    providers = {name: _provider(name, [t for t in every if t.provider == name]) for name in sorted(wanted)}
    try:
        yield LLMGateway(targets, providers, metrics, books=books, purse=purse)
    finally:
        for provider in providers.values():
            await provider.aclose()


def _provider(name: str, targets: list[Target]) -> Provider:
    """Imports only the SDK that is used: each costs about a second and 50 MB."""
    module = importlib.import_module(f"heavy.llm.providers.{name}")
    provider: Provider = getattr(module, _PROVIDERS[name])(targets)
    return provider
