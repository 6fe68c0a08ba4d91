"""What is recorded of a run: what clients said and were told, and what was found afterwards. Plain values that go to JSON lines and back.

Times are seconds since the run began, all by one clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Door = Literal["query", "stream", "resume", "async", "task"]
State = Literal["answered", "failed", "cancelled", "refused", "unknown"]
TERMINAL = ("complete", "error", "cancelled")
TASK_ENDS = {"success": "complete", "failure": "error", "cancelled": "cancelled"}
CANCELLED = "The turn was cancelled"
# Problems that say that nothing has been decided yet: the same request may be sent again.
PASSING = frozenset({408, 429, 503, 504})


@dataclass(slots=True)
class Attempt:
    """One request for a message and what came of it. `status` is None where no reply came, `broken` says why there is no whole one, `tier`
    who began to reply.

    `events` are those of a stream as they came: (id, type, data); `after` is the Last-Event-ID that was sent, and a stream that was read on
    has the `reader` of the one before. `final` says that the reply is the message's end, and nothing else can follow; an `error` event of a
    turn that goes on is none.
    """

    door: Door
    began: float
    ended: float = 0.0
    status: int | None = None
    broken: str | None = None
    tier: str | None = None
    replayed: bool = False
    body: dict[str, Any] | None = None
    events: list[tuple[int, str, Any]] = field(default_factory=list)
    after: int = 0
    reader: int = 0
    final: bool = False


@dataclass(slots=True)
class Said:
    """One message of one client, with every attempt to have it answered. `key` is its Idempotency-Key, `turn_id` what a task or a stream
    has said of it, `task_id` that of its task. `hook` says that a webhook is to hear of the task's end, `recalled` that the client asked
    for the task to be cancelled."""

    marker: str
    client: int
    tenant: str
    session: str
    kind: str
    mode: str
    on_busy: str
    key: str | None
    text: str
    sent: float
    attempts: list[Attempt] = field(default_factory=list)
    turn_id: str | None = None
    task_id: str | None = None
    hook: bool = False
    recalled: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client knows in the end. `reply` is that of an answered message, `problem` what it was told instead, `at` when."""

    state: State
    at: float = 0.0
    turn_id: str | None = None
    reply: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None


def outcome(said: Said) -> Outcome:
    """What the attempts of a message say together: the first final one counts (others must agree, which is judged elsewhere). A refusal
    keeps nothing under its key: it counts where no other attempt was taken."""
    ends = [outcome_of(a, said.turn_id) for a in sorted((a for a in said.attempts if a.final), key=lambda a: a.ended)]
    taken = [end for end in ends if end.state != "refused"]
    return (taken or ends or [Outcome("unknown", turn_id=said.turn_id)])[0]


def outcome_of(attempt: Attempt, turn_id: str | None = None) -> Outcome:
    """What one final attempt says."""
    kind, data = told(attempt)
    named = (data or {}).get("turn_id") or turn_id
    if kind == "complete":
        return Outcome("answered", attempt.ended, named, reply=data)
    if kind == "cancelled":
        return Outcome("cancelled", attempt.ended, named, problem=data)
    begun = attempt.events or attempt.door == "task" or (attempt.status or 0) >= 500
    return Outcome("failed" if begun else "refused", attempt.ended, turn_id, problem=data)


def told(attempt: Attempt) -> tuple[str, dict[str, Any] | None]:
    """The end of a final attempt as a stream would tell it: its type and data. A reply that says that somebody else has cancelled the turn
    is a `cancelled` with the turn's id."""
    if attempt.events:
        return attempt.events[-1][1], attempt.events[-1][2]
    if attempt.door == "task" and attempt.body is not None:
        kind = TASK_ENDS[attempt.body["status"]]
        return kind, attempt.body["result" if kind == "complete" else "error"] or {}
    if attempt.status == 200:
        return "complete", attempt.body
    body = attempt.body or {}
    return ("cancelled" if body.get("title") == CANCELLED else "error"), attempt.body


@dataclass(slots=True)
class Session:
    """A session as it was found: its document, all of its messages, oldest first, and its events: (id, type, data)."""

    tenant: str
    session_id: str
    document: dict[str, Any]
    messages: list[dict[str, Any]]
    events: list[tuple[int, str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """A batch of messages in one request. `markers` are those of its items in their order, None for an item that was broken on purpose;
    `attempts` those to submit it; `document` and `lines` its counts and its results as they were found when it had ended."""

    client: int
    tenant: str
    key: str | None
    markers: list[str | None]
    hook: bool
    batch_id: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    document: dict[str, Any] | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Heard:
    """A message to a webhook, signed with its tenant's secret, and how often it came."""

    tenant: str
    message_id: str
    body: dict[str, Any]
    times: int = 1


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that was done at the business API."""

    number: int
    path: str
    key: str | None
    subject: str
    session: str


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which something was away, and why."""

    began: float
    ended: float
    why: str = ""


@dataclass(slots=True)
class FaultDone:
    """A fault that was carried out. `began` and `ended` are from the signal to the moment when its target served again."""

    number: int
    kind: str
    target: str
    seconds: float
    began: float
    ended: float


@dataclass(slots=True)
class Replay:
    """A turn's stream as it was told again after the run, from its beginning."""

    tenant: str
    turn_id: str
    status: int
    events: list[tuple[int, str, Any]]


@dataclass(slots=True)
class Found:
    """A request that was made after the run to see what it says: another tenant's things, among others; `expected` is a status."""

    tenant: str
    what: str
    expected: int
    status: int
    body: Any = None


@dataclass(slots=True)
class Evidence:
    """All that is judged. `turns` are documents by (tenant, turn id); `tasks` by (tenant, task id). `redis_keys` are (name, ttl in seconds)
    of those without an end; `idle` are figures that must be zero when nothing goes on; `left_over` is what lived on after the end."""

    said: list[Said] = field(default_factory=list)
    faults: list[FaultDone] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    turns: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    tasks: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    replays: list[Replay] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    strangers: list[Found] = field(default_factory=list)
    redis_away: list[Window] = field(default_factory=list)
    redis_keys: list[str] = field(default_factory=list)
    idle: dict[str, float] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes everything as JSON lines, a file for each kind."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("said", "faults", "sessions", "effects", "replays", "batches", "heard", "strangers", "redis_away"):
            _write(folder / f"{name}.jsonl", map(asdict, getattr(self, name)))
        for name in ("turns", "tasks"):
            _write(folder / f"{name}.jsonl", ([*place, document] for place, document in getattr(self, name).items()))
        rest = {name: getattr(self, name) for name in ("redis_keys", "idle", "left_over", "troubles")}
        (folder / "rest.json").write_text(json.dumps(rest, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Evidence:
        """What `save` has written. Raises OSError or ValueError for a folder that is none."""
        kinds: dict[str, Any] = {
            "faults": FaultDone, "sessions": Session, "effects": Effect, "replays": Replay, "batches": Batch, "heard": Heard,
            "strangers": Found, "redis_away": Window,
        }  # fmt: skip
        read: dict[str, Any] = {name: [kind(**row) for row in _read(folder / f"{name}.jsonl")] for name, kind in kinds.items()}
        for row in (*read["replays"], *read["sessions"]):
            row.events = _events(row.events)
        for batch in read["batches"]:
            batch.attempts = [_attempt(a) for a in batch.attempts]
        for name in ("turns", "tasks"):
            read[name] = {(tenant, thing): document for tenant, thing, document in _read(folder / f"{name}.jsonl")}
        said = []
        for row in _read(folder / "said.jsonl"):
            attempts = [_attempt(a) for a in row.pop("attempts")]
            said.append(Said(**row, attempts=attempts))
        return cls(said=said, **read, **json.loads((folder / "rest.json").read_text()))


def _attempt(row: Mapping[str, Any]) -> Attempt:
    return Attempt(**{**row, "events": _events(row["events"])})


def _events(rows: Sequence[Any]) -> list[tuple[int, str, Any]]:
    return [(number, kind, data) for number, kind, data in rows]


def _write(path: Path, rows: Iterable[Any]) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _read(path: Path) -> Iterator[Any]:
    with path.open() as file:
        yield from map(json.loads, file)
