"""All shipped definitions at once, as they run in production: one program per hook, shared by the samplers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.kernel.live import ROOT, Live, live
from tests.workloads import Cgroup, cgroup

_NUMBER = itertools.count(1)


@pytest.fixture(scope="package")
def probes() -> Iterator[Live]:
    """`probes/*.rzl`, attached while the tests of this package run."""
    needs.bpf()
    with live(sorted((ROOT / "probes").glob("*.rzl"))) as running:
        yield running


@pytest.fixture(scope="package")
def arrivals() -> Iterator[Live]:
    """How often a task came to a CPU unseen (`arrivals.rzl`): so many waits, sleeps and moves a test may miss."""
    needs.bpf()
    with live([Path(__file__).with_name("arrivals.rzl")]) as running:
        yield running


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """An empty cgroup of the test's own, in the hierarchy of the cpu controller."""
    # A name of its own: the series of a cgroup that is gone stay for two readings.
    with cgroup(f"rezolus-numbers-{next(_NUMBER)}") as made:
        yield made
