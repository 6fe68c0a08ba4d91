"""Going on with an answer that broke off: what another target is asked, and how the two halves become one answer. It makes no call."""

from __future__ import annotations

import re
from dataclasses import replace

from common.contracts.query import Usage
from heavy.llm.types import Completed, LLMCallFailed, LLMRequest, Message, Target

# Models that take the beginning of their own answer as the last message. Anthropic's newer ones (4.6 on) refuse it.
_PREFILL = re.compile(r"(.*[./])?claude-(2|instant|3|(opus|sonnet|haiku)-4(-[0-5]\b|-20|$))")
_GO_ON = (
    "Your answer above broke off in the middle. Write only what comes next, from the very next character on. "
    "Do not repeat any of it, do not begin anew, and do not mention that it broke off."
)


def takes_prefill(target: Target) -> bool:
    """Whether a model goes on with an assistant message that stands last."""
    return target.provider == "anthropic" and _PREFILL.match(target.model) is not None


class Broken:
    """What was said until an answer broke off, by one target or several, and what that has cost."""

    def __init__(self) -> None:
        self.text = ""
        self._usage = Usage()
        self._last: LLMCallFailed | None = None
        self._skips_space = False

    def add(self, text: str, error: LLMCallFailed) -> None:
        """An answer has broken off after so much text."""
        self.text += text
        self._usage.add(error.usage or Usage(llm_calls=1))
        self._last = error

    def tell(self, error: LLMCallFailed) -> None:
        """The failure that ends it all has everything that was said, and what it has cost."""
        if self.text:
            error.partial = self.text
            if error is not self._last and error.usage is not None:
                self._usage.add(error.usage)
            error.usage = self._usage

    def request(self, request: LLMRequest, target: Target) -> LLMRequest:
        """The call that goes on."""
        if not self.text:
            return request
        prefill = takes_prefill(target)
        self._skips_space = prefill and self.text[-1].isspace()  # such a message must not end with white space
        said = Message("assistant", self.text.rstrip() if prefill else self.text)
        more = [said] if prefill else [said, Message("user", _GO_ON)]
        return replace(request, messages=[*request.messages, *more])

    def delta(self, text: str) -> str:
        """The text of a delta that comes behind what was said; empty where the space at its beginning has been said."""
        if self._skips_space:
            text = text.lstrip()
            self._skips_space = not text
        return text

    def whole(self, rest: Completed, text: str) -> Completed:
        """The whole answer; `text` is what came behind the part that had broken off."""
        if not self.text:
            return rest
        self._usage.add(rest.usage)
        return replace(rest, message=replace(rest.message, content=self.text + text), usage=self._usage)
