"""Reference: the service that loadsplit takes the place of, small but faithful: FastAPI and pydantic, patterns tried one by one with `re`,
httpx for the flow's API and for the LLM, sessions in a dictionary of the process, answers not streamed but sent when they are whole.

`python -m loadtests.references.seed_service --port P --config workflow.json --llm http://127.0.0.1:8900/v1`. One client is shared by all
calls, as such a service has it when it is written with care.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from loadtests.references.running import arguments, run


class QueryRequest(BaseModel):
    """What is asked."""

    message: str
    session_id: str
    user_id: str | None = None


class QueryResponse(BaseModel):
    """What is answered."""

    session_id: str
    message: str
    status: str


class WorkflowAgent:
    """Decides and acts: the first flow one of whose patterns is found, else the LLM with the session's history."""

    def __init__(self, config: dict[str, Any], llm: str) -> None:
        self._flows: list[dict[str, Any]] = config["flows"]
        self._llm = llm
        self._http = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=2000))
        self._sessions: dict[str, list[dict[str, str]]] = {}

    async def query(self, message: str, session_id: str, user_id: str | None) -> str:
        """The answer."""
        history = self._sessions.setdefault(session_id, [])
        for flow in self._flows:
            for pattern in flow["trigger_patterns"]:
                if re.search(pattern, message, re.IGNORECASE):
                    return await self._flow(flow, message, user_id)
        history.append({"role": "user", "content": message})
        body = {"model": "gpt-4.1-mini", "messages": [{"role": "system", "content": "You answer questions about orders."}, *history]}
        reply = await self._http.post(f"{self._llm}/chat/completions", content=json.dumps(body, separators=(",", ":")))
        answer = str(reply.raise_for_status().json()["choices"][0]["message"]["content"])
        history.append({"role": "assistant", "content": answer})
        return answer

    async def _flow(self, flow: dict[str, Any], message: str, user_id: str | None) -> str:
        endpoint = flow.get("endpoint")
        if endpoint is None:
            return str(flow["response_template"])
        reply = await self._http.post(endpoint["url"], json={"message": message, "user": user_id})
        return f"Booked: {reply.raise_for_status().json()['status']}"


def create_app(agent: WorkflowAgent) -> FastAPI:
    """The service."""
    app = FastAPI(title="Workflow Agent API")

    @app.post("/api/v1/query", response_model=QueryResponse)
    async def query(request: QueryRequest) -> QueryResponse:
        try:
            result = await agent.query(request.message, request.session_id, request.user_id)
        except httpx.HTTPError as e:
            raise HTTPException(status_code=500, detail=str(e)) from None
        return QueryResponse(session_id=request.session_id, message=result, status="success")

    @app.post("/api/v1/query/stream")
    async def query_stream(request: QueryRequest) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield f"data: {json.dumps({'type': 'start', 'data': {}})}\n\n"
            result = await agent.query(request.message, request.session_id, request.user_id)
            yield f"data: {json.dumps({'type': 'complete', 'data': {'message': result}})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main() -> None:
    """Reads the command line and serves."""
    args = arguments(__doc__, config="", llm="")
    run(create_app(WorkflowAgent(json.loads(Path(args.config).read_text()), args.llm)), args)


if __name__ == "__main__":
    main()
