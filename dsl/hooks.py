"""Where a program attaches: the one description shared by compiler, loader and status pages."""

from __future__ import annotations

from typing import Literal

import msgspec

HookKind = Literal[
    "tp_btf",  # BTF-typed tracepoint: arguments are typed kernel pointers, plain loads
    "raw_tp",  # raw tracepoint: arguments are u64, kernel memory through probe reads
    "tracepoint",  # classic tracepoint: the record described by tracefs `format`
    "fentry",
    "fexit",
    "kprobe",
    "kretprobe",
    "uprobe",
    "uretprobe",
    "usdt",
    "perf",  # perf event: timed sampling and software or hardware events
]


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """One attach point, complete: the loader needs nothing else to attach a program there."""

    kind: HookKind
    name: str
    """`sched_switch`; `category:event` for a classic tracepoint; the function or symbol; `cpu_clock`."""
    module: str = ""
    """Kernel module that defines the function or tracepoint; empty for vmlinux."""
    path: str = ""
    """User functions and USDT: absolute path of the binary."""
    offset: int = 0
    """User functions and USDT: file offset of the probed instruction."""
    semaphore: int = 0
    """USDT: file offset of the reference counter, 0 when the probe has none."""
    pid: int = -1
    """User functions, USDT and perf: only this process; -1 for all."""
    perf_type: int = 0
    """`perf_event_attr.type` (0 hardware, 1 software, 4 raw)."""
    perf_config: int = 0
    frequency: int = 0
    """Perf: samples per second and CPU; exclusive with `period`."""
    period: int = 0

    def __str__(self) -> str:
        """The hook as a reader of a plan or a status page writes it."""
        where = f"{self.path}:{self.name}" if self.path else self.name
        return f"{self.kind}:{where}"
