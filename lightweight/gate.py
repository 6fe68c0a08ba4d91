"""May a rule answer in this session now? Reads the gate that heavy keeps in the hot store, and says which gate comes after an answer.

It knows no rules; `common.contracts.gate` gives the form.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.contracts.gate import CONVERSATION, READY, Gate, read, write
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable

IN_READY = READY.encode()
IN_CONVERSATION_TOO = (READY + CONVERSATION).encode()
ANYWHERE = b"rctx"


def allowed(interrupts: bool) -> bytes:
    """The gate states in which a rule may answer, as `HotStore.record` takes them."""
    return IN_CONVERSATION_TOO if interrupts else IN_READY


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a session before an answer. `known` is False when the hot store is away: rules answer, nobody is greeted."""

    gate: Gate | None
    known: bool = True

    @property
    def in_conversation(self) -> bool:
        """Whether a skill of heavy holds the session."""
        return self.gate is not None and self.gate.state == CONVERSATION

    def allows(self, states: bytes) -> bool:
        """Whether the session is in one of these states; an unknown session is as good as a new one."""
        return self.gate is None or self.gate.state.encode() in states

    def needs_greeting(self, greeting: str) -> bool:
        """Whether the agent's greeting (its hash, empty for none) has not been shown in this session."""
        return bool(greeting) and self.known and (self.gate is None or self.gate.greeting != greeting)

    def after_greeting(self, greeting: str) -> bytes:
        """The gate once the greeting has been shown: the same state, the greeting's hash."""
        return write(Gate(self.gate.state if self.gate else READY, greeting))


async def standing(hotstore: HotStore, tenant: str, session_id: str) -> Standing:
    """The session's standing. Never raises: without the hot store it is unknown."""
    try:
        return Standing(read(await hotstore.get(keys.gate(tenant, session_id))))
    except HotStoreUnavailable:
        return Standing(None, known=False)
