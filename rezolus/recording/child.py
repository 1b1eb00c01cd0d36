"""Who runs `rezolus.recording.finish` for the recorder: by default a child process of the daemon's."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

import rezolus

PACKAGE_ROOT = Path(rezolus.__file__).resolve().parent.parent

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""What numpy should know before it is imported: no thread there has anything to do."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How it went."""

    status: int
    """Exit status; negative: killed by that signal."""
    stdout: str
    stderr: str


Finisher = Callable[[list[str]], Awaitable[Finished]]
"""Runs the commands of `rezolus.recording.finish`. Raises OSError when it cannot be started."""


async def finish_in_child(arguments: list[str]) -> Finished:
    """The default `Finisher`: needs an interpreter and packages that this user can read."""
    done = await trio.run_process(
        [sys.executable, "-P", "-m", "rezolus.recording.finish", *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(PACKAGE_ROOT)},
        # Ctrl-C reaches the whole process group; the child has to end its work.
        start_new_session=True,
    )
    return Finished(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def not_started(error: OSError) -> str:
    """For the user: why a `Finisher` could not be started. An interpreter below /root is nothing to the daemon's user."""
    text = f"cannot start the Parquet writer: {(error.strerror or str(error)).lower()}"
    return f"{text}: {error.filename}; the daemon's user must be able to run it" if error.filename else text
