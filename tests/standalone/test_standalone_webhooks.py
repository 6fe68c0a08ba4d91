"""`loadsplit webhooks secret`: what signs where a request brings no secret, as the servers with the same ticket secret know it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from common.contracts.webhooks import tenant_secret
from tests.support.running import LOADSPLIT


def secret(folder: Path, *arguments: str, **env: str) -> str:
    environ = {"PATH": "/usr/bin:/bin", **env}
    command = [LOADSPLIT, "webhooks", "secret", *arguments]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.removesuffix("\n")


def test_it_follows_from_the_ticket_secret(tmp_path: Path) -> None:
    assert secret(tmp_path, LOADSPLIT_TICKET_SECRET="abc") == tenant_secret(b"abc", "default")
    assert secret(tmp_path, "--tenant", "acme", LOADSPLIT_TICKET_SECRET="abc") == tenant_secret(b"abc", "acme")


def test_it_is_that_of_the_data_directory(tmp_path: Path) -> None:
    found = secret(tmp_path, "--data-dir", "data")
    assert secret(tmp_path, LOADSPLIT_DATA_DIR="data") == found
    assert found == tenant_secret((tmp_path / "data" / "ticket.secret").read_text().strip().encode(), "default")
