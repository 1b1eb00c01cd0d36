"""The limits of size and the habits that a linter does not know."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("dsl", "rezolus", "tests")
FUNCTION_P95, FUNCTION_HARD = 60, 120
FILE_P95, FILE_HARD = 500, 900
MAIN_LINES = 40
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def functions() -> Iterator[tuple[Path, FunctionNode]]:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, FunctionNode):
                yield path, node


def length(node: FunctionNode) -> int:
    """Lines of a function without its docstring."""
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def p95(numbers: list[int]) -> int:
    return sorted(numbers)[math.ceil(0.95 * len(numbers)) - 1]


def test_functions_are_short() -> None:
    lengths = [(length(node), f"{path.relative_to(ROOT)}:{node.lineno} {node.name}") for path, node in functions()]
    assert [entry for entry in lengths if entry[0] > FUNCTION_HARD] == []
    assert p95([lines for lines, _ in lengths]) <= FUNCTION_P95


def test_main_parses_and_calls() -> None:
    long = [f"{path}:{node.lineno}" for path, node in functions() if node.name == "main" and length(node) > MAIN_LINES]
    assert long == []


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_HARD} == {}
    assert p95(list(lengths.values())) <= FILE_P95


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\b(TODO|FIXME|XXX)\b", "unfinished work belongs into an issue"),
        (r"(?i)keep in sync", "lists that must agree are compared by a test"),
        (r"\bNotImplementedError\b", "no stand-ins"),
        (r"\bpytest\.(skip|importorskip)\b|\bmark\.skip", "tests/needs.py is the only way to skip"),
    ],
)
def test_habit(pattern: str, why: str) -> None:
    exempt = {Path(__file__), ROOT / "tests/needs.py"}
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        if path not in exempt
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == [], why


def test_every_lint_rule_that_is_off_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    lint = text[text.index("[tool.ruff.lint]") :]
    codes = [line for line in lint.splitlines() if re.match(r'\s+"[A-Z]+[0-9]*",', line)]
    assert codes
    assert [line for line in codes if not re.search(r"#\s*\S", line)] == []
