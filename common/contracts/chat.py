"""OpenAI's chat completions as a way to an agent: the request becomes a Query, the reply a completion or a stream of chunks.

Field names and shapes are those of https://platform.openai.com/docs/api-reference/chat. What a workflow decides (model, sampling, length)
is taken and ignored; what would change the answer's meaning and is not offered is refused by name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from common.contracts.form import read_form
from common.contracts.query import MAX_MESSAGE_BYTES, Query, Scalar, check_id, parse_object, read_query
from common.errors import InvalidRequest, PayloadTooLarge

PATH = "/v1/chat/completions"
MODELS = "models/"
"""What the name of a model begins with that is asked directly, and not an agent."""

BODY_LIMIT = 16_777_216
"""Bytes of a request for a model. One for an agent has the limit of a query."""

AGENT_BODY_LIMIT = 262_144
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
OWN_TOOLS = "agents have their own tools: declare them in the workflow, or ask for a model by `models/<alias>`"
# Each with the words that tell the way out. A value that asks for nothing (null, false, 0, empty) is let through.
_REFUSED: Mapping[str, str] = {
    "tools": OWN_TOOLS,
    "functions": OWN_TOOLS,
    "logprobs": "agents give no log probabilities",
    "top_logprobs": "agents give no log probabilities",
    "logit_bias": "an agent's sampling is its workflow's",
    "stop": "an agent's answer is not cut; leave it out",
    "audio": "agents answer in text",
    "web_search_options": OWN_TOOLS,
}

_DIRECT = re.compile(rb'"model"\s*:\s*"(models/[^"\\]*)"')
Said = tuple[str, str]
"""Role (user or assistant) and text."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A request to an agent. `history` is what came before the last user message, without system messages and without what says nothing;
    `session_id` is None where the conversation itself must tell the session; `form` is the JSON Schema that the answer must fit."""

    model: str
    message: str
    history: Sequence[Said] = ()
    session_id: str | None = None
    user_id: str | None = None
    context: Mapping[str, Scalar] = field(default_factory=dict)
    stream: bool = False
    include_usage: bool = False
    form: Mapping[str, Any] | None = None

    def query(self, session_id: str) -> Query:
        """The same as a query of that session."""
        return Query(self.message, session_id, self.user_id, self.model, self.context, self.form)


def asked_model(body: bytes) -> str | None:
    """The model that a request for `models/…` names; None where an agent is asked, or nothing that can be read. It may be wrong about
    a body that is not sound: whoever takes it apart says so."""
    if b'"models' not in body:
        return None
    if b"\\u" not in body and body.count(b'"model"') == 1 and (found := _DIRECT.search(body)):
        return found[1].decode("utf-8", "replace")  # without decoding a prompt of megabytes
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    model = doc.get("model") if isinstance(doc, dict) else None
    return model if isinstance(model, str) and model.startswith(MODELS) else None


def parse_chat(body: bytes) -> Chat:
    """Reads a request to an agent. Raises InvalidRequest naming the parameter, PayloadTooLarge."""
    if len(body) > AGENT_BODY_LIMIT:
        raise PayloadTooLarge(f"the body is larger than {AGENT_BODY_LIMIT} bytes")
    doc = parse_object(body)
    model = doc.get("model")
    if type(model) is not str or not model:
        raise InvalidRequest("model is required: the id of an agent, or models/<alias>; GET /v1/models lists them", field="model")
    _refuse(doc)
    form = read_form(doc.get("response_format"))
    *earlier, last = _talk(doc.get("messages"))
    stream = _flag(doc, "stream")
    options = doc.get("stream_options")
    if options is not None and type(options) is not dict:
        raise InvalidRequest("stream_options must be an object", field="stream_options")
    user, metadata = doc.get("user"), doc.get("metadata")
    if user is not None and (type(user) is not str or not 0 < len(user) <= 256):
        raise InvalidRequest("user must be a string of 1 to 256 characters", field="user")
    if metadata is not None and type(metadata) is not dict:
        raise InvalidRequest("metadata must be an object of strings", field="metadata")
    context = dict(metadata or {})
    session_id = _session(context.pop("session_id", None), user)
    # what a query allows, a message here does, too
    read_query({"message": last[1], "session_id": session_id or "chat", "context": context})
    return Chat(model, last[1], earlier, session_id, user, context, stream, bool(options and _flag(options, "include_usage")), form)


def new_session(unique: str) -> str:
    """The id of a session that begins with a request; `unique` is that of its turn."""
    return f"chat-{unique.removeprefix('t_')}"


def session_of_key(digest: str, history: Sequence[Said]) -> str:
    """The id of the session that a request with an Idempotency-Key begins: the same whenever it comes again. `digest` is the key's."""
    return f"chat-{digest}-{digest_of('', '', history)[:16]}"


def digest_of(tenant: str, agent_id: str, conversation: Sequence[Said]) -> str:
    """What stands for a conversation with an agent: 40 hex digits. White space around a message does not count: front ends trim it."""
    said = [[role, text.strip()] for role, text in conversation]
    return hashlib.sha256(orjson.dumps([tenant, agent_id, said])).hexdigest()[:40]


def _session(session_id: Any, user: str | None) -> str | None:
    if session_id is not None:
        if type(session_id) is not str:
            raise InvalidRequest("metadata.session_id must be a string", field="metadata.session_id")
        return check_id(session_id, "metadata.session_id")
    if user is None:
        return None
    try:
        return check_id(user, "user")
    except InvalidRequest:  # an e-mail address with a plus, a name with spaces: it still names one session
        return "user-" + hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _refuse(doc: Mapping[str, Any]) -> None:
    for name, why in _REFUSED.items():
        if doc.get(name):
            raise InvalidRequest(f"{name} is not supported for agents: {why}", field=name)
    if doc.get("n") not in (None, 1):
        raise InvalidRequest("n must be 1: an agent gives one answer", field="n")
    if doc.get("tool_choice") not in (None, "none", "auto"):
        raise InvalidRequest(f"tool_choice is not supported for agents: {OWN_TOOLS}", field="tool_choice")
    if doc.get("modalities") not in (None, [], ["text"]):
        raise InvalidRequest("modalities must be text: agents answer in text", field="modalities")


def _flag(doc: Mapping[str, Any], name: str) -> bool:
    value = doc.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidRequest(f"{name} must be true or false", field=name)
    return bool(value)


def _talk(messages: Any) -> list[Said]:
    """What user and assistant said; the last one is the user's."""
    if type(messages) is not list or not messages:
        raise InvalidRequest("messages is required: a list of at least one message", field="messages")
    talk: list[Said] = []
    for n, message in enumerate(messages):
        where = f"messages[{n}]"
        role = message.get("role") if type(message) is dict else None
        if type(role) is not str or role not in ROLES:
            raise InvalidRequest(f"{where}.role must be one of {', '.join(sorted(ROLES))}", field=f"{where}.role")
        if role in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
            raise InvalidRequest(f"{where} is not supported: {OWN_TOOLS}", field=where)
        text = _text(message.get("content"), where)
        if role in ("user", "assistant") and text.strip():
            talk.append((role, text))
    if not talk or talk[-1][0] != "user" or messages[-1]["role"] == "assistant":
        raise InvalidRequest("the last message must be the user's, and say something", field="messages")
    if len(talk[-1][1].encode("utf-8", "surrogatepass")) > MAX_MESSAGE_BYTES:
        raise InvalidRequest(f"the last message must have at most {MAX_MESSAGE_BYTES} bytes", field="messages")
    return talk


def _text(content: Any, where: str) -> str:
    """The text of a message, whole or in parts."""
    if content is None:
        return ""
    if type(content) is str:
        return content
    if type(content) is not list:
        raise InvalidRequest(f"{where}.content must be a string or a list of parts", field=f"{where}.content")
    texts: list[str] = []
    for n, part in enumerate(content):
        kind = part.get("type") if type(part) is dict else None
        text = part.get("refusal" if kind == "refusal" else "text") if type(part) is dict else None
        if kind not in ("text", "refusal") or type(text) is not str:
            raise InvalidRequest(f"{where}.content[{n}] is not supported: agents take text", field=f"{where}.content[{n}]")
        texts.append(text)
    return "\n".join(texts)
