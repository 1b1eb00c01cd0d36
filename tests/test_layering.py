"""Which part may import which: the arrows of docs/design, kept by reading the sources and by importing them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PUBLIC_DSL = {"dsl", "dsl.schema", "dsl.hooks", "dsl.facts", "dsl.btf"}
DAEMON = ("rezolus.daemon", "rezolus.sinks", "rezolus.agent.sampling")
HEAVY = ("lark", "bcc", "pyarrow")
ONLY_BCC_USER = Path("rezolus/bpf/compile.py")


def modules(package: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import, also those inside functions; `from a import b` counts as `a` or, if it is one, `a.b`."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                file = ROOT / name.replace(".", "/")
                yield node.lineno, name if file.with_suffix(".py").exists() or file.is_dir() else node.module


STAGES: dict[str, set[str]] = {
    "syntax": set(),
    "check": {"syntax", "kernel"},
    "plan": set(),
    "emit": {"plan"},
    "interpret": set(),
    "kernel": set(),
}
"""Stages of the compiler and which others each may use: the text's form ends with `check`, the host's facts do, too."""

MAY_IMPORT: dict[str, set[str]] = {
    "reading": set(),
    "answers": {"compression"},
    "pages": {"compression"},
    "outputs": {"config", "units"},
    "sockets": {"errors", "units"},
    "recording": {"errors", "reading"},
    "bpf": set(),
    "wire": {"errors", "reading", "recording"},
    "remote": {"agent", "config", "errors", "guard", "histogram", "reading", "sinks", "units", "wire"},
    "sinks": {
        "answers",
        "compression",
        "config",
        "errors",
        "guard",
        "outputs",
        "histogram",
        "http",
        "pages",
        "reading",
        "recording",
        "sockets",
        "units",
        "wire",
    },
    "agent": {
        "answers",
        "outputs",
        "bpf",
        "compression",
        "config",
        "definitions",
        "errors",
        "pages",
        "reading",
        "recording",
        "sockets",
        "units",
        "wire",
    },
    "watch": {"agent", "errors", "histogram", "reading", "units"},
}
"""Rooms of `rezolus` and what each may use of the others: a sink knows no agent, and neither knows the daemon or a command."""


def room(name: str) -> str:
    """`sinks` of `rezolus.sinks.stream`; empty for the package itself."""
    return name.partition(".")[2].partition(".")[0]


def top(name: str) -> str:
    return name.partition(".")[0]


def offences(package: str, forbidden: set[str]) -> list[str]:
    return [
        f"{path}:{line} imports {name}"
        for path in modules(package)
        for line, name in imports(path)
        if top(name) in forbidden
    ]


def test_the_compiler_knows_nothing_of_the_daemon() -> None:
    assert offences("dsl", {"rezolus", "tests", "bcc"}) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_the_compiler_knows_no_later_one(stage: str) -> None:
    wrong = [
        f"{path}:{line} imports {imported}"
        for path in modules(f"dsl/{stage}")
        for line, imported in imports(path)
        if top(imported) == "dsl" and room(imported) in (STAGES.keys() | {"pipeline"}) - STAGES[stage] - {stage}
    ]
    assert wrong == []
    assert {path.name for path in (ROOT / "dsl").iterdir() if (path / "__init__.py").exists()} == STAGES.keys()


def test_the_product_does_not_import_its_tests() -> None:
    assert offences("rezolus", {"tests"}) == []


def test_bcc_is_imported_in_one_file_only() -> None:
    assert [text for text in offences("rezolus", {"bcc"}) if not text.startswith(f"{ONLY_BCC_USER}:")] == []


def test_the_daemon_uses_the_compiler_through_its_public_modules() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path in modules("rezolus")
        for line, name in imports(path)
        if top(name) == "dsl" and name not in PUBLIC_DSL
    ]
    assert wrong == []


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_data_flows_one_way(name: str) -> None:
    paths = [path for path in modules("rezolus") if room(dotted(path)) == name]
    assert paths
    wrong = [
        f"{path}:{line} imports {imported}"
        for path in paths
        for line, imported in imports(path)
        if top(imported) == "rezolus" and room(imported) not in MAY_IMPORT[name] | {name, ""}
    ]
    assert wrong == []


def in_fresh_interpreter(code: str) -> object:
    """What `code` prints as JSON when it runs in a new interpreter at the root of the project."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_long_running_daemon_loads_neither_compiler_nor_bcc_nor_pyarrow() -> None:
    names = [name for path in modules("rezolus") if (name := dotted(path)).startswith(DAEMON)]
    assert {"rezolus.daemon", "rezolus.agent.sampling"} <= set(names)
    loaded = in_fresh_interpreter(
        f"import importlib, json, sys\n"
        f"found = {{}}\n"
        f"for name in {names!r}:\n"
        f"    importlib.import_module(name)\n"
        f"    found |= {{heavy: name for heavy in {HEAVY!r} if heavy in sys.modules and heavy not in found}}\n"
        f"print(json.dumps(found))"
    )
    assert loaded == {}


@pytest.mark.parametrize("package", ["dsl", "rezolus"])
def test_importing_a_module_starts_no_thread_and_opens_no_descriptor(package: str) -> None:
    """What third-party packages do at import (numpy's linear algebra starts threads) is not held against ours."""
    names = [dotted(path) for path in modules(package) if path.name != "__main__.py"]
    foreign = sorted(
        {
            name
            for path in modules(package)
            for _, name in imports(path)
            if top(name) not in {"dsl", "rezolus", "bcc", "__future__"}
        }
    )
    guilty = in_fresh_interpreter(
        f"import importlib, json, os\n"
        f"def held(): return sorted(os.listdir('/proc/self/task')), sorted(os.listdir('/proc/self/fd'))\n"
        f"for name in {foreign!r}: importlib.import_module(name)\n"
        f"guilty, before = [], held()\n"
        f"for name in {names!r}:\n"
        f"    importlib.import_module(name)\n"
        f"    if held() != before: guilty.append(name)\n"
        f"    before = held()\n"
        f"print(json.dumps(guilty))"
    )
    assert guilty == []
