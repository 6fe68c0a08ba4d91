"""An HTTP server in a thread of the test, for fake servers that misbehave on purpose."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def served(handler: type[BaseHTTPRequestHandler], connected: Callable[[], None], host: str = "127.0.0.1") -> Iterator[int]:
    """Serves on a free port, which it gives; `connected` is called for each connection. Peers that hang up are nothing to tell of."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def get_request(self) -> Any:
            connected()
            return super().get_request()

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Somebody has hung up in the middle: that is what is tested."""

    server = Server((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
