"""Kernel memory of the maps of all shipped samplers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dsl.facts import Capability, TargetFacts
from rezolus.bpf.stats import map_memory
from tests.bench import units
from tests.bench.rows import Result, Row

MIB = 1 << 20
TARGET_MIB = 16
LARGE_PID_MAX = 4194304
STORAGE_OVERHEAD = 128
"""Bytes the kernel adds to an entry of task storage, of the size classes it is allocated from; estimated upwards."""


def run() -> Result:
    """The maps as they are, with the largest `pid_max`, and where the kernel keeps no state with tasks."""
    here = units.facts()
    hash_only = {**here.capabilities, "task_storage": Capability("no", "left out here")}
    rows = [
        _measure(f"as on this host (pid_max {here.pid_max})", here),
        _measure(f"pid_max {LARGE_PID_MAX}", replace(here, pid_max=LARGE_PID_MAX)),
        _measure("the same without task storage", replace(here, pid_max=LARGE_PID_MAX, capabilities=hash_only)),
    ]
    return Result("Kernel memory of all maps", tuple(rows))


def _measure(what: str, target: TargetFacts) -> Row:
    unit = units.compiled(target=target)
    with units.loaded(unit) as programs:
        sizes = {name: map_memory(fd) for name, fd in programs.maps.items()}
    tasks, note = 0, ""
    layout = unit.plan.tasks
    if layout is not None and layout.kind == "storage":
        count = _count_tasks()
        tasks = count * (layout.entry_bytes + STORAGE_OVERHEAD)
        note = f"; {count} tasks x {layout.entry_bytes} bytes"
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    parts = ", ".join(f"{name} {sizes[name] / MIB:.2f}" for name in largest)
    return Row(what, (sum(sizes.values()) + tasks) / MIB, "MiB", TARGET_MIB, parts + note)


def _count_tasks() -> int:
    return sum(1 for entry in Path("/proc").iterdir() if entry.name.isdigit() for _ in _threads(entry))


def _threads(process: Path) -> tuple[Path, ...]:
    try:
        return tuple((process / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return ()
