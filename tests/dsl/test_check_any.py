"""Whatever parses is either checked or explained: the checker has no other way to end."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsl.btf import Btf
from dsl.check.scope import UnitScope
from dsl.check.unit import check
from dsl.diagnostics import Diagnostics
from dsl.facts import TargetFacts
from dsl.pipeline import compile_unit
from dsl.source import Source
from dsl.syntax import ast
from dsl.syntax.format import format as format_module
from dsl.syntax.parse import parse
from tests.strategies import modules

PROBES = Path(__file__).resolve().parents[2] / "probes"


@cache
def facts() -> TargetFacts:
    """This host's types, all capabilities."""
    btf = Btf.parse(Path("/sys/kernel/btf/vmlinux").read_bytes())
    return TargetFacts.for_btf(btf, release="test")


def check_text(text: str) -> Diagnostics:
    """Parse and check; every diagnostic lies in the text."""
    diags = Diagnostics()
    source = Source("test.rzl", text)
    module = parse(source, diags)
    if module is not None:
        unit = check((module,), {}, UnitScope(facts(), diags))
        if not diags.has_errors:
            assert compile_unit(unit, facts()).text
    for item in diags.items:
        assert 0 <= item.span.start <= item.span.end <= len(text)
    return diags


@settings(suppress_health_check=list(HealthCheck), max_examples=200)
@given(modules)
def test_any_program_is_checked_or_explained(module: ast.Module) -> None:
    check_text(format_module(module))


@st.composite
def spliced_probes(draw: st.DrawFn) -> str:
    """A shipped file in which a few words stand where others of the same files stood."""
    texts = [path.read_text() for path in sorted(PROBES.glob("*.rzl"))]
    words = draw(st.sampled_from(texts)).split(" ")
    pool = sorted({word for text in texts for word in text.split()})
    for _ in range(draw(st.integers(1, 4))):
        words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(pool))
    return " ".join(words)


@settings(suppress_health_check=list(HealthCheck), max_examples=300)
@given(spliced_probes())
def test_a_damaged_definition_is_checked_or_explained(text: str) -> None:
    check_text(text)
