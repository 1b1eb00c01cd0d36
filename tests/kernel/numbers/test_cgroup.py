"""Series of cgroups: named after their directory, begun at 0, ended with it, whatever the kernel does with their ids."""

from __future__ import annotations

import pytest

from tests.kernel.live import Live, Values
from tests.workloads import Worker, cgroup

METRIC = "cgroup_syscall"
STARTING = 60
"""Calls of this class that a worker may make in its cgroup before its work."""


def identifier(values: Values, name: str) -> str:
    """The label `id` of the series of a cgroup."""
    return next(labels["id"] for labels, _ in values.numbers[METRIC] if labels.get("name") == name)


def test_an_id_that_is_used_again_is_a_new_series_from_zero(probes: Live) -> None:
    """Each cgroup has the calls that were made in it and no others, and some get the id of one that is gone."""
    identifiers = []
    for number in range(6):
        with cgroup(f"rezolus-reuse-{number}") as group, Worker(cgroup=group) as worker:
            worker.call("system_calls", count=1000)
            values = probes.until(lambda now: bool(now.series(METRIC, name=group.name)), f"{group.name}")
            assert 1000 <= values.sum(METRIC, name=group.name, op="query") <= 1000 + STARTING
            identifiers.append(identifier(values, group.name))
        probes.until(lambda now: not now.series(METRIC, name=group.name), f"the end of {group.name}")
    assert len(set(identifiers)) < len(identifiers)


def calls(values: Values, name: str) -> list[int]:
    """Of every series with that name."""
    return values.series(METRIC, name=name, op="query")


def test_the_same_name_again_is_a_new_series_from_zero(probes: Live) -> None:
    """A cgroup that is made again has nothing of the one before, whose series ends."""
    for _ in range(2):
        with cgroup("rezolus-again") as group, Worker(cgroup=group) as worker:
            worker.call("system_calls", count=500)
            values = probes.until(lambda now: len(calls(now, "/rezolus-again")) == 1, "a single series")
            assert 500 <= calls(values, "/rezolus-again")[0] <= 500 + STARTING


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("rezolus-a", "/rezolus-a"),
        ("rezolus-b/c", "/rezolus-b/c"),
        ("rezolus-d/e/f", "/rezolus-d/e/f"),
        ("rezolus-g/h/i/j/k", "/rezolus-g/h/i/j/k"),
        ("rezolus.slice/docker-0a\\x2d1b.scope", "/rezolus.slice/docker-0a-1b.scope"),
        ("rezolus.slice/" + "n" * 100, "/rezolus.slice/" + "n" * 100),
    ],
)
def test_the_name_is_the_whole_path(probes: Live, path: str, name: str) -> None:
    """However deep and however long, with systemd's escapes undone; the calls are those made there."""
    with cgroup(path) as group, Worker(cgroup=group) as worker:
        worker.call("system_calls", count=300)
        values = probes.until(lambda now: bool(calls(now, name)), f"a series of {name}")
        assert 300 <= sum(calls(values, name)) <= 300 + STARTING


def test_cgroups_that_live_at_once_are_kept_apart(probes: Live) -> None:
    """Calls, switches and CPU time of one are not those of its neighbour or of its parent."""
    with cgroup("rezolus-parent") as parent, cgroup("rezolus-neighbour") as neighbour:
        with Worker(cgroup=parent) as one, Worker(cgroup=neighbour) as other, probes.watch() as watch:
            one.call("system_calls", count=700)
            other.call("system_calls", count=900)
        assert watch.change.sum(METRIC, name=parent.name, op="query") == 700
        assert watch.change.sum(METRIC, name=neighbour.name, op="query") == 900


def test_a_process_that_moves_is_counted_where_it_is(probes: Live) -> None:
    """Calls before the move here, after it there."""
    with cgroup("rezolus-here") as here, cgroup("rezolus-there") as there, Worker(cgroup=here) as worker:
        with probes.watch() as watch:
            worker.call("system_calls", count=250)
            there.add(worker.pid)
            worker.call("system_calls", count=350)
        assert watch.change.sum(METRIC, name=here.name, op="query") == 250
        assert watch.change.sum(METRIC, name=there.name, op="query") == 350
