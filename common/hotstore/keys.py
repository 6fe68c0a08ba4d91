"""Every key of the hot store, made here and nowhere else. A session's keys share its hash tag, so a Redis Cluster keeps them together.

| key                     | type   | TTL     | holds                                                        |
|-------------------------|--------|---------|--------------------------------------------------------------|
| ls:{tenant/session}:g   | string | 7 days  | the gate (common.contracts.gate)                             |
| ls:{tenant/session}:w   | string | 1 hour  | the hot window: recent messages, as heavy wrote them         |
| ls:{tenant/session}:p   | hash   | 1 day   | turn id → journal entry that is not in the database yet, behind its id in the journal |
| ls:{turn}:e             | list   | 1 hour after the end | event log; the event with id n is item n - 1    |
| ls:idem:<tenant>/<key>  | string | 1 day   | what a request with an Idempotency-Key has become (common.contracts.idempotency) |
| ls:chat:<tenant>/…      | string | 1 day   | by digest: the session that a conversation has come to; and who took it |
| ls:learned:…            | string | 1 hour  | a learned route (common.contracts.learned), kept up by heavy |
| ls:access               | hash   | 1 minute, kept up by heavy | API keys and limits (common.contracts.access): r revision, v snapshot |
| ls:configs              | hash   | 1 minute, kept up by heavy | versions in force (common.contracts.rollout): r revision, v manifest |
| ls:configs:watch        | string | seconds | who compares canaries now                                      |
| ls:config:<hash>        | string | 1 hour, kept up by heavy   | the text of a version                    |
| ls:rate:<tenant>        | string | until the bucket is full   | requests a minute: when the bucket will be full, in µs |
| ls:login:<digest>       | string | until the bucket is full   | attempts to log in to the admin pages from an address, as ls:rate |
| ls:streams:<tenant>     | zset   | 30 s, kept up by who holds streams | open streams, by when each is given up, in ms |
| ls:{llm:<digest>}:r, :t | string | until the bucket is full   | requests, and tokens, a minute at an LLM target, as ls:rate  |
| ls:reply:<tenant>/<digest> | string | the alias's `cache.ttl` | an LLM's reply to a deterministic call               |
| ls:spent:<day>:…       | hash   | 15 min after a write    | what a tenant or its key has spent and set aside (common.hotstore.accounts) |
| ls:log-level            | string | as the change was asked for | the level of all processes' logs                     |
| ls:journal              | stream | bounded by trimming what was acknowledged | rule-answered turns on their way to the database |

The event log of a turn that awaits an approval is kept for a day.

Channels (nothing is stored): ls:cancels `turn id reason` of a turn whose end is asked for; ls:ends `tenant/session` when a turn of it has
ended and others wait; ls:left when a process that ends has given turns up; ls:tasks the lane of tasks that are due and for which the
process that knows of them has no room; ls:turn:<turn> news of a turn's event log; ls:session:<tenant/session> a session has new events;
ls:deliveries there may be new messages to webhooks; ls:access:news keys or limits have changed; ls:log-level:news the log's level has;
ls:configs:news other versions of agents are in force; ls:configs:wanted the hash of a version whose text is missed.
"""

from __future__ import annotations

JOURNAL = "ls:journal"
JOURNAL_GROUP = "heavy"
CANCELS = "ls:cancels"
TURN_ENDS = "ls:ends"
LEFT = "ls:left"
TASKS = "ls:tasks"
DELIVERIES = "ls:deliveries"
ACCESS = "ls:access"
ACCESS_NEWS = "ls:access:news"
LOG_LEVEL = "ls:log-level"
LOG_LEVEL_NEWS = "ls:log-level:news"
CONFIGS = "ls:configs"
CONFIGS_NEWS = "ls:configs:news"
CONFIGS_WANTED = "ls:configs:wanted"
CONFIGS_WATCH = "ls:configs:watch"
WINDOW_TTL = 3600
PENDING_TTL = 86400
EVENTS_TTL = 3600
LEARNED_TTL = 3600
PAUSED_TTL = 86400
ACCESS_TTL = 60
CONFIGS_TTL = 60
CONFIG_TTL = 3600
STREAMS_TTL = 30
CONVERSATION_TTL = 86400
SPENT_TTL = 600
HELD_TTL = 30


def gate(tenant: str, session_id: str) -> str:
    """String, 7 days (gate.GATE_TTL)."""
    return f"ls:{{{tenant}/{session_id}}}:g"


def window(tenant: str, session_id: str) -> str:
    """String, WINDOW_TTL."""
    return f"ls:{{{tenant}/{session_id}}}:w"


def pending(tenant: str, session_id: str) -> str:
    """Hash of turn id → journal entry, PENDING_TTL."""
    return f"ls:{{{tenant}/{session_id}}}:p"


def events(turn_id: str) -> str:
    """List of event payloads, EVENTS_TTL after the last append."""
    return f"ls:{{{turn_id}}}:e"


def learned(tenant: str, agent_id: str, config_hash: str, digest: str) -> str:
    """String, LEARNED_TTL or what is left of the route's life. `digest` is that of the message."""
    return f"ls:learned:{tenant}/{agent_id}:{config_hash}:{digest}"


def idempotency(tenant: str, digest: str) -> str:
    """String, a day (contracts.idempotency.KEPT_SECONDS); seconds while the request is being answered."""
    return f"ls:idem:{tenant}/{digest}"


def conversation(tenant: str, digest: str) -> str:
    """String: a session id, CONVERSATION_TTL. `digest` is that of what was said."""
    return f"ls:chat:{tenant}/{digest}"


def conversation_taken(tenant: str, digest: str, session_id: str) -> str:
    """String: who has taken the session at that point, CONVERSATION_TTL."""
    return f"ls:chat:{tenant}/{digest}:{session_id}"


def config(config_hash: str) -> str:
    """String, CONFIG_TTL: the text of a version."""
    return f"ls:config:{config_hash}"


def rate(tenant: str) -> str:
    """String, as long as the bucket takes to fill."""
    return f"ls:rate:{tenant}"


def login(digest: str) -> str:
    """String, as long as the bucket takes to fill. `digest` is that of the address."""
    return f"ls:login:{digest}"


def streams(tenant: str) -> str:
    """Sorted set of open streams, STREAMS_TTL."""
    return f"ls:streams:{tenant}"


def spent(day: str, tenant: str, key_id: str | None = None) -> str:
    """Hash, accounts.KEEP_SECONDS. `day` is YYYY-MM-DD in UTC. SPENT_TTL is how long the figures of the database hold, HELD_TTL what is set
    aside without a sign of its holder."""
    return f"ls:spent:{day}:{tenant}" if key_id is None else f"ls:spent:{day}:{tenant}/{key_id}"


def llm_bucket(digest: str, what: str) -> str:
    """String, as long as the bucket takes to fill. `digest` is that of the target and its key; `what` is r (requests) or t (tokens)."""
    return f"ls:{{llm:{digest}}}:{what}"


def llm_reply(tenant: str, digest: str) -> str:
    """String, the TTL that the alias says. `digest` is that of the whole call."""
    return f"ls:reply:{tenant}/{digest}"


def turn_channel(turn_id: str) -> str:
    """Channel: the event log has grown."""
    return f"ls:turn:{turn_id}"


def session_channel(tenant: str, session_id: str) -> str:
    """Channel: the session has new events."""
    return f"ls:session:{tenant}/{session_id}"
