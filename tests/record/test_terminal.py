"""`rezolus record` on a terminal: it shares that with the command it runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.test_record import PATIENCE_S, running, until
from tests.record.agents import agent
from tests.record.terminal import terminal

RECORD = ("record", "-i", "20ms", "-o", "out.parquet", "--url")


def rows(folder: Path) -> int:
    count: int = pq.read_metadata(folder / "out.parquet").num_rows
    return count


def test_a_command_reads_from_the_terminal(tmp_path: Path) -> None:
    script = "echo ready; read x; echo got $x; exit 5"
    with agent() as url, terminal(tmp_path, (*RECORD, url, "--", "sh", "-c", script)) as screen:
        screen.until("ready")
        screen.type("hello\n")
        screen.until("got hello")
        assert screen.wait() == 5
    assert rows(tmp_path) >= 2
    assert "\x1b[K" not in screen.shown  # the terminal is the command's: no line of ours in it


def test_a_shell_that_takes_the_terminal_gives_it_back(tmp_path: Path) -> None:
    shell = ("env", "PS1=next> ", "bash", "--norc", "--noediting", "-i")
    with agent() as url, terminal(tmp_path, (*RECORD, url, "--", *shell)) as screen:
        screen.until("next> ")
        screen.type("sh -c 'echo $((6 * 7))ready; exec sleep 100'\n")
        screen.until("42ready")
        screen.type("\x03")  # to the sleep only, as in every shell
        screen.until("next> ", times=2)
        screen.type("exit 3\n")
        assert screen.wait() == 3
    assert rows(tmp_path) >= 2


@pytest.mark.parametrize("script", ["sleep 100", "trap 'exit 9' INT TERM; while :; do sleep 0.05; done"])
def test_ctrl_c_ends_the_command_and_completes_the_recording(script: str, tmp_path: Path) -> None:
    with agent() as url, terminal(tmp_path, (*RECORD, url, "--", "sh", "-c", f"echo ready; {script}")) as screen:
        screen.until("ready")
        screen.type("\x03")
        assert screen.wait() == 0
    assert rows(tmp_path) >= 1
    assert not (tmp_path / "out.parquet.recording").exists()


def test_the_line_does_not_wrap_on_a_narrow_terminal(tmp_path: Path) -> None:
    gone = [word for at in range(3) for word in ("--endpoint", f"http://127.0.0.1:{at + 1},source=somewhere{at}")]
    arguments = ("record", "-i", "20ms", "-o", "out.parquet", "--endpoint")
    with agent() as url, terminal(tmp_path, (*arguments, url, *gone), columns=40) as screen:
        screen.until("...\r")
        screen.type("\x03")
        assert screen.wait() == 0
    drawn = re.findall(r"\r\x1b\[K(0:0[^\r\n^]*)(?=[\r^])", screen.shown)
    assert drawn
    assert max(map(len, drawn)) < 40


def written(path: Path) -> bool:
    return path.exists() and path.read_text().endswith("\n")


def gone(pid: int) -> Callable[[], bool]:
    def look() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return look


def test_those_that_a_command_started_end_with_it(tmp_path: Path) -> None:
    """Also who takes no notice of SIGTERM, is stopped, or has gone into a group of its own."""
    script = """
    echo $$ > one
    setsid sh -c "trap '' TERM; echo \\$\\$ > two; while :; do sleep 0.05; done" &
    sh -c 'echo $$ > three; kill -STOP $$; sleep 100' &
    wait; while :; do sleep 1; done"""
    pids = []
    with agent() as url, running(tmp_path, "--url", url, "-i", "20ms", "--", "sh", "-c", script) as process:
        for name in ("one", "two", "three"):
            until(partial(written, tmp_path / name), process)
            pids.append(int((tmp_path / name).read_text()))
        os.kill(process.pid, 15)
        assert process.wait(PATIENCE_S) == 0
        process.communicate()
    for pid in pids:
        until(gone(pid))
