"""The base of every error that is the user's to mend: their input, their configuration, their system."""

from __future__ import annotations

import os


class UserError(Exception):
    """Its text is the complete report: what is wrong, where, and what to do. Never shown with a traceback."""


class ReportedError(UserError):
    """Of this the log has told already: all it still does is set the exit status."""


def reason(error: OSError) -> str:
    """What the system says, in the form of our messages: `NAME: no space left on device`, or without a name."""
    text = (error.strerror or str(error)).lower()
    return f"{os.fsdecode(error.filename)}: {text}" if isinstance(error.filename, str | bytes | os.PathLike) else text
