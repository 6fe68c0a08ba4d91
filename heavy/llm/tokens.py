"""How many tokens a text has, estimated. It knows no model's tokeniser: what is decided by it only has to be about right."""

from __future__ import annotations

import re
from collections.abc import Iterable

import orjson

from heavy.llm.types import Message, ToolSpec

_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")


def tokens_of(text: str) -> int:
    """An estimate: a token for each Chinese, Japanese or Korean character, one for every four others."""
    if text.isascii():
        return len(text) // 4 + 1
    wide = len(_WIDE.findall(text))
    return wide + (len(text) - wide) // 4 + 1


def estimate(messages: Iterable[Message]) -> int:
    """Estimated tokens of messages, with four for the frame of each message and each call."""
    total = 0
    for m in messages:
        total += 4 + tokens_of(m.content)
        for call in m.tool_calls:
            total += 4 + tokens_of(call.name) + tokens_of(call.arguments)
    return total


def estimate_tools(tools: Iterable[ToolSpec]) -> int:
    """Estimated tokens of what a request says about its tools."""
    return sum(tokens_of(t.description) + tokens_of(orjson.dumps(t.parameters).decode()) for t in tools)
