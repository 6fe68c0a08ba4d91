"""Holds one test of a workflow file against the rules: what they decide is compared, what an LLM or an API decides is left open.

A test's turns are walked through as one session would be: a conversation or a hand-over keeps rules from answering, a closed session opens
again, a call that somebody must approve waits for a yes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from common.contracts.salutation import is_salutation
from common.endpoints.answer import variables_for
from common.endpoints.template import Template
from common.workflow.placeholders import placeholders
from common.workflow.schema import Flow, Skill, SystemAction, Tool, Workflow, WorkflowTest
from heavy.turns.approval import yes_or_no
from lightweight.matching.compile import tier_of
from lightweight.matching.match import Match, Matcher

Status = Literal["ready", "in_conversation", "transferred", "closed"]
_AFTER: dict[str, Status] = {"handoff": "transferred", "close": "closed"}


@dataclass(frozen=True, slots=True)
class State:
    """A session between two turns. `asked` is the match whose call waits for somebody's approval."""

    status: Status = "ready"
    asked: Match | None = None


@dataclass(slots=True)
class Verdict:
    """`reasons` are why the test fails; `unchecked` what can't be told here; `checked` counts the expectations that held."""

    reasons: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    checked: int = 0
    rules: set[int] = field(default_factory=set)
    """Indices of the rules that were found in a turn of the test and whose action answered it."""

    def hold(self, holds: bool, reason: str) -> None:
        """Counts an expectation that holds, keeps the reason of one that does not."""
        if holds:
            self.checked += 1
        else:
            self.reasons.append(reason)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as it may go: the state of the session before it, whether the greeting answers, else the rule that does."""

    text: str
    state: State = State()
    greeted: bool = False
    match: Match | None = None
    rivals: tuple[str, ...] = ()
    """Actions whose rules disagree, so that the LLM is asked (`ambiguous: escalate`)."""
    decided: bool | None = None
    """The message is a plain yes or no to the call that `match` asked about."""

    @property
    def asks(self) -> bool:
        """The turn ends with the question whether the tool may be called."""
        return self.match is not None and self.decided is None and isinstance(self.match.action, Tool) and self.match.action.approval

    @property
    def tier(self) -> str:
        """Who answers: a closed session is opened by heavy."""
        match = self.match
        return "heavy" if match is None or self.state.status == "closed" else tier_of(match.kind, match.action)

    def route(self) -> str:
        """Who answers, in words."""
        if self.greeted:
            return "the greeting"
        if self.match:
            return f"{self.match.kind} {self.match.action.id} (rule {self.match.pattern!r})"
        if self.rivals:
            return f"no rule ({self.why_none()})"
        return "nobody, the session is transferred," if self.state.status == "transferred" else "no rule"

    def why_none(self) -> str:
        """Why no rule answers, in words."""
        return f"the rules of {' and '.join(self.rivals)} disagree" if self.rivals else "no rule matches"


def judge(workflow: Workflow, matcher: Matcher, test: WorkflowTest) -> Verdict:
    """Compares the test's expectations with what the rules do with its last message.

    Where a turn may leave the session in one state or another (an LLM decides), either may meet the test.
    """
    said = (test.say,) if test.say is not None else test.turns or ()
    states = [State()]
    rules: set[int] = set()
    turns: list[Turn] = []
    for i, text in enumerate(said):
        turns = [_turn(workflow, matcher, test, text, state, first=i == 0) for state in states]
        for turn in turns:
            rules |= _reached(matcher, test, turn)
        after = [state for turn in turns for state in _states_after(workflow, turn)]
        states = [state for i, state in enumerate(after) if state not in after[:i]]
    verdict = min((_judge(workflow, test, turn) for turn in turns), key=lambda v: (len(v.reasons), -v.checked))
    verdict.rules = rules
    return verdict


def _turn(workflow: Workflow, matcher: Matcher, test: WorkflowTest, text: str, state: State, *, first: bool) -> Turn:
    if state.asked is not None and (decided := yes_or_no(text)) is not None:
        return Turn(text, state, match=state.asked, decided=decided)
    if (first or state.status == "closed") and workflow.greeting and is_salutation(text):
        return Turn(text, state, greeted=True)
    if state.status == "transferred":
        return Turn(text, state)
    talking = state.status == "in_conversation"
    match = matcher.match(text, context=test.context, in_conversation=talking)
    if match is None or not match.ambiguous:
        return Turn(text, state, match=match)
    top = matcher.rules[match.index].priority
    able = [v.rule for v in matcher.verdicts(text, context=test.context, in_conversation=talking) if v.reason is None]
    return Turn(text, state, rivals=tuple(dict.fromkeys(f"{r.kind} {r.action.id}" for r in able if r.priority == top)))


def _reached(matcher: Matcher, test: WorkflowTest, turn: Turn) -> set[int]:
    if turn.match is None or turn.decided is not None:
        return set()
    answering = turn.match.action
    verdicts = matcher.verdicts(turn.text, context=test.context, in_conversation=turn.state.status == "in_conversation")
    return {v.index for v in verdicts if v.reason is None and v.rule.action is answering}


def _states_after(workflow: Workflow, turn: Turn) -> Iterator[State]:
    """The states in which the turn may leave its session. One that was closed is open again, whatever was said."""
    status, asked = turn.state.status, turn.state.asked
    status = "ready" if status == "closed" else status
    if turn.greeted or status == "transferred":
        yield State(status, asked)
    elif turn.decided is not None:
        yield State(status)
    elif turn.asks:
        yield State(status, turn.match)
    elif turn.match and isinstance(turn.match.action, SystemAction):
        yield State(_AFTER.get(turn.match.action.handler, status), asked)
    elif _may_converse(workflow, turn.match):
        yield from (State("ready", asked), State("in_conversation", asked))
    else:
        yield State(status, asked)


def _may_converse(workflow: Workflow, match: Match | None) -> bool:
    if workflow.multi_turn == "single":
        return False
    return match is None or (isinstance(match.action, Skill) and match.action.execution_mode == "agent")


def _judge(workflow: Workflow, test: WorkflowTest, turn: Turn) -> Verdict:
    verdict = Verdict()
    expect, match = test.expect, turn.match
    if expect.action == "greeting" or turn.greeted:
        _judge_greeting(workflow, test, turn, verdict)
        return verdict
    if expect.tier:
        verdict.hold(turn.tier == expect.tier, f"expected the tier {expect.tier}, got {turn.tier}: {turn.route()} answers")
    if expect.action is not None or expect.target is not None:
        _judge_target(workflow, expect.action, expect.target, turn, verdict)
    for name, value in expect.group.items():
        got = match.groups.get(name) if match else None
        verdict.hold(got == value, f"expected the group {name} to be {value!r}, got {got!r}: {turn.route()} answers")
    _judge_answer(workflow, test, turn, verdict)
    return verdict


def _judge_greeting(workflow: Workflow, test: WorkflowTest, turn: Turn, verdict: Verdict) -> None:
    expect = test.expect
    if not turn.greeted:
        why = "the message says more than hello" if workflow.greeting else "the agent has no greeting"
        verdict.reasons.append(f"expected the greeting alone, but {why}")
        return
    if expect.action is not None or expect.target is not None:
        right = expect.action in (None, "greeting") and expect.target is None
        wanted = " ".join(part for part in (expect.action, expect.target) if part)
        verdict.hold(right, f"expected {wanted}, but the message says only hello: the greeting answers")
    _judge_text(test, workflow.greeting or "", "success", verdict)
    verdict.checked += 1
    if expect.tier:
        verdict.unchecked.append("which tier greets needs a server")


def _judge_target(workflow: Workflow, action: str | None, target: str | None, turn: Turn, verdict: Verdict) -> None:
    wanted = " ".join(part for part in (action, target) if part)
    match = turn.match
    if match:
        right = (action is None or action == match.kind) and (target is None or target == match.action.id)
        verdict.hold(right, f"expected {wanted}, but {turn.route()} answers")
    elif turn.state.status == "transferred":
        verdict.hold(action in (None, "system") and target is None, f"expected {wanted}, but {turn.route()} answers")
    elif action == "message":
        verdict.checked += 1
        verdict.unchecked.append("no rule answers; whether the LLM only talks needs a server")
    elif _llm_may_choose(workflow, action, target):
        verdict.unchecked.append(f"no rule answers; whether the LLM chooses {wanted} needs a server")
    else:
        verdict.reasons.append(f"expected {wanted}, but {turn.why_none()}, and the LLM never chooses a keyword flow")


def _llm_may_choose(workflow: Workflow, action: str | None, target: str | None) -> bool:
    if action not in (None, "flow"):
        return True
    intents = {flow.flow_id for flow in workflow.flows if flow.type == "intent"}
    if target is None:
        return action is None or bool(intents)
    others = {a.id for kind, a in workflow.actions() if kind != "flow"} if action is None else set()
    return target in intents | others


def _judge_answer(workflow: Workflow, test: WorkflowTest, turn: Turn, verdict: Verdict) -> None:
    expect = test.expect
    if expect.contains is None and expect.status is None:
        return
    known = ("", "transferred") if turn.state.status == "transferred" else _fixed_answer(workflow, test, turn)
    _judge_text(test, *known, verdict)


def _judge_text(test: WorkflowTest, answer: str | None, status: str | None, verdict: Verdict) -> None:
    """Compares what is known of the answer; None is not known here."""
    contains, wanted = test.expect.contains, test.expect.status
    open_ones = [name for name, got in (("contains", answer), ("status", status)) if got is None and getattr(test.expect, name) is not None]
    if open_ones:
        verdict.unchecked.append(f"{' and '.join(open_ones)} needs a server: the answer is no fixed text")
    if answer is not None:
        for part in (contains,) if isinstance(contains, str) else contains or ():
            verdict.hold(part in answer, f"expected the answer to contain {part!r}, got {answer[:200]!r}")
    if wanted is not None and status is not None:
        verdict.hold(status == wanted, f"expected the status {wanted}, got {status}")


def _fixed_answer(workflow: Workflow, test: WorkflowTest, turn: Turn) -> tuple[str | None, str | None]:
    """Text and status of the answer, each None where it depends on more than the file and the test say."""
    match = turn.match
    if turn.decided is not None:
        return None, None
    if turn.asks:
        return None, "queued"
    action: Any = match.action if match else None
    if isinstance(action, SystemAction):
        if action.silent:
            return "", "silent"
        status = _AFTER.get(action.handler, "success")
        return (None if action.endpoint else _rendered(workflow, test, turn, action.response_template)), status
    if isinstance(action, Flow) and action.endpoint is None:
        if action.silent:
            return "", "silent"
        answer = _rendered(workflow, test, turn, action.response_template)
        return answer, None if answer is None else "success"
    return None, None


def _rendered(workflow: Workflow, test: WorkflowTest, turn: Turn, template: str | None) -> str | None:
    if template is None or turn.match is None:
        return None
    variables = variables_for(
        workflow,
        message=turn.text,
        session_id="test",
        user_id=None,
        tenant="default",
        context=test.context,
        groups=turn.match.groups,
        parameter_mapping=turn.match.action.parameter_mapping,
    )
    if any(found.name == "profile" or found.name not in variables for found in placeholders(template)):
        return None
    return Template.parse(template).render(variables)
