"""Reloads on the real kernel: what stays the same is counted without a gap and never twice."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.agent.running import PATIENCE_S, children, eventually
from tests.workloads import Cgroup, cgroup

pytestmark = pytest.mark.kernel

GETPPID, READ = {"x86_64": (110, 0)}.get(platform.machine(), (173, 63))
NAME = f"rzl{os.getpid()}"
"""Of the processes whose calls are counted; other runs of these tests have others."""
CALLER = f"""
import os, select
open("/proc/self/comm", "w").write({NAME!r})
count = 0
os.read(0, 1)
print("ready", flush=True)
while not count or not select.select([0], [], [], 0)[0]:
    for _ in range(1000):
        os.getppid()
    count += 1000
print(count, flush=True)
"""
READER = f"""
import os
open("/proc/self/comm", "w").write({NAME!r})
os.read(0, 1)
print("ready", flush=True)
os.read(0, 1)
print("done", flush=True)
"""

COUNTED = f"""rzl 1
sampler calls "Calls of the test" {{
    counter calls "Calls"
    counter calls_by_cpu by cpu "Calls"
    counter calls_by_cgroup by cgroup "Calls"
    counter calls_by_name by comm limit 10 "Calls"
    counter calls_by_parity {{ parity: even | odd }} "Calls"
    histogram sizes "Numbers"
    gauge last "The last number"

    on sys_enter(_, id) when comm == "{NAME}" && id == {GETPPID} {{
        calls += 1
        calls_by_cpu += 1
        calls_by_cgroup += 1
        calls_by_name[comm] += 1
        if tid % 2 == 0 {{ calls_by_parity{{parity: even}} += 1 }} else {{ calls_by_parity{{parity: odd}} += 1 }}
        sizes << 5
        last = 17
    }}
}}
"""
WAITED = f"""rzl 1
sampler waits "Reads of the test" {{
    histogram waits ns "Time in read"
    measure waits from sys_enter(_, id) to sys_exit() by task when comm == "{NAME}" && id == {READ}
}}
"""
MORE = """rzl 1
sampler aaa_more "Moves the words of every bank" {
    counter aaa_switches "Switches"
    counter aaa_by_cgroup by cgroup "Switches"
    histogram aaa_sizes "Numbers"
    gauge aaa_last "A number"
    on sched_switch(_, prev, next) {
        aaa_switches += 1
        aaa_by_cgroup[cgroup of prev] += 1
        aaa_sizes << 3
        aaa_last = 5
    }
}
"""
KINDS = ("calls", "calls_by_cpu", "calls_by_name", "calls_by_parity", "sizes")


@dataclass(slots=True)
class Reloading:
    """A running `tests.agent.reloading`."""

    process: subprocess.Popen[str]
    folder: Path
    helper: int = 0

    def ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.line()

    def line(self) -> Any:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, (self.folder / "stderr").read_text()
        return json.loads(text)

    def reload(self) -> tuple[str, ...]:
        """Reload, which must work; returns what changed."""
        result = self.ask("reload")
        assert result["ok"], result["problems"]
        return tuple(result["changed"])

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def sums(self) -> dict[str, int]:
        """Values now, summed over labels; of histograms the counts of all buckets."""
        found: dict[str, int] = {}
        for key, value in self.ask("read").items():
            name = key.partition(",")[0]
            found[name] = found.get(name, 0) + (sum(value) if isinstance(value, list) else value)
        return found


@contextmanager
def reloading(folder: Path, *, interval_ms: int = 100, config: str = "") -> Iterator[Reloading]:
    """An agent that measures `FOLDER/*.rzl`."""
    (folder / "config.toml").write_text(f'[agent]\nprobes = ["{folder}/*.rzl"]\n{config}')
    folder.chmod(0o755)
    command = [sys.executable, "-m", "tests.agent.reloading", str(folder / "config.toml"), str(interval_ms * 10**6)]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    with process:
        try:
            running = Reloading(process, folder)
            running.line()
            (running.helper,) = children(process.pid)
            yield running
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


@contextmanager
def calling(program: str = CALLER, group: Cgroup | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process whose calls are counted, at work."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if group is not None:
                group.add(process.pid)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[str]) -> str:
    """Have the process end; what it says then."""
    said, _ = process.communicate("\n", PATIENCE_S)
    return said.strip()


def test_every_event_is_counted_once_whatever_is_reloaded(tmp_path: Path) -> None:
    (tmp_path / "counted.rzl").write_text(COUNTED)
    with (
        cgroup("rezolus-reload") as group,
        reloading(tmp_path, interval_ms=10) as running,
        calling(group=group) as caller,
    ):
        assert running.reload() == ()
        running.write("more.rzl", MORE)
        assert running.reload() == ("sampler aaa_more added",)
        assert running.sums()["last"] == 17
        (tmp_path / "more.rzl").unlink()
        assert running.reload() == ("sampler aaa_more removed",)
        running.write("more.rzl", MORE)
        assert running.reload() == ("sampler aaa_more added",)
        assert running.reload() == ()
        count = int(finished(caller))
        found = running.sums()
        assert running.ask("backwards") == []
        assert running.ask("catalogs") == 0  # no sink begins anything anew that is the same
    kinds = (*KINDS, "calls_by_cgroup")
    assert {kind: found[kind] for kind in kinds} == dict.fromkeys(kinds, count)
    assert found["aaa_switches"] > 0
    assert found["rezolus_reloads"] == 5


def test_programs_of_every_kind_can_be_exchanged(tmp_path: Path) -> None:
    """A function of a user program, a sample of the clock, and one that comes with a reload and is exchanged by the next."""
    kinds = f"""rzl 1
sampler kinds "Kinds" {{
    counter functions "Calls of a function"
    counter samples "Samples"
    on user "libc":getppid() when comm == "{NAME}" {{ functions += 1 }}
    on sample 99 hz {{ samples += 1 }}
}}
"""
    (tmp_path / "kinds.rzl").write_text(kinds)
    with reloading(tmp_path) as running, calling() as caller:
        running.write("counted.rzl", COUNTED)
        assert running.reload() == ("sampler calls added",)
        with calling() as second:
            running.write("more.rzl", MORE)
            assert running.reload() == ("sampler aaa_more added",)
            before = running.sums()
            (tmp_path / "more.rzl").unlink()
            running.reload()
            more = int(finished(second))
        count = int(finished(caller)) + more
        found = running.sums()
    assert found["functions"] == count
    assert found["samples"] > before["samples"] > 0
    assert more < found["calls"] <= count


def test_a_program_that_was_installed_anew_is_found_by_a_reload(tmp_path: Path) -> None:
    assert zlib.ZLIB_RUNTIME_VERSION  # the library is mapped here
    mapped = Path("/proc/self/maps").read_text().splitlines()
    original = next(Path(line.split()[-1]) for line in mapped if "/libz.so" in line)
    library = tmp_path / "library.so"
    library.write_bytes(original.read_bytes())
    (tmp_path / "uses.rzl").write_text(
        f'rzl 1\nsampler uses "Uses" {{ counter uses "Uses" on user "{library}":zlibVersion() {{ uses += 1 }} }}\n'
    )
    use = f"import ctypes; library = ctypes.CDLL({str(library)!r}); [library.zlibVersion() for _ in range(10)]"
    with reloading(tmp_path) as running:
        subprocess.run([sys.executable, "-c", use], check=True)
        assert running.sums()["uses"] == 10
        (tmp_path / "new").write_bytes(original.read_bytes())
        (tmp_path / "new").replace(library)
        assert running.reload() == ()
        subprocess.run([sys.executable, "-c", use], check=True)
        assert running.sums()["uses"] == 20


def test_a_cgroup_in_which_nothing_happens_keeps_its_series(tmp_path: Path) -> None:
    (tmp_path / "counted.rzl").write_text(COUNTED)
    with cgroup("rezolus-reload-idle") as group, reloading(tmp_path) as running:
        with calling(group=group) as caller:
            count = int(finished(caller))
        eventually(lambda: running.sums().get("calls_by_cgroup") == count)
        running.write("more.rzl", MORE)
        running.reload()
        assert running.sums()["calls_by_cgroup"] == count
        with calling(group=group) as caller:
            count += int(finished(caller))
        assert running.sums()["calls_by_cgroup"] == count


def test_a_sampler_that_comes_back_begins_at_zero(tmp_path: Path) -> None:
    (tmp_path / "counted.rzl").write_text(COUNTED)
    (tmp_path / "waited.rzl").write_text(WAITED)
    with reloading(tmp_path) as running:
        with calling() as caller:
            count = int(finished(caller))
        assert running.sums()["calls"] == count
        (tmp_path / "counted.rzl").unlink()
        assert running.reload() == ("sampler calls removed",)
        assert "calls" not in running.sums()
        running.write("counted.rzl", COUNTED)
        assert running.reload() == ("sampler calls added",)
        found = running.sums()
        assert {kind: found.get(kind, 0) for kind in KINDS} == dict.fromkeys(KINDS, 0)


def test_what_began_before_a_reload_is_measured_when_it_ends_after(tmp_path: Path) -> None:
    (tmp_path / "waited.rzl").write_text(WAITED)
    with reloading(tmp_path) as running, calling(READER) as reader:
        running.write("more.rzl", MORE)
        running.reload()
        before = running.sums()["waits"]
        assert finished(reader) == "done"
        assert running.sums()["waits"] == before + 1


def test_state_of_other_samplers_survives_one_that_comes_or_goes(tmp_path: Path) -> None:
    (tmp_path / "waited.rzl").write_text(WAITED)
    other = WAITED.replace("waits", "pauses").replace(f"id == {READ}", "id == 999999")
    with reloading(tmp_path) as running, calling(READER) as reader, calling(READER) as second:
        running.write("another.rzl", other)
        assert running.reload() == ("sampler pauses added",)
        before = running.sums()["waits"]
        assert finished(reader) == "done"
        assert running.sums()["waits"] == before + 1
        (tmp_path / "another.rzl").unlink()
        assert running.reload() == ("sampler pauses removed",)
        assert finished(second) == "done"
        assert running.sums()["waits"] == before + 2


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("bad.rzl", "rzl 1\nsampler bad {\n", "bad.rzl:"),
        ("bad.rzl", COUNTED.replace("calls += 1", "cals += 1").replace("sampler calls", "sampler bad"), "unknown"),
        ("counted.rzl", COUNTED.replace("sizes << 5", "sizes << nonsense"), "counted.rzl:"),
        ("config.toml", "[agent]\ninterwal = 1\n", "interwal"),
        ("config.toml", "[agent\n", "config.toml"),
    ],
)
def test_what_is_broken_changes_nothing_and_says_why(tmp_path: Path, file: str, text: str, said: str) -> None:
    (tmp_path / "counted.rzl").write_text(COUNTED)
    with reloading(tmp_path) as running, calling() as caller:
        held = running.ask("held")
        was = (tmp_path / file).read_text() if (tmp_path / file).exists() else None
        running.write(file, text)
        result = running.ask("reload")
        assert not result["ok"]
        assert said in "\n".join(result["problems"])
        assert running.ask("held") == held
        if was is None:
            (tmp_path / file).unlink()
        else:
            running.write(file, was)
        assert running.reload() == ()
        count = int(finished(caller))
        found = running.sums()
    assert {kind: found[kind] for kind in KINDS} == dict.fromkeys(KINDS, count)
    assert (found["rezolus_reloads"], found["rezolus_reload_failures"]) == (1, 1)


def test_lines_of_files_elsewhere_are_not_quoted(tmp_path: Path) -> None:
    """Root reads what a definition uses; the answer is for whoever may ask for a reload or for the status."""
    folder, elsewhere = tmp_path / "probes", tmp_path / "secret"
    folder.mkdir()
    elsewhere.write_text("root:$6$hash:19000::::::\n")
    (folder / "waited.rzl").write_text(WAITED)
    with reloading(folder) as running:
        running.write("reader.rzl", f'rzl 1\nuse "{elsewhere}"\n')
        result = running.ask("reload")
        said = "\n".join(result["problems"])
        assert not result["ok"]
        assert f"{elsewhere}:1: error[" in said
        assert "rezolus check" in said
        assert "hash" not in said
        running.write("reader.rzl", 'rzl 1\nuse "beside.inc"\n')
        running.write("beside.inc", "nonsense here\n")
        assert "nonsense" in "\n".join(running.ask("reload")["problems"])


def test_what_was_broken_before_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "bad.rzl").write_text("rzl 1\nsampler bad {\n")
    (tmp_path / "counted.rzl").write_text(COUNTED)
    with reloading(tmp_path) as running:
        running.write("more.rzl", MORE)
        assert running.reload() == ("sampler aaa_more added",)
        running.write("bad.rzl", WAITED)
        assert running.reload() == ("sampler waits added",)


def test_a_killed_loader_leaves_what_runs_and_the_next_one_works(tmp_path: Path) -> None:
    (tmp_path / "counted.rzl").write_text(COUNTED)
    with reloading(tmp_path) as running, calling() as caller:
        running.write("more.rzl", MORE)
        assert running.process.stdin is not None
        eventually(lambda: children(running.helper) == [])
        running.process.stdin.write("reload\n")
        running.process.stdin.flush()
        eventually(lambda: children(running.helper) != [])
        os.kill(children(running.helper)[0], signal.SIGKILL)
        result = running.line()
        assert not result["ok"]
        assert "SIGKILL" in result["problems"][0]
        assert "aaa_switches" not in running.sums()
        assert running.reload() == ("sampler aaa_more added",)
        count = int(finished(caller))
        found = running.sums()
    assert {kind: found[kind] for kind in KINDS} == dict.fromkeys(KINDS, count)


def test_twenty_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "waited.rzl").write_text(WAITED)
    with reloading(tmp_path) as running:

        def come_and_go() -> None:
            running.write("more.rzl", MORE)
            running.reload()
            (tmp_path / "more.rzl").unlink()
            running.reload()

        come_and_go()  # what is attached keeps the maps of the beginning, once
        held = running.ask("held")
        objects = leaks.own_objects()
        for _ in range(10):
            come_and_go()
        assert running.ask("held") == held
        # Objects of others come and go, and the kernel frees ours a little later; but one left by each would be twenty.
        eventually(lambda: all(count < objects[kind] + 10 for kind, count in leaks.own_objects().items()))
