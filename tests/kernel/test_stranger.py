"""The shipped definitions compile for kernels that are not running here, by whatever means these have."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from dsl import check_files, compile_unit, parse_files, render_all
from dsl.btf import Btf
from dsl.facts import Binary, Capability, TargetFacts
from dsl.pipeline import Compiled
from dsl.schema import Slots
from rezolus.bpf import compile as bcc
from tests import needs
from tests.kernel.live import ROOT
from tests.kernels import SUITES, UnreachableError, kernel_btf

NO = Capability("no", "for the test")
MEANS = {
    "everything": (),
    "no fentry": ("fentry",),
    "no functions": ("fentry", "kprobe"),
    "no typed tracepoints": ("tp_btf", "fentry", "task_storage", "current_task_btf"),
}
"""What a kernel lacks, besides what its BTF says."""

WITHOUT = {
    # The kernel does not say why it frees a packet before 5.17.
    "5.10": {"network_drop"},
    "6.1": set[str](),
    "6.12": set[str](),
}
"""Metrics that a kernel cannot have even with everything."""

WITHOUT_FUNCTIONS = {
    # Sockets tell what was sent and received since 6.3.
    "5.10": {"network_drop", "tcp_bytes", "tcp_packets", "tcp_size"},
    "6.1": {"tcp_bytes", "tcp_packets", "tcp_size"},
    "6.12": set[str](),
}

BINARIES = {
    "/tmp/shop": Binary("/tmp/shop", {"handle_order": 0x1139}, {}),
    "libc": Binary("/usr/lib/x86_64-linux-gnu/libc.so.6", {"malloc": 0x9000, "calloc": 0xA000, "realloc": 0xB000}, {}),
}


@cache
def stranger(series: str) -> TargetFacts:
    try:
        btf = Btf.parse(kernel_btf(series))
    except UnreachableError as error:
        needs.cannot_run(str(error))
    return replace(TargetFacts.for_btf(btf, release=series), binaries=BINARIES)


def facts_of(series: str, means: str) -> TargetFacts:
    facts = stranger(series)
    return replace(facts, capabilities={**facts.capabilities, **dict.fromkeys(MEANS[means], NO)})


@cache
def compiled(series: str, means: str) -> Compiled:
    """All shipped definitions in one unit; any error is shown as a user would see it."""
    paths = [*sorted((ROOT / "probes").glob("*.rzl")), *sorted((ROOT / "examples").glob("*.rzl"))]
    parsed = parse_files({str(path.relative_to(ROOT)): path.read_text() for path in paths}, str)
    facts = facts_of(series, means)
    checked = check_files(parsed, facts)
    assert not [item for item in checked.diagnostics if item.severity == "error"], render_all(checked.diagnostics)
    return compile_unit(checked.unit, facts)


@pytest.mark.parametrize("series", SUITES)
@pytest.mark.parametrize("means", MEANS)
def test_the_definitions_compile(series: str, means: str) -> None:
    """To C that BCC makes instructions of, for every program, without a warning."""
    unit = compiled(series, means)
    with bcc.compile_unit(unit.text) as module:
        assert not module.messages
        assert set(module.functions()) == {program.function for program in unit.schema.programs}
        assert all(module.instructions(program.function) for program in unit.schema.programs)
        for name in unit.schema.maps:
            module.map_fd(name)


@pytest.mark.parametrize("series", SUITES)
@pytest.mark.parametrize("means", MEANS)
def test_only_what_a_kernel_cannot_know_has_no_hook(series: str, means: str) -> None:
    """Metrics that nothing would update, by kernel."""
    schema = compiled(series, means).schema
    idle = {metric.name for metric in schema.metrics if not metric.hooks and isinstance(metric.storage, Slots)}
    functions = means in {"everything", "no fentry", "no typed tracepoints"}
    assert idle == (WITHOUT if functions else WITHOUT_FUNCTIONS)[series]
