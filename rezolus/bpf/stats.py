"""What programs and maps cost, from the kernel's own books. Needs the descriptors, no privileges.

Run times and counts grow only while somebody holds the descriptor of `syscall.enable_stats()` (or the sysctl
`kernel.bpf_stats_enabled` is on); each run then costs some 20 ns more, so hold it for a second now and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProgramStats:
    """Totals since the program was loaded."""

    run_time_ns: int
    run_cnt: int
    recursion_misses: int
    """Runs that the kernel skipped because the program was already running on that CPU (5.12; else 0)."""
    memlock: int
    """Kernel memory of the program, bytes."""


def program_stats(fd: int) -> ProgramStats:
    """Read a program's totals. `OSError` when the descriptor is not open."""
    info = read_fdinfo(fd)
    return ProgramStats(
        run_time_ns=info.get("run_time_ns", 0),
        run_cnt=info.get("run_cnt", 0),
        recursion_misses=info.get("recursion_misses", 0),
        memlock=info.get("memlock", 0),
    )


def map_memory(fd: int) -> int:
    """Kernel memory of a map, bytes. Entries of task storage, which live with the tasks, are not in it."""
    return read_fdinfo(fd).get("memlock", 0)


def read_fdinfo(fd: int) -> dict[str, int]:
    """The numeric fields of `/proc/self/fdinfo/FD`."""
    fields = {}
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        text = value.strip()
        # `flags` is octal there and `map_flags` hexadecimal.
        if text.isdigit() and name != "flags":
            fields[name] = int(text)
        elif text.startswith("0x"):
            fields[name] = int(text, 16)
    return fields


def check_map(fd: int, what: str, *, kind: int, value_size: int, rows: int) -> None:
    """ValueError when a descriptor that came from elsewhere is no map of this type and shape.

    The kernel copies as much as its own map says, whatever the buffer of the caller holds.
    """
    info = read_fdinfo(fd)
    if (info.get("map_type"), info.get("value_size"), info.get("max_entries")) != (kind, value_size, rows):
        raise ValueError(f"what was given as the {what} is something else")
