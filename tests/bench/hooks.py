"""BPF time per event: the fused unit, one program per sampler, a program that does nothing, and `bpftrace`."""

from __future__ import annotations

import select
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rezolus.bpf.load import Loaded
from rezolus.demo.daemon import run_workload
from tests.bench import bpftrace, units
from tests.bench.rows import Result, Row
from tests.bench.workload import pass_bytes

TURNS = 12
REPEATS = 100
OTHER_TURNS = 3
OTHER_SECONDS = 1.5

REZOLUS_NS = {"sched_switch": 632, "sys_enter": 218, "sys_exit": 79, "sched_wakeup": 102, "tlb_flush": 173}
"""Sum of the programs of Rezolus 5.17.1-alpha.17 on that hook, measured once on the development host."""
SHARE = 0.4

Times = dict[str, float]
"""Nanoseconds per event by hook name, summed over the programs there."""


def run() -> Result:
    """All variants in turn, the best of each."""
    with ExitStack() as stack:
        fused = stack.enter_context(units.loaded(units.compiled(), exchangeable=True))
        hooks = tuple(dict.fromkeys(units.hooks_of(fused).values()))
        apart = [stack.enter_context(units.loaded(units.compiled(name.__eq__))) for name in units.sampler_names()]
        empty = stack.enter_context(units.empty(hooks))
        best: dict[str, Times] = {"fused": {}, "apart": {}, "empty": {}, "bpftrace": {}}
        groups = (("fused", [fused]), ("apart", apart), ("empty", [empty]))
        for work in (_pass_bytes,) * TURNS + (_other_work,) * OTHER_TURNS:
            for name, group in groups:
                _keep_best(best[name], _turn(group, work))
        if bpftrace.available():
            with bpftrace.running() as tracer:
                for _ in range(TURNS):
                    _keep_best(best["bpftrace"], tracer.turn(_pass_bytes))
    return Result("BPF time per event, ns", tuple(_rows(best)))


def _pass_bytes() -> None:
    pass_bytes(REPEATS)


def _other_work() -> None:
    """For the hooks that passing bytes does not reach: disk, network, processes."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        run_workload(OTHER_SECONDS, Path(folder), _pause)


def _pause() -> None:
    select.select([], [], [], 0.05)


def _turn(group: Sequence[Loaded], work: Callable[[], None]) -> Times:
    before = [units.stats(unit) for unit in group]
    with units.attached(*group), units.timed():
        work()
    total: dict[str, float] = {}
    for unit, old in zip(group, before, strict=True):
        hooks = units.hooks_of(unit)
        for function, new in units.stats(unit).items():
            count = new.run_cnt - old[function].run_cnt
            if count >= ENOUGH:
                name = hooks[function].name
                total[name] = total.get(name, 0.0) + (new.run_time_ns - old[function].run_time_ns) / count
    return total


ENOUGH = 100
"""Runs in a turn: fewer say nothing. What runs seldom finds its memory out of the caches, and takes longer."""


def _keep_best(best: Times, found: Times) -> None:
    for name, value in found.items():
        best[name] = min(best.get(name, value), value)


def _rows(best: dict[str, Times]) -> list[Row]:
    rows = []
    for name, value in best["fused"].items():
        apart, empty, other = (best[variant].get(name) for variant in ("apart", "empty", "bpftrace"))
        note = ", ".join(
            f"{label} {number:.0f}"
            for label, number in (("apart", apart), ("empty", empty), ("bpftrace", other))
            if number is not None
        )
        theirs = REZOLUS_NS.get(name)
        if theirs is not None:
            note += f", Rezolus {theirs}"
        rows.append(Row(name, value, "ns", None if theirs is None else SHARE * theirs, note))
    return rows
