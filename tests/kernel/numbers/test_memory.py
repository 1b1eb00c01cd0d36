"""What is read from files is what the files say."""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.kernel.live import Live

KIB = 1024


def meminfo() -> dict[str, int]:
    return {
        name: int(value.split()[0]) * KIB
        for name, _, value in (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
    }


def vmstat() -> Mapping[str, int]:
    return {name: int(value) for name, value in map(str.split, Path("/proc/vmstat").read_text().splitlines())}


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("memory_total", "MemTotal"),
        ("memory_free", "MemFree"),
        ("memory_available", "MemAvailable"),
        ("memory_buffers", "Buffers"),
        ("memory_cached", "Cached"),
    ],
)
def test_memory_is_that_of_meminfo(probes: Live, metric: str, name: str) -> None:
    """Between what /proc/meminfo says before and after, give or take 32 MiB for what others use and free meanwhile."""
    before = meminfo()[name]
    (shown,) = probes.read().series(metric)
    after = meminfo()[name]
    slack = 0 if name == "MemTotal" else 32 * KIB * KIB
    assert min(before, after) - slack <= shown <= max(before, after) + slack


@pytest.mark.parametrize("key", ["hit", "miss", "foreign", "interleave", "local", "other"])
def test_numa_counters_are_those_of_vmstat(probes: Live, key: str) -> None:
    """Exactly, between /proc/vmstat before and after; a kernel without NUMA has neither line nor series."""
    before = vmstat()
    shown = probes.read().series(f"memory_numa_{key}")
    after = vmstat()
    if f"numa_{key}" in before:
        assert before[f"numa_{key}"] <= shown[0] <= after[f"numa_{key}"]
    else:
        assert shown == []


def rusage() -> Mapping[str, int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "user": round(usage.ru_utime * 1e9),
        "system": round(usage.ru_stime * 1e9),
        "minflt": usage.ru_minflt,
        "majflt": usage.ru_majflt,
        "read": usage.ru_inblock,
        "write": usage.ru_oublock,
        "voluntary": usage.ru_nvcsw,
        "involuntary": usage.ru_nivcsw,
    }


def test_what_the_agent_uses_is_what_getrusage_says(probes: Live) -> None:
    """Exactly, between getrusage before and after: the agent is this process."""
    before = rusage()
    values = probes.read()
    after = rusage()
    shown = {
        "minflt": values.sum("rezolus_memory_page_reclaims"),
        "majflt": values.sum("rezolus_memory_page_faults"),
        **{state: values.sum("rezolus_cpu_usage", state=state) for state in ("user", "system")},
        **{op: values.sum("rezolus_blockio_operations", op=op) for op in ("read", "write")},
        **{kind: values.sum("rezolus_context_switch", kind=kind) for kind in ("voluntary", "involuntary")},
    }
    assert [name for name in before if not before[name] <= shown[name] <= after[name]] == []


def test_the_agents_memory_is_that_of_proc_status(probes: Live) -> None:
    """Within 2 MiB: the kernel sums its counters by CPU only now and then."""
    shown = probes.read().sum("rezolus_memory_usage_resident_set_size")
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    assert abs(shown - int(found[1]) * KIB) <= 2 * KIB * KIB
