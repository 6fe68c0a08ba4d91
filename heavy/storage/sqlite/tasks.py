"""Tasks and batches on SQLite: each step is one function that runs in the writer thread inside one transaction."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from heavy.jobs.rows import LANES, OPEN, BatchRow, Lane, LaneStats, NewBatch, NewTask, TaskEnd, TaskRow, TaskStatus
from heavy.storage.sqlite import task_statements as sql
from heavy.storage.sqlite.batches import close_one, own_of, tell_finished
from heavy.storage.sqlite.outbox import add_messages
from heavy.storage.sqlite.sessions import INSERT_EVENT, Run, one
from heavy.storage.task_rows import batch_of, end_values, hook_values, new_values, page_of, task_of, viewed_of

MOST_COUNTED = 100_000


class SqliteTasks:
    """TaskStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def submit(self, task: NewTask) -> tuple[TaskRow, bool]:
        """Stores a task, or finds the one of its id."""
        values = new_values(task)

        def store(c: sqlite3.Connection) -> tuple[Any, bool]:
            new = insert(c, [values], time.time()) == 1
            return c.execute(sql.GET, (task.tenant, task.task_id)).fetchone(), new

        row, new = await self._write(store)
        return viewed_of(row), new

    async def submit_batch(self, batch: NewBatch, tasks: Sequence[NewTask]) -> tuple[BatchRow, bool]:
        """Stores a batch with its tasks, or finds the one of its id."""
        place = (batch.tenant, batch.batch_id)
        hook = hook_values(batch.hook)
        rejected = sum(t.error is not None for t in tasks)

        def store(c: sqlite3.Connection) -> tuple[Any, bool]:
            now = time.time()
            row = one(c, sql.INSERT_BATCH, (*place, len(tasks), rejected, *hook, batch.fingerprint, now))
            if row is None:
                return c.execute(sql.BATCH, place).fetchone(), False
            insert(c, [new_values(t, batch.hook) for t in tasks], now)
            if row["finished_at"] is not None:
                tell_finished(c, row)
            return row, True

        row, new = await self._write(store)
        return batch_of(row), new

    async def get(self, tenant: str, task_id: str) -> TaskRow | None:
        """The task with its turn."""
        row = await self._read(lambda c: c.execute(sql.GET, (tenant, task_id)).fetchone())
        return viewed_of(row) if row else None

    async def page(
        self,
        tenant: str,
        *,
        status: TaskStatus | None = None,
        session_id: str | None = None,
        before: tuple[float, str] | None = None,
        limit: int,
    ) -> Sequence[TaskRow]:
        """Tasks with their turns, the newest first."""
        statement, values = page_of("?{}".format, tenant, status, session_id, before, limit)
        return [viewed_of(r) for r in await self._read(lambda c: c.execute(statement, values).fetchall())]

    async def pick(self, lane: Lane, *, owner: str, lease_seconds: float, limit: int, depth: int) -> Sequence[TaskRow]:
        """Due tasks for this owner."""

        def pick(c: sqlite3.Connection) -> list[Any]:
            now = time.time()
            found = sorted(_ranked(c, lane, now, limit, depth))[:limit]
            return [one(c, sql.START, (tenant, task_id, owner, now, lease_seconds)) for _, _, tenant, task_id in found]

        return sorted(map(task_of, await self._write(pick)), key=lambda t: (t.run_at, t.task_id))

    async def release(self, task: TaskRow, *, delay_seconds: float = 0.0) -> bool:
        """A picked task is pending again."""
        values = (task.tenant, task.task_id, task.owner, task.lease_until, time.time() + delay_seconds if delay_seconds else 0.0)
        return await self._write(lambda c: c.execute(sql.RELEASE, values).rowcount) == 1

    async def postpone(self, tenant: str, task_id: str, run_at: float) -> bool:
        """A running task waits for its next attempt."""
        return await self._write(lambda c: c.execute(sql.POSTPONE, (tenant, task_id, run_at)).rowcount) == 1

    async def park(self, tenant: str, task_id: str) -> bool:
        """A running task takes nobody's place."""
        return await self._write(lambda c: c.execute(sql.PARK, (tenant, task_id)).rowcount) == 1

    async def end(self, tenant: str, ends: Sequence[TaskEnd], *, only: Collection[TaskStatus] = OPEN) -> Sequence[TaskRow]:
        """Ends tasks; those that were ended by this call."""

        def end(c: sqlite3.Connection) -> list[Any]:
            now = time.time()
            return [row for one_end in ends if (row := _end(c, tenant, one_end, only, now)) is not None]

        return [task_of(r) for r in await self._write(end)] if ends else []

    async def request_cancel(self, tenant: str, task_id: str) -> TaskRow | None:
        """Notes on a running task that its end was asked for."""

        def request(c: sqlite3.Connection) -> Any:
            c.execute(sql.REQUEST_CANCEL, (tenant, task_id))
            return c.execute(sql.GET, (tenant, task_id)).fetchone()

        row = await self._write(request)
        return viewed_of(row) if row else None

    async def unsettled(self, *, limit: int) -> Sequence[TaskRow]:
        """Running tasks with their turns that nobody may be about to settle."""
        rows = await self._read(lambda c: c.execute(sql.UNSETTLED, (time.time(), limit)).fetchall())
        return [viewed_of(r) for r in rows]

    async def batch(self, tenant: str, batch_id: str) -> BatchRow | None:
        """The batch with its counts."""

        def look(c: sqlite3.Connection) -> tuple[Any, list[Any]]:
            place = (tenant, batch_id)
            return c.execute(sql.BATCH, place).fetchone(), c.execute(sql.COUNTS, place).fetchall()

        row, counts = await self._read(look)
        return batch_of(row, [(r["status"], r["n"]) for r in counts]) if row else None

    async def items(self, tenant: str, batch_id: str, *, after: int, limit: int) -> Sequence[TaskRow]:
        """The tasks of a batch with their turns, in order."""
        return [viewed_of(r) for r in await self._read(lambda c: c.execute(sql.ITEMS, (tenant, batch_id, after, limit)).fetchall())]

    async def stats(self) -> Mapping[Lane, LaneStats]:
        """How the lanes are doing."""

        def look(c: sqlite3.Connection) -> dict[Lane, LaneStats]:
            now = time.time()
            found: dict[Lane, LaneStats] = {}
            for lane in LANES:
                row = c.execute(sql.STATS, (lane, now, MOST_COUNTED)).fetchone()
                first = [c.execute(sql.OLDEST, (lane, tenant)).fetchone()["run_at"] for tenant in _waiting(c, lane)]
                found[lane] = LaneStats(row["waiting"], row["running"], max(0.0, now - min(first, default=now)))
            return found

        return await self._read(look)


def insert(c: sqlite3.Connection, values: Sequence[tuple[Any, ...]], now: float) -> int:
    """Inserts new tasks; how many were not there already."""
    return c.executemany(sql.INSERT, [(*v, now) for v in values]).rowcount


def _waiting(c: sqlite3.Connection, lane: Lane) -> Iterator[str]:
    """The tenants with pending tasks, by jumping through the index."""
    tenant = ""
    while (row := c.execute(sql.NEXT_TENANT, (lane, tenant)).fetchone()) is not None:
        tenant = row["tenant"]
        yield tenant


def _ranked(c: sqlite3.Connection, lane: Lane, now: float, limit: int, depth: int) -> Iterator[tuple[int, float, str, str]]:
    """(place in line, due time, tenant, task) of the first tasks of each tenant that may run: at most one of a session."""
    running = c.execute(sql.RUNNING).fetchall()
    busy = {(r["tenant"], r["session_id"]) for r in running}
    places = Counter(r["tenant"] for r in running if r["lane"] == lane)
    for tenant in _waiting(c, lane):
        seen: set[str] = set()
        left, place = limit, places[tenant]
        for r in c.execute(sql.FIRST, (lane, tenant, now, depth)).fetchall():
            session_id = r["session_id"]
            if session_id in seen:
                continue
            seen.add(session_id)
            if (tenant, session_id) in busy or c.execute(sql.ACTIVE, (tenant, session_id)).fetchone():
                continue
            place += 1
            yield place, r["run_at"], tenant, r["task_id"]
            left -= 1
            if not left:
                break


def _end(c: sqlite3.Connection, tenant: str, end: TaskEnd, only: Collection[TaskStatus], now: float) -> Any:
    """Ends one task and what hangs on it; its row, None where its status is another one."""
    found = c.execute(sql.STATUS, (tenant, end.task_id)).fetchone()
    if found is None or found["status"] not in only:
        return None
    task_id, status, error, kind, data = end_values(end)
    row = one(c, sql.END, (tenant, task_id, status, error, now))
    if row["batch_id"] is not None:
        close_one(c, tenant, row["batch_id"], now)
    session = one(c, sql.TOLD, (tenant, row["session_id"], now))
    if session is not None:
        c.execute(INSERT_EVENT, (tenant, row["session_id"], session["event_seq"], kind, data, now))
    add_messages(c, tenant, row["session_id"], [(kind, data)], now, own_of(row))
    return row
