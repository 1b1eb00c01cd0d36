"""The `.rzl` language: text in, BPF C and a metric schema out. Knows nothing of the daemon.

What other packages may use is listed here; `dsl.schema`, `dsl.hooks`, `dsl.facts` and `dsl.btf` are public besides. The compiler is
loaded on first use only, so that the daemon, which needs the schema alone, does not carry the parser in memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsl.code_examples import Example, as_file, examples
    from dsl.codes import CODES
    from dsl.descriptions import MetricDescription, SamplerDescription, describe_samplers, incomplete_files
    from dsl.diagnostics import CompileError, CompilerBug, Diagnostic, render, render_all
    from dsl.interpret.testing import Mismatch, Outcome, run_tests
    from dsl.pipeline import Checked, Compiled, Parsed, check_each, check_files, compile_unit, parse_files
    from dsl.readable import plan_text, readable_c
    from dsl.suggest import did_you_mean
    from dsl.syntax.format import format_text

_HOME = {
    "CODES": "dsl.codes",
    "Checked": "dsl.pipeline",
    "CompileError": "dsl.diagnostics",
    "Compiled": "dsl.pipeline",
    "CompilerBug": "dsl.diagnostics",
    "Diagnostic": "dsl.diagnostics",
    "Example": "dsl.code_examples",
    "MetricDescription": "dsl.descriptions",
    "Mismatch": "dsl.interpret.testing",
    "Outcome": "dsl.interpret.testing",
    "Parsed": "dsl.pipeline",
    "SamplerDescription": "dsl.descriptions",
    "as_file": "dsl.code_examples",
    "check_each": "dsl.pipeline",
    "check_files": "dsl.pipeline",
    "compile_unit": "dsl.pipeline",
    "describe_samplers": "dsl.descriptions",
    "did_you_mean": "dsl.suggest",
    "examples": "dsl.code_examples",
    "format_text": "dsl.syntax.format",
    "incomplete_files": "dsl.descriptions",
    "parse_files": "dsl.pipeline",
    "plan_text": "dsl.readable",
    "readable_c": "dsl.readable",
    "render": "dsl.diagnostics",
    "render_all": "dsl.diagnostics",
    "run_tests": "dsl.interpret.testing",
}

__all__ = [
    "CODES",
    "Checked",
    "CompileError",
    "Compiled",
    "CompilerBug",
    "Diagnostic",
    "Example",
    "MetricDescription",
    "Mismatch",
    "Outcome",
    "Parsed",
    "SamplerDescription",
    "as_file",
    "check_each",
    "check_files",
    "compile_unit",
    "describe_samplers",
    "did_you_mean",
    "examples",
    "format_text",
    "incomplete_files",
    "parse_files",
    "plan_text",
    "readable_c",
    "render",
    "render_all",
    "run_tests",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dsl' has no attribute {name!r}")
