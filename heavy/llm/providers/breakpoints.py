"""Where Anthropic's API is asked to cache the beginning of a prompt. The order there is tools, system prompt, messages; a mark covers all
that stands before it, and there may be four. What is written costs a quarter more, what is read a tenth.
"""

from __future__ import annotations

from typing import Any

# The API caches nothing shorter than this (for some models than two or four times as much, and then ignores the marks).
MIN_CACHED_TOKENS = 1024


def mark(body: dict[str, Any], *, history: bool) -> None:
    """Marks the last tool, the first block of the system prompt (further ones are about this session or message) and, with `history`, the
    end of the earlier turns and the newest message."""
    if body.get("tools"):
        _mark(body["tools"][-1])
    if body.get("system"):
        _mark(body["system"][0])
    if not history:
        return
    messages: list[dict[str, Any]] = body["messages"]
    begins = next((n for n in range(len(messages) - 1, -1, -1) if _is_said_by_user(messages[n])), 0)
    for n in {begins - 1, len(messages) - 1} - {-1}:
        _mark(messages[n]["content"][-1])


def _is_said_by_user(message: dict[str, Any]) -> bool:
    """Whether a turn begins here; the results of tools are sent as the user's, too."""
    return message["role"] == "user" and any(block["type"] == "text" for block in message["content"])


def _mark(block: dict[str, Any]) -> None:
    block["cache_control"] = {"type": "ephemeral"}
