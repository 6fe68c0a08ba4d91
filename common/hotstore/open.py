"""Chooses the hot store by URL. Each scheme's file is imported only when it is asked for."""

from __future__ import annotations

from urllib.parse import urlsplit

from common.hotstore.protocol import HotStore

SCHEMES = ("memory", "redis", "rediss", "unix")


def open_hotstore(url: str) -> HotStore:
    """The hot store of `memory://`, `redis://host:port/db`, `rediss://…` (TLS) or `unix:///path?db=0`.

    Connects with the first command, not here, so it may be called without an event loop. Raises ValueError that names what is
    wrong with the URL, never its password.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        from common.hotstore.memory import MemoryHotStore

        return MemoryHotStore()
    if scheme in SCHEMES:
        from common.hotstore.redis import RedisHotStore

        return RedisHotStore(url)
    raise ValueError(f"a hot store URL begins with one of {', '.join(s + '://' for s in SCHEMES)}; this one has the scheme {scheme!r}")
