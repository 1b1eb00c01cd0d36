from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rezolus.demo import workload


def test_the_workload_does_a_little_of_everything_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rezolus.demo.workload", "0.5", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tally = json.loads(done.stdout)
    assert tally.pop("seconds") == 0.5
    assert min(tally.values()) > 0, tally
    assert tally["disk_bytes"] == tally["disk_syncs"] * workload.BLOCK
    assert tally["tcp_bytes"] == tally["tcp_connections"] * 8 * workload.BLOCK
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_fails_ends_the_whole_with_its_error(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(FileNotFoundError, match="missing"):
        workload.run(60, tmp_path / "missing")
    assert threading.active_count() == threads
