"""What a trace tells of a call of a model, by the names of OpenTelemetry's conventions for generative AI. No words of anybody."""

from __future__ import annotations

from typing import Any

from heavy.llm.legs import CallRecord


def span_of(record: CallRecord) -> dict[str, Any]:
    """The call as the arguments of `Span.child`."""
    usage, who = record.usage, record.spender
    first = record.first_token_seconds
    return {
        "name": f"chat {record.model}",
        "began": record.began,
        "seconds": record.seconds,
        "error": None if record.outcome == "ok" else record.outcome,
        "attributes": {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": record.target.partition("/")[0],
            "gen_ai.request.model": record.model,
            "gen_ai.agent.name": who.agent_id,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.response.time_to_first_chunk": first,
            "loadsplit.call_id": record.call_id,
            "loadsplit.purpose": who.purpose,
            "loadsplit.skill": who.skill,
            "loadsplit.alias": record.alias,
            "loadsplit.cost_usd": usage.cost_usd,
            "loadsplit.estimated": record.estimated,
        },
    }
