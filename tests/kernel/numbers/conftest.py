"""All shipped definitions at once, as they run in production: one program per hook, shared by the samplers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import needs
from tests.kernel.live import ROOT, Live, live
from tests.workloads import Cgroup, cgroup


@pytest.fixture(scope="package")
def probes() -> Iterator[Live]:
    """`probes/*.rzl`, attached while the tests of this package run."""
    needs.bpf()
    with live(sorted((ROOT / "probes").glob("*.rzl"))) as running:
        yield running


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """An empty cgroup of the test's own, in the hierarchy of the cpu controller."""
    with cgroup("rezolus-numbers") as made:
        yield made
