"""API keys and limits for black-box tests: the commands that make them, and two replicas of both tiers that ask for keys."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.client import Client
from tests.support.running import LOADSPLIT, Running, role
from tests.support.waiting import wait_until_sync

KNOWN_SECONDS = 2.0  # how soon every replica knows of a change


def loadsplit(*arguments: str, env: Mapping[str, str], cwd: Path) -> str:
    """What a command prints."""
    done = subprocess.run([LOADSPLIT, *arguments], env={**os.environ, **env}, cwd=cwd, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Keyed:
    """Two replicas of both tiers on one database, as `loadsplit keys` sees them."""

    def __init__(self, lightweight: list[Running], heavy: list[Running], env: Mapping[str, str], folder: Path) -> None:
        self.lightweight, self.heavy, self._env, self._folder = lightweight, heavy, env, folder
        self.client = lightweight[0].client

    @property
    def processes(self) -> list[Running]:
        """All four."""
        return [*self.lightweight, *self.heavy]

    def command(self, *arguments: str) -> str:
        """What `loadsplit …` prints, on the database of the replicas."""
        return loadsplit(*arguments, env=self._env, cwd=self._folder)

    def key(self, tenant: str = "acme", scopes: str = "query", **options: str) -> str:
        """A new key, once every replica knows it."""
        more = [word for name, value in options.items() for word in (f"--{name}", value)]
        text = self.command("keys", "create", "--tenant", tenant, "--scopes", scopes, *more)
        wait_until_sync(lambda: 401 not in self.statuses(text), "every replica knows the key", KNOWN_SECONDS)
        return text

    def statuses(self, key: str | None, processes: Sequence[Running] = ()) -> list[int]:
        """What each replica answers to this key: the rule tier to a message, heavy to a question for a session that there is not."""
        return [status(p.client.with_key(key), p in self.lightweight) for p in processes or self.processes]


def status(client: Client, rules: bool) -> int:
    """What one replica answers."""
    return client.ask("opening hours", "keys-1").status if rules else client.call("GET", "/api/v1/session/nobody").status


@contextmanager
def keyed(config: Path, folder: Path, env: Mapping[str, str]) -> Iterator[Keyed]:
    """The replicas; the second one of the rule tier proxies to the second one of heavy, and keeps its data elsewhere."""
    env = {"LOADSPLIT_TICKET_SECRET": "a-secret-of-the-tests-32-characters", "LOADSPLIT_API_KEYS": "db:", **env}
    heavy = [role("heavy", config, folder, env) for _ in range(2)]
    places = ({}, {"LOADSPLIT_DATA_DIR": str(folder / "elsewhere")})
    doors = [
        role("lightweight", config, folder, {**env, "LOADSPLIT_HEAVY_URL": one.url, **place})
        for one, place in zip(heavy, places, strict=True)
    ]
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        list(pool.map(stack.enter_context, [*heavy, *doors]))
        yield Keyed(doors, heavy, env, folder)
