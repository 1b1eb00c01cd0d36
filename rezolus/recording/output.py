"""How the finished file gets its name, and what it may replace.

A typing error in a path must not cost anybody a file, least of all when root makes it.
"""

from __future__ import annotations

import os
from pathlib import Path

from rezolus.errors import UserError
from rezolus.recording.store import sync_folder

PARQUET = b"PAR1"
SNAPSHOTS = (b"\x94\x92", b"\x95\x92", b"\x96\x92")
"""How a raw recording begins: an array of four to six elements, of which the first is a pair."""


def replaceable(fd: int) -> bool:
    """Whether the open, readable file is empty or a recording. Raises OSError."""
    begin = os.pread(fd, len(PARQUET), 0)
    return begin in (b"", PARQUET) or begin[:2] in SNAPSHOTS


def give_name(file: Path, output: Path) -> None:
    """Rename, or copy where the folder of `output` is not ours but the file is (made for us before privileges went).

    Raises OSError and UserError.
    """
    try:
        file.replace(output)
    except OSError:
        if not os.access(output, os.W_OK):
            raise
        _copy(file, output)
        file.unlink()
    else:
        sync_folder(output.parent)


def _copy(file: Path, output: Path) -> None:
    with file.open("rb") as source, output.open("r+b") as target:
        size = os.fstat(source.fileno()).st_size
        done = 0
        while done < size:
            copied = os.copy_file_range(source.fileno(), target.fileno(), size - done, done, done)
            if not copied:
                raise UserError(f"{file}: became shorter while it was copied to {output}")
            done += copied
        target.truncate(size)
        os.fsync(target.fileno())
