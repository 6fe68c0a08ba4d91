"""What the database keeps of the config centre, as a protocol that `heavy.storage` implements. Times are Unix seconds (float).

Versions are never changed. What is in force is one row an agent with an `edition`, and a write names the edition that it was made from;
each raises the revision. Errors: DependencyUnavailable when the database is away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from common.contracts.rollout import Form, Manifest

Action = Literal["activate", "canary", "rollback", "auto_rollback"]


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to store. `problems` are its warnings, `tests` what became of its tests, `author` the id of the key that brought it."""

    agent_id: str
    config_hash: str
    form: Form
    text: str
    author: str = ""
    note: str = ""
    problems: Sequence[Mapping[str, Any]] = ()
    tests: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version as it is stored; lists leave `text` empty."""

    agent_id: str
    version: int
    config_hash: str
    form: Form
    author: str
    note: str
    created_at: float
    problems: Sequence[Mapping[str, Any]]
    tests: Mapping[str, Any]
    text: str = ""


@dataclass(frozen=True, slots=True)
class AgentRow:
    """What is in force of an agent: version numbers, None for none. `since` is when the active version came into force, `canary_since` when
    the canary did."""

    agent_id: str
    edition: int = 0
    active: int | None = None
    canary: int | None = None
    percent: float = 0.0
    previous: int | None = None
    since: float | None = None
    canary_since: float | None = None
    created_at: float = 0.0
    version_count: int = 0
    active_hash: str | None = None
    canary_hash: str | None = None
    previous_hash: str | None = None


@dataclass(frozen=True, slots=True)
class NewChange:
    """One change of what is in force. `change_id` makes repeating it harmless; `version` is what it brought in or took out."""

    change_id: str
    action: Action
    version: int
    percent: float | None = None
    author: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A change as it is stored."""

    at: float
    action: Action
    version: int
    percent: float | None
    author: str
    note: str


@dataclass(frozen=True, slots=True)
class TurnFigures:
    """One turn of a version, as far as the comparison needs it. `escalated`: an action of a rule could not answer, and the model had to."""

    failed: bool
    escalated: bool
    llm_calls: int
    cost_usd: float
    seconds: float


class ConfigStore(Protocol):
    """Versions, what is in force, and the turns that tell how it does."""

    async def add(self, new: NewVersion) -> VersionRow:
        """Stores a version under the agent's next number; a text of the same hash is the version that it was."""

    async def versions(self, agent_id: str, *, limit: int) -> Sequence[VersionRow]:
        """An agent's versions, the newest first, without texts."""

    async def version(self, agent_id: str, version: int) -> VersionRow | None:
        """One version with its text."""

    async def of_hash(self, agent_id: str, config_hash: str) -> VersionRow | None:
        """The version of that hash with its text."""

    async def agents(self) -> Sequence[AgentRow]:
        """Every agent that has a version, the oldest first."""

    async def agent(self, agent_id: str) -> AgentRow | None:
        """One of them."""

    async def change(self, before: AgentRow, after: AgentRow, change: NewChange) -> bool:
        """Puts `after` (its versions and percent) in the place of `before`, and notes the change. False, and nothing changed, when somebody
        else was quicker; repeating it is True again."""

    async def changes(self, agent_id: str, *, limit: int) -> Sequence[ChangeRow]:
        """An agent's changes, the newest first."""

    async def revision(self) -> int:
        """The number of the last change."""

    async def manifest(self) -> Manifest:
        """What is in force. It is as new as its revision, or newer."""

    async def figures(self, agent_id: str, config_hash: str, *, since: float, limit: int) -> Sequence[TurnFigures]:
        """The last turns of a version that have ended, begun after `since`."""

    async def messages(self, agent_id: str, *, limit: int) -> Sequence[Mapping[str, Any]]:
        """The last messages of an agent's users: message, context and session_id."""
