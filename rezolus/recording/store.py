"""A folder of numbered segments: the newest is written, the older ones are sealed, the oldest can go."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rezolus.recording.output import free_name
from rezolus.recording.writer import SegmentWriter

SUFFIX = ".segment"
DAMAGED = ".damaged"
"""Suffix of a file that could not be used, or not all of it, and was set aside."""
DUMP_PREFIX = "dump-"
"""Of names in a buffer's folder that dumps work under."""

SPARE_BYTES = 1 << 20
"""What a dump takes beside its rows, at most: names and labels of some thousand series."""
SHRINKS = 2
"""A dump takes at most this part of its segments; two fifths were measured at 10 ms with series that come and go."""


class DumpResult(msgspec.Struct, frozen=True):
    """What became of a dump, as its process says it; without rows no file was written."""

    rows: int
    first_ns: int | None = None
    """Wall clock of the first reading."""
    last_ns: int | None = None
    """Wall clock of the last reading."""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Extent:
    """Which of a folder's segments are meant, by number; both ends belong to it."""

    first: int
    last: int
    """Less than `first`: none."""

    def __contains__(self, path: Path) -> bool:
        """Whether a segment is one of them."""
        return self.first <= segment_number(path) <= self.last


def segment_files(folder: Path) -> list[Path]:
    """The folder's segments, oldest first. Raises OSError."""
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.stem.isdecimal())


def dump_bytes(size: int) -> int:
    """Bytes that a dump of segments of `size` bytes needs at most."""
    return SPARE_BYTES + size // SHRINKS


def free_bytes(folder: Path) -> int:
    """Bytes that we may still write to the folder's file system. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def recordings_in(work: Path) -> list[Path]:
    """The folders of a work folder that are called after the start of a recording. Raises OSError."""
    return sorted(path for path in work.iterdir() if path.name.isdecimal() and path.is_dir() and not path.is_symlink())


def segment_number(path: Path) -> int:
    """Position of a segment in its recording."""
    return int(path.stem)


def create_segment(folder: Path, number: int, metadata: Mapping[str, str]) -> SegmentWriter:
    """Open segment `number` for writing. Raises OSError."""
    return SegmentWriter(folder / f"{number:08d}{SUFFIX}", metadata)


def aside_of(path: Path) -> Path:
    """The name under which a damaged file is kept; no earlier one has it."""
    return free_name(path.parent, path.stem, DAMAGED)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Own a recording's folder while the context lasts; gives False when another process does."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
