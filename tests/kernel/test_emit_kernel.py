"""Generated programs of every kind of hook, on this kernel: what they count is what was done."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dsl import ir
from dsl.emit.unit import emit
from dsl.interpret.machine import bucket_index
from dsl.plan.storage import buckets
from dsl.plan.unit import Plan, Target, plan
from dsl.schema import Slots
from rezolus.bpf import syscall
from rezolus.bpf.load import Loaded, Unit, load
from rezolus.bpf.maps import map_array
from tests import needs
from tests.dsl.units import NOW, Sampler, arg, metric, store, take, time_state, unit, update
from tests.kernel.live import Live, live
from tests.kernel.units import btf_ids

PATIENCE_S = 20.0

DEFINITIONS = """
sampler hooks "One counter for each kind of hook" {
    counter records "System calls, from the classic tracepoint"
    counter typed "System calls, from the BTF-typed tracepoint"
    counter children "System calls of children of this process"
    counter samples by cpu "Timed samples"
    counter calls "Calls of a function of libc"
    counter results "What it returned, added up"
    counter arguments "Its arguments, added up"
    counter collections "Runs of Python's garbage collector over its second generation, by its USDT probe"

    on record raw_syscalls:sys_enter(id) when id == NUMBER && pid == PID { records += 1 }
    on sys_enter(_, id) when id == NUMBER && pid == PID { typed += 1 }
    on sys_enter(_, id) when id == NUMBER && current.real_parent.tgid == PARENT { children += 1 }
    on sample 99 hz { samples += 1 }
    on user "libc":labs(number: s64) of pid PID { calls += 1 arguments += number }
    on user return "libc":labs(number: s64) of pid PID { results += number }
    on usdt "/usr/bin/python3":python:gc__start(generation: s32) of comm "collects" when generation == 1 {
        collections += 1
    }
}
"""
GETPGID = {"x86_64": 121, "aarch64": 155}[os.uname().machine]


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """All kinds of hooks at once."""
    needs.bpf()
    path = tmp_path_factory.mktemp("hooks") / "hooks.rzl"
    text = DEFINITIONS.replace("NUMBER", str(GETPGID)).replace("PARENT", str(os.getppid()))
    path.write_text(text.replace("PID", str(os.getpid())))
    with live([path]) as running:
        yield running


def test_classic_and_typed_tracepoints_count_the_same_calls(hooks: Live) -> None:
    with hooks.watch() as watch:
        for _ in range(1000):
            os.getpgid(0)
    assert watch.change.sum("records") == watch.change.sum("typed") == 1000


def test_a_chain_of_pointers_leads_to_the_parent(hooks: Live) -> None:
    with hooks.watch() as watch:
        for _ in range(1000):
            os.getpgid(0)
    # Other children of this one's parent may do the same.
    assert watch.change.sum("children") >= 1000


def test_timed_samples_come_on_every_cpu(hooks: Live) -> None:
    cpus = len(os.sched_getaffinity(0))
    hooks.until(lambda values: sum(value > 3 for value in values.series("samples")) >= cpus, "samples on every CPU")


def test_functions_of_a_library_are_seen_with_argument_and_result(hooks: Live) -> None:
    libc = ctypes.CDLL("libc.so.6")
    libc.labs.argtypes, libc.labs.restype = [ctypes.c_long], ctypes.c_long
    with hooks.watch() as watch:
        for number in range(100):
            assert libc.labs(number) == number
    assert watch.change.sum("calls") == 100
    assert watch.change.sum("arguments") == watch.change.sum("results") == sum(range(100))


def test_a_usdt_probe_with_a_semaphore_gives_an_argument_from_the_stack(hooks: Live, tmp_path: Path) -> None:
    program = tmp_path / "collects"
    program.symlink_to("/usr/bin/python3")
    collect = "import gc; gc.disable(); [gc.collect(generation) for generation in (0, 1, 1, 2, 1)]"
    with hooks.watch() as watch:
        subprocess.run([program, "-c", collect], check=True)
    assert watch.change.sum("collections") == 3


def this_target(**changes: object) -> Target:
    possible = Path("/sys/devices/system/cpu/possible").read_text().strip().rpartition("-")[2]
    return Target(possible_cpus=int(possible) + 1, **changes)  # type: ignore[arg-type]


@contextmanager
def loaded(planned: Plan, *, attached: bool = False) -> Iterator[Loaded]:
    """The programs of a plan in the kernel, all of them."""
    emitted = emit(planned)
    text = Unit(emitted.text, planned.schema.programs, planned.schema.maps)
    with load(text, btf_ids(), attached=attached) as found:
        assert [str(outcome.failure) for outcome in found.outcomes if outcome.failure] == []
        for name, image in emitted.initial.items():
            syscall.map_update(found.maps[name], bytes(4), image)
        yield found


def words(planned: Plan, running: Loaded, name: str) -> list[int]:
    """A metric's words, added over the rows of its bank."""
    found = next(item for sampler in planned.unit.samplers for item in sampler.metrics if item.schema.name == name)
    storage = next(item.storage for item in planned.schema.metrics if item.name == name)
    assert isinstance(storage, Slots)
    bank = planned.bank(storage.bank).bank
    rows = map_array(running.maps[bank.name], bank.rows, bank.words)
    count = found.schema.cells * buckets(found)
    return [int(word) for word in rows[:, storage.offset : storage.offset + count].sum(axis=0, dtype=np.uint64)]


def edges() -> list[int]:
    """Numbers around every power of two."""
    found = {0, 1, 2, 2**64 - 1}
    for exponent in range(1, 64):
        found |= {2**exponent - 1, 2**exponent, 2**exponent + 1, 2**exponent + 2 ** (exponent - 1)}
    return sorted(found)


def test_values_fall_into_the_buckets_of_the_format_at_every_edge_and_power() -> None:
    needs.bpf()
    histograms = [metric("histogram", f"power{power}", power=power) for power in range(8)]
    sampler = Sampler("s", histograms).on("e", *(update(item, "observe", arg(0)) for item in histograms), kind="raw_tp")
    planned = plan(unit(sampler), this_target())
    with loaded(planned) as running:
        for number in edges():
            syscall.prog_test_run(running.programs["on_e"], [number])
        for power in range(8):
            expected = [bucket_index(number, power) for number in edges()]
            counts = words(planned, running, f"power{power}")
            assert {index: count for index, count in enumerate(counts) if count} == {
                index: expected.count(index) for index in expected
            }


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        select.select([], [], [], 0.01)


def test_where_the_kernel_cannot_keep_state_with_tasks_it_still_ends_with_them() -> None:
    """Every task that ran has an entry; when the kernel has freed the tasks, their entries are gone."""
    needs.bpf()
    task = ir.Arg(1, ir.Pointer("task_struct"))
    next_task = ir.Arg(2, ir.Pointer("task_struct"))
    running_for, since = metric("histogram", "running"), time_state("since")
    left = ir.Local("left", ir.U64)
    sampler = Sampler("s", [running_for], [since]).on(
        "sched_switch",
        take(since, task, left, update(running_for, "observe", ir.Elapsed(NOW, left))),
        store(since, next_task, NOW),
        kind="raw_tp",
    )
    planned = plan(unit(sampler), this_target(task_storage=False))
    assert planned.tasks is not None
    assert planned.tasks.kind == "hash"
    with loaded(planned, attached=True) as running:

        def entries() -> int:
            return sum(1 for _ in syscall.map_keys(running.maps["tasks"], 8))

        for _ in range(300):
            subprocess.run(["true"], check=True)
        until(lambda: entries() < 300, "the entries of tasks that ended are removed")
        assert sum(words(planned, running, "running")) >= 300
