"""`rezolus watch` on this kernel: the numbers move as the workload does, and nothing is left when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rezolus.cli import watch
from rezolus.cli.errors import run_reporting
from tests import needs
from tests.cli.command import ROOT, rezolus

PATIENCE_S = 30.0
CALLS = 5000

DEFINITIONS = """sampler calls "System calls of one process" {{
    counter calls {{ what: getppid | other }} "System calls"
    counter all_calls "System calls of all processes"
    histogram call_time ns "Time in system calls"
    counter never "Nothing"

    on sys_enter(_, number) {{
        all_calls += 1
        if number == 99999 {{ never += 1 }}
    }}
    on no_such_event else sys_enter(_, number) when pid == {pid} {{
        calls{{what: kind(number)}} += 1
    }}
    measure call_time from sys_enter(_, number) to sys_exit(_) by task when pid == {pid}

    table kind(number: syscall) -> what {{
        getppid: getppid
        other: else
    }}
}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Definitions that count this very process."""
    path = tmp_path / "calls.rzl"
    path.write_text(DEFINITIONS.format(pid=os.getpid()))
    return path


class Watch:
    """A running `rezolus watch` and what it said so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self.output = output
        self.said = ""

    def until(self, done: Callable[[str], object], act: Callable[[], object] = lambda: None) -> str:
        """Take output until `done` likes it, doing `act` before each look."""
        deadline = time.monotonic() + PATIENCE_S
        while not done(self.said):
            assert time.monotonic() < deadline, self.said
            act()
            if select.select([self.output], [], [], 0.05)[0]:
                try:
                    data = os.read(self.output, 65536)
                except OSError:  # the other side of a terminal is closed
                    data = b""
                assert data, f"it ended: {self.said}"
                self.said += data.decode()
        return self.said

    def ended(self) -> int:
        """The exit status, after everything it still says was taken."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.output], [], [], 0.05)[0]:
                try:
                    self.said += os.read(self.output, 65536).decode()
                except OSError:
                    break
        return self.process.wait(PATIENCE_S)


_PLAIN = "from rezolus.cli import main; main()"
_OWN_TERMINAL = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {_PLAIN}"
"""What is typed at a terminal reaches the session that the terminal belongs to."""


@contextmanager
def watching(*arguments: object, terminal: bool = False) -> Iterator[Watch]:
    """A running command with its output in a pipe or a terminal of 40 lines of 100 columns."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [sys.executable, "-c", _OWN_TERMINAL if terminal else _PLAIN, "watch", *map(str, arguments)],
        cwd=ROOT,
        stdin=theirs if terminal else subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
        start_new_session=terminal,
    )
    os.close(theirs)
    try:
        yield Watch(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def wait_until_gone(pid: int) -> None:
    """An orphan's parent is this process (tests.leaks.adopt_orphans), which has to collect it."""
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} goes on"
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        os.sched_yield()


def work() -> None:
    for _ in range(CALLS // 10):
        os.getppid()


def waited(file: str, interval: str) -> str:
    """What stderr says until there are values, as lines: nobody sees it in place."""
    return f"{file}: compiling and attaching ...\n{file}: attached; first values in {interval} ...\n"


def totals(said: str) -> list[int]:
    return [int(total.replace(",", "")) for total in re.findall(r"^  getppid +\S+/s +([\d,]+)$", said, re.MULTILINE)]


@pytest.mark.kernel
def test_counts_are_those_of_the_workload(file: Path) -> None:
    with watching(file, "--interval", "200ms") as shown:
        shown.until(lambda said: "all_calls" in said)
        for _ in range(10):
            work()
        said = shown.until(lambda said: totals(said) and totals(said)[-1] >= CALLS)
        assert totals(said)[-1] == CALLS
        shown.process.send_signal(signal.SIGINT)
        assert shown.ended() == 0
    assert re.search(r"^call_time  Time in system calls\n +rate +p50 +p90 +p99 +max +\d+ ?[num]?s", said, re.MULTILINE)
    assert re.search(r"^ +[\d.,]+/s( +[\d.]+ [num]?s){4}  [▁▂▃▄▅▆▇█ ]+$", said, re.MULTILINE)
    assert "nothing yet: never" in said
    assert (
        "calls: no_such_event is not available: this kernel has no tracepoint `no_such_event`; sys_enter instead"
        in said
    )
    assert "\x1b" not in said
    assert re.search(r"^\d\d:\d\d:\d\d  calls\.rzl, 2 programs, ", said, re.MULTILINE)


@pytest.mark.kernel
def test_a_terminal_shows_frames_in_place_until_ctrl_c(file: Path) -> None:
    with watching(file, "calls", "--interval", "100ms", terminal=True) as shown:
        shown.until(lambda said: said.count("getppid") >= 3, work)
        os.write(shown.output, b"\x03")
        assert shown.ended() == 0
    assert "\x1b[2K" in shown.said
    assert "call_time" not in shown.said
    assert shown.said.rindex("\x1b[?25h") > shown.said.rindex("\x1b[?25l"), "the cursor is visible again"


@pytest.mark.kernel
@pytest.mark.parametrize("terminal", [False, True])
def test_it_says_what_it_does_and_at_ctrl_c_that_there_was_no_reading(file: Path, *, terminal: bool) -> None:
    with watching(file, "--interval", "1h", terminal=terminal) as shown:
        shown.until(lambda said: "calls.rzl: compiling and attaching ..." in said)
        shown.until(lambda said: "calls.rzl: attached; first values in 1h ..." in said)
        shown.process.send_signal(signal.SIGINT)
        assert shown.ended() == 0
    lines = [line for line in shown.said.split("\n") if line]
    assert "ended before the first reading" in lines[-1]
    assert terminal or lines == [*waited("calls.rzl", "1h").splitlines(), "ended before the first reading"]


@pytest.mark.kernel
def test_on_a_terminal_the_values_take_the_place_of_what_was_said_before(file: Path) -> None:
    with watching(file, "--once", "--interval", "100ms", terminal=True) as shown:
        assert shown.ended() == 0
    before, _, after = shown.said.partition("calls.rzl, 2 programs")
    assert before.count("...") == before.count("\x1b[2K") > 0
    assert "..." not in after


@pytest.mark.kernel
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_however_it_ends_nothing_stays_attached(file: Path, number: signal.Signals) -> None:
    with watching(file, "--interval", "100ms") as shown:
        shown.until(lambda said: "all_calls" in said)
        pid = shown.process.pid
        helpers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert helpers
        shown.process.send_signal(number)
        assert shown.process.wait(PATIENCE_S) == (-number if number == signal.SIGKILL else 0)
        for helper in helpers:
            wait_until_gone(helper)


@pytest.mark.kernel
def test_a_reader_that_goes_away_ends_it(file: Path) -> None:
    with watching(file, "--interval", "100ms") as shown:
        shown.until(lambda said: "all_calls" in said)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, shown.output)
        os.close(nothing)
        assert shown.process.wait(PATIENCE_S) == 128 + signal.SIGPIPE


@pytest.mark.kernel
@pytest.mark.parametrize(("options", "frames"), [(("--once",), 1), (("--duration", "300ms"), 3)])
def test_it_ends_by_itself_when_asked_to(file: Path, options: tuple[str, ...], frames: int) -> None:
    done = rezolus("watch", file, "all_*", "--interval", "100ms", *options)
    assert (done.returncode, done.stderr) == (0, waited("calls.rzl", "100ms"))
    assert len(re.findall(r"^all_calls ", done.stdout, re.MULTILINE)) == frames
    assert "call_time" not in done.stdout


@pytest.mark.kernel
def test_everything_that_is_shipped_can_be_watched() -> None:
    done = rezolus("watch", "probes/*.rzl", "--once", "--interval", "500ms")
    assert done.returncode == 0, done.stderr
    for name in ("cpu_usage", "scheduler_runqueue_latency", "syscall_latency", "memory_total"):
        assert re.search(rf"^{name}\b", done.stdout, re.MULTILINE), done.stdout


def test_files_alone_need_no_programs() -> None:
    done = rezolus("watch", "probes/memory.rzl", "--once", "--interval", "100ms")
    assert (done.returncode, done.stderr) == (0, waited("memory.rzl", "100ms"))
    assert re.search(r"^memory_total +[\d.]+ [GM]iB  Memory in all$", done.stdout, re.MULTILINE)
    assert "program" not in done.stdout.splitlines()[0]


def test_a_file_with_errors_is_answered_as_check_does(file: Path) -> None:
    file.write_text(file.read_text().replace("calls{", "cals{"))
    done, checked = rezolus("watch", file, "--once"), rezolus("check", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error[unknown-metric]: no metric `cals` in this sampler" in done.stderr
    assert done.stderr == f"calls.rzl: compiling and attaching ...\n{checked.stderr}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.rzl",), "none.rzl: no such file or directory"),
        (("cpu_usage",), "none of cpu_usage is a file; name the .rzl files to attach before the metrics"),
        (
            ("probes/scheduler.rzl", "schedulr_running"),
            "no metric matches 'schedulr_running', and there is no such file; did you mean `scheduler_running`?",
        ),
    ],
)
def test_what_cannot_be_watched_is_said(arguments: tuple[str, ...], said: str) -> None:
    done = rezolus("watch", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"error: {said}\n")
    assert done.stderr.removeprefix("scheduler.rzl: compiling and attaching ...\n") == f"error: {said}\n"


@pytest.mark.kernel
def test_without_the_right_to_load_programs_the_refusals_are_told(file: Path) -> None:
    """Root in a container is often not allowed to."""
    needs.program("setpriv", "util-linux")
    bare = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-m", "rezolus", "watch"]
    done = subprocess.run([*bare, str(file), "--once"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "warning[event-refused]: sys_enter: this host refuses it" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: there is nothing to watch")
    both = [*bare, str(file), "probes/memory.rzl", "--once", "--interval", "100ms"]
    done = subprocess.run(both, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^memory_total +[\d.]+ [GM]iB", done.stdout, re.MULTILINE)
    assert "calls: sys_enter is not available: this host refuses it" in done.stdout


def test_a_duration_that_is_none_is_a_wrong_command_line() -> None:
    done = rezolus("watch", "probes/memory.rzl", "--interval", "1")
    assert done.returncode == 2
    assert "'1' is no duration of at least 10ms, such as 250ms, 1s or 5m" in done.stderr


def test_who_is_not_root_is_told_to_use_sudo(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    arguments = [str(file), "all calls"]
    assert run_reporting(lambda: watch.command.main(arguments, standalone_mode=False)) == 1
    said = capsys.readouterr().err
    assert said == f"error: attaching eBPF programs needs root: run `sudo rezolus watch {file} 'all calls'`\n"
