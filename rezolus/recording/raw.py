"""Raw recordings: snapshots as they are on the wire, one after the other, and nothing else.

Where one snapshot ends only its own contents say. A second file therefore notes the length of the first after each of
them, so that whoever goes on need not take anything apart. The two stand in the recording's work folder; finished, the first
gets the output's name and the second goes. A power cut may take the notes and leave the snapshots: whole ones count whether
they were noted or not, and what a killed process or a full disk left of the last one is cut off.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rezolus.reading import Reading
from rezolus.recording.groups import write_at
from rezolus.recording.output import SNAPSHOTS
from rezolus.recording.split import BadMessageError, CutOffError, message_end
from rezolus.recording.store import aside_of

RAW = "raw"
ENDS = "raw.ends"
TORN = 4
"""What breaks off is taken for the beginning of a snapshot up to this times the mean length; more than that is damage."""
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


@dataclass(frozen=True, slots=True)
class Settled:
    """A raw recording of which nothing more is to come."""

    file: Path
    rows: int
    problem: str = ""
    """What is wrong with what follows the last whole snapshot, and where all of it is kept; a sentence for users."""


def settle(folder: Path) -> Settled:
    """Cut a raw recording to its last whole snapshot and bring it to the disk. Raises OSError.

    What follows that and is not just the beginning of another is damage: the file is kept as it was.
    """
    path = folder / RAW
    fds = []
    try:
        fds = [_open(path), _open(folder / ENDS)]
        size, rows = _last_end(fds[0], fds[1])
        found = _whole_behind(fds[0], size)
        size, rows = found.end, rows + found.rows
        rest = os.fstat(fds[0]).st_size - size
        problem = ""
        if not found.torn or rest > TORN * size // max(rows, 1):
            aside = aside_of(path)
            (shutil.copyfile if rows else Path.rename)(path, aside)
            problem = f"{path}: is damaged behind byte {size}; {rows} readings before it are good; kept as {aside}"
        if path.exists():
            os.ftruncate(fds[0], size)
            os.fsync(fds[0])
    finally:
        for fd in fds:
            os.close(fd)
    return Settled(path, rows, problem)


@dataclass(frozen=True, slots=True)
class _Behind:
    """What follows a place in a raw recording."""

    rows: int
    """Whole snapshots."""
    end: int
    """Where the last of them ends."""
    torn: bool
    """Whether nothing follows, or the mere beginning of a snapshot."""


def _whole_behind(raw: int, at: int) -> _Behind:
    """Take the file apart from `at` on. Raises OSError."""
    size = os.fstat(raw).st_size
    if at >= size:
        return _Behind(0, at, torn=True)
    rows = 0
    with mmap.mmap(raw, 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
        while at < size:
            begin = bytes(view[at : at + len(SNAPSHOTS[0])])
            if begin not in SNAPSHOTS:
                return _Behind(rows, at, torn=len(begin) == 1 and any(known.startswith(begin) for known in SNAPSHOTS))
            try:
                at = message_end(view, at)
            except CutOffError:
                return _Behind(rows, at, torn=True)
            except BadMessageError:
                return _Behind(rows, at, torn=False)
            rows += 1
    return _Behind(rows, at, torn=True)


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
