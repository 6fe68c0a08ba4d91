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
from heavy.agent import calls, prompts
from heavy.agent.context import Window
from heavy.agent.ends import BadToolCalls
from heavy.agent.job import Job
from heavy.agent.names import DONE
from heavy.agent.said import SEPARATOR, SHOWN, Said, said_before, shown_parts
from heavy.agent.steps import Delta, Ended, HeldCall, Reason, RunEnd, RunStep, Step, ToolEnded, ToolStarted
from heavy.agent.toolbox import Toolbox, ToolResult, for_model, for_user, is_failure
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


def run_agent(gateway: Gateway, toolbox: Toolbox, job: Job) -> AsyncGenerator[RunStep]:
    """Runs an agent over one turn; on a resumed turn it goes on behind the last committed message and runs only the calls that have no
    result yet. Calls that need an approval are held until a person has decided: the run pauses, with the reason `awaiting_approval`.

    Raises LLMError (with `.partial`), its subclass BadToolCalls, or DeadlineExceeded.
    """
    return _Run(gateway, toolbox, job).steps()


class _Run:
    """The state of one run."""

    def __init__(self, gateway: Gateway, toolbox: Toolbox, job: Job) -> None:
        self.gateway, self.toolbox, self.job, self.limits = gateway, toolbox, job, job.limits
        self.require_done = job.done == "required"
        self.until = (job.began or time.time()) + job.limits.seconds if job.limits.seconds else None
        self.tools = toolbox.specs if job.done == "none" else (*toolbox.specs, DONE_TOOL)
        self.window = Window(
            gateway, model=job.model, compaction_model=job.compaction_model, history=job.history, tools=self.tools, deadline=job.deadline
        )
        self.notes: str | None = None  # until they are there
        self.transcript = list(job.transcript)
        self.said = Said(said_before(job.transcript))
        self.usage, self.total = Usage(), Usage()
        self.total.add(job.spent)
        self.answer = Message("assistant")
        self.log = calls.CallLog(job.transcript, job.begins)
        self.bad_rounds = 0
        self.stop: Reason | None = None
        self.finished: str | None = None  # the final text of an accepted `done`
        self.over = False

    async def steps(self) -> AsyncGenerator[RunStep]:
        last = self.transcript[-1]
        if last.role == "assistant" and not last.tool_calls:
            yield self._end("answered", done=not self.require_done, open_=self.require_done)
            return
        pending = calls.unanswered(self.transcript)
        while not self.over:
            if not pending:
                async with aclosing(self._next()) as asked:
                    async for step in asked:
                        yield step
                if self.over or self.stop:
                    continue
                pending = list(self.answer.tool_calls)
            async with aclosing(self._round(pending)) as round_:
                async for step in round_:
                    yield step
            pending = []

    async def _next(self) -> AsyncGenerator[RunStep]:
        """Asks the model what to do next, unless the last round ended the run or a bound is reached; then the run is over."""
        if reason := self._ended_by_calls():
            yield self._end(reason, done=True)
            return
        if bound := self._bound():
            async with aclosing(self._wrap_up(bound)) as closing:
                async for step in closing:
                    yield step
            return
        async with aclosing(self._ask("auto")) as asked:
            async for step in asked:
                yield step
        if self.stop:
            return
        if not self.answer.tool_calls or not self.tools:
            yield self._answered()
            return
        self.answer = replace(self.answer, tool_calls=self.log.unique(self.answer.tool_calls))
        yield self._commit(self.answer)

    async def _ask(self, tool_choice: str) -> AsyncGenerator[RunStep]:
        """One LLM call; its message is in `answer` afterwards. Where the run's own limit of seconds ends it, that is the reason to stop."""
        try:
            request = await self._request(tool_choice)
            completed: Completed | None = None
            try:
                if self.job.streaming:
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
        except (LLMCallFailed, DeadlineExceeded) as e:
            # a gateway also refuses a call for which too little time is left
            own = self._own_time_is_nearer() if isinstance(e, DeadlineExceeded) else self._own_time_is_over()
            if not own:
                raise
            self.stop = "limit:seconds"
            return
        self._take(completed)
        if text := self.said.rest(completed.message.content):
            yield Delta(text)
        self.said.close()

    async def _request(self, tool_choice: str) -> LLMRequest:
        if self.notes is None:
            self.notes = await self.job.notes() if self.job.notes else ""
        notes = self.notes if tool_choice != "none" else prompts.with_notes(self.notes, prompts.NO_MORE_TOOLS)
        messages = await self.window.messages(self.job.system, self.transcript, notes)
        self._spend(self.window.usage)
        self.window.usage = Usage()
        choice = tool_choice if self.tools else "auto"
        return LLMRequest(self.job.model, messages, self.tools, choice, timeout=self._time_left(), purpose=self.job.purpose)

    def _take(self, completed: Completed) -> None:
        self.answer = completed.message
        self._spend(completed.usage)

    async def _round(self, pending: list[ToolCall]) -> AsyncGenerator[RunStep]:
        """Runs the calls of one assistant message: refuses the wrong ones, runs the others in parallel, then hears `done`, unless calls
        wait for a person or have ended the run."""
        done = [c for c in pending if c.name == DONE and self.job.done != "none"]
        asked = [c for c in pending if c not in done]
        plan = calls.plan(self.toolbox, self.log, asked, self.limits.tool_calls, self.job.decisions)
        self.stop = self.stop or plan.stop
        results = {c.id: r for c, r in plan.refused}
        if plan.refused:
            yield self._commit(*(_result(c, r) for c, r in plan.refused))
        # what would end the turn waits with the calls that a person must decide first
        good = [(c, a) for c, a in plan.good if not (plan.held and c.name in self.toolbox.ending)]
        for call, arguments in good:
            yield ToolStarted(call, arguments)
        async with aclosing(calls.run_all(self.toolbox, good)) as running:
            async for call, result in running:
                results[call.id] = result
                yield self._commit(_result(call, result))
                yield ToolEnded(call, result.ok, for_user(result.value), result.duration_ms)
                if text := self.said.delta(result.shown):
                    yield Delta(text)
                self.said.close()
        if plan.held:
            yield self._pause(plan.held)
            return
        if self._ended_by_calls() == "ended":
            yield self._end("ended", done=True, messages=[Message("tool", "ok", tool_call_id=c.id) for c in done])
            return
        bad = bool(plan.wrong)
        for call in done:
            problem = None if self.finished is not None else self._hear_done(call)
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

    def _hear_done(self, call: ToolCall) -> str | None:
        """Accepts `done`, or says why not."""
        try:
            message = calls.done_message(call)
        except ValueError as e:
            return str(e)
        if any(r is not None and c.name != DONE and is_failure(r) for c, r in calls.last_round(self.transcript)):
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
            self.answer = Message("assistant")
            async with aclosing(self._ask("none")) as asked:
                async for step in asked:
                    yield step
            if self.stop == "limit:seconds":
                reason = self.stop
            elif self.answer.content.strip():
                message = Message("assistant", self.answer.content)
                yield self._end(reason, done=False, open_=self.require_done, messages=[message])
                return
        last = [part] if (part := self.said.close()) else []  # an answer that the run's own time limit cut off
        if self.job.fallback and not self.said.contains(self.job.fallback):
            yield Delta(self.said.delta(self.job.fallback))
            last.append(self.said.close())
        yield self._end(reason, done=False, messages=[Message("assistant", SEPARATOR.join(last))] if last else [])

    def _answered(self) -> Ended:
        content = self.answer.content
        if content.strip():
            return self._end("answered", done=not self.require_done, open_=self.require_done, messages=[Message("assistant", content)])
        if self.job.done == "offered" and shown_parts(self.transcript):
            return self._end("answered", done=True)  # nothing to add to what the user has read
        return self._end("silent", done=False)

    def _ended_by_calls(self) -> Reason | None:
        """Whether the last round ended the run: by a call whose success does so, or because the user has read all that came of it."""
        results = [(c, r) for c, r in calls.last_round(self.transcript) if c.name != DONE]
        if any(r is not None and c.name in self.toolbox.ending and not is_failure(r) for c, r in results):
            return "ended"
        if self.job.ends_when_shown and results and all(r is not None and r.author == SHOWN for _, r in results):
            return "answered"
        return None

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
        if self.log.rounds >= self.job.max_iterations:
            return "max_iterations"
        return None

    def _own_time_is_over(self) -> bool:
        """Whether the run's limit of seconds, and not the caller's deadline, has come."""
        now = time.time()
        return self.until is not None and now >= self.until and (self.job.deadline is None or now < self.job.deadline)

    def _own_time_is_nearer(self) -> bool:
        """Whether the run's limit of seconds comes before the caller's deadline."""
        return self.until is not None and (self.job.deadline is None or self.until < self.job.deadline)

    def _time_left(self) -> float | None:
        ends = [t for t in (self.job.deadline, self.until) if t is not None]
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

    def _pause(self, held: Sequence[HeldCall]) -> Ended:
        """Nothing is committed: the calls stand unanswered in the transcript, for the attempt that knows what a person decided."""
        self.over = True
        usage, self.usage = self.usage, Usage()
        return Ended(RunEnd(self.said.text, False, "awaiting_approval", usage=usage, held=tuple(held)))

    def _end(self, reason: Reason, *, done: bool, open_: bool = False, messages: Sequence[Message] = ()) -> Ended:
        self.over = True
        usage, self.usage = self.usage, Usage()
        return Ended(RunEnd(self.said.text, done, reason, open_ and not done, tuple(messages), usage))


def _result(call: ToolCall, result: ToolResult) -> Message:
    if result.shown.strip():
        return Message("tool", result.shown, tool_call_id=call.id, author=SHOWN, ms=result.duration_ms or None)
    return Message("tool", for_model(result.value), tool_call_id=call.id, ms=result.duration_ms or None)
