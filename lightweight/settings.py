"""What the environment says to the lightweight tier. Read once at start; this is the only file of the tier that may look at it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from common.settings import CommonSettings


def _http(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must be an http:// or https:// URL")
    return value


class LightweightSettings(CommonSettings):
    """`handoff` is accel where Nginx stands in front, else proxy to `heavy_url`."""

    handoff: Literal["proxy", "accel"] = "proxy"
    heavy_url: Annotated[str, AfterValidator(_http)] = "http://127.0.0.1:8201"
