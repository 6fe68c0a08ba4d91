"""What a workflow file says to others: endpoints, templates, JSON Schemas, `${NAME}` and secrets in plain text. It calls nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import jmespath

from common.workflow.patterns import group_names
from common.workflow.placeholders import env_names, fill_env, missing_env, placeholders, strings
from common.workflow.problems import Level, Path
from common.workflow.report import Report
from common.workflow.schema import Endpoint, McpServer, Ruled, Workflow

SYSTEM_NAMES = frozenset(
    {"session_id", "user_id", "agent_id", "chatbot_id", "chatbotId", "tenant", "message", "user_message", "raw_input", "context", "input"}
    | {"profile"}
    | {"tenantId", "dialogId"}  # v9's own context variables
)
_SECRET_HEADER = re.compile(
    r"authorization|cookie|.*(api|access|auth|secret|private)[-_]?(key|token)|.*(token|secret|password)", re.IGNORECASE
)
_SECRET_QUERY = re.compile(
    r"[?&](?:api[-_]?key|access[-_]?token|token|secret|password|passwd|sig|signature)=(?P<value>[^&#{$]{4,})", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bxox[abpr]-[A-Za-z0-9-]{10,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}|\bBearer\s+[A-Za-z0-9._~+/-]{8,}",
)
_V9_AUTOFILL = "todo_autofill_by_system"


def lint_calls(workflow: Workflow, report: Report, env: Mapping[str, str], unknown_names: Level) -> None:
    """Adds the problems of every endpoint, template and schema of the workflow."""
    books = _book_names(workflow)
    shared = SYSTEM_NAMES | _settings_names(workflow) | _declared_names(workflow)
    for kind, section in (("flow", "flows"), ("tool", "tools"), ("skill", "skills"), ("system", "system_actions")):
        for i, action in enumerate(getattr(workflow, section)):
            own = _own_names(action) | books.get((kind, action.id), set())
            _action(action, (section, i), _Names(report, shared | own, unknown_names), env)
    for i, timer in enumerate(workflow.timers):
        _plain(timer.message, ("timers", i, "message"), report)
    if workflow.retrieve_knowledge_url and workflow.kb_config.enabled and workflow.kb_config.tool_name is None:
        _url(workflow.retrieve_knowledge_url, ("retrieve_knowledge_url",), report, env)
    for i, server in enumerate(workflow.mcp_servers):
        _server(server, ("mcp_servers", i), report, env)


class _Names:
    """Judges placeholders against the names that have a source where they stand."""

    def __init__(self, report: Report, known: frozenset[str] | set[str], level: Level) -> None:
        self.report, self.known, self.level = report, set(known), level

    def check(self, text: str, path: Path, *, env_here: bool = False) -> None:
        for name in [] if env_here else env_names(text):
            hint = "it is filled in URLs and headers only: put it there"
            self.report.warning("env_elsewhere", f"${{{name}}} is left as it stands here", path, hint)
        for found in placeholders(text):
            if any(part.startswith("_") for part in found.names):
                hint = "a template walks through dicts and lists, it never reads attributes"
                self.report.error("template_access", f"{{{found.expression}}} uses a name that begins with _", path, hint)
            elif found.name not in self.known:
                self.report.add(self.level, "unknown_placeholder", f"{{{found.expression}}} has no source", path, self.way_out(found.name))

    def way_out(self, name: str) -> str:
        close = difflib.get_close_matches(name, sorted(self.known), n=1, cutoff=0.8)
        if close:
            return f"did you mean {close[0]!r}?"
        return f"name a group (?P<{name}>…) or a parameter; if the request's context brings it, declare it in metadata.context"


def _action(action: Any, path: Path, names: _Names, env: Mapping[str, str]) -> None:
    report = names.report
    if action.endpoint is not None:
        _endpoint(action.endpoint, (*path, "endpoint"), names, env)
    after = _Names(report, names.known | ({"result"} if action.endpoint else set()), names.level)
    for field in ("response_template", "on_error", "on_empty"):
        after.check(getattr(action, field, None) or "", (*path, field))
    _plain(getattr(action, "deadline_message", None), (*path, "deadline_message"), report)
    _query(action.result_path, (*path, "result_path"), report)
    _sources(action, path, names)
    for field in ("parameters", "input_schema"):
        schema = getattr(action, field, None)
        if schema:
            _schema(schema, (*path, field), report)


def _plain(text: str | None, path: Path, report: Report) -> None:
    """A text that is said as it stands."""
    for found in placeholders(text or ""):
        hint = "write it out, or let an action with a response_template say it"
        report.warning("plain_text", f"{{{found.expression}}} is left as it stands here", path, hint)


def _endpoint(endpoint: Endpoint, path: Path, names: _Names, env: Mapping[str, str]) -> None:
    report = names.report
    _url(endpoint.url, (*path, "url"), report, env)
    names.check(endpoint.url, (*path, "url"), env_here=True)
    for name, value in endpoint.headers.items():
        here = (*path, "headers", name)
        _env(value, here, report, env)
        names.check(value, here, env_here=True)
        _secret(name, value, here, report)
    for part in ("query_params", "body"):
        for text, here in strings(getattr(endpoint, part), (*path, part)):
            names.check(text, here)
            if text == _V9_AUTOFILL:
                hint = "write the placeholder of a context variable instead, such as {dialogId}"
                report.warning("autofill_marker", "the platform fills nothing in here", here, hint)
            elif _SECRET_VALUE.search(text):
                report.warning("secret_literal", "this looks like a secret", here, "put it into a header as ${NAME}")
    _query(endpoint.success_when, (*path, "success_when"), report)


def _url(url: str, path: Path, report: Report, env: Mapping[str, str]) -> None:
    _env(url, path, report, env)
    if missing_env(url, env):
        return
    filled = fill_env(url, env)
    scheme, found, rest = filled.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        report.error("bad_url", "the URL must begin with http:// or https://", path, "write the whole address")
        return
    if "\\" in filled:  # some readers end the host at a backslash, others don't
        report.error("bad_url", "a URL must not hold a backslash", path)
        return
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if placeholders(authority):
        hint = "name the host, or take it from the environment: ${NAME}"
        report.error("placeholder_in_host", "a placeholder in a URL's host would let a message choose where requests go", path, hint)
        return
    try:
        parts = urlsplit(f"{scheme}://{authority}")
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0) and not set(" {}\t") & set(authority)
    except ValueError:
        usable = False
    if not usable:
        report.error("bad_url", "the host or the port of this URL can't be read", path)
    elif parts.username is not None or parts.password is not None:
        report.error("bad_url", "a URL must not hold a user or password", path, "send them in a header: Authorization: Basic ${NAME}")
    secret = _SECRET_QUERY.search(url)
    if secret or _SECRET_VALUE.search(url):
        report.warning("secret_literal", "this URL seems to hold a secret", path, "take it from the environment: ${NAME}")


def _env(text: str, path: Path, report: Report, env: Mapping[str, str]) -> None:
    for name in missing_env(text, env):
        report.error("missing_env", f"the environment has no {name}", path, f"set {name} before the start")


def _secret(header: str, value: str, path: Path, report: Report) -> None:
    literal = not env_names(value) and not placeholders(value)
    if literal and value and (_SECRET_HEADER.fullmatch(header) or _SECRET_VALUE.search(value)):
        report.warning("secret_literal", f"the header {header} seems to hold a secret", path, "take it from the environment: ${NAME}")


def _server(server: McpServer, path: Path, report: Report, env: Mapping[str, str]) -> None:
    if server.url is not None:
        _url(server.url, (*path, "url"), report, env)
    for field, values in (("headers", server.headers), ("env", server.env)):
        for name, value in values.items():
            _env(value, (*path, field, name), report, env)
            _secret(name, value, (*path, field, name), report)


def _query(expression: str | None, path: Path, report: Report) -> None:
    if expression is None:
        return
    try:
        jmespath.compile(expression)
    except (jmespath.exceptions.JMESPathError, ValueError) as e:
        reason = str(e).splitlines()[0][:160] if str(e) else "empty"
        report.error("bad_jmespath", f"not a JMESPath expression: {reason}", path, "see https://jmespath.org")


def _sources(action: Ruled, path: Path, names: _Names) -> None:
    if not action.parameter_mapping:
        return
    groups = {name for pattern in action.trigger_patterns for name in group_names(pattern)}
    known = SYSTEM_NAMES | groups | (names.known - action.parameter_mapping.keys())
    for name, source in action.parameter_mapping.items():
        found = placeholders("{" + source.strip("{} ") + "}")
        if not found or found[0].name not in known:
            close = difflib.get_close_matches(source, sorted(known), n=1, cutoff=0.7)
            hint = f"did you mean {close[0]!r}?" if close else "write raw_input, user_id, session_id, a named group or context.<name>"
            names.report.add(names.level, "unknown_source", f"{source[:64]!r} is no source", (*path, "parameter_mapping", name), hint)


def _schema(schema: Mapping[str, Any], path: Path, report: Report) -> None:
    kind = schema.get("type", "object")
    if kind != "object":
        report.error("bad_schema", f"the parameters must be an object, not {str(kind)[:40]!r}", (*path, "type"), 'write "type": "object"')
    _references(schema, path, report)


def _references(value: Any, path: Path, report: Report) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("$ref", "$dynamicRef") and isinstance(inner, str) and not inner.startswith("#"):
                report.error("remote_ref", "a $ref may only point into its own schema", (*path, key), "copy the definition into $defs")
            _references(inner, (*path, key), report)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _references(inner, (*path, i), report)


def _own_names(action: Ruled) -> set[str]:
    names = {name for pattern in action.trigger_patterns for name in group_names(pattern)}
    names |= set(action.parameter_mapping)
    for field in ("parameters", "input_schema"):
        properties = (getattr(action, field, None) or {}).get("properties")
        names |= set(properties) if isinstance(properties, dict) else set()
    return names


def _book_names(workflow: Workflow) -> dict[tuple[str, str], set[str]]:
    """Names of the parameters that action_books give, by the kind and id of their action."""
    names: dict[tuple[str, str], set[str]] = {}
    for entry in workflow.action_books:
        names.setdefault((entry.action_type, entry.action_target), set()).update(entry.parameters)
    return names


def _settings_names(workflow: Workflow) -> set[str]:
    settings = workflow.basic_settings
    return set(type(settings).model_fields) | set(settings.model_extra or {})


def _declared_names(workflow: Workflow) -> set[str]:
    """Names that the file says come with the request: of its tests' context and of `metadata.context`."""
    names = {name for test in workflow.tests for name in test.context}
    declared = workflow.metadata.get("context")
    if isinstance(declared, list | dict):
        names |= {name for name in declared if isinstance(name, str)}
    return names
