"""Questions that have nothing to do with a bank: one part to learn from, another to be examined on, with no template in both.

They are generated from `off_topic.json`: each template meets each of its words. It knows nothing of rules.
"""

from __future__ import annotations

import json
from importlib import resources
from itertools import product


def questions(part: str) -> list[str]:
    """The questions of a part, `learn` or `exam`, each once, in a fixed order."""
    templates = json.loads(resources.files("loadtests.mining").joinpath("off_topic.json").read_text(encoding="utf-8"))[part]
    return list(dict.fromkeys(template.format(*words) for template, slots in templates.items() for words in product(*slots)))
