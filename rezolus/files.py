"""Reading files that somebody else names: never waiting for one, never more of it than was asked for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class NotRegularError(OSError):
    """A pipe, device or socket."""


def read_beginning(path: str | Path, most: int) -> bytes:
    """The first `most` bytes of a regular file. Raises OSError: NotRegularError, IsADirectoryError, or the system's own.

    Opened without blocking: nobody may ever write to a pipe that a configuration names, and root would wait for it.
    """
    with open(path, "rb", opener=_open) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotRegularError(errno.EINVAL, "not a regular file", os.fspath(path))
        return file.read(most)


def _open(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)
