"""The page about the workflow file names every key of the model and every problem, and its example holds."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from common.workflow import schema
from common.workflow.load import examine_text

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "workflow.md").read_text(encoding="utf-8")
MODELS = [m for m in vars(schema).values() if isinstance(m, type) and issubclass(m, BaseModel) and m.__module__ == schema.__name__]


def test_every_key_is_on_the_page() -> None:
    keys = {name for model in MODELS for name in model.model_fields} - {"config_hash"}
    words = set(re.findall(r"[a-z_]+", PAGE))
    assert keys - words == set()


def test_every_problem_is_on_the_page() -> None:
    sources = [*(ROOT / "common" / "workflow").glob("*.py"), *(ROOT / "standalone" / "commands").glob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    codes = set(
        re.findall(
            r'(?:error|warning|add|TextInvalid|_fault|Problem)\(\s*(?:level, |name, |str\(\w+\), |"error", |"warning", )?"([a-z0-9_]+)",',
            text,
        )
    )
    codes -= {"error", "warning"}
    assert len(codes) > 25
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_the_example_has_no_error() -> None:
    example = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert example
    found = examine_text(example[1], "example.json", {"SHOP_API": "https://api.example", "SHOP_TOKEN": "x"}, unknown_names="error")
    assert [p for p in found.problems if p.level == "error"] == []
