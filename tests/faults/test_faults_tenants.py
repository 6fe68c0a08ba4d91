"""FAULTS 8 and 21: what is another tenant's looks like what there is not, at every door; ten thousand streams trouble their tenant only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.contracts.ticket import Plan, Ticket, sign
from common.web.auth import hash_key
from tests.faults.conftest import LLM_KEY, TICKET_SECRET
from tests.support.client import Answer, Client
from tests.support.desks import write_desks, write_script
from tests.support.running import Running, role
from tests.support.services import PostgresServer, RedisServer, free_port
from tests.support.split import Split, resident, split_of
from tests.support.waiting import wait_until, wait_until_sync

A, B = "key-of-a-0123456789", "key-of-b-0123456789"
LIMIT = 40
UNKNOWN_TURN, UNKNOWN_SESSION = "t_000000000000000000000000000000ff", "never-begun"
# What one and the same request may answer differently.
OWN_HEADERS = {"date", "server-timing", "x-request-id"}


def key_file(folder: Path, *, streams: int) -> Path:
    """A key of each of two tenants, both with the scopes query and admin; the first may hold so many streams."""
    rows = [
        {"id": "a", "tenant": "a", "scopes": ["query", "admin"], "hash": hash_key(A), "limits": {"open_streams": streams}},
        {"id": "b", "tenant": "b", "scopes": ["query", "admin"], "hash": hash_key(B)},
        {"id": "c", "tenant": "c", "scopes": ["query"], "hash": hash_key("key-of-c"), "limits": {"concurrent_turns": 1}},
    ]
    path = folder / "keys.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def place(folder: Path) -> Path:
    path = folder / "tenants"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="module")
def desks_env(place: Path, business: Running) -> Iterator[dict[str, str]]:
    """The environment of a tier with the agents of tests.support.desks and a key of each tenant."""
    port = free_port()
    arguments = ["simulate", "llm", "--port", str(port), "--profile", str(write_script(place))]
    with Running(arguments, place, port=port, ready="/stats") as llm:
        yield {
            "OPENAI_API_KEY": LLM_KEY,
            "OPENAI_BASE_URL": llm.url + "/v1",
            "BUSINESS": business.url,
            "LOADSPLIT_TICKET_SECRET": TICKET_SECRET,
            "LOADSPLIT_API_KEYS": str(key_file(place, streams=LIMIT)),
        }


@pytest.fixture(scope="module")
def desks(desks_env: dict[str, str], redis: RedisServer, postgres: PostgresServer, place: Path) -> Iterator[Split]:
    """The split, in which the agent `once` learns."""
    stores = {"LOADSPLIT_REDIS_URL": f"{redis.url.rpartition('/')[0]}/1", "LOADSPLIT_DATABASE_URL": postgres.create_database()}
    config = write_desks(place, {"once": {"learned_routes": {"enabled": True, "repeat": 2}}})
    with split_of(config, place, {**desks_env, **stores}) as split:
        yield split


@pytest.fixture
def door(request: pytest.FixtureRequest, desks: Split) -> Client:
    """Through the rule tier, and at heavy itself."""
    return desks.client if request.param == "lightweight" else desks.heavy[1].client


def bare(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """A reply without what differs between any two requests."""
    return answer.status, {k: v for k, v in answer.headers.items() if k not in OWN_HEADERS}, answer.body


def both(door: Client, method: str, path: str, ids: tuple[str, str], body: Any = None) -> tuple[Answer, Answer]:
    """What tenant B is told of A's thing, and of one that does not exist."""
    mine = door.with_key(B)
    rid = {"X-Request-Id": "the-same-for-both"}
    theirs, unknown = (mine.call(method, path.format(one), body, headers=rid) for one in ids)
    return theirs, unknown


OF_A_TURN: list[tuple[str, str, Any]] = [
    ("GET", "/api/v1/turns/{}", None),
    ("GET", "/api/v1/turns/{}/stream", None),
    ("GET", "/api/v1/turns/{}/stream?starting_after=1", None),
    ("POST", "/api/v1/turns/{}/cancel", None),
    ("POST", "/api/v1/turns/{}/approval", {"decision": "approve"}),
    ("POST", "/api/v1/turns/{}/approval", {"decision": "deny", "call_id": "call_1"}),
]
OF_A_SESSION: list[tuple[str, str, Any]] = [
    ("GET", "/api/v1/session/{}", None),
    ("GET", "/api/v1/session/{}?include=messages", None),
    ("GET", "/api/v1/session/{}?include=messages&before=2", None),
    ("POST", "/api/v1/session/{}/handoff", {"action": "accept"}),
    ("POST", "/api/v1/session/{}/handoff", {"action": "message", "text": "Hello."}),
    ("POST", "/api/v1/session/{}/handoff", {"action": "release"}),
    ("DELETE", "/api/v1/session/{}", None),
]


def state(client: Client, session: str) -> tuple[Any, list[Any]]:
    """Everything that A sees of a session and its turns."""
    seen = client.call("GET", f"/api/v1/session/{session}?include=messages").json
    turns = sorted({m["turn_id"] for m in seen["messages"]})
    return seen, [client.call("GET", f"/api/v1/turns/{t}").json for t in turns]


@pytest.mark.parametrize("door", ["lightweight", "heavy"], indirect=True)
def test_a_turn_of_another_tenant_is_an_unknown_one(desks: Split, door: Client) -> None:
    """One that has ended, one that awaits an approval, one that a rule answered: each looks like none, and nothing happens to it."""
    owner, session = desks.client.with_key(A), f"turns-{door.url[-4:]}"
    asked = owner.ask("refund it please", session, agent_id="cashier").json
    assert asked["status"] == "queued"
    done = owner.ask("tell me a story", session, agent_id="cashier").json
    by_rule = owner.ask("opening hours", session, agent_id="cashier").json
    before = state(owner, session)
    for turn in (asked, done, by_rule):
        for method, path, body in OF_A_TURN:
            theirs, unknown = both(door, method, path, (turn["turn_id"], UNKNOWN_TURN), body)
            assert theirs.status == 404, (method, path)
            assert bare(theirs) == bare(unknown), (method, path)
    assert state(owner, session) == before
    assert owner.call("POST", f"/api/v1/turns/{asked['turn_id']}/approval", {"decision": "deny"}).status == 202


@pytest.mark.parametrize("door", ["lightweight", "heavy"], indirect=True)
def test_a_running_turn_of_another_tenant_goes_on(desks: Split, door: Client) -> None:
    """It can be neither cancelled nor watched, on the node that runs it and on the other."""
    owner, session = desks.client.with_key(A), f"running-{door.url[-4:]}"
    stream = owner.stream("work with slow words", session, agent_id="bounded")
    turn_id = stream.take(3)[0].data["turn_id"]
    doors = [door, desks.heavy[0].client]
    for client in doors:
        for method, path, body in OF_A_TURN:
            theirs, unknown = both(client, method, path, (turn_id, UNKNOWN_TURN), body)
            assert bare(theirs) == bare(unknown), (method, path)
            assert theirs.status == 404, (method, path)
    assert list(stream)[-1].type == "complete"
    assert owner.call("GET", f"/api/v1/turns/{turn_id}").json["state"] == "done"


@pytest.mark.parametrize("door", ["lightweight", "heavy"], indirect=True)
def test_a_session_of_another_tenant_is_an_unknown_one(desks: Split, door: Client) -> None:
    """Read, taken over, spoken in, erased: none of it, and a message under the same id begins a session of its own."""
    owner, session = desks.client.with_key(A), f"session-{door.url[-4:]}"
    owner.ask("tell me a story", session, agent_id="cashier")
    assert owner.ask("talk to a human", session, agent_id="cashier").json["status"] == "transferred"
    before = state(owner, session)
    for method, path, body in OF_A_SESSION:
        theirs, unknown = both(door, method, path, (session, UNKNOWN_SESSION), body)
        assert theirs.status == 404, (method, path)
        assert bare(theirs) == bare(unknown), (method, path)
    listed = door.with_key(B).call("GET", "/api/v1/sessions?status=transferred").json
    assert listed == {"sessions": []}
    assert state(owner, session) == before

    mine = door.with_key(B)
    if door is desks.client:
        reply = mine.ask("opening hours", session, agent_id="cashier").json
        assert reply["message"] == "We open at 9."  # A's session is with a human: there no rule would answer
    else:
        assert mine.ask("tell me a story", session, agent_id="cashier").json["message"] == "Plain words."
    assert state(owner, session) == before
    assert mine.call("DELETE", f"/api/v1/session/{session}").json == {"status": "deleted"}
    assert state(owner, session) == before
    assert [s["session_id"] for s in owner.call("GET", "/api/v1/sessions?status=transferred").json["sessions"]].count(session) == 1


@pytest.mark.parametrize("door", ["lightweight", "heavy"], indirect=True)
async def test_the_events_of_another_tenants_session_are_not_heard(desks: Split, door: Client) -> None:
    """SSE and WebSocket. A session that does not exist yet may be watched, so both open, and say nothing of what A's has and gets."""
    owner, session = desks.client.with_key(A), f"events-{door.url[-4:]}"
    owner.ask("talk to a human", session, agent_id="cashier")
    key, url = {"Authorization": f"Bearer {B}"}, f"{door.url}/api/v1/session"
    async with aiohttp.ClientSession() as http, contextlib.AsyncExitStack() as opened:
        streams = [await opened.enter_async_context(http.get(f"{url}/{s}/events", headers=key)) for s in (session, UNKNOWN_SESSION)]
        socket = await opened.enter_async_context(http.ws_connect(f"{url}/{session}/ws", headers=key))
        own = await opened.enter_async_context(
            http.get(f"{url}/{session}/events?starting_after=1", headers={"Authorization": f"Bearer {A}"})
        )
        heads = [(r.status, {k.lower(): v for k, v in r.headers.items() if k.lower() not in OWN_HEADERS}) for r in streams]
        assert heads[0] == heads[1]
        assert heads[0][0] == own.status == 200
        handoff = {"action": "message", "text": "A secret of A."}
        said = await asyncio.to_thread(owner.call, "POST", f"/api/v1/session/{session}/handoff", handoff)
        assert said.status == 200
        heard = b""
        async with asyncio.timeout(10):
            while b"A secret of A." not in heard:
                heard += await own.content.readany()
        for stream in streams:
            assert await stream.content.readexactly(len(b"retry: 1000\n\n")) == b"retry: 1000\n\n"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await stream.content.readexactly(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await socket.receive()


def test_what_another_tenant_taught_is_not_told(desks: Split) -> None:
    """Admin endpoints of learned routes: each tenant has its own, also where the key has the scope admin."""
    heavy = desks.heavy[0].client
    owner, other = heavy.with_key(A), heavy.with_key(B)
    agent = "/admin/api/agents/once"
    for n in range(2):
        desks.client.with_key(A).ask("say sorry", f"taught-{n}", agent_id="once")
    learned = lambda: [r for r in owner.call("GET", f"{agent}/learned").json["routes"] if r["state"] == "active"]  # noqa: E731
    wait_until_sync(learned, "A has taught it", 5)
    before = learned()
    assert other.call("GET", f"{agent}/learned").json["routes"] == []
    assert other.call("GET", f"{agent}/learned/proposals").json["proposals"] == []
    assert other.call("DELETE", f"{agent}/learned").json == {"forgotten": 0}
    assert other.call("DELETE", f"{agent}/learned?message=say+sorry").json == {"forgotten": 0}
    assert other.call("POST", f"{agent}/match", {"text": "say sorry"}).json["matched_by"] == "none"
    assert owner.call("POST", f"{agent}/match", {"text": "say sorry"}).json["matched_by"] == "learned"
    assert desks.client.with_key(B).ask("say sorry", "taught-b", agent_id="once").json["route"]["matched_by"] == "llm"
    assert learned() == before
    theirs, unknown = (other.call("GET", f"/admin/api/agents/{a}/learned", headers={"X-Request-Id": "r"}) for a in ("nobody", "no-agent"))
    assert bare(theirs) == bare(unknown)
    assert theirs.status == 404


def test_a_ticket_of_one_tenant_does_not_open_anothers_session(desks: Split) -> None:
    """The rule tier signs the caller's own tenant, whatever the body says."""
    owner, mine = desks.client.with_key(A), desks.client.with_key(B)
    owner.ask("tell me a story", "ticket-1", agent_id="cashier")
    answer = mine.call(
        "POST", "/api/v1/query", {"message": "tell me a story", "session_id": "ticket-1", "agent_id": "cashier", "tenant": "a"}
    )
    assert answer.status == 200
    assert len(owner.messages("ticket-1")) == len(mine.messages("ticket-1")) == 2


def test_a_request_that_comes_twice_joins_its_turn_at_the_limit(desks: Split) -> None:
    """As when a connection broke and the front has sent it again: the tenant's one turn is its own, and it is answered twice."""
    heavy = desks.heavy[0].client

    def ask(turn: str, session: str) -> Answer:
        ticket = sign(Ticket("c", "bounded", session, turn, "", Plan()), TICKET_SECRET.encode())
        return heavy.ask("work with slow words", session, agent_id="bounded", headers={"X-Loadsplit-Ticket": ticket})

    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, "t_00000000000000000000000000000c01", "twice-1")
        mine = desks.client.with_key("key-of-c")
        wait_until_sync(lambda: mine.call("GET", "/api/v1/session/twice-1").status == 200, "the first one is accepted", 5)
        second = pool.submit(ask, "t_00000000000000000000000000000c01", "twice-1")
        other = pool.submit(ask, "t_00000000000000000000000000000c02", "twice-2").result()
        assert (other.status, other.json["limit"]) == (429, "concurrent_turns")
        assert (first.result().status, first.result().json) == (200, second.result().json)


class Watchers:
    """Idle streams of session events, as raw connections: a client library would need more memory than the server under test."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self.open: list[asyncio.StreamWriter] = []
        self.refused: list[bytes] = []

    async def connect(self, n: int) -> None:
        """One more watcher, of a session of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"GET /api/v1/session/idle-{n}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if answer.startswith(b"HTTP/1.1 200"):
            self.open.append(writer)
        else:
            self.refused.append(answer)
            writer.close()

    async def connect_all(self, count: int, at_once: int = 50) -> None:
        """So many watchers, some at once."""
        numbers = iter(range(count))

        async def work() -> None:
            for n in numbers:
                await self.connect(n)

        await asyncio.gather(*(work() for _ in range(at_once)))

    async def close(self) -> None:
        """All of them leave."""
        for writer in self.open:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for w in self.open), return_exceptions=True)


@contextlib.asynccontextmanager
async def watchers(port: int, key: str) -> AsyncIterator[Watchers]:
    crowd = Watchers(port, key)
    try:
        yield crowd
    finally:
        await crowd.close()


async def test_idle_streams_beyond_the_limit_are_refused_for_their_tenant_only(desks: Split) -> None:
    """On two replicas together; when they have gone, there is room again."""
    first, second = desks.heavy
    mine, other = second.client.with_key(A), second.client.with_key(B)
    async with watchers(first.port, A) as crowd, watchers(second.port, A) as more:
        await crowd.connect_all(LIMIT // 2, 5)
        await more.connect_all(LIMIT, 5)
        assert (len(crowd.open), len(more.open), len(more.refused)) == (LIMIT // 2, LIMIT // 2, LIMIT // 2)
        assert all(head.startswith(b"HTTP/1.1 429") and b"retry-after: 5" in head.lower() for head in more.refused)
        refused = await asyncio.to_thread(mine.call, "GET", "/api/v1/session/idle-x/events")
        assert (refused.status, refused.json["code"], refused.json["limit"]) == (429, "rate_limited", "open_streams")
        assert (refused.json["value"], refused.json["used"]) == (LIMIT, LIMIT)
        streamed = {"message": "tell me a story", "session_id": "idle-x", "agent_id": "cashier"}
        assert (await asyncio.to_thread(mine.call, "POST", "/api/v1/query", streamed)).status == 200
        async with watchers(second.port, B) as others:
            await others.connect_all(10, 5)
            assert len(others.open) == 10
        assert (await asyncio.to_thread(other.call, "POST", "/api/v1/query/stream", streamed)).status == 200

    async def room() -> bool:
        async with watchers(second.port, A) as again:
            await again.connect(0)
            return bool(again.open)

    await wait_until(room, "the closed ones are given back", 5)


@pytest.mark.long
def test_streams_of_a_killed_replica_are_given_back(desks: Split) -> None:
    """Their places are free after half a minute at the latest, without anybody's doing."""
    first, second = desks.heavy
    held = [first.client.with_key(A).get_stream(f"/api/v1/session/killed-{n}/events") for n in range(LIMIT)]
    mine = second.client.with_key(A)
    assert mine.call("GET", "/api/v1/session/killed-x/events").status == 429
    first.kill()
    for stream in held:
        stream.close()

    def given() -> bool:
        with contextlib.closing(mine.get_stream("/api/v1/session/killed-x/events")) as stream:
            return stream.status == 200

    wait_until_sync(given, "the dead replica's places are given away", 35)
    first.start()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_ten_thousand_idle_streams(
    desks_env: Mapping[str, str], redis: RedisServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    """With the limit that holds for everyone (5 000 a tenant): the rest is refused, others are served as before, and memory is bounded."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    stores = {
        "LOADSPLIT_REDIS_URL": f"{redis.url.rpartition('/')[0]}/2",
        "LOADSPLIT_DATABASE_URL": postgres.create_database(),
        "LOADSPLIT_API_KEYS": str(key_file(tmp_path, streams=5000)),
    }
    heavy = role("heavy", write_desks(tmp_path), tmp_path, {**desks_env, **stores})
    with heavy:
        other = heavy.client.with_key(B)

        async def ask(n: int) -> float:
            began = time.monotonic()
            answer = await asyncio.to_thread(other.ask, "tell me a story", f"quiet-{n}", agent_id="cashier")
            assert answer.status == 200
            return time.monotonic() - began

        quiet = sorted([await ask(n) for n in range(50)])[25]
        before = resident(heavy)
        async with watchers(heavy.port, A) as crowd:
            began = time.monotonic()
            await crowd.connect_all(10_000)
            took = time.monotonic() - began
            assert (len(crowd.open), len(crowd.refused)) == (5000, 5000)
            grown = resident(heavy) - before
            beside = sorted([await ask(1000 + n) for n in range(50)])[25]
            print(f"10 000 streams asked for in {took:.1f} s; 5 000 held, {grown / 5000:.0f} bytes each; ", end="")
            print(f"another tenant's LLM turn: median {quiet * 1000:.1f} ms before, {beside * 1000:.1f} ms beside them")
            assert grown < 5000 * 100_000
            assert beside < 3 * quiet + 0.05
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
