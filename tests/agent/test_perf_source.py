"""Counters of perf events, opened by the loader and read by whoever has the descriptors."""

from __future__ import annotations

import os

import pytest

from dsl.schema import Schema, Source
from rezolus.agent.handover import Problem
from rezolus.agent.loader import open_perf_sources
from rezolus.agent.sources import SourceReader
from rezolus.bpf.attach import online_cpus

pytestmark = pytest.mark.kernel

SOFTWARE = 1
CONTEXT_SWITCHES = 3


def test_a_software_event_counts_on_every_cpu() -> None:
    source = Source(name="pmu", form="perf", keys=("switches",), events=(("switches", SOFTWARE, CONTEXT_SWITCHES),))
    problems: list[Problem] = []
    fds = open_perf_sources(Schema(samplers=(), metrics=(), sources=(source,)), online_cpus(), problems)
    try:
        assert problems == []
        keys = {("pmu", "switches", cpu): fds[f"perf:pmu:switches:{cpu}"] for cpu in online_cpus()}
        reader = SourceReader([source], perf=keys)
        reader.read()
        before = sum(row["switches"] for row in reader.tables["pmu"].rows.values())
        for _ in range(100):
            read, write = os.pipe()
            if os.fork() == 0:
                os.read(read, 1)
                os._exit(0)
            os.write(write, b"x")
            os.wait()
            os.close(read)
            os.close(write)
        reader.read()
        assert set(reader.tables["pmu"].rows) == {(str(cpu),) for cpu in online_cpus()}
        assert sum(row["switches"] for row in reader.tables["pmu"].rows.values()) >= before + 100
    finally:
        for fd in fds.values():
            os.close(fd)


def test_an_event_the_machine_does_not_have_is_a_problem_and_no_failure() -> None:
    source = Source(name="pmu", form="perf", keys=("odd",), events=(("odd", SOFTWARE, 9999),))
    problems: list[Problem] = []
    assert open_perf_sources(Schema(samplers=(), metrics=(), sources=(source,)), [0], problems) == {}
    assert "perf event odd of source pmu cannot be counted" in problems[0].message
