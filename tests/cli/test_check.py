"""`rezolus check`: everything that is wrong with all files, at its place, and an exit status that tells."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.command import ROOT, rezolus
from tests.examples import EXAMPLES, application
from tests.kernels import UnreachableError, kernel_btf
from tests.needs import cannot_run

GOOD = """sampler good "A good one" {
    counter good_switches by cpu "Context switches"
    on sched_switch { good_switches += 1 }
}
"""
BAD = """sampler bad "A bad one" {
    counter bad_switches "Context switches"
    on sched_swich { bad_switches += 1 }
    on sched_switch(_, prev) when prev.pidd != 0 { bad_swiches += 1 }
}
"""


def test_the_shipped_definitions_are_in_order(tmp_path: Path) -> None:
    """The example about a user's program, for one that is there."""
    examples = [application(tmp_path), *(path for path in EXAMPLES.glob("*.rzl") if path.name != "application.rzl")]
    done = rezolus("check", "probes/*.rzl", *examples)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(list(ROOT.glob("probes/*.rzl"))) + len(list(EXAMPLES.glob("*.rzl")))
    assert all(": ok, " in line for line in lines)


def test_all_errors_of_all_files_are_reported_and_good_files_are_called_so(tmp_path: Path) -> None:
    files = {"good.rzl": GOOD, "bad.rzl": BAD, "broken.rzl": "sampler broken {\n    countr x\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = rezolus("check", *files, "none.rzl", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "good.rzl: ok, 1 sampler, 1 metric\n"
    heads = [line for line in done.stderr.splitlines() if "error" in line]
    assert heads[0] == "error: none.rzl: no such file or directory"
    assert "bad.rzl:3:8: error[unknown-event]: this kernel has no tracepoint `sched_swich`" in heads
    assert any(line.startswith("bad.rzl:4:40: error[unknown-field]: ") for line in heads)
    assert any(line.startswith("bad.rzl:4:52: error[unknown-metric]: ") for line in heads)
    assert any(line.startswith("broken.rzl:") for line in heads)
    assert heads[-1].endswith("errors in 2 files")
    assert "        on sched_swich { bad_switches += 1 }\n           ^~~~~~~~~~~\n" in done.stderr
    assert "hint: did you mean `sched_switch`?" in done.stderr


def test_a_file_that_uses_a_broken_one_is_not_called_good(tmp_path: Path) -> None:
    (tmp_path / "main.rzl").write_text('use "shared.rzl"\n' + GOOD)
    (tmp_path / "shared.rzl").write_text("table parity(n) -> parity {\n")
    done = rezolus("check", "main.rzl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("shared.rzl:1:")


def test_warnings_are_shown_and_are_no_errors(tmp_path: Path) -> None:
    (tmp_path / "idle.rzl").write_text('sampler idle "Nothing" {\n    counter idle_events "Events"\n}\n')
    done = rezolus("check", "idle.rzl", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == "idle.rzl: ok, 1 sampler, 1 metric, 1 warning\n"
    assert done.stderr.startswith("idle.rzl:2:13: warning[never-updated]: ")


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "latin.rzl").write_bytes(b'sampler a "\xe9" {}\n')
    done = rezolus("check", "latin.rzl", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: latin.rzl: is not UTF-8 text: byte 11 is 0xe9\n"
        f"error: {tmp_path}: is a directory; name its files: {tmp_path}/*.rzl\n"
    )


def test_a_terminal_gets_colour(tmp_path: Path) -> None:
    file = tmp_path / "bad.rzl"
    file.write_text(BAD)
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    child = subprocess.Popen(
        [sys.executable, "-m", "rezolus", "check", str(file)],
        cwd=ROOT,
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    os.close(theirs)
    said = read_until_closed(ours)
    assert child.wait() == 1
    assert b"\x1b[1;31merror[unknown-event]:\x1b[0m" in said


def read_until_closed(fd: int) -> bytes:
    said, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([fd], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:  # the other side of a terminal is closed
            break
        said += data
    os.close(fd)
    return said


def test_explain_says_what_a_code_means_with_an_example() -> None:
    done = rezolus("check", "--explain", "error[unit-mismatch]")
    assert done.returncode == 0
    assert done.stdout.startswith("unit-mismatch: Values of different units are combined")
    assert "\nwrong:\n    histogram waited bytes" in done.stdout
    assert "\nright:\n    histogram waited ns" in done.stdout
    done = rezolus("check", "--explain", "unit-mismach")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no error or warning has the code `unit-mismach`; did you mean `unit-mismatch`?\n"


def test_without_files_the_usage_is_told() -> None:
    done = rezolus("check")
    assert done.returncode == 2
    assert done.stderr == "error: name the .rzl files to check\ntry `rezolus check --help`\n"


def test_files_are_checked_for_another_kernel(tmp_path: Path) -> None:
    try:
        data = kernel_btf("5.10")
    except UnreachableError as error:
        cannot_run(str(error))
    btf = tmp_path / "5.10.btf"
    btf.write_bytes(data)
    file = tmp_path / "newer.rzl"
    file.write_text(
        'sampler s "S" {\n    counter c "C"\n    on sched_switch(_, prev) when prev.__state == 0 { c += 1 }\n}\n'
    )
    done = rezolus("check", file, "--btf", btf)
    assert done.returncode == 1
    assert "newer.rzl:3:40: error[unknown-field]: " in done.stderr
    assert "hint: did you mean `state`?" in done.stderr
    assert rezolus("check", "probes/scheduler.rzl", "--btf", btf, "--arch", "aarch64").returncode == 0


@pytest.mark.parametrize("option", [("--arch", "aarch64"), ("--release", "6.1")])
def test_options_of_another_kernel_need_its_types(option: tuple[str, str]) -> None:
    done = rezolus("check", "probes/scheduler.rzl", *option)
    assert done.returncode == 1
    assert done.stderr == f"error: {option[0]} describes another kernel: give its type information with --btf FILE\n"


def test_types_that_are_none_are_refused(tmp_path: Path) -> None:
    done = rezolus("check", "probes/scheduler.rzl", "--btf", "LICENSE-MIT", cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: LICENSE-MIT")
