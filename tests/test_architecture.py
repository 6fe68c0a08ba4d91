"""The countable rules of the house: layers, cycles, fences, sizes, names, docstrings. No exemptions: mend the code, not this file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "lightweight", "heavy", "standalone", "loadtests", "nginx")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 80

# A package may import itself, the standard library, third parties, and these.
MAY_IMPORT = {
    "common": set(),
    "lightweight": {"common"},
    "heavy": {"common"},
    "standalone": {"common", "lightweight", "heavy", "nginx", "loadtests"},
    "loadtests": {"common.contracts", "common.errors"},
    "nginx": set(),
}

# Inside a package, lower layers know nothing of higher ones. Rooms of one row may import each other (without cycles).
INNER_LAYERS = {
    "common": [
        {"errors", "kept"},
        {"contracts", "workflow"},
        {"settings", "telemetry"},
        {"endpoints", "hotstore"},
        {"web"},
    ],
    "lightweight": [
        {"settings"},
        {"matching"},
        {"replies"},
        {"agents"},
        {"gate", "journal", "handoff", "sockets", "door"},
        {"learned", "idempotency"},
        {"answer"},
        {"query"},
        {"routes"},
        {"app"},
        {"__main__"},
    ],
    "heavy": [
        {"settings"},
        {"llm"},
        {"agent"},
        {"intents", "actions"},
        {"tenants"},
        {"turns", "streaming"},
        {"configs"},
        {"jobs"},
        {"routes"},
        {"admin"},
        {"storage"},
        {"app"},
        {"__main__"},
    ],
}

# Each third-party driver is imported by its one adapter.
FENCES = {
    "re2": ("lightweight/matching/", "loadtests/references/"),  # a reference server measures RE2 itself
    "openai": ("heavy/llm/providers/openai.py", "loadtests/references/"),  # another one measures the SDK alone
    "anthropic": ("heavy/llm/providers/anthropic.py",),
    "asyncpg": ("heavy/storage/",),
    "sqlite3": ("heavy/storage/",),
    "redis": ("common/hotstore/",),
    "cronsim": ("heavy/jobs/",),
    "mcp": ("heavy/agent/mcp_",),
    "locust": ("loadtests/",),
    "typer": ("standalone/",),
    "jinja2": ("heavy/admin/",),
    "markupsafe": ("heavy/admin/",),
}

BAD_NAMES = re.compile(r"^(utils?|helpers?|services?|managers?|base|misc|shared)$|_v\d+$")


def sources(*folders: str) -> list[Path]:
    return sorted(p for f in folders for p in (ROOT / f).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module, inside functions too, but not what only a type checker reads."""
    skip = {
        id(child)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for child in ast.walk(node)
    }
    mod = module_name(path)
    for node in ast.walk(tree(path)):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if is_module(full) else str(node.module)), node.lineno
    assert mod


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


SOURCES = sources(*PACKAGES)


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 60


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package: str) -> None:
    wrong = []
    for path in sources(package):
        for name, line in imports(path):
            top = name.split(".")[0]
            if top not in PACKAGES or top == package:
                continue
            if not any(name == ok or name.startswith(ok + ".") for ok in MAY_IMPORT[package]):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("package", INNER_LAYERS)
def test_rooms_import_downwards(package: str) -> None:
    level = {room: i for i, row in enumerate(INNER_LAYERS[package]) for room in row}
    wrong = []
    for path in sources(package):
        parts = module_name(path).split(".")
        if len(parts) == 1:
            continue
        assert parts[1] in level, f"{path.relative_to(ROOT)} is in no layer: give it a room"
        for name, line in imports(path):
            other = name.split(".")
            if other[0] == package and len(other) > 1 and level[other[1]] > level[parts[1]]:
                # storage implements protocols that turns and jobs own: it stands above them and only app opens it
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


def test_only_app_opens_storage() -> None:
    users = {str(p.relative_to(ROOT)) for p in sources("heavy", "standalone") for n, _ in imports(p) if n.startswith("heavy.storage")}
    outside = {u for u in users if not u.startswith("heavy/storage/")}
    assert outside <= {"heavy/app.py", "standalone/cli.py"}, outside


def test_no_import_cycles() -> None:
    graph = {module_name(p): {n for n, _ in imports(p) if n.split(".")[0] in PACKAGES} for p in SOURCES}
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> None:
        if state.get(name) == 2 or name not in graph:
            return
        assert state.get(name) != 1, "cycle: " + " -> ".join([*trail[trail.index(name) :], name])
        state[name] = 1
        for other in sorted(graph[name]):
            if other != name:
                visit(other, [*trail, name])
        state[name] = 2

    for name in sorted(graph):
        visit(name, [])


def test_drivers_stay_behind_their_fences() -> None:
    wrong = []
    for path in SOURCES:
        where = str(path.relative_to(ROOT))
        for name, line in imports(path):
            fence = FENCES.get(name.split(".")[0])
            if fence and not where.startswith(fence):
                wrong.append(f"{where}:{line} imports {name}")
    assert wrong == []


def test_lightweight_stays_light() -> None:
    """Its import closure holds no LLM SDK, database driver, ORM, queue or MCP, and nothing of heavy."""
    code = "import sys, lightweight.__main__; print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    heavy = {"openai", "anthropic", "asyncpg", "sqlite3", "sqlalchemy", "docket", "mcp", "heavy", "standalone", "httpx", "locust", "typer"}
    heavy |= {"jinja2"}
    assert heavy & set(out) == set()
    assert "lightweight" in out


def test_the_environment_is_read_in_settings_only() -> None:
    wrong = []
    for path in SOURCES:
        if path.name == "settings.py":
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and ast.unparse(node.value) == "os":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_keeps_the_house_rules(path: Path) -> None:
    where = path.relative_to(ROOT)
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES, f"{where} is longer than {MAX_FILE_LINES} lines"
    assert not BAD_NAMES.search(path.stem), f"{where}: name it by its subject"
    module = tree(path)
    assert ast.get_docstring(module), f"{where} does not say what it is for"
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{where}:{node.lineno} {node.name} has {length} lines"
        if isinstance(node, ast.Assert):
            raise AssertionError(f"{where}:{node.lineno}: assert in product code")
    for node in [module, *(n for n in module.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))]:
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not item.name.startswith("_"):
                if any(ast.unparse(d) in ("override", "overload") for d in item.decorator_list):
                    continue
                assert ast.get_docstring(item), f"{where}:{item.lineno} {item.name} has no docstring"


def test_blind_excepts_are_rare_and_reasoned() -> None:
    lines, blind = 0, []
    for path in SOURCES:
        text = path.read_text().splitlines()
        lines += len(text)
        for number, line in enumerate(text, 1):
            if re.search(r"except\s*(BaseException|Exception)?\s*(as \w+)?:", line) and re.search(r"except\s*(:|Base|Exception\b)", line):
                assert "#" in line, f"{path.relative_to(ROOT)}:{number}: a blind except says why on its line"
                blind.append(f"{path.relative_to(ROOT)}:{number}")
    assert len(blind) <= max(1, lines // 1000), blind


def test_fakes_not_mocks() -> None:
    tests = mocks = 0
    for path in sources("tests"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                tests += 1
            if isinstance(node, ast.Name | ast.Attribute) and "mock" in ast.unparse(node).lower().split(".")[-1]:
                mocks += 1
    assert mocks * 100 < 3 * max(tests, 1)


def test_nothing_is_skipped_or_left_open() -> None:
    words = ("NotImplemented" + "Error", "TO" + "DO", "FIX" + "ME", "mark." + "skip", "mark." + "xfail", "pytest." + "skip(")
    wrong = [f"{p.relative_to(ROOT)}: {w}" for p in [*SOURCES, *sources("tests")] for w in words if w in p.read_text()]
    assert wrong == []
