"""Scheduling of the daemon, asked of the kernel in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests import needs

ROOT = Path(__file__).parent.parent

PROGRAM = """
import json, os, sys
from rezolus.config import SchedulerConfig
from rezolus.scheduler import apply
said = apply(SchedulerConfig(**json.loads(sys.argv[1])))
def now():
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    return policy, os.sched_getparam(0).sched_priority, os.getpriority(os.PRIO_PROCESS, 0)
ours = now()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, json.dumps(now()).encode())
    os._exit(0)
os.wait()
print(json.dumps([said, ours, json.loads(os.read(read, 100))]))
"""
OTHER, FIFO, ROUND_ROBIN = 0, 1, 2


def applied(*command: str, **config: object) -> tuple[list[str], list[int], list[int]]:
    """What was said, and policy, priority and niceness of the process and of one that it started."""
    program = [*command, sys.executable, "-c", PROGRAM, json.dumps(config)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    said, ours, childs = json.loads(done.stdout)
    return said, ours, childs


def test_real_time_is_for_the_daemon_and_not_for_what_it_starts() -> None:
    needs.root()
    assert applied(policy="round_robin", priority=7) == ([], [ROUND_ROBIN, 7, 0], [OTHER, 0, 0])
    assert applied(policy="fifo", priority=99) == ([], [FIFO, 99, 0], [OTHER, 0, 0])


def test_niceness_is_of_the_normal_policy() -> None:
    needs.root()
    assert applied(niceness=-5) == ([], [OTHER, 0, -5], [OTHER, 0, 0])
    assert applied(policy="fifo", niceness=-5)[1][0] == FIFO


def test_without_a_word_everything_stays() -> None:
    said, ours, childs = applied()
    assert said == []
    assert ours == childs


def test_what_the_kernel_refuses_is_a_warning() -> None:
    needs.root()
    setpriv = needs.program("setpriv", "util-linux")
    said, ours, _ = applied(setpriv, "--bounding-set", "-sys_nice", policy="round_robin")
    assert said == [
        "scheduler: round_robin, priority 15: operation not permitted; running as any other process",
    ]
    assert ours == [OTHER, 0, 0]
