"""The page about the workflow file: its table has every field of the model with a test that exists, every problem is on it, its example
holds."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from common.workflow import schema
from common.workflow.load import examine_text

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "workflow.md").read_text(encoding="utf-8")
MODELS = [m for m in vars(schema).values() if isinstance(m, type) and issubclass(m, BaseModel) and m.__module__ == schema.__name__]


TABLE = re.findall(r"^\| (`.+?`) \| (v9|\+) \| .*? \| `(.+?)` \|$", PAGE, re.MULTILINE)
# how the table calls the fields of each object of the model
PLACES = {
    schema.Workflow: "",
    schema.BasicSettings: "basic_settings.",
    schema.Models: "models.",
    schema.Tool: "tools[].",
    schema.Skill: "skills[].",
    schema.Flow: "flows[].",
    schema.SystemAction: "system_actions[].",
    schema.Ruled: "action.",
    schema.When: "when.",
    schema.Endpoint: "endpoint.",
    schema.ActionBook: "action_books[].",
    schema.Timer: "timers[].",
    schema.KbConfig: "kb_config.",
    schema.Limits: "limits.",
    schema.LearnedRoutes: "learned_routes.",
    schema.McpServer: "mcp_servers[].",
    schema.WorkflowTest: "tests[].",
    schema.Expect: "expect.",
}


def fields() -> set[str]:
    """Every field of the model, as the table names it."""
    shared = schema.Ruled.model_fields.keys()
    found = set()
    for model, place in PLACES.items():
        own = model.model_fields.keys() - (shared if issubclass(model, schema.Ruled) and model is not schema.Ruled else set())
        found |= {place + name for name in own if name != "config_hash"}
    return found


@cache
def names_of(path: Path) -> frozenset[str]:
    """The names of the tests of a file, those in classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name.startswith("test_"))


def test_the_table_has_every_field_once() -> None:
    assert {model for model in MODELS if model is not schema.Part} == set(PLACES)
    named = Counter(name for cell, _, _ in TABLE for name in re.findall("`(.+?)`", cell))
    assert fields() - named.keys() == set()
    assert named.keys() - fields() == set()
    assert [name for name, times in named.items() if times > 1] == []


def test_every_test_of_the_table_exists() -> None:
    missing = []
    for _, _, test in TABLE:
        path, _, name = test.partition("::")
        file = ROOT / "tests" / path
        if not file.is_file() or name not in names_of(file):
            missing.append(test)
    assert missing == []
    assert len(TABLE) > 60


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
