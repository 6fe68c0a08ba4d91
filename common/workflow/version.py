"""The version of a workflow file: a short hash of what is written in it, never of the secrets that `${NAME}` stands for."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def config_hash(doc: Any) -> str:
    """16 hex digits: SHA-256 of the document as canonical JSON (sorted keys, no spaces), whatever the layout or key order."""
    canonical = json.dumps(doc, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]
