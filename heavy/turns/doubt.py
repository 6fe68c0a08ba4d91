"""Which calls an earlier attempt of a turn may have made: they stand in the transcript without a result. Rules only."""

from __future__ import annotations

from collections.abc import Sequence

from heavy.agent.calls import unanswered
from heavy.agent.ends import DIRECT
from heavy.llm.types import Message
from heavy.turns.rows import TurnRow


def doubtful(row: TurnRow, transcript: Sequence[Message]) -> frozenset[str]:
    """The ids of the calls that may have been made before this attempt, and DIRECT where the turn's action itself may have been.

    A call that a person has just decided on was held back until then; it is in doubt only from the second attempt after that on.
    """
    if row.attempt <= 1:
        return frozenset()
    open_calls = {call.id for call in unanswered(transcript)}
    if row.approval is not None and row.attempt <= row.approval.get("attempt", 0) + 1:
        open_calls -= {call["call_id"] for call in row.approval["calls"]}
    return frozenset(open_calls | ({DIRECT} if row.decision is not None else set()))
