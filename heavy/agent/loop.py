"""The agent loop: ask the model, run the tools that it calls, ask again, until it answers or a bound is reached.

An async generator of typed steps. It sees no HTTP, SSE, Redis, SQL or SDK. The transcript is the checkpoint: every Step is committed by
the caller before the loop goes on, so that any node can take the run up from the transcript alone.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from common.contracts.query import Usage
from common.errors import DeadlineExceeded
from common.workflow.schema import Limits
from heavy.agent import calls, prompts
from heavy.agent.context import Window
from heavy.agent.ends import BadToolCalls
from heavy.agent.names import DONE
from heavy.agent.said import SEPARATOR, Said, said_before
from heavy.agent.steps import Delta, Ended, Reason, RunEnd, RunStep, Step, ToolEnded, ToolStarted
from heavy.agent.toolbox import Toolbox, ToolResult, for_model, for_user
from heavy.llm.types import Completed, Gateway, LLMCallFailed, LLMRequest, Message, TextDelta, ToolCall, ToolSpec

MAX_REPAIRS = 2
DONE_TOOL = ToolSpec(
    DONE,
    prompts.DONE_DESCRIPTION,
    {
        "type": "object",
        "properties": {"message": {"type": "string", "description": "The final answer to the user."}},
        "required": ["message"],
    },
)


async def run_agent(
    gateway: Gateway,
    toolbox: Toolbox,
    *,
    system: str,
    history: Sequence[Message],
    transcript: Sequence[Message],
    model: str,
    max_iterations: int,
    require_done: bool = False,
    streaming: bool = True,
    deadline: float | None = None,
    purpose: str = "skill",
    limits: Limits | None = None,
    compaction_model: str | None = None,
    fallback: str = "",
) -> AsyncGenerator[RunStep]:
    """Runs an agent over one turn.

    `transcript` holds the committed messages of this turn, the user's first; on a resumed turn the loop goes on behind the last one and
    runs only the calls that have no result yet. `deadline` is Unix seconds. `fallback` is said when a bound ends the run and the
    model gives no closing words. Raises LLMError (with `.partial`), its subclass BadToolCalls, or DeadlineExceeded.
    """
    run = _Run(gateway, toolbox, system, transcript, model, max_iterations, require_done, streaming, deadline, purpose, limits, fallback)
    run.window = Window(gateway, model=model, compaction_model=compaction_model, history=history, tools=run.tools, deadline=run.deadline)
    async with aclosing(run.steps()) as steps:
        async for step in steps:
            yield step


class _Run:
    """The state of one run."""

    window: Window

    def __init__(
        self,
        gateway: Gateway,
        toolbox: Toolbox,
        system: str,
        transcript: Sequence[Message],
        model: str,
        max_iterations: int,
        require_done: bool,
        streaming: bool,
        deadline: float | None,
        purpose: str,
        limits: Limits | None,
        fallback: str,
    ) -> None:
        self.gateway, self.toolbox, self.system, self.model = gateway, toolbox, system, model
        self.max_iterations, self.require_done, self.streaming, self.purpose = max_iterations, require_done, streaming, purpose
        self.limits, self.fallback, self.deadline = limits or Limits(), fallback, deadline
        self.until = time.time() + self.limits.seconds if self.limits.seconds else None
        self.tools = (*toolbox.specs, DONE_TOOL) if require_done else toolbox.specs
        self.transcript = list(transcript)
        self.said = Said(said_before(transcript))
        self.usage, self.total = Usage(), Usage()
        self.answer = Message("assistant")
        self.log = calls.CallLog(transcript)
        self.bad_rounds = 0
        self.stop: Reason | None = None
        self.finished: str | None = None  # the final text of an accepted `done`

    async def steps(self) -> AsyncGenerator[RunStep]:
        last = self.transcript[-1]
        if last.role == "assistant" and not last.tool_calls:
            yield self._end("answered", done=not self.require_done, open_=self.require_done)
            return
        pending = calls.unanswered(self.transcript)
        while True:
            if not pending:
                if reason := self._bound():
                    async with aclosing(self._wrap_up(reason)) as closing:
                        async for step in closing:
                            yield step
                    return
                try:
                    async with aclosing(self._ask(self.system, "auto")) as asked:
                        async for step in asked:
                            yield step
                except (LLMCallFailed, DeadlineExceeded):
                    if not self._own_time_is_over():
                        raise
                    self.stop = "limit:seconds"
                    continue
                if not self.answer.tool_calls or not self.tools:
                    yield self._answered()
                    return
                self.answer = replace(self.answer, tool_calls=self.log.unique(self.answer.tool_calls))
                yield self._commit(self.answer)
                pending = list(self.answer.tool_calls)
            async with aclosing(self._round(pending)) as round_:
                async for step in round_:
                    yield step
            pending = []
            if self.finished is not None:
                return

    async def _ask(self, system: str, tool_choice: str) -> AsyncGenerator[RunStep]:
        """One LLM call; its message is in `answer` afterwards."""
        messages = await self.window.messages(system, self.transcript)
        self._spend(self.window.usage)
        self.window.usage = Usage()
        request = LLMRequest(
            self.model, messages, self.tools, tool_choice if self.tools else "auto", timeout=self._time_left(), purpose=self.purpose
        )
        completed: Completed | None = None
        try:
            if self.streaming:
                # a Protocol's AsyncIterator may be a generator, which must be closed at once for the upstream connection to close
                async with calls.closing(self.gateway.stream(request)) as chunks:
                    async for chunk in chunks:
                        if isinstance(chunk, TextDelta):
                            if text := self.said.delta(chunk.text):
                                yield Delta(text)
                        else:
                            completed = chunk
            else:
                completed = await self.gateway.complete(request)
        except LLMCallFailed as e:
            e.partial = self.said.text or e.partial
            if e.usage is not None:
                self._spend(e.usage)  # counts where the run goes on; a caller that gets the error takes it from there
            raise
        if completed is None:
            raise LLMCallFailed("the answer broke off", kind="incomplete", partial=self.said.text)
        self._take(completed)
        if text := self.said.rest(completed.message.content):
            yield Delta(text)
        self.said.close()

    def _take(self, completed: Completed) -> None:
        self.answer = completed.message
        self._spend(completed.usage)

    async def _round(self, pending: list[ToolCall]) -> AsyncGenerator[RunStep]:
        """Runs the calls of one assistant message: refuses the wrong ones, runs the others in parallel, then hears `done`."""
        done = [c for c in pending if c.name == DONE and self.require_done]
        plan = calls.plan(self.toolbox, self.log, [c for c in pending if c not in done], self.limits.tool_calls)
        self.stop = self.stop or plan.stop
        results = {c.id: r for c, r in plan.refused}
        if plan.refused:
            yield self._commit(*(_result(c, r) for c, r in plan.refused))
        for call, arguments in plan.good:
            yield ToolStarted(call, arguments)
        async with aclosing(calls.run_all(self.toolbox, plan.good)) as running:
            async for call, result in running:
                results[call.id] = result
                yield self._commit(_result(call, result))
                yield ToolEnded(call, result.ok, for_user(result.value), result.duration_ms)
        bad = bool(plan.wrong)
        for call in done:
            problem = None if self.finished is not None else self._hear_done(call, results)
            if problem is not None:
                bad = bad or not results
                yield self._commit(Message("tool", for_model({"error": problem}), tool_call_id=call.id))
        if self.finished is not None:
            async with aclosing(self._finish(done)) as finish:
                async for step in finish:
                    yield step
            return
        self.bad_rounds = self.bad_rounds + 1 if bad else 0
        if self.bad_rounds > MAX_REPAIRS:
            raise BadToolCalls("the model kept making tool calls that cannot be executed", partial=self.said.text)

    def _hear_done(self, call: ToolCall, results: dict[str, ToolResult]) -> str | None:
        """Accepts `done`, or says why not."""
        try:
            message = calls.done_message(call)
        except ValueError as e:
            return str(e)
        if any(not r.ok for r in results.values()):
            return "not done: another call of the same message failed; look at its result first"
        if not message and not self.said.text:
            return "`message` is missing: it is the final answer that the user reads"
        self.finished = message
        return None

    async def _finish(self, done: list[ToolCall]) -> AsyncGenerator[RunStep]:
        answered = {m.tool_call_id for m in self.transcript if m.role == "tool"}
        messages = [Message("tool", "ok", tool_call_id=c.id) for c in done if c.id not in answered]
        text = self.finished or ""
        if text and not self.said.contains(text):
            yield Delta(self.said.delta(text))
            self.said.close()
            messages.append(Message("assistant", text))
        yield self._end("done", done=True, messages=messages)

    async def _wrap_up(self, reason: Reason) -> AsyncGenerator[RunStep]:
        """The end at a bound: one last call that may use no tools where calls were the bound, else the fallback text."""
        if reason in ("max_iterations", "repeated_call", "limit:tool_calls"):
            async with aclosing(self._ask(f"{self.system}\n\n{prompts.NO_MORE_TOOLS}", "none")) as asked:
                async for step in asked:
                    yield step
            if self.answer.content.strip():
                message = Message("assistant", self.answer.content)
                yield self._end(reason, done=False, open_=self.require_done, messages=[message])
                return
        last = [part] if (part := self.said.close()) else []  # an answer that the run's own time limit cut off
        if self.fallback and not self.said.contains(self.fallback):
            yield Delta(self.said.delta(self.fallback))
            last.append(self.said.close())
        yield self._end(reason, done=False, messages=[Message("assistant", SEPARATOR.join(last))] if last else [])

    def _answered(self) -> Ended:
        content = self.answer.content
        if not content.strip():
            return self._end("silent", done=False)
        return self._end("answered", done=not self.require_done, open_=self.require_done, messages=[Message("assistant", content)])

    def _bound(self) -> Reason | None:
        """The bound that has been reached, None to go on."""
        limits, total = self.limits, self.total
        if self.stop:
            return self.stop
        if self._own_time_is_over():
            return "limit:seconds"
        if limits.tokens is not None and total.input_tokens + total.output_tokens >= limits.tokens:
            return "limit:tokens"
        if limits.cost_usd is not None and total.cost_usd >= limits.cost_usd:
            return "limit:cost_usd"
        if self.log.rounds >= self.max_iterations:
            return "max_iterations"
        return None

    def _own_time_is_over(self) -> bool:
        """Whether the run's limit of seconds, and not the caller's deadline, has come."""
        now = time.time()
        return self.until is not None and now >= self.until and (self.deadline is None or now < self.deadline)

    def _time_left(self) -> float | None:
        ends = [t for t in (self.deadline, self.until) if t is not None]
        if not ends:
            return None
        left = min(ends) - time.time()
        if left <= 0:
            raise DeadlineExceeded("the time for this request is over")
        return left

    def _spend(self, usage: Usage) -> None:
        self.usage.add(usage)
        self.total.add(usage)

    def _commit(self, *messages: Message) -> Step:
        self.transcript += messages
        usage, self.usage = self.usage, Usage()
        return Step(messages, usage)

    def _end(self, reason: Reason, *, done: bool, open_: bool = False, messages: Sequence[Message] = ()) -> Ended:
        usage, self.usage = self.usage, Usage()
        return Ended(RunEnd(self.said.text, done, reason, open_ and not done, tuple(messages), usage))


def _result(call: ToolCall, result: ToolResult) -> Message:
    return Message("tool", for_model(result.value), tool_call_id=call.id)
