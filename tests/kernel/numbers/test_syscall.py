"""System calls as many and as long as the workload made them."""

from __future__ import annotations

import pytest

from tests.kernel.live import Live
from tests.workloads import Cgroup, Worker

MS = 1_000_000
EDGES = 6
"""Calls of a worker around its work: the end of one read, its answer, the next read."""


def test_calls_of_a_cgroup_are_those_of_its_process(probes: Live, group: Cgroup) -> None:
    """Exactly 10,000, and of other kinds at most those at the edges."""
    with Worker(cgroup=group) as worker:
        with probes.watch() as watch:
            worker.call("system_calls", count=10_000)
        change = watch.change
        assert change.sum("cgroup_syscall", name=group.name, op="query") == 10_000
        assert change.sum("cgroup_syscall", name=group.name) <= 10_000 + EDGES
        assert change.sum("syscall", op="query") >= 10_000
        assert change.count("syscall_latency", op="query") >= 10_000


def test_every_call_that_returns_has_a_latency(probes: Live, group: Cgroup) -> None:
    """Counted at the entry and timed at the exit: apart by those that are under way, a few by process at most."""
    with Worker(cgroup=group) as worker, probes.watch() as watch:
        worker.call("pass_a_byte", rounds=2000)
    for op, least in (("read", 4000), ("write", 4000), ("process", 0), ("memory", 0), ("filesystem", 0)):
        counted, timed = watch.change.sum("syscall", op=op), watch.change.count("syscall_latency", op=op)
        assert counted >= least
        assert abs(counted - timed) <= 200


@pytest.mark.parametrize(("kind", "op"), [("sleeps", "sleep"), ("delayed_reads", "read")])
def test_a_call_that_waits_takes_as_long_as_it_waits(probes: Live, group: Cgroup, kind: str, op: str) -> None:
    """20 calls of 30 ms: not shorter (a bucket is 12.5 % wide), and not longer than the workload saw them all take. On a
    busy machine a reader may come late to its pipe: 5 may be shorter.
    """
    with Worker(cgroup=group) as worker, probes.watch() as watch:
        spent = worker.call(kind, count=20, seconds=0.03)["ns"]
    assert watch.change.count("syscall_latency", low=30 * MS, high=spent, op=op) >= 15


def test_classes_follow_the_table(probes: Live, group: Cgroup) -> None:
    """10 processes are 10 forks and 10 waits, and 10 exits, which have no latency for they never return."""
    with Worker(cgroup=group) as worker:
        with probes.watch() as watch:
            worker.call("fork_only", count=10)
        assert watch.change.sum("cgroup_syscall", name=group.name, op="process") == 30
        with probes.watch() as watch:
            worker.call("migrate", count=10)
        # sched_getaffinity, twice by the library for a set that does not fit, and 11 times sched_setaffinity
        assert 12 <= watch.change.sum("cgroup_syscall", name=group.name, op="process") <= 14
