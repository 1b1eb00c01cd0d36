"""`rezolus test`: what passes is one line, what fails says where, what and why, and the exit status tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

SAMPLER = """sampler cpu_shift "Tasks that changed CPU" {
    counter shifts { busy: yes | no } "Changes"
    histogram pause ns "Time between two changes of a task"
    state last: ns by task
    on sched_migrate_task(p, to) {
        let busy = if p.pid != 0 then yes else no
        shifts{busy: busy} += 1
        if let t = take last[p] { pause << now - t }
        last[p] = now
    }
}
"""

PASSING = """
test "two changes have a pause between them" {
    let worker = { pid: 7 }
    at 10us sched_migrate_task(worker, 1)
    at 15us sched_migrate_task(worker, 0)
    expect shifts{busy: yes} == 2
    expect pause == [5us]
}
"""

FAILING = """
test "a change of the idle task is busy" {
    at 10us sched_migrate_task({ pid: 0 }, 1)
    at 9us sched_migrate_task({ pid: 0 }, 1)
    expect shifts{busy: yes} == 1
}

test "time goes backwards" {
    let worker = { pid: 7 }
    at 10us sched_migrate_task(worker, 1)
    at 9us sched_migrate_task(worker, 1)
    expect pause == [1us]
}
"""


def run(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    path.write_text(text)
    command = [sys.executable, "-m", "rezolus", "test", path.name]
    return subprocess.run(
        command, cwd=path.parent, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)}
    )


def test_tests_that_hold_are_counted(tmp_path: Path) -> None:
    done = run(tmp_path / "shift.rzl", SAMPLER + PASSING)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "pass shift.rzl:13: two changes have a pause between them\n1 passed, 0 failed\n"


def test_an_expectation_that_does_not_hold_is_shown_with_its_line_and_what_explains_it(tmp_path: Path) -> None:
    done = run(tmp_path / "shift.rzl", SAMPLER + FAILING)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "FAIL shift.rzl:13: a change of the idle task is busy",
        "     shift.rzl:16: expect shifts{busy: yes} == 1",
        "         expected 1, got 0",
        "         shifts{busy: no} is 2",
        "FAIL shift.rzl:19: time goes backwards",
        "     shift.rzl:23: expect pause == [1us]",
        "         expected [1us], got []",
        "         sampler cpu_shift discarded 1 (clock)",
        "0 passed, 2 failed",
    ]


def test_a_file_without_tests_says_how_one_begins(tmp_path: Path) -> None:
    done = run(tmp_path / "shift.rzl", SAMPLER)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'test "what must hold" {' in done.stdout


def test_errors_of_the_file_end_it(tmp_path: Path) -> None:
    done = run(tmp_path / "shift.rzl", SAMPLER.replace("last[p]", "lost[p]", 1) + PASSING)
    assert done.returncode == 1
    assert done.stderr.startswith("shift.rzl:8:")
    assert done.stdout == ""
