"""The metrics of calls of models under the names of OpenTelemetry's conventions for generative AI, in Prometheus' form, so that dashboards
made for those names show loadsplit, too. Names, labels and buckets are the conventions'.
"""

from __future__ import annotations

from common.telemetry.specs import Spec

_CALL = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_TOKENS = tuple(float(4**n) for n in range(14))
_SECONDS = tuple(0.01 * 2**n for n in range(14))
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

USED = "gen_ai_client_token_usage"
DURATION = "gen_ai_client_operation_duration_seconds"
FIRST_CHUNK = "gen_ai_client_operation_time_to_first_chunk_seconds"
FIRST_SEEN = "gen_ai_server_time_to_first_token_seconds"

GENAI: dict[str, Spec] = {
    USED: Spec("histogram", "Tokens of a call, by gen_ai_token_type (input, output).", (*_CALL, "gen_ai_token_type"), _TOKENS),
    DURATION: Spec(
        "histogram",
        "Seconds of a call of a model; error_type says how it failed, if it did.",
        (*_CALL, "error_type"),
        _SECONDS,
    ),
    FIRST_CHUNK: Spec("histogram", "Seconds from a call to the first piece of its answer.", _CALL, _FIRST),
    FIRST_SEEN: Spec("histogram", "The same as seen from here, for dashboards of model servers.", _CALL, _FIRST),
}
