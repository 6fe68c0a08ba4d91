"""What an action is given and what it gives back. It knows nothing of turns, leases or stores: the caller fills it in and commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from common.contracts.query import ActionType, Usage
from common.endpoints.answer import CompiledAction, variables_for
from common.endpoints.call import HttpCaller
from common.workflow.schema import Workflow
from heavy.actions.compiled import CompiledWorkflow
from heavy.agent.calls import unanswered
from heavy.agent.http_tools import HttpTool, http_toolbox
from heavy.agent.mcp_tools import McpTools
from heavy.agent.steps import ApprovalDecision, Delta, HeldCall, Reason, Routed, RunEnd, Step, ToolEnded, ToolStarted
from heavy.agent.toolbox import Toolbox
from heavy.llm.types import Gateway, Message


class Knowledge(Protocol):
    """What the knowledge tool finds for the message of this turn; it was asked when the turn began."""

    async def found(self) -> str | None:
        """The result as text for a prompt, None without one. Waits at most until the tool's time-out is over; never raises."""


@dataclass(frozen=True, slots=True)
class ActionContext:
    """One message of one session, as its actions see it.

    `history` are the messages of earlier turns. `transcript` are the committed messages of this turn that actions have yielded, the user's
    message first (a fresh turn has only that one). `context` are the request's variables, `groups` those that a rule cut from the message.
    `shown` is, on a resumed turn, the answer's text that earlier attempts have streamed (without a greeting), None where that is not known.
    `deadline` is Unix seconds. `escalated` is why a rule's own action could not answer. `profile` is what is known of the user.

    `decisions` are those of persons on this turn's calls, by call id. `spent` is what earlier attempts of the turn have used and `began`
    when the first of them began (Unix seconds), for the limits of a run. `handed_back` is the summary of what a human did with the
    session, when one had it. `knowledge` is what the knowledge tool found; it is waited for only where a model is about to be asked.
    `mcp` are the tools of the agent's MCP servers, None without any. `doubtful` are the ids of calls that an earlier attempt of the turn
    may have made (heavy.agent.ends.DIRECT for the action itself).
    """

    compiled: CompiledWorkflow
    gateway: Gateway
    caller: HttpCaller
    message: str
    turn_id: str
    session_id: str
    tenant: str = "default"
    user_id: str | None = None
    history: Sequence[Message] = ()
    transcript: Sequence[Message] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    streaming: bool = True
    escalated: str | None = None
    shown: str | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    decisions: Mapping[str, ApprovalDecision] = field(default_factory=dict)
    spent: Usage = field(default_factory=Usage)
    began: float | None = None
    handed_back: str | None = None
    knowledge: Knowledge | None = None
    mcp: McpTools | None = None
    doubtful: Collection[str] = ()

    @property
    def workflow(self) -> Workflow:
        """The agent's workflow."""
        return self.compiled.workflow

    @property
    def committed(self) -> Sequence[Message]:
        """The transcript, with the user's message when the caller gave none."""
        return self.transcript or (Message("user", self.message),)

    def variables(
        self, action: CompiledAction, arguments: Mapping[str, Any] | None = None, *, groups: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Template variables of one action. Nothing in `arguments` or `groups` can stand for a session, a user or the request's context."""
        return variables_for(
            self.workflow,
            message=self.message,
            session_id=self.session_id,
            user_id=self.user_id,
            tenant=self.tenant,
            context=self.context,
            groups=groups,
            parameter_mapping=action.parameter_mapping,
            arguments=arguments,
            profile=self.profile,
        )

    def answer_variables(self, action: CompiledAction, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Variables of an action that answers this message: what the model extracted wins over a rule's groups, the context over both."""
        groups = {k: v for k, v in self.groups.items() if k not in parameters and k not in self.context}
        return self.variables(action, parameters, groups=groups)

    def toolbox(self, tools: Collection[HttpTool]) -> Toolbox:
        """A toolbox over these tools for this turn."""
        return http_toolbox(
            list(tools),
            self.caller,
            self.variables,
            turn_id=self.turn_id,
            deadline=self.deadline,
            hidden=self.context.keys(),
            doubtful=self.doubtful,
        )

    async def server_tools(self, names: Collection[str] | None = None, transcript: Sequence[Message] = ()) -> Toolbox:
        """The tools of MCP servers that a run may call, by the names that a skill gives, or all. The run has not begun yet: a call that
        stands unanswered in the transcript (the context's own unless given) is one of an earlier attempt."""
        if self.mcp is None:
            return Toolbox()
        return await self.mcp.toolbox(names, deadline=self.deadline, open_calls=unanswered(transcript or self.committed))


@dataclass(frozen=True, slots=True)
class ActionResult:
    """How an action ended: always the last item of `act`, unless it raised.

    `text` is everything the user saw (all deltas together; on a resumed turn with what earlier attempts said). `status` is the reply's,
    `session_status` and `current_skill` what the session becomes, `profile` a patch to the user's profile. `action_type` and
    `action_target` name what answered in the end. `messages` and `usage` are what no Step has carried yet. With the reason
    `awaiting_approval` nothing has ended: `held` are the calls that a person must approve or deny first.
    """

    text: str
    action_type: ActionType = "message"
    action_target: str | None = None
    status: Literal["success", "silent", "transferred", "closed"] = "success"
    session_status: Literal["ready", "in_conversation", "transferred", "closed"] = "ready"
    current_skill: str | None = None
    done: bool = True
    reason: Reason = "done"
    messages: tuple[Message, ...] = ()
    usage: Usage = field(default_factory=Usage)
    profile: Mapping[str, Any] | None = None
    held: tuple[HeldCall, ...] = ()

    @classmethod
    def said(cls, text: str, **fields: Any) -> ActionResult:
        """A result whose whole text is one assistant message."""
        return cls(text, messages=(Message("assistant", text),) if text else (), **fields)

    @classmethod
    def of_run(cls, end: RunEnd, **fields: Any) -> ActionResult:
        """The result of an agent run."""
        return cls(end.text, done=end.done, reason=end.reason, messages=end.messages, usage=end.usage, held=end.held, **fields)


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """An action could not answer and said nothing; `reason` is one safe line, `missing` the name of a tool that lacks arguments."""

    reason: str
    missing: str | None = None


ActionStep = Delta | Routed | ToolStarted | ToolEnded | Step | ActionResult
Inner = ActionStep | NotAnswered
