"""Costs of programs and samplers over windows, with books and a clock of the test's own."""

from __future__ import annotations

import pytest

from dsl.hooks import Hook
from rezolus.agent.costs import NS, CostMeter
from rezolus.agent.handover import ProgramReport
from rezolus.bpf.stats import ProgramStats


class Kernel:
    """Books and clock."""

    def __init__(self) -> None:
        self.now = 0
        self.books = {3: (0, 0), 4: (0, 0)}

    def read(self, fd: int) -> ProgramStats:
        count, time = self.books[fd]
        return ProgramStats(run_time_ns=time, run_cnt=count, recursion_misses=2, memlock=0)


HOOK = Hook(kind="raw_tp", name="x")


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def meter(kernel: Kernel) -> CostMeter:
    programs = (
        ProgramReport(function="shared", hook=HOOK, samplers=("a", "b"), weights=(3, 1)),
        ProgramReport(function="own", hook=HOOK, samplers=("b",), weights=(5,)),
    )
    return CostMeter(programs, {"shared": 3, "own": 4}, clock=lambda: kernel.now, read=kernel.read)


def window(meter: CostMeter, kernel: Kernel) -> None:
    """Two seconds in which `shared` runs 200 times of 100 ns, `own` 20 times of 50 ns."""
    meter.begin()
    kernel.now += 2 * NS
    kernel.books = {3: (200, 20_000), 4: (20, 1_000)}
    meter.end()


def test_time_of_a_shared_program_is_split_by_weight_and_runs_are_not(meter: CostMeter, kernel: Kernel) -> None:
    window(meter, kernel)
    assert meter.program("shared").ns_per_run == 100
    a, b = meter.sampler("a"), meter.sampler("b")
    assert (a.runs, a.ns, a.ns_per_run) == (100, 7_500, 75)
    assert (b.runs, b.ns) == (110, 2_500 + 500)
    assert a.share == pytest.approx(7_500e-9)


def test_between_windows_totals_grow_at_the_last_rate(meter: CostMeter, kernel: Kernel) -> None:
    totals = {(m.series.name, m.series.sampler): m.value for m in meter.metrics()}
    window(meter, kernel)
    kernel.now += 10 * NS
    assert totals["rezolus_bpf_run_count", "a"]() == 1000
    assert totals["rezolus_bpf_run_time", "a"]() == 75_000
    kernel.now += 10 * NS
    assert totals["rezolus_bpf_run_count", "b"]() == 2200


def test_before_the_first_window_nothing_is_known(meter: CostMeter) -> None:
    assert meter.windows == 0
    assert meter.sampler("a").ns_per_run == 0
    assert [metric.value() for metric in meter.metrics()] == [0, 0, 0, 0]


def test_recursion_misses_are_the_kernels(meter: CostMeter) -> None:
    assert meter.recursion_misses("shared") == 2
    assert meter.recursion_misses("unknown") == 0
