"""Output for people: one console for all commands."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PIPE_COLUMNS = 140
"""Width of tables that do not go to a terminal; COLUMNS overrides it."""


def console() -> Console:
    """A console on stdout: as wide as the terminal, in a pipe wide enough for our tables, without codes there."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPE_COLUMNS
    return Console(width=width, highlight=False, soft_wrap=False)
