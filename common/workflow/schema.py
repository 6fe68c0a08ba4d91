"""The workflow file as one validated, immutable model: the whole v9 format and the additions of docs/workflow.md.

It checks shapes only. What needs the whole document at once (targets, duplicate ids, patterns, placeholders) is in `lint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

ActionKind = Literal["skill", "tool", "flow", "system"]
Id = Annotated[str, Field(min_length=1, max_length=128)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Text = str | None


class Part(BaseModel):
    """Any object of the file: unknown keys are errors, nothing changes after loading, null for an optional key means "not given"."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict) or None not in value.values():
            return value
        optional = {name for name, f in cls.model_fields.items() if not f.is_required()}
        return {k: v for k, v in value.items() if v is not None or k not in optional}


class BasicSettings(Part):
    """Who the agent is. Further names are allowed: they become template variables."""

    model_config = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True)
    name: str = "Agent"
    description: str = ""
    language: str = ""
    tone: str = ""
    chatbot_id: str = ""


class Endpoint(Part):
    """One declared HTTP call. `method` defaults to POST with a body and GET without; `timeout` is seconds for the whole call."""

    url: Annotated[str, Field(min_length=1)]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] | None = None
    headers: dict[str, str] = {}
    query_params: dict[str, Any] = {}
    body: Any = None
    timeout: Seconds = 10.0
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    cache_ttl: Annotated[float, Field(ge=0)] = 0.0
    idempotent: bool | None = None
    success_when: str | None = None

    @property
    def verb(self) -> str:
        """The method that is used."""
        return self.method or ("GET" if self.body is None else "POST")


class When(Part):
    """Conditions on a rule: all given ones must hold. `between` is ["09:00", "18:00"] in `timezone`; `days` are 1 (Monday) to 7."""

    language: str | tuple[str, ...] | None = None
    between: tuple[str, str] | None = None
    days: tuple[Annotated[int, Field(ge=1, le=7)], ...] | None = None
    timezone: str = "UTC"
    context: dict[str, str | int | float | bool | None] = {}


class Ruled(Part):
    """What may stand on anything that a rule can choose: its patterns and how its result becomes an answer."""

    trigger_patterns: tuple[str, ...] = ()
    exclude_patterns: tuple[str, ...] = ()
    match_type: Literal["regex", "exact", "contains"] = "regex"
    priority: int = 0
    interrupts: bool = False
    when: When | None = None
    required_groups: tuple[str, ...] = ()
    parameter_mapping: dict[str, str] = {}
    response_template: str | None = None
    result_path: str | None = None
    on_error: str = "escalate"
    on_empty: str = "escalate"
    metadata: dict[str, Any] = {}


class Tool(Ruled):
    """An HTTP call that the LLM (or a rule) may make. `parameters` is a JSON Schema; context variables are not in it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = {}
    endpoint: Endpoint
    approval: bool = False

    @property
    def id(self) -> str:
        """The action id."""
        return self.name


class Skill(Ruled):
    """`agent`: an LLM loop with tools; `function`: one HTTP call whose request is `{input}`."""

    skill_id: Id
    name: str = ""
    description: str = ""
    execution_mode: Literal["agent", "function"] = "agent"
    system_prompt: str = ""
    tools: tuple[str, ...] = ()
    max_iterations: Annotated[int, Field(ge=1, le=200)] = 20
    require_done_tool: bool = True
    endpoint: Endpoint | None = None
    input_schema: dict[str, Any] = {}
    output_parser: Literal["json", "text"] = "json"
    model: str | None = None

    @property
    def id(self) -> str:
        """The action id."""
        return self.skill_id


class Flow(Ruled):
    """A black box behind an HTTP API; without an endpoint a static answer. `type: intent` is chosen by the LLM, not by patterns."""

    flow_id: Id
    name: str = ""
    description: str = ""
    type: Literal["keyword", "intent"] = "keyword"
    endpoint: Endpoint | None = None
    silent: bool = False

    @property
    def id(self) -> str:
        """The action id."""
        return self.flow_id


class SystemAction(Ruled):
    """What the platform itself does: hand over to a human, close the session, update the user's profile."""

    action_id: Id
    name: str = ""
    description: str = ""
    handler: Literal["handoff", "close", "update_profile"]
    silent: bool = False
    parameters: dict[str, Any] = {}
    endpoint: Endpoint | None = None
    deadline_seconds: Annotated[float, Field(gt=0)] | None = None
    deadline_message: str | None = None

    @property
    def id(self) -> str:
        """The action id."""
        return self.action_id


class ActionBook(Part):
    """Natural-language advice for the intent match: under this condition, that action."""

    condition: str
    action_type: ActionKind
    action_target: str
    parameters: dict[str, Any] = {}
    priority: int = 0


class Timer(Part):
    """Armed when a turn ends, cancelled by the next message."""

    timer_id: Id
    delay_seconds: Annotated[float, Field(gt=0)]
    action_type: Literal["message", "skill", "tool", "flow", "system"] = "message"
    action_target: str | None = None
    message: str | None = None


class KbConfig(Part):
    """The knowledge tool, queried beside the first LLM call. `timeout` is how long its result is waited for, in seconds."""

    enabled: bool = False
    tool_name: str | None = None
    auto_enhance: bool = True
    enhance_conditions: tuple[str, ...] = ()
    timeout: Seconds = 3.0


class Models(Part):
    """Aliases of the LLM gateway for each use."""

    default: str = "default"
    intent: str | None = None
    compaction: str | None = None


class Limits(Part):
    """Bounds of one run; None is without a bound."""

    tool_calls: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None
    cost_usd: Annotated[float, Field(gt=0)] | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None


class McpServer(Part):
    """A server of the Model Context Protocol: a command (stdio) or a URL (streamable HTTP)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    command: tuple[str, ...] | None = None
    url: str | None = None
    env: dict[str, str] = {}
    headers: dict[str, str] = {}
    tools: tuple[str, ...] | None = None
    timeout: Seconds = 30.0


class Expect(Part):
    """What a test expects of the last turn's routing and answer; only what is given is compared."""

    action: ActionKind | Literal["message", "greeting"] | None = None
    target: str | None = None
    tier: Literal["lightweight", "heavy"] | None = None
    group: dict[str, str] = {}
    contains: str | tuple[str, ...] | None = None
    status: str | None = None


class WorkflowTest(Part):
    """One test: `say` is one message, `turns` several of one session."""

    name: str | None = None
    say: str | None = None
    turns: tuple[str, ...] | None = None
    context: dict[str, str | int | float | bool | None] = {}
    expect: Expect


class LearnedRoutes(Part):
    """Whether routes that the LLM keeps choosing are remembered: after `repeat` equal outcomes, for `ttl_seconds`."""

    enabled: bool = False
    repeat: Annotated[int, Field(ge=1)] = 3
    ttl_seconds: Annotated[int, Field(ge=60)] = 7 * 86400


class Workflow(Part):
    """One agent. `config_hash` is set by the loader, not by the file; endpoints keep their `${NAME}`, `env` holds what those stand for."""

    agent_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@-]{1,128}$")] = "default"
    version: str | int | None = None
    basic_settings: BasicSettings = BasicSettings()
    greeting: Text = None
    sop: str | tuple[str, ...] = ""
    constraints: str | tuple[str, ...] = ""
    max_iterations: Annotated[int, Field(ge=1, le=100)] = 5
    iteration_strategy: Literal["sop_driven", "single_shot"] = "sop_driven"
    multi_turn: Literal["hybrid", "router", "single"] = "hybrid"
    ambiguous: Literal["first", "escalate"] = "first"
    models: Models = Models()
    tools: tuple[Tool, ...] = ()
    skills: tuple[Skill, ...] = ()
    flows: tuple[Flow, ...] = ()
    system_actions: tuple[SystemAction, ...] = ()
    action_books: tuple[ActionBook, ...] = ()
    timers: tuple[Timer, ...] = ()
    kb_config: KbConfig = KbConfig()
    retrieve_knowledge_url: str | None = None
    fallback_message: Text = None
    busy_message: Text = None
    limits: Limits = Limits()
    learned_routes: LearnedRoutes = LearnedRoutes()
    mcp_servers: tuple[McpServer, ...] = ()
    tests: tuple[WorkflowTest, ...] = ()
    metadata: dict[str, Any] = {}
    config_hash: str = Field(default="", exclude=True)
    _env: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @property
    def env(self) -> Mapping[str, str]:
        """The values of the `${NAME}`s that this file uses. Private: no repr, dump or hash holds them."""
        return self._env

    def with_env(self, env: Mapping[str, str]) -> Workflow:
        """The same workflow with those values."""
        copy = self.model_copy()
        copy._env = dict(env)
        return copy

    def actions(self) -> list[tuple[ActionKind, Tool | Skill | Flow | SystemAction]]:
        """Every action with its kind, in the order in which rules of equal priority win: flows, tools, skills, system actions."""
        return [
            *(("flow", a) for a in self.flows),
            *(("tool", a) for a in self.tools),
            *(("skill", a) for a in self.skills),
            *(("system", a) for a in self.system_actions),
        ]

    def action(self, kind: str, target: str) -> Tool | Skill | Flow | SystemAction | None:
        """The action of that kind and id."""
        return next((a for k, a in self.actions() if k == kind and a.id == target), None)
