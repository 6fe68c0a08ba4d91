"""One target's turn at a call: what its end means for the target, the limits, the budget, the metrics and the ledger."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from common.contracts.query import Usage, new_turn_id
from common.telemetry.genai import DURATION, FIRST_CHUNK, FIRST_SEEN, USED
from common.telemetry.tracing import NO_SPAN, current_span
from heavy.llm.admission import Place
from heavy.llm.headers import pause
from heavy.llm.legs import Ask, Books, CallRecord
from heavy.llm.prices import cost, prices_of
from heavy.llm.spans import span_of
from heavy.llm.tokens import tokens_of
from heavy.llm.types import CallUsage, LLMCallFailed, Target

if TYPE_CHECKING:
    from common.telemetry.metrics import Metrics

# The request itself is wrong: every target would say the same, and the target is none the worse for it.
FINAL = frozenset({"invalid_request"})
# Someone has to act; they are logged as errors.
ALARMING = frozenset({"auth", "not_found", "spend_limit"})
# With a time to wait these are no fault of the target: it is only asked to pause.
WANTS_A_PAUSE = frozenset({"rate_limited", "overloaded"})

CHAT = "chat"  # gen_ai.operation.name of all our calls

# Seconds by which a timer may go off early.
CLOSE = 0.05

Settle = Callable[[Usage | None], None]
log = logging.getLogger(__name__)


def new_call_id() -> str:
    """Of a line in the ledger: later calls come behind earlier ones."""
    return "c_" + new_turn_id()[2:]


class Counting:
    """Where calls are counted: metrics and books."""

    def __init__(self, metrics: Metrics | None, books: Books | None) -> None:
        self._metrics = metrics
        self._books = books
        self._unpriced: set[str] = set()

    def price(self, target: Target, usage: Usage) -> None:
        """Sets usage.cost_usd. An unknown price is said once."""
        prices = prices_of(target)
        if prices is None and target.model not in self._unpriced:
            self._unpriced.add(target.model)
            log.warning("the price of %s is not known: its calls count as free; set `prices` in the models file", target.name)
        usage.cost_usd = cost(usage, prices)

    def first_token(self, target: Target, seconds: float) -> None:
        """The first piece of an answer."""
        if self._metrics is not None:
            self._metrics.llm_first_token_seconds.labels(target.name).observe(seconds)
            for name in (FIRST_CHUNK, FIRST_SEEN):
                self._metrics.genai[name].labels(CHAT, target.provider, target.model).observe(seconds)

    def health(self, target: str, out: bool) -> None:
        """Whether a target gets calls."""
        if self._metrics is not None:
            self._metrics.llm_target_out.labels(target).set(float(out))

    def call(self, record: CallRecord) -> None:
        """A call that has ended."""
        if (span := current_span()) is not NO_SPAN:
            span.child(**span_of(record))
        if self._books is not None:
            self._books.record(record)
        if self._metrics is None:
            return
        usage, target = record.usage, record.target
        self._metrics.llm_calls_total.labels(target, record.outcome, record.spender.purpose).inc()
        named = (CHAT, target.partition("/")[0], record.model)
        self._metrics.genai[DURATION].labels(*named, "" if record.outcome == "ok" else record.outcome).observe(record.seconds)
        if usage.input_tokens or usage.output_tokens:
            for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                self._metrics.genai[USED].labels(*named, kind).observe(tokens)
            fresh = usage.input_tokens - usage.cached_tokens
            for kind, tokens in (("input", fresh), ("cached", usage.cached_tokens), ("output", usage.output_tokens)):
                self._metrics.llm_tokens_total.labels(target, kind).inc(tokens)
            self._metrics.llm_cost_usd_total.labels(target).inc(usage.cost_usd)
            if not record.estimated:
                self._metrics.llm_prompt_cache_total.labels(target, "hit" if usage.cached_tokens else "miss").inc()


class GatewayLeg:
    """Implements heavy.llm.legs.Leg. `error` is how it failed, and `final` whether no other target should be tried."""

    def __init__(self, place: Place, ask: Ask, counting: Counting, settle: Settle | None, timeout: float | None) -> None:
        self.target = place.target
        self.timeout = timeout
        self.error: LLMCallFailed | None = None
        self.final = False
        self._place = place
        self._ask = ask
        self._counting = counting
        self._settle = settle
        self._loop = asyncio.get_running_loop()
        self._began, self._began_at = self._loop.time(), time.time()
        self._first: float | None = None
        self._ended = False

    def first_token(self) -> None:
        """The first piece of the answer is here."""
        if self._first is None:
            self._first = self._loop.time() - self._began
            self._place.standing.quick(self._first)
            self._counting.first_token(self.target, self._first)

    def told(self, headers: Mapping[str, str]) -> None:
        """The headers of the provider's reply."""
        self.pause(pause(headers))

    def pause(self, seconds: float | None) -> None:
        """The provider wants no further call for so many seconds."""
        if seconds:
            self._place.standing.pause(seconds, self._loop.time())

    def done(self, usage: Usage) -> None:
        """The call has succeeded."""
        if not self._ended:
            self._counting.price(self.target, usage)
            self._place.standing.took(self._loop.time() - self._began)
            self._place.standing.health.succeeded(self._loop.time())
            self._end("ok", usage, usage.input_tokens + usage.output_tokens)

    def failed(self, error: LLMCallFailed, *, goes_on: bool = False) -> None:
        """The call has failed. `goes_on` says that another target can go on with what was said so far."""
        if self._ended:
            return
        self.error = error
        seen = error.after_first_token or self._first is not None
        self.final = error.kind in FINAL or (seen and not goes_on)
        self._log(error)
        standing, now = self._place.standing, self._loop.time()
        if error.retry_after is not None and error.kind in WANTS_A_PAUSE:
            standing.pause(error.retry_after, now)
            standing.health.undecided(self._place.probe)
        elif error.kind in FINAL or self._ran_out(error):
            standing.health.undecided(self._place.probe)
        else:
            standing.health.failed(now, self._place.probe)
        usage = error.usage
        if usage is not None:
            self._counting.price(self.target, usage)
        if seen and (usage is None or not usage.input_tokens):
            guess = self._guess(error.partial)
            self._end(error.kind, guess, guess.input_tokens + guess.output_tokens, estimated=True)
        else:
            usage = usage or Usage(llm_calls=1)
            self._end(error.kind, usage, usage.input_tokens + usage.output_tokens)

    def left(self, usage: Usage | None = None, *, estimated: bool = False) -> None:
        """The caller has gone before the end."""
        if self._ended:
            return
        if self._first is not None:
            self._place.standing.health.succeeded(self._loop.time())
        else:
            self._place.standing.health.undecided(self._place.probe)
        if usage is None:
            self._end("cancelled", Usage(llm_calls=1), None)
        else:
            self._counting.price(self.target, usage)
            self._end("cancelled", usage, usage.input_tokens + usage.output_tokens, estimated=estimated)

    def abandoned(self, text: str, told: CallUsage) -> None:
        """The caller has gone after so much text; counts that the provider has not told are guessed."""
        if told.input_tokens or told.output_tokens:
            self.left(told)
        else:
            self.left(self._guess(text), estimated=True)

    def _ran_out(self, error: LLMCallFailed) -> bool:
        """Whether it was the caller's time that was over, which says nothing about the target."""
        return error.kind == "timeout" and self.timeout is not None and self._loop.time() - self._began >= self.timeout - CLOSE

    def _guess(self, text: str) -> Usage:
        usage = Usage(llm_calls=1, input_tokens=self._ask.tokens, output_tokens=tokens_of(text) if text else 0)
        self._counting.price(self.target, usage)
        return usage

    def _end(self, outcome: str, usage: Usage, used: int | None, *, estimated: bool = False) -> None:
        self._ended = True
        self._place.end(used)
        self._counting.health(self.target.name, self._place.standing.health.out)
        if self._settle is not None:
            self._settle(usage if usage.input_tokens or usage.output_tokens else None)
        record = CallRecord(
            call_id=new_call_id(),
            spender=self._ask.spender,
            alias=self._ask.alias,
            target=self.target.name,
            model=self.target.model,
            outcome=outcome,
            began=self._began_at,
            seconds=self._loop.time() - self._began,
            first_token_seconds=self._first,
            usage=usage,
            estimated=estimated,
            streamed=self._ask.streamed,
        )
        self._counting.call(record)

    def _log(self, error: LLMCallFailed) -> None:
        level = logging.ERROR if error.kind in ALARMING else logging.WARNING
        why = "; ".join(getattr(error, "__notes__", ()))
        if self.target.api_key:  # providers quote a key that they refuse, and not every key looks like one
            why = why.replace(self.target.api_key, "***")
        log.log(level, "LLM call failed at %s: %s%s", self.target.name, error.kind, f" ({why})" if why else "")
