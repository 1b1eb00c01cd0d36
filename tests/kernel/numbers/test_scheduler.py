"""The scheduler's metrics agree with what the kernel keeps by process.

/proc/PID/schedstat has, in ns: time on the CPU, time waited in a run queue; /proc/PID/status the context switches.

A kernel may hide from tracers when certain tasks leave the CPU (the one of the development host does, for a task that
runs some times a second). Who comes next was then not seen to come: that wait and that sleep are in no metric of
ours. The fixture `arrivals` counts these, and the bounds below leave room for them and no more.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from tests.kernel.live import Live, Watch, proc_counters
from tests.workloads import Cgroup, Worker

MS = 1_000_000


def switches(worker: Worker) -> dict[str, int]:
    status = worker.proc("status")
    return {
        kind: int(found[1])
        for kind in ("voluntary", "nonvoluntary")
        if (found := re.search(rf"^{kind}_ctxt_switches:\s+(\d+)$", status, re.MULTILINE))
    }


def scheduled(worker: Worker) -> tuple[int, int]:
    """Time on the CPU and time waited, ns."""
    run, wait, _ = worker.proc("schedstat").split()
    return int(run), int(wait)


def host_switches() -> Mapping[str, int]:
    return proc_counters("/proc/stat", r"^ctxt (\d+)$")()


def test_context_switches_of_a_cgroup_are_those_of_its_process(probes: Live, group: Cgroup) -> None:
    """Within 3: the switch away after the answer may fall on either side of either reading, on both sides."""
    with Worker(cgroup=group, cpu=0) as worker, Worker(cgroup=group, cpu=0) as other:
        before, other_before = switches(worker), switches(other)
        with probes.watch() as watch:
            other.begin("hog", seconds=0.3)  # so that there is somebody to be preempted for
            worker.call("sleeps", count=50, seconds=0.001)
            worker.call("hog", seconds=0.2)
            other.end()
        after, other_after = switches(worker), switches(other)
    for kind, theirs in (("voluntary", "voluntary"), ("involuntary", "nonvoluntary")):
        counted = watch.change.sum("cgroup_scheduler_context_switch", name=group.name, kind=kind)
        known = after[theirs] - before[theirs] + other_after[theirs] - other_before[theirs]
        assert abs(counted - known) <= 3, kind
        assert watch.change.sum("scheduler_context_switch", kind=kind) >= counted
    assert watch.change.sum("cgroup_scheduler_context_switch", name=group.name, kind="voluntary") >= 50


def test_context_switches_of_the_host_are_within_those_of_proc_stat(probes: Live, group: Cgroup) -> None:
    """/proc/stat counts switches away from the idle tasks too, which are at most half of all: after each comes one back."""
    with Worker(cgroup=group, cpu=0) as worker, probes.watch(host_switches) as watch:
        worker.call("pass_a_byte", rounds=5000)
    counted = watch.change.sum("scheduler_context_switch")
    (ctxt,) = watch.brackets
    (name,) = ctxt.most
    cpus = os.cpu_count() or 1
    assert ctxt.least[name] / 2 - cpus <= counted <= ctxt.most[name]
    assert counted >= 10_000  # each round goes there and back


def unseen(watch: Watch, group: Cgroup) -> int:
    return watch.change.sum("unseen_arrivals", name=group.name)


def test_the_run_queue_is_waited_in_by_two_hogs_on_one_cpu(probes: Live, arrivals: Live, group: Cgroup) -> None:
    """Within 3 % + 2 ms of schedstat: the kernel takes its own clock some microseconds beside the tracepoint. An unseen
    arrival may have waited 40 ms, some turns of the others.
    """
    with Worker(cgroup=group, cpu=1) as one, Worker(cgroup=group, cpu=1) as other:
        before = [scheduled(worker) for worker in (one, other)]
        with probes.watch() as watch, arrivals.watch() as missing:
            for worker in (one, other):
                worker.begin("hog", seconds=0.4)
            for worker in (one, other):
                worker.end()
        after = [scheduled(worker) for worker in (one, other)]
    known = sum(end[1] - start[1] for start, end in zip(before, after, strict=True))
    waited = watch.change.sum("cgroup_scheduler_runqueue_wait", name=group.name)
    assert known >= 300 * MS  # they did wait for each other
    assert 0.97 * known - 2 * MS - unseen(missing, group) * 40 * MS <= waited <= 1.03 * known + 2 * MS
    assert waited <= watch.change.sum("scheduler_runqueue_wait")
    low, high = watch.change.total("scheduler_runqueue_latency")
    assert low <= watch.change.sum("scheduler_runqueue_wait") <= high
    assert watch.change.sum("scheduler_runqueue_wait", id="1") >= waited  # where they are pinned


def test_time_before_preemption_is_the_time_two_hogs_run(probes: Live, arrivals: Live, group: Cgroup) -> None:
    """A sample per involuntary switch of theirs, less 3 at the edges; half of them at least of 0.5 ms to 1 s."""
    with Worker(cgroup=group, cpu=1) as one, Worker(cgroup=group, cpu=1) as other:
        before = [switches(worker)["nonvoluntary"] for worker in (one, other)]
        with probes.watch() as watch, arrivals.watch() as missing:
            for worker in (one, other):
                worker.begin("hog", seconds=0.4)
            for worker in (one, other):
                worker.end()
        known = sum(switches(worker)["nonvoluntary"] for worker in (one, other)) - sum(before)
    assert known >= 20
    assert watch.change.count("scheduler_running", low=MS / 2, high=1000 * MS) >= 0.5 * known
    assert watch.change.count("scheduler_running") >= known - 3 - unseen(missing, group)


def test_time_off_the_cpu_is_the_time_asleep(probes: Live, arrivals: Live, group: Cgroup) -> None:
    """What is neither run nor waited was slept: within 2 % + 2 ms, for the clocks are read some microseconds apart, less
    a sleep of 20 ms for each unseen arrival.
    """
    with Worker(cgroup=group) as worker:
        begin = time.perf_counter_ns()
        worker.call("nothing")  # ends its last sleep; the next one is short
        with probes.watch() as watch, arrivals.watch() as missing:
            run, wait = scheduled(worker)
            before_it = time.perf_counter_ns() - begin
            slept = worker.call("sleeps", count=25, seconds=0.02)["ns"]
            after = scheduled(worker)
    lost = unseen(missing, group)
    known = slept - (after[0] - run) - (after[1] - wait)
    away = watch.change.sum("cgroup_scheduler_offcpu", name=group.name)
    assert 0.98 * known - 2 * MS - lost * 21 * MS <= away <= 1.02 * slept + before_it
    assert watch.change.count("scheduler_offcpu", low=18 * MS) >= 25 - lost
