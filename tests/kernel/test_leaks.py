"""The check that other kernel tests rely on finds what they could leave behind."""

from __future__ import annotations

import os
import subprocess
import sys

from rezolus.bpf import syscall
from tests.leaks import Holdings

EXIT_0 = bytes.fromhex("b700000000000000 9500000000000000".replace(" ", ""))
"""r0 = 0; exit"""


def test_nothing_is_reported_where_nothing_was_left() -> None:
    before = Holdings.now()
    with open("/dev/null"):
        pass
    subprocess.run(["true"], check=True)
    assert before.leaked_since() == []


def test_an_open_descriptor_is_reported() -> None:
    before = Holdings.now()
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        assert before.leaked_since() == [f"descriptor {fd} -> /dev/null"]
    finally:
        os.close(fd)


def test_an_orphan_is_reported_and_ended() -> None:
    before = Holdings.now()
    code = "import os, signal\nif os.fork() == 0: signal.pause()"
    subprocess.run([sys.executable, "-c", code], check=True)
    (problem,) = before.leaked_since()
    assert problem.startswith("process ")
    assert "signal.pause" in problem
    assert before.leaked_since() == []


def test_a_program_and_its_attachment_are_reported() -> None:
    before = Holdings.now()
    program = syscall.prog_load(syscall.Load(prog_type=syscall.PROG_RAW_TRACEPOINT, instructions=EXIT_0, name="leaked"))
    link = syscall.raw_tracepoint_open(program, "sched_switch")
    try:
        kinds = [problem.rpartition(" ")[0] for problem in before.leaked_since(patience_s=0.0)]
        assert [kind for kind in kinds if kind.startswith("BPF")] == ["BPF program", "BPF link"]
    finally:
        os.close(link)
        os.close(program)
