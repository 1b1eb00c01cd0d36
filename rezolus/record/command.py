"""The command whose life is recorded."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from rezolus.errors import UserError

GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
PR_SET_PDEATHSIG = 1
"""As of <linux/prctl.h>."""
TIMED_OUT = 124
"""Exit status when the command was ended because its time was over, as of timeout(1)."""


class CommandError(UserError):
    """The command cannot be run; the text says why."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the command ended."""

    status: int
    """As a shell says it: its own, 128 + signal, or `TIMED_OUT`."""
    by_itself: bool


async def run_command(arguments: Sequence[str], duration_s: float | None) -> Ended:
    """Run it in a process group of its own, with our standard streams, until it ends or its time is over.

    Cancelled, it ends the command first; killed, the system does. Raises OSError when it cannot be started.
    """
    process = _start(arguments)
    try:
        with trio.move_on_after(duration_s if duration_s is not None else float("inf")) as limit:
            await _wait(process)
    finally:
        with trio.CancelScope(shield=True):
            await _end_group(process)
    if limit.cancelled_caught:
        return Ended(TIMED_OUT, by_itself=False)
    status = process.returncode or 0
    return Ended(status if status >= 0 else 128 - status, by_itself=True)


def look_up(command: str) -> None:
    """Raises CommandError when there is no such command, as far as can be told without starting it."""
    if shutil.which(command) is not None:
        return
    if os.sep not in command:
        raise CommandError(f"cannot run {command}: there is no such command in PATH")
    missing = not Path(command).exists()
    raise CommandError(
        f"cannot run {command}: {'no such file or directory' if missing else 'it is no executable file'}"
    )


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """From this thread, the main one: trio would use another, and its end is the parent's death to the system."""
    libc = ctypes.CDLL(None)
    return subprocess.Popen(
        list(arguments),
        process_group=0,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - one system call, no lock
    )


async def _wait(process: subprocess.Popen[bytes]) -> None:
    fd = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)
    process.wait()


async def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of the group gets SIGTERM and, if the command does not end from it, SIGKILL."""
    if process.returncode is not None:
        return  # what it started in the background is its own business
    _signal_group(process, signal.SIGTERM)
    with trio.move_on_after(GRACE_S):
        await _wait(process)
        return
    _signal_group(process, signal.SIGKILL)
    await _wait(process)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
