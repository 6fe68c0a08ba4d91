"""Who hears of the ends of tasks: a receiver of webhooks as a careful one is, with the verifier that receivers may copy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from common.contracts.webhooks import WebhookRefused, verify
from loadtests.chaos.history import Heard
from loadtests.simulators.serving import serving


class Hearing:
    """The messages that came, by tenant and id. `secrets` are those of the tenants; what holds for none of them is a trouble."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self.heard: dict[tuple[str, str], Heard] = {}
        self.troubles: list[str] = []

    async def take(self, request: web.Request) -> web.Response:
        """One delivery."""
        raw = await request.read()
        for tenant, secret in self._secrets.items():
            try:
                body = verify(raw, request.headers, secret)
            except WebhookRefused:
                continue
            self._keep(tenant, request.headers["webhook-id"], body)
            return web.Response(status=204)
        self.troubles.append(f"a message to the webhook is signed for no tenant: {raw[:500]!r}")
        return web.Response(status=401)

    def _keep(self, tenant: str, message_id: str, body: dict[str, object]) -> None:
        known = self.heard.setdefault((tenant, message_id), Heard(tenant, message_id, body, 0))
        known.times += 1
        if known.body != body:
            self.troubles.append(f"message {message_id} came with two bodies: {known.body} and {body}")


@contextlib.asynccontextmanager
async def hearing(secrets: Mapping[str, str], port: int) -> AsyncIterator[tuple[Hearing, str]]:
    """A receiver on loopback, and its URL."""
    heard = Hearing(secrets)
    app = web.Application()
    app.router.add_post("/hook", heard.take)
    async with serving(app, "127.0.0.1", port) as url:
        yield heard, f"{url}/hook"
