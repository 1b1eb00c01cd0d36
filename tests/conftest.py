"""What every test may rely on: reasons for skipping, tracefs, nothing left behind."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import leaks, needs

HERE = Path(__file__).parent
TRACEFS = Path("/sys/kernel/tracing")

# How long an example takes says something about the machine, and nothing about the property.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test below tests/kernel is a kernel test, whether it says so or not."""
    for item in items:
        if item.path.is_relative_to(HERE / "kernel"):
            item.add_marker("kernel")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A kernel test says why it cannot run before any of its fixtures tries."""
    if item.get_closest_marker("kernel"):
        needs.bpf()


@pytest.fixture(scope="session")
def tracefs() -> Iterator[Path]:
    """The tracing file system; mounted for the time of the tests where it is missing."""
    needs.root()
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = not (TRACEFS / "events").is_dir()
    if mounted and libc.mount(b"tracefs", bytes(TRACEFS), b"tracefs", 0, None):
        error = ctypes.get_errno()
        needs.cannot_run(f"needs tracefs at {TRACEFS}: {os.strerror(error).lower()}")
    yield TRACEFS
    if mounted:
        libc.umount2(bytes(TRACEFS), 2)  # MNT_DETACH: somebody else may have begun to use it


@pytest.fixture(scope="session")
def _orphans_stay() -> None:
    leaks.adopt_orphans()


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A kernel test leaves no descriptors, processes, BPF programs or links."""
    if not request.node.get_closest_marker("kernel"):
        yield
        return
    request.getfixturevalue("_orphans_stay")
    request.getfixturevalue("tracefs")
    before = leaks.Holdings.now()
    yield
    leaked = before.leaked_since()
    if leaked:
        pytest.fail("left behind: " + "; ".join(leaked), pytrace=False)
