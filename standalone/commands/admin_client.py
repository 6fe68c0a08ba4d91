"""One request to the admin API of a running server. It prints nothing."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

SECONDS = 60.0


class Refused(ValueError):
    """The server refused, or nothing answers; `document` is its problem, `status` 0 where there is none."""

    def __init__(self, message: str, status: int = 0, document: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.document = status, document or {}


class AdminClient:
    """One server. `key` goes with every request, if there is one."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url, self._key = url.rstrip("/"), key

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: bytes | None = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """The JSON of the answer. Raises Refused."""
        headers = {"Content-Type": content_type, **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        sent = data if data is not None else orjson.dumps(body) if body is not None else None
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS), trust_env=False) as http,
                http.request(method, self._url + path, data=sent, params=query, headers=headers, allow_redirects=False) as reply,
            ):
                raw, status = await reply.read(), reply.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            raise Refused(f"nothing answers at {self._url}: {e or 'timed out'}; give the server's address with --url") from None
        try:
            document = orjson.loads(raw)
        except ValueError:
            raise Refused(f"{self._url} answers, but not like a loadsplit server (status {status})", status) from None
        if status >= 400:
            raise Refused(f"{document.get('detail') or document.get('title')} ({status})", status, document)
        return document
