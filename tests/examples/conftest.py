"""The business simulator, which every example calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import uvicorn

from loadtests.simulators.business import create_app
from tests.support.services import free_port
from tests.support.waiting import wait_until_sync


@pytest.fixture(scope="module")
def business_port() -> Iterator[int]:
    """Its port; the books are fresh for each example."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(), port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until_sync(lambda: server.started, "the business simulator serves")
    yield port
    server.should_exit = True
    thread.join(10)
