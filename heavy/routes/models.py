"""GET /v1/models in OpenAI's form: the agents, and the models that may be asked directly, as far as the caller's key goes."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.chat import MODELS
from common.contracts.llm_errors import ModelNotFound
from heavy.routes.state import caller_of, heavy_of


async def list_models(request: Request) -> Response:
    """All models of the caller."""
    return JSONResponse({"object": "list", "data": list(_models(request).values())})


async def get_model(request: Request) -> Response:
    """One model. Raises ModelNotFound, also for one that the key does not reach."""
    name = request.path_params["model"]
    found = _models(request).get(name)
    if found is None:
        raise ModelNotFound(name)
    return JSONResponse(found)


def _models(request: Request) -> dict[str, dict[str, Any]]:
    heavy, caller = heavy_of(request.scope), caller_of(request.scope)
    names: list[str] = []
    if "query" in caller.scopes:
        names += heavy.agents.names
    if "llm" in caller.scopes:
        names += [MODELS + alias for alias in heavy.relay.catalogue()]
    return {name: {"id": name, "object": "model", "created": 0, "owned_by": "loadsplit"} for name in names}
