"""The examples measure what they say: an application's functions, allocations, programs started, pressure, OOM kills."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import needs
from tests.examples import EXAMPLES, application, build
from tests.kernel.live import Live, live
from tests.workloads import Cgroup, Worker, cgroup

MS = 1_000_000

_ALLOCATING = """
#include <stdlib.h>
int main(int argc, char **argv)
{
    int times = atoi(argv[1]);
    void *volatile kept;
    for (int i = 0; i < times; i++) {
        kept = malloc(100);
        kept = realloc(kept, 5000);
        kept = calloc(10, 30);
    }
    return 0;
}
"""


@contextmanager
def example(name: str, folder: Path, **replaced: str) -> Iterator[Live]:
    """An example whose user has written other names into it, as the first comment says."""
    text = (EXAMPLES / name).read_text()
    for old, new in replaced.items():
        text = re.sub(rf"(?<=[\"/]){old}(?=\")", new, text)
    copy = folder / name
    copy.write_text(text)
    with live([copy]) as running:
        yield running


def test_an_applications_function_is_counted_and_timed(tmp_path: Path) -> None:
    """100 orders of 0 to 9 items: exactly, by result and items; each takes at least a millisecond per item, and together
    they take no longer than the program ran.
    """
    with live([application(tmp_path)]) as shop, shop.watch() as watch:
        begin = time.perf_counter_ns()
        subprocess.run([str(tmp_path / "shop"), "100"], stdout=subprocess.DEVNULL, check=True)
        spent = time.perf_counter_ns() - begin
    change = watch.change
    assert change.sum("shop_orders", result="done") == 90
    assert change.sum("shop_orders", result="failed") == 10
    assert [change.count("shop_order_items", low=items, high=items) for items in range(11)] == [10] * 10 + [0]
    assert change.count("shop_order_latency") == 100
    for items in (1, 5, 9):
        assert change.count("shop_order_latency", low=items * MS) >= 10 * (10 - items)
    low, _ = change.total("shop_order_latency")
    assert 0.875 * 450 * MS <= low <= spent


def test_allocations_of_one_program_are_counted_by_size(tmp_path: Path) -> None:
    """Exactly: what 300 rounds ask for more than none, by size and by function."""
    source, program = tmp_path / "allocating.c", tmp_path / "rzl-allocating"
    source.write_text(_ALLOCATING)
    build(source, program)
    counts = []
    with example("malloc.rzl", tmp_path, python3="rzl-allocating") as running:
        for rounds in ("0", "300"):
            with running.watch() as watch:
                subprocess.run([str(program), rounds], check=True)
            counts.append(
                {
                    **{name: watch.change.sum("malloc_calls", call=name) for name in ("malloc", "calloc", "realloc")},
                    **{str(size): watch.change.count("malloc_size", low=size, high=size) for size in (100, 300, 5000)},
                }
            )
    more = {name: counts[1][name] - counts[0][name] for name in counts[0]}
    assert more == dict.fromkeys(more, 300)


def test_programs_are_timed_from_fork_to_exec(tmp_path: Path) -> None:
    """20 starts of a program that nobody else has: exactly 20, in less time than all took; forks without exec are failures."""
    program = tmp_path / "rzl-true"
    shutil.copy("/bin/true", program)
    with live([EXAMPLES / "exec.rzl"]) as running, Worker() as worker:
        with running.watch() as watch:
            begin = time.perf_counter_ns()
            worker.call("run_programs", count=20, program=str(program))
            spent = time.perf_counter_ns() - begin
        assert watch.change.count("exec_latency", comm="rzl-true") == 20
        assert watch.change.count("exec_latency", comm="rzl-true", high=spent) == 20
        low, _ = watch.change.total("exec_latency", comm="rzl-true")
        assert low <= spent
        with running.watch() as watch:
            worker.call("fork_only", count=15)
        assert watch.change.sum("exec_failed") >= 15
        assert watch.change.count("exec_latency", comm="rzl-true") == 0


def pressure() -> Mapping[str, int]:
    """Time lost by resource, ns."""
    found = {}
    for resource in ("cpu", "memory", "io"):
        match = re.search(r"^some .*total=(\d+)$", Path(f"/proc/pressure/{resource}").read_text(), re.MULTILINE)
        assert match is not None
        found[resource] = int(match[1]) * 1000
    return found


def recent_pressure() -> int:
    """Percent of the last 10 s, rounded down."""
    match = re.search(r"^some avg10=(\d+)", Path("/proc/pressure/cpu").read_text())
    assert match is not None
    return int(match[1])


def test_pressure_is_that_of_its_files() -> None:
    """Exactly, between the files before and after, while two processes want one CPU; averages to a percent."""
    if not Path("/proc/pressure/cpu").exists():
        needs.cannot_run("needs a kernel with pressure stall information (CONFIG_PSI, psi=1)")
    with live([EXAMPLES / "pressure.rzl"]) as running, Worker(cpu=0) as one, Worker(cpu=0) as other:
        with running.watch(pressure) as watch:
            one.begin("hog", seconds=0.2)
            other.call("hog", seconds=0.2)
            one.end()
        (files,) = watch.brackets
        for resource in ("cpu", "memory", "io"):
            assert files.holds(resource, watch.change.sum("pressure_some", resource=resource))
        assert watch.change.sum("pressure_some", resource="cpu") >= 50 * MS
        before = recent_pressure()
        shown = running.read().sum("pressure_cpu_avg10")
        assert min(before, recent_pressure()) - 1 <= shown <= max(before, recent_pressure()) + 1


@pytest.fixture
def small() -> Iterator[Cgroup]:
    """A cgroup that may use 48 MiB."""
    with cgroup("rezolus-small", controller="memory") as group:
        for file in ("memory.max", "memory.limit_in_bytes"):
            if (group.path / file).exists():
                (group.path / file).write_text(str(48 << 20))
        yield group


def test_a_program_that_is_killed_for_want_of_memory_is_named(small: Cgroup) -> None:
    """Exactly one."""
    with live([EXAMPLES / "oom.rzl"]) as running, Worker(cgroup=small) as worker:
        comm = worker.proc("comm").strip()
        with running.watch() as watch:
            worker.begin("fill_memory", mebibytes=500)
            running.until(lambda now: now.sum("oom_kills", program=comm) > 0, "the kill")
        assert watch.change.sum("oom_kills", program=comm) == 1
