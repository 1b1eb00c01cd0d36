"""The command whose life is recorded.

It stays in our process group: one of its own would be in the background of the terminal, where the system stops whoever
reads from it. So those it started are found by their parents when it is to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from rezolus.errors import UserError

log = logging.getLogger(__name__)

GRACE_S = 2.0
"""Between SIGTERM and SIGKILL, and for the latter to do its work: what may not be killed, as `sudo`, is not waited for."""
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


async def run_command(arguments: Sequence[str], duration_s: float | None, hurry: trio.Event) -> Ended:
    """Run it with our standard streams and our terminal until it ends or its time is over.

    Cancelled, it ends the command first, without any patience once `hurry` is set; killed, the system does. Raises OSError
    when it cannot be started.
    """
    process = _start(arguments)
    try:
        with trio.move_on_after(duration_s if duration_s is not None else float("inf")) as limit:
            await _wait(process)
    finally:
        with trio.CancelScope(shield=True) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, hurry, patience)
                await _end(process)
                nursery.cancel_scope.cancel()
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
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - one system call, no lock
    )


async def _wait(process: subprocess.Popen[bytes]) -> None:
    fd = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)
    process.wait()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _end(process: subprocess.Popen[bytes]) -> None:
    """The command and those it started get SIGTERM, and who is left after `GRACE_S` SIGKILL; cancelled, at once."""
    if process.returncode is not None:
        return  # what it started in the background is its own business
    with contextlib.ExitStack() as stack:
        left: dict[int, int] = {}
        """pid to pidfd of those that were told to end."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in _family([process.pid, *(pid for pid, fd in left.items() if _lives(fd))]):
                with contextlib.suppress(ProcessLookupError):
                    if pid not in left:
                        left[pid] = os.pidfd_open(pid)
                        stack.callback(os.close, left[pid])
                    _send(left[pid], number)
            try:
                with trio.move_on_after(GRACE_S):
                    for fd in left.values():
                        await trio.lowlevel.wait_readable(fd)
                    break
            except trio.Cancelled:
                for fd in left.values():
                    with contextlib.suppress(ProcessLookupError):
                        _send(fd, signal.SIGKILL)
                raise
    if process.poll() is None:
        log.warning("the command (process %d) cannot be ended; it runs on", process.pid)


def _send(pidfd: int, number: signal.Signals) -> None:
    """Also to who is stopped. Raises ProcessLookupError."""
    with contextlib.suppress(PermissionError):
        for each in (number, signal.SIGCONT):
            signal.pidfd_send_signal(pidfd, each)


def _lives(pidfd: int) -> bool:
    """Whether the pid is still this process's."""
    with contextlib.suppress(PermissionError):
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return False
    return True


def _family(pids: Sequence[int]) -> list[int]:
    """These, who has one of them as parent, who has one of those, ..."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):  # gone meanwhile; no process
            pid = int(folder.name)
            parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    found = list(dict.fromkeys(pids))
    for pid in found:
        found += [child for child in children.get(pid, ()) if child not in found]
    return found
