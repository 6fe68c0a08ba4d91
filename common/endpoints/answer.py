"""How an action's call becomes an answer: variables in, endpoint called, result picked, template rendered, or the reason why not.

It knows neither sessions nor events nor LLMs: both tiers run their flows, tools and function skills through `perform`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.endpoints.call import CompiledEndpoint, EndpointFailed, HttpCaller, compile_endpoint, search
from common.endpoints.request import compile_path
from common.endpoints.template import MISSING, Field, Template, as_text
from common.workflow.schema import Flow, Ruled, Skill, SystemAction, Tool, Workflow

ESCALATE = "escalate"
_EMPTY: Mapping[str, Any] = {}
_INPUT_NAMES = ("input", "text")


@dataclass(slots=True)
class Outcome:
    """What came of an action. `text` is the answer; it is None exactly when the action could not answer, and then `failure` says why in one
    safe line. `fault` is the same line also where `on_error` or `on_empty` gave a text. `empty` says that the API had nothing.
    """

    text: str | None
    result: Any = None
    failure: str | None = None
    empty: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CompiledAction:
    """An action whose texts are parsed. `static` is its whole answer where that needs neither a call nor a variable.

    A `silent` flow has an empty answer, whatever its API gives; where `on_error` has a text, that is still said.
    """

    kind: str
    id: str
    name: str
    endpoint: CompiledEndpoint | None
    result_path: Any
    template: Template | None
    on_error: Template | None
    on_empty: Template | None
    needs_result: bool
    parameter_mapping: Mapping[str, str]
    static: str | None
    silent: bool = False

    def render(self, variables: Mapping[str, Any]) -> str:
        """The answer of an action without a call."""
        if self.static is not None:
            return self.static
        return self.template.render(variables) if self.template else ""


def compile_action(kind: str, action: Ruled, env: Mapping[str, str]) -> CompiledAction:
    """Parses an action. `env` fills `${NAME}`. Raises ValueError (one line, with the action's name) for what can never run."""
    action_id = str(getattr(action, "id", ""))
    name = f"{kind} {action_id}"
    try:
        silent = isinstance(action, Flow) and action.silent
        text = "" if silent else action.response_template
        template = None if text is None else Template.parse(text)
        endpoint = _endpoint(action, name, env)
        return CompiledAction(
            kind=kind,
            id=action_id,
            name=name,
            endpoint=endpoint,
            result_path=compile_path(action.result_path),
            template=template,
            on_error=_text_of(action.on_error),
            on_empty=_text_of(action.on_empty),
            needs_result=not silent and (template is None or action.result_path is not None or "result" in template.names),
            parameter_mapping=action.parameter_mapping,
            static=template.constant if template and endpoint is None else None,
            silent=silent,
        )
    except ValueError as e:
        raise ValueError(f"{name}: {e}") from None


async def perform(
    action: CompiledAction,
    variables: Mapping[str, Any],
    caller: HttpCaller,
    *,
    deadline: float | None = None,
    idempotency_key: str | None = None,
) -> Outcome:
    """Runs an action. `deadline` is Unix seconds. Never raises for what the API does: that is the outcome's `failure`."""
    if action.endpoint is None:
        return Outcome(action.render(variables))
    try:
        result = await caller.call(action.endpoint, variables, deadline=deadline, idempotency_key=idempotency_key)
        if action.result_path is not None:
            result = search(action.name, action.result_path, result)
    except EndpointFailed as e:
        return _instead(action.on_error, variables, e.detail)
    if is_empty(result) and action.needs_result:
        return _instead(action.on_empty, variables, f"{action.name}: the API had no result", result=result, empty=True)
    if action.template is None:
        return Outcome(as_text(result), result)
    return Outcome(action.template.render({**variables, "result": result}), result)


def is_empty(result: Any) -> bool:
    """Whether a result holds nothing: null, "", [] or {}. Zero and false are results."""
    return result is None or (isinstance(result, str | list | dict) and not result)


def variables_for(
    workflow: Workflow,
    *,
    message: str,
    session_id: str,
    user_id: str | None = None,
    tenant: str = "default",
    context: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    parameter_mapping: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    profile: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The variables of one action's templates. Later ones win: what is known of the user (`profile`), basic settings, LLM `arguments`, the
    request's context, the message, named groups of the rule, who is asking (session, user, tenant, agent), and at last the file's own
    `parameter_mapping`.

    So an LLM can never choose a session, a user or anything that the request's context gave; a rule's group can, except for the former.
    `settings` is what `setting_variables` gives, for callers who keep it.
    """
    groups = {k: v for k, v in (groups or _EMPTY).items() if v is not None}
    arguments, context = arguments or _EMPTY, context or _EMPTY
    chatbot_id = workflow.basic_settings.chatbot_id
    variables: dict[str, Any] = {
        "profile": profile or _EMPTY,
        **(setting_variables(workflow) if settings is None else settings),
        **arguments,
        **context,
        "context": dict(context),
        "raw_input": message,
        "user_message": message,
        "message": message,
        **groups,
        "input": _input(message, groups, arguments),
        "session_id": session_id,
        "user_id": user_id,
        "tenant": tenant,
        "agent_id": workflow.agent_id,
        "chatbotId": chatbot_id,
        "chatbot_id": chatbot_id,
    }
    if parameter_mapping:
        variables.update({name: _source(source, variables) for name, source in parameter_mapping.items()})
    return variables


def setting_variables(workflow: Workflow) -> dict[str, Any]:
    """The basic settings as variables: the same for every request."""
    return {k: v for k, v in workflow.basic_settings if isinstance(v, str | int | float | bool)}


def _input(message: str, groups: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """The request of a function skill: what a group or an argument called input or text says, else all arguments, else the message."""
    for values in (groups, arguments):
        for name in _INPUT_NAMES:
            if name in values:
                return values[name]
    return dict(arguments) or message


def _source(source: str, variables: Mapping[str, Any]) -> Any:
    try:
        fields = Template.parse("{" + source.strip().strip("{}") + "}").pieces
    except ValueError:
        return None
    value = fields[0].of(variables) if len(fields) == 1 and type(fields[0]) is Field else MISSING
    return None if value is MISSING else value


def _endpoint(action: Ruled, name: str, env: Mapping[str, str]) -> CompiledEndpoint | None:
    if isinstance(action, Skill):
        if action.endpoint is None or action.execution_mode != "function":
            return None
        plain = action.output_parser == "text"
        return compile_endpoint(action.endpoint, name=name, env=env, default_body={"input": "{input}"}, as_text=plain)
    if isinstance(action, Tool | Flow | SystemAction) and action.endpoint is not None:
        return compile_endpoint(action.endpoint, name=name, env=env)
    return None


def _text_of(text: str) -> Template | None:
    return None if text.strip() == ESCALATE else Template.parse(text)


def _instead(text: Template | None, variables: Mapping[str, Any], fault: str, *, result: Any = None, empty: bool = False) -> Outcome:
    if text is None:
        return Outcome(None, result, fault, empty, fault)
    return Outcome(text.render(variables), result, None, empty, fault)
