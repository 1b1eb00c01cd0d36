"""What the handmade programs measure agrees with what others know."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rezolus.agent.cgroups import find_hierarchy
from tests import needs
from tests.agent.running import daemon

pytestmark = pytest.mark.kernel

SWITCHES = "switches_total,what=switch,switches"


def context_switches() -> int:
    match = re.search(r"^ctxt (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def test_context_switches_agree_with_proc(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        before, low = running.reading(lambda values: values[SWITCHES] > 0), context_switches()
        after = running.reading(lambda values: values[SWITCHES] > before[SWITCHES] + 2000)
        counted, known = after[SWITCHES] - before[SWITCHES], context_switches() - low
        # The two are not read at the same instant: a few readings' worth of switches lie between.
        assert abs(counted - known) < 0.2 * known + 500
        assert (
            sum(value for name, value in after.items() if name.startswith("switches_by_cpu")) >= after[SWITCHES] * 0.99
        )


@pytest.fixture
def cgroup() -> Iterator[Path]:
    needs.root()
    root = find_hierarchy(Path("/proc/self/mounts").read_text())
    if root is None:
        needs.cannot_run("needs a mounted cgroup hierarchy with the cpu controller")
    path = Path(root) / "rezolus-test"
    path.mkdir()
    yield path
    if path.exists():
        path.rmdir()


def in_cgroup(path: Path) -> subprocess.Popen[bytes]:
    """A process in the cgroup that switches all the time."""
    code = f"open({str(path / 'cgroup.procs')!r}, 'w').write('0')\nimport time\nwhile True: time.sleep(0.001)"
    return subprocess.Popen([sys.executable, "-c", code])


def of_group(values: Mapping[str, int]) -> int | None:
    found = [value for name, value in values.items() if "name=/rezolus-test," in name]
    return found[0] if found else None


def test_a_cgroup_has_a_series_while_its_directory_is_there(tmp_path: Path, cgroup: Path) -> None:
    with daemon(tmp_path) as running:
        for _ in range(2):  # the second time the kernel gives the id to a new cgroup
            process = in_cgroup(cgroup)
            try:
                running.reading(lambda values: 20 < (of_group(values) or 0) < 1000)
                running.reading(lambda values: (of_group(values) or 0) > 1000)
            finally:
                process.kill()
                process.wait()
            cgroup.rmdir()
            running.reading(lambda values: of_group(values) is None)
            cgroup.mkdir()
