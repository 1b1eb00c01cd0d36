"""The `.rzl` language: text in, BPF C and a metric schema out. Knows nothing of the daemon.

What other packages may use is listed here; `dsl.schema`, `dsl.hooks`, `dsl.facts` and `dsl.btf` are public besides. The compiler is
loaded on first use only, so that the daemon, which needs the schema alone, does not carry the parser in memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsl.diagnostics import CompileError, CompilerBug, Diagnostic, render, render_all
    from dsl.format import format_text
    from dsl.pipeline import Checked, Compiled, Parsed, check_each, check_files, compile_unit, parse_files
    from dsl.run_tests import Mismatch, Outcome, run_tests

_HOME = {
    "Checked": "dsl.pipeline",
    "CompileError": "dsl.diagnostics",
    "Compiled": "dsl.pipeline",
    "CompilerBug": "dsl.diagnostics",
    "Diagnostic": "dsl.diagnostics",
    "Mismatch": "dsl.run_tests",
    "Outcome": "dsl.run_tests",
    "Parsed": "dsl.pipeline",
    "check_each": "dsl.pipeline",
    "check_files": "dsl.pipeline",
    "compile_unit": "dsl.pipeline",
    "format_text": "dsl.format",
    "parse_files": "dsl.pipeline",
    "render": "dsl.diagnostics",
    "render_all": "dsl.diagnostics",
    "run_tests": "dsl.run_tests",
}

__all__ = [
    "Checked",
    "CompileError",
    "Compiled",
    "CompilerBug",
    "Diagnostic",
    "Mismatch",
    "Outcome",
    "Parsed",
    "check_each",
    "check_files",
    "compile_unit",
    "format_text",
    "parse_files",
    "render",
    "render_all",
    "run_tests",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dsl' has no attribute {name!r}")
