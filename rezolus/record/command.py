"""The command whose life is recorded."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import trio

GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
TIMED_OUT = 124
"""Exit status when the command was ended because its time was over, as of timeout(1)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the command ended."""

    status: int
    """As a shell says it: its own, 128 + signal, or `TIMED_OUT`."""
    by_itself: bool


async def run_command(arguments: Sequence[str], duration_s: float | None) -> Ended:
    """Run it in a process group of its own, with our standard streams, until it ends or its time is over.

    Cancelled, it ends the command first. Raises OSError when it cannot be started.
    """
    process = await trio.lowlevel.open_process(list(arguments), process_group=0)
    try:
        with trio.move_on_after(duration_s if duration_s is not None else float("inf")) as limit:
            await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            await _end_group(process)
    if limit.cancelled_caught:
        return Ended(TIMED_OUT, by_itself=False)
    status = process.returncode or 0
    return Ended(status if status >= 0 else 128 - status, by_itself=True)


async def _end_group(process: trio.Process) -> None:
    """Whatever is left of the group gets SIGTERM and, if the command does not end from it, SIGKILL."""
    if process.returncode is not None:
        return  # what it started in the background is its own business
    _signal_group(process, signal.SIGTERM)
    with trio.move_on_after(GRACE_S):
        await process.wait()
        return
    _signal_group(process, signal.SIGKILL)
    await process.wait()


def _signal_group(process: trio.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
