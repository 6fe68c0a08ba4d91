"""The one door to an LLM: an alias becomes targets, tried one after the other until the first token; after it a failure is final, unless
the alias lets another target go on with the text.

It knows targets and kinds of failure, no wire format and no SDK.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Container, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

from common.errors import DeadlineExceeded, DependencyUnavailable, LoadsplitError
from common.hotstore.protocol import HotStore
from heavy.llm.admission import Admission, Place
from heavy.llm.aliases import Alias
from heavy.llm.choice import Choice
from heavy.llm.continuing import Broken
from heavy.llm.leg import Counting, GatewayLeg, Settle, new_call_id
from heavy.llm.legs import Ask, Books, CallRecord, Purse, Spender
from heavy.llm.limits import Limits
from heavy.llm.prices import cost, prices_of
from heavy.llm.replies import Replies
from heavy.llm.retries import RetryBudget
from heavy.llm.standing import Standings
from heavy.llm.targets import DEFAULT_ALIAS, OPTIONAL_ALIASES
from heavy.llm.tokens import estimate, estimate_tools
from heavy.llm.types import CallUsage, Chunk, Completed, LLMCallFailed, LLMRequest, Provider, Target, TextDelta

if TYPE_CHECKING:
    from common.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# With less time than this left, no call is begun: it could not end well, and would cost money.
MIN_CALL_SECONDS = 0.5
# A longer Retry-After than this is not waited for within a request.
MAX_RETRY_AFTER_SECONDS = 2.0
# No call waits longer than this for a place at a target, whatever its deadline.
MAX_WAIT_SECONDS = 10.0
# Worth one more try at the same target when there is no other.
TRANSIENT = frozenset({"connect", "overloaded", "server_error", "rate_limited", "reset", "incomplete", "garbage", "error_event"})

NO_LLM = "no LLM is configured: set OPENAI_API_KEY or ANTHROPIC_API_KEY, or name a models file in LOADSPLIT_MODELS"
_PROVIDERS = {"openai": "OpenAIProvider", "anthropic": "AnthropicProvider"}

Declared = Mapping[str, Alias | tuple[Target, ...]]


class LLMGateway:
    """Implements heavy.llm.types.Gateway. A bare tuple of targets is an alias that takes them in this order.

    With a `hotstore` the limits of targets hold for all replicas, and replies to deterministic calls can be kept. `books` get a line for
    each call, `purse` is asked before each.
    """

    def __init__(
        self,
        targets: Declared,
        providers: Mapping[str, Provider],
        metrics: Metrics | None = None,
        *,
        hotstore: HotStore | None = None,
        books: Books | None = None,
        purse: Purse | None = None,
    ) -> None:
        self._providers = dict(providers)
        self._metrics = metrics
        self._books = books
        self._purse = purse
        self._standings = Standings()
        self._limits = Limits(hotstore)
        self._replies = Replies(hotstore)
        self._counting = Counting(metrics, books)
        self._admission = Admission(self._standings, self._limits, metrics)
        self._budgets: dict[str, RetryBudget] = {}
        self._aliases: dict[str, Alias] = {}
        self.use(targets)

    def use(self, targets: Declared, providers: Mapping[str, Provider] | None = None) -> None:
        """These aliases from now on; calls under way end as they began. What is known of targets that stay is kept."""
        self._providers.update(providers or {})
        self._aliases = {name: alias if isinstance(alias, Alias) else Alias.of(*alias) for name, alias in targets.items()}
        self._standings.keep({target for alias in self._aliases.values() for target in alias.targets})
        old, self._budgets = self._budgets, {}
        for name, alias in self._aliases.items():
            self._budgets[name] = old.get(name) or RetryBudget(alias.retry_share)
            self._budgets[name].share = alias.retry_share

    def stream(self, request: LLMRequest) -> AsyncGenerator[Chunk, None]:
        """Text deltas and one Completed. Whoever stops early closes the generator (`aclosing`), which closes the connection upstream."""
        return self._run(request, streaming=True)

    async def complete(self, request: LLMRequest) -> Completed:
        """One JSON call; the same fail-over."""
        async with aclosing(self._run(request, streaming=False)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Completed):
                    return chunk
        raise LLMCallFailed("the LLM provider's answer ended too early", kind="incomplete")

    def context_tokens(self, model: str) -> int:
        """The context size of the alias's first target, in tokens; of an alias without targets, that of a small model."""
        alias = self._aliases.get(model) or self._aliases.get(DEFAULT_ALIAS)
        return alias.targets[0].context_tokens if alias and alias.targets else 8_000

    def targets(self, model: str) -> tuple[Target, ...]:
        """The targets of an alias, in the order of the file. Raises DependencyUnavailable where there are none."""
        return self._alias(model)[1].targets

    def catalogue(self) -> dict[str, tuple[Target, ...]]:
        """The aliases that hold now, with their targets."""
        return {name: alias.targets for name, alias in self._aliases.items()}

    @property
    def speaks(self) -> frozenset[str]:
        """The providers whose connections are open."""
        return frozenset(self._providers)

    async def legs(self, ask: Ask) -> AsyncGenerator[GatewayLeg, None]:
        """The targets' turns at a call: see heavy.llm.legs."""
        name, alias = self._alias(ask.alias)
        loop = asyncio.get_running_loop()
        deadline = None if ask.timeout is None else loop.time() + ask.timeout
        choice = Choice(alias, self._standings, ask.tokens, ask.provider)
        if not choice.possible:
            raise DependencyUnavailable(f"the alias {ask.alias!r} has no target that speaks {ask.provider}'s protocol")
        budget = self._budgets[name]
        budget.asked()
        error: LLMCallFailed | None = None
        while True:
            leg = await self._leg(choice, ask, deadline, error)
            try:
                yield leg
            finally:
                leg.left()  # of a leg that has ended this is nothing
            if leg.error is None:
                return
            error = leg.error
            choice.tried(leg.target, again=error.kind in TRANSIENT)
            if leg.final or not await self._goes_on(choice, name, alias, error, deadline):
                raise error

    async def aclose(self) -> None:
        """Waits for what the limits still have to be told, and closes every connection."""
        await self._limits.aclose()
        for provider in self._providers.values():
            await provider.aclose()

    def _alias(self, model: str) -> tuple[str, Alias]:
        """An alias and the name under which it is declared."""
        if not self._aliases:
            raise DependencyUnavailable(NO_LLM)
        name = model if model in self._aliases or model not in OPTIONAL_ALIASES else DEFAULT_ALIAS
        found = self._aliases.get(name)
        if found is None:
            raise DependencyUnavailable(
                f"no LLM is configured under the alias {model!r}; the models file has: {', '.join(sorted(self._aliases))}"
            )
        return name, found

    async def _leg(self, choice: Choice, ask: Ask, deadline: float | None, error: LLMCallFailed | None) -> GatewayLeg:
        """The next leg. Raises what a target could not be had for; after a failure, that."""
        loop = asyncio.get_running_loop()
        left = None if deadline is None else deadline - loop.time()
        if left is not None and left < MIN_CALL_SECONDS:
            raise DeadlineExceeded("the time for this request is over before the LLM could answer") from error
        most = MAX_RETRY_AFTER_SECONDS if error is not None else MAX_WAIT_SECONDS
        try:
            place = await self._admission.place(choice, ask, most if left is None else min(most, left - MIN_CALL_SECONDS))
        except LoadsplitError as e:
            if error is not None:
                raise error from e
            raise
        if place is None:
            raise error or DependencyUnavailable(NO_LLM)
        settle = await self._set_aside(place, ask)
        return GatewayLeg(place, ask, self._counting, settle, None if deadline is None else deadline - loop.time())

    async def _set_aside(self, place: Place, ask: Ask) -> Settle | None:
        """What the call may cost at most, from the spender's budget. Raises BudgetExceeded."""
        if self._purse is None:
            return None
        most = CallUsage(input_tokens=ask.tokens, output_tokens=ask.most_output or place.target.max_tokens, cache_write_tokens=ask.tokens)
        settle: Settle | None = None
        try:
            settle = await self._purse.reserve(ask.spender, most.input_tokens + most.output_tokens, cost(most, prices_of(place.target)))
        finally:
            if settle is None:  # refused or cancelled: the place is another's
                place.release()
        return settle

    async def _goes_on(self, choice: Choice, name: str, alias: Alias, error: LLMCallFailed, deadline: float | None) -> bool:
        """After a failure: whether another try is possible and allowed; before one at the same target it pauses."""
        loop = asyncio.get_running_loop()
        target = next(choice.order(loop.time()), None)
        if target is None:
            if error.kind == "timeout" and deadline is not None and deadline - loop.time() < MIN_CALL_SECONDS:
                raise DeadlineExceeded("the LLM did not answer within the time for this request") from error
            return False
        pause = 0.0
        if tries := choice.tries_of(target):
            if error.retry_after is not None and error.retry_after > MAX_RETRY_AFTER_SECONDS:
                return False
            jitter = random.uniform(0.4, 1.6)
            pause = error.retry_after if error.retry_after is not None else alias.backoff * 2 ** (tries - 1) * jitter
            if deadline is not None and loop.time() + pause + MIN_CALL_SECONDS > deadline:
                return False
        allowed = self._budgets[name].take(loop.time()) if name in self._budgets else True
        if self._metrics is not None:
            self._metrics.llm_retries_total.labels(name, "made" if allowed else "refused").inc()
        if not allowed:
            log.warning("the retry budget of the alias %s is spent: a failed LLM call is not tried elsewhere", name)
            return False
        await asyncio.sleep(pause)
        return True

    async def _run(self, request: LLMRequest, *, streaming: bool) -> AsyncGenerator[Chunk, None]:
        """One call with its legs, or the reply that is kept for it."""
        _, alias = self._alias(request.model)
        kept = self._replies.key(alias, request)
        if kept is not None and (reply := await self._kept(kept, request, streaming)):
            if streaming and reply.message.content:
                yield TextDelta(reply.message.content)
            yield reply
            return
        broken = Broken()
        ask = _ask(request, streaming)
        try:
            async with aclosing(self.legs(ask)) as legs:
                async for leg in legs:
                    async with aclosing(self._call(leg, broken, request, alias.continues, streaming)) as chunks:
                        async for chunk in chunks:
                            if kept is not None and isinstance(chunk, Completed):
                                await self._replies.keep(kept, chunk, alias.cache_seconds)
                            yield chunk
        except LLMCallFailed as e:
            broken.tell(e)
            raise

    async def _call(
        self, leg: GatewayLeg, broken: Broken, request: LLMRequest, continues: bool, streaming: bool
    ) -> AsyncGenerator[Chunk, None]:
        """One leg: its chunks, or its failure told to it."""
        target, text, told = leg.target, "", CallUsage(llm_calls=1)
        asked = replace(broken.request(request, target), timeout=leg.timeout, told=told)
        try:
            stream: AsyncIterator[Chunk] = self._providers[target.provider].stream(target, asked, streaming=streaming)
            async with aclosing(stream) as chunks:  # type: ignore[type-var]  # the providers' iterators are generators
                async for chunk in chunks:
                    leg.first_token()
                    if isinstance(chunk, TextDelta):
                        if broken.text:
                            chunk = TextDelta(broken.delta(chunk.text))
                        text += chunk.text
                    else:
                        leg.pause(chunk.pause)
                        leg.done(chunk.usage)
                        chunk = broken.whole(chunk, text)
                    yield chunk
        except LLMCallFailed as e:
            goes_on = continues and e.after_first_token and not e.calls_begun
            leg.failed(e, goes_on=goes_on)
            if text:
                broken.add(text, e)
        finally:
            leg.abandoned(text, told)  # of a leg that has ended this is nothing

    async def _kept(self, key: str, request: LLMRequest, streaming: bool) -> Completed | None:
        """The kept reply to a call; it has a line in the ledger like any other."""
        began = time.time()
        reply = await self._replies.find(key)
        if self._metrics is not None:
            self._metrics.llm_cached_replies_total.labels(self._alias(request.model)[0], "miss" if reply is None else "hit").inc()
        if reply is not None and self._books is not None:
            spender = _ask(request, streaming).spender
            model = reply.target.partition("/")[2]
            line = CallRecord(new_call_id(), spender, request.model, reply.target, model, "ok", began, time.time() - began, None)
            line.streamed, line.cached_reply = streaming, True
            self._books.record(line)
        return reply


def _ask(request: LLMRequest, streaming: bool) -> Ask:
    spender = request.spender or Spender(purpose=request.purpose)
    if spender.purpose != request.purpose:
        spender = replace(spender, purpose=request.purpose)
    tokens = estimate(request.messages) + estimate_tools(request.tools)
    return Ask(request.model, spender, tokens, request.max_tokens or 0, request.timeout, streamed=streaming)


@asynccontextmanager
async def open_gateway(
    targets: Declared,
    metrics: Metrics | None = None,
    *,
    hotstore: HotStore | None = None,
    books: Books | None = None,
    purse: Purse | None = None,
) -> AsyncIterator[LLMGateway]:
    """A gateway with the providers that the targets need; closes their connections at the end. Without any target every call says so."""
    gateway = LLMGateway(targets, open_providers(targets), metrics, hotstore=hotstore, books=books, purse=purse)
    try:
        yield gateway
    finally:
        await gateway.aclose()


def open_providers(targets: Declared, but: Container[str] = ()) -> dict[str, Provider]:
    """The providers that the targets need, by name, `but` for those that are there already."""
    every = _every(targets)
    opened: dict[str, Provider] = {}
    for name, module in import_sdks(targets).items():
        if name not in but:
            opened[name] = getattr(module, _PROVIDERS[name])([t for t in every if t.provider == name])
    return opened


def import_sdks(targets: Declared) -> dict[str, ModuleType]:
    """The modules of the providers that the targets need. Only the SDKs that are used: each costs about a second and 50 MB."""
    names = sorted({str(target.provider) for target in _every(targets)})
    return {name: importlib.import_module(f"heavy.llm.providers.{name}") for name in names}


def _every(targets: Declared) -> set[Target]:
    return {target for alias in targets.values() for target in (alias.targets if isinstance(alias, Alias) else alias)}
