"""Output for people: one console for all commands."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PIPE_COLUMNS = 140
"""Width of tables that do not go to a terminal; COLUMNS overrides it."""


class _Console(Console):
    """rich ends the program with status 1 when the reader of a pipe goes away; here that is an error like any other."""

    def on_broken_pipe(self) -> None:
        """Called while a BrokenPipeError is being handled."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr: as wide as the terminal, in a pipe wide enough for our tables, without codes there."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_COLUMNS
    return _Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)
