"""What one file takes from another, and that its names keep the meaning they have there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsl import check_files, parse_files
from dsl.btf import Btf
from dsl.facts import TargetFacts
from dsl.interpret.testing import run_tests

FILES = {
    "lib/inner.rzl": "const LIMIT = 10",
    "lib/common.rzl": """
use "inner.rzl"
fn size_of(x) = size(x)
table size(x) -> size { small: 1, 2  big: LIMIT  rest: else }
""",
}

MAIN = """
use "lib/common.rzl"

sampler mine "Mine" {
    table size(x) -> size { tiny: 1  rest: else }
    counter theirs { size: small | big | rest } "As the library has it"
    counter ours { size: size } "As this sampler has it"

    on sched_wakeup(p) {
        theirs{size: size_of(p.pid)} += 1
        ours{size: size(p.pid)} += 1
    }
}

test "a function keeps the table of its own file" {
    at 1us sched_wakeup({ pid: 1 })
    at 2us sched_wakeup({ pid: 10 })
    expect theirs{size: small} == 1
    expect theirs{size: big} == 1
    expect ours{size: tiny} == 1
}
"""


@pytest.fixture
def facts() -> TargetFacts:
    """This kernel's types."""
    return TargetFacts.for_btf(Btf.parse(Path("/sys/kernel/btf/vmlinux").read_bytes()), release="test")


def test_a_used_function_means_what_it_means_in_its_file(facts: TargetFacts) -> None:
    checked = check_files(parse_files({"main.rzl": MAIN}, FILES.__getitem__), facts)
    assert [outcome.mismatches for outcome in run_tests(checked.unit)] == [()]


def test_files_may_use_each_other(facts: TargetFacts) -> None:
    files = {"a.rzl": 'use "b.rzl" const ONE = 1', "b.rzl": 'use "a.rzl" const TWO = 2'}
    text = 'use "a.rzl" sampler s "S" { counter c "C" on sched_wakeup() { c += ONE } }'
    checked = check_files(parse_files({"main.rzl": text}, files.__getitem__), facts)
    assert [sampler.name for sampler in checked.unit.samplers] == ["s"]
