"""Raw recordings: snapshots as they are on the wire, one after the other, and nothing else.

Where one snapshot ends only its own contents say. A second file therefore notes the length of the first after each of
them: what lies behind the last noted length, a killed process or a full disk left there. The two stand in the
recording's work folder; finished, the first gets the output's name and the second goes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from rezolus.reading import Reading
from rezolus.recording.groups import write_at

RAW = "raw"
ENDS = "raw.ends"
_END = 8
"""Bytes of a noted length."""


class RawWriter:
    """Appends readings; one owner at a time. What `append` returned from survives the process."""

    def __init__(self, folder: Path, encode: Callable[[Reading], bytes]) -> None:
        """Begin, or go on behind the last whole snapshot. Raises OSError."""
        self._encode = encode
        self._fds: list[int] = []
        try:
            self._fds = [_open(folder / RAW), _open(folder / ENDS)]
            self.size, self.rows = _last_end(self._fds[0], self._fds[1])
            self._cut()
        except OSError:
            self.close()
            raise

    def append(self, reading: Reading) -> int:
        """Write one reading; returns the bytes it took. After an error (a full disk) the files are as before."""
        body = self._encode(reading)
        size = self.size + len(body)
        try:
            write_at(self._fds[0], body, self.size)
            write_at(self._fds[1], size.to_bytes(_END, "little"), self.rows * _END)
        except OSError:
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self.size = size
        self.rows += 1
        return len(body)

    def sync(self) -> None:
        """Bring what was appended to the disk itself, the snapshot before its end. Raises OSError."""
        for fd in self._fds:
            os.fdatasync(fd)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        while self._fds:
            os.close(self._fds.pop())

    def _cut(self) -> None:
        os.ftruncate(self._fds[0], self.size)
        os.ftruncate(self._fds[1], self.rows * _END)


def settle(folder: Path) -> tuple[Path, int]:
    """Cut a raw recording to its last whole snapshot and bring it to the disk: its file and how many there are.

    Raises OSError.
    """
    fds = []
    try:
        fds = [_open(folder / RAW), _open(folder / ENDS)]
        size, rows = _last_end(fds[0], fds[1])
        os.ftruncate(fds[0], size)
        os.fsync(fds[0])
    finally:
        for fd in fds:
            os.close(fd)
    return folder / RAW, rows


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _last_end(raw: int, ends: int) -> tuple[int, int]:
    """Length up to the last whole snapshot, and how many there are."""
    there = os.fstat(raw).st_size
    rows = os.fstat(ends).st_size // _END
    while rows:
        end = int.from_bytes(os.pread(ends, _END, (rows - 1) * _END), "little")
        if 0 < end <= there:
            return end, rows
        rows -= 1  # noted, but the snapshot did not reach the disk
    return 0, 0
