"""Small units of C for the loader's tests, and what they need of the kernel they run on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from dsl.btf import Btf, Struct
from dsl.hooks import Hook
from dsl.schema import Program
from rezolus.bpf.load import BtfId, Unit
from rezolus.bpf.targets import kernel_btf_ids

COUNTS = 'BPF_F_TABLE("array", u32, u64, counts, 16, 0x400);\n'
"""A map of 16 counters."""

COUNT = "u32 key = 0; u64 *count = counts.lookup(&key); if (!count) return 0; __sync_fetch_and_add(count, 1);\n"
"""Statements that count a run in the first of them."""


@cache
def btf() -> Btf:
    return Btf.parse(Path("/sys/kernel/btf/vmlinux").read_bytes())


@cache
def btf_ids() -> BtfId:
    return kernel_btf_ids(btf())


def task_struct() -> str:
    """`struct task_struct` with its pid in place."""
    kind = btf().find("task_struct", Struct)
    assert kind is not None
    path = btf().member_path(kind, "pid")
    assert path is not None
    offset = sum(member.bit_offset for member in path) // 8
    return f"struct task_struct {{ char before[{offset}]; int pid; }};\n"


def unit(*bodies: tuple[Hook, str], maps: tuple[str, ...] = ("counts",), head: str = COUNTS) -> Unit:
    """A unit of one program per (hook, statements); line 10 of `probe.rzl` is the first one's."""
    text, programs = head, []
    for number, (hook, body) in enumerate(bodies):
        function = f"program_{number}"
        context = "unsigned long long *" if hook.kind in {"tp_btf", "raw_tp", "fentry", "fexit"} else "void *"
        text += f'#line {10 * (number + 1)} "probe.rzl"\nint {function}({context}ctx)\n{{\n{body}\nreturn 0;\n}}\n'
        programs.append(Program(function=function, hook=hook, samplers=("test",)))
    return Unit(text, tuple(programs), maps)
