"""Reasons found in logs as kernels of several versions write them."""

from __future__ import annotations

import pytest

from rezolus.bpf.verifier import Verdict, reduce_log

STATISTICS = "processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"

LOGS = {
    "6.18, source lines in between": (
        """0: R1=ctx() R10=fp0
;  @ unit.c:11
0: (79) r1 = *(u64 *)(r1 +0)          ; R1=scalar()
1: (79) r0 = *(u64 *)(r1 +0)
R1 invalid mem access 'scalar'
""",
        Verdict("R1 invalid mem access 'scalar'", 1),
    ),
    "two lines that belong together": (
        """;  @ unit.c:20
20: (79) r1 = *(u64 *)(r6 +800)
invalid access to map value, value_size=8 off=800 size=8
R6 min value is outside of the allowed memory range
""",
        Verdict(
            "invalid access to map value, value_size=8 off=800 size=8; "
            "R6 min value is outside of the allowed memory range",
            20,
        ),
    ),
    "an argument's type is not part of the reason": (
        """1: (79) r1 = *(u64 *)(r1 +8)
func 'sched_switch' arg1 has btf_id 114 type STRUCT 'task_struct'
2: R1=trusted_ptr_task_struct()
2: (0f) r1 += r2
math between trusted_ptr_ pointer and register with unbounded min value is not allowed
""",
        Verdict("math between trusted_ptr_ pointer and register with unbounded min value is not allowed", 2),
    ),
    "5.4, states on lines of their own": (
        """0: R1=ctx(id=0,off=0,imm=0) R10=fp0
0: (bf) r6 = r1
1: R1=ctx(id=0,off=0,imm=0) R6_w=ctx(id=0,off=0,imm=0) R10=fp0
1: (85) call bpf_map_lookup_elem#1
R1 type=ctx expected=map_ptr
""",
        Verdict("R1 type=ctx expected=map_ptr", 1),
    ),
    "a context that cannot be read, with its cause before it": (
        """0: (79) r6 = *(u64 *)(r1 +0)
func '__x64_sys_recvfrom' arg0 type FWD is not a struct
invalid bpf_context access off=0 size=8
""",
        Verdict(
            "func '__x64_sys_recvfrom' arg0 type FWD is not a struct; invalid bpf_context access off=0 size=8",
            0,
        ),
    ),
    "too many paths": (
        """11: (2d) if r1 > r7 goto pc-6
from 11 to 6: R0=scalar(id=142856) R1=scalar(umin=1) R6=ctx() R10=fp0
7: (0f) r0 += r8
BPF program is too large. Processed 1000001 insn
""",
        Verdict("BPF program is too large. Processed 1000001 insn", 7),
    ),
    "nothing was verified": ("Invalid name\n", Verdict("Invalid name", None)),
    "no log": ("", Verdict("", None)),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_reduced_to_its_reason(name: str) -> None:
    log, verdict = LOGS[name]
    assert reduce_log(log + STATISTICS) == verdict
    assert reduce_log("\n" + log) == verdict
