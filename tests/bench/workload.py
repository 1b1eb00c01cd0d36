"""What runs while something is measured."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

ROUNDS = 200
"""Of a repeat: about a millisecond, so short that one of many is left alone by everything else on the machine."""


@cache
def pipes_program() -> Path:
    """The compiled `pipes.c`; lies in a folder of its own that the system cleans up."""
    folder = Path(tempfile.gettempdir()) / "rezolus-bench"
    folder.mkdir(exist_ok=True)
    source = Path(__file__).with_name("pipes.c")
    program = folder / "pipes"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    return program


def pass_bytes(repeats: int, rounds: int = ROUNDS) -> int:
    """Nanoseconds of one round between two processes, the best of `repeats`."""
    command = [str(pipes_program()), str(rounds), str(repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)
