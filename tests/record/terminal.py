"""A terminal and a program that has it, as a user's shell would start it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cli.command import ROOT

PATIENCE_S = 60.0


class Terminal:
    """What is shown there, and the keys."""

    def __init__(self, fd: int, pid: int) -> None:
        self.fd = fd
        self.pid = pid
        self.shown = ""
        self._status: int | None = None

    def until(self, text: str, *, times: int = 1) -> None:
        """Wait until it is shown, so many times."""
        deadline = time.monotonic() + PATIENCE_S
        while self.shown.count(text) < times:
            assert time.monotonic() < deadline, self.shown
            assert self._look(), self.shown

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.fd, text.encode())

    def wait(self) -> int:
        """The program's exit status, when it ends."""
        deadline = time.monotonic() + PATIENCE_S
        while self._status is None:
            assert time.monotonic() < deadline, self.shown
            self._look()
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self._status = os.waitstatus_to_exitcode(status)
        while self._look():
            pass
        return self._status

    def end(self) -> None:
        """Whatever still runs is killed."""
        if self._status is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def _look(self) -> bool:
        """Take what is shown by now; False when nobody has the terminal any more."""
        if select.select([self.fd], [], [], 0.05)[0]:
            try:
                more = os.read(self.fd, 65536)
            except OSError:
                return False
            self.shown += more.decode(errors="replace").replace("\r\n", "\n")
        return True


@contextmanager
def terminal(folder: Path, arguments: Sequence[object], *, columns: int = 80) -> Iterator[Terminal]:
    """`rezolus` in the foreground of a terminal of its own."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(folder)
        command = [sys.executable, "-m", "rezolus", *map(str, arguments)]
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"})
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    screen = Terminal(fd, pid)
    try:
        yield screen
    finally:
        screen.end()
