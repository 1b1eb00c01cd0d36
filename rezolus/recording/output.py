"""How the finished file gets its name, and what it may replace.

A typing error in a path must not cost anybody a file, least of all when root makes it. Imports next to nothing: the root
helper has this module.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Literal

PARQUET = b"PAR1"
SNAPSHOTS = (b"\x94\x92", b"\x95\x92", b"\x96\x92")
"""How a raw recording begins: an array of four to six elements, of which the first is a pair."""


def replaceable(fd: int) -> bool:
    """Whether the open, readable file is empty or a recording. Raises OSError."""
    begin = os.pread(fd, len(PARQUET), 0)
    return begin in (b"", PARQUET) or begin[:2] in SNAPSHOTS


def give_name(file: Path, output: Path, *, aside: Path | None = None) -> Path | None:
    """Rename; between file systems copy and rename. So `output` is the old file or the whole new one at any time.

    With `aside`, a folder for where that of `output` is closed to us, an earlier recording is not replaced but gets another
    name, which is returned. Only where its folder is not ours but the file is (made for us before privileges went), it is overwritten in place.
    What is no recording is not replaced. Raises OSError.
    """
    refuse_others(output)
    earlier = None if aside is None else set_aside(output, aside)
    try:
        file.replace(output)
    except OSError:
        if os.access(output.parent, os.W_OK):
            _copy_beside(file, output)
        elif os.access(output, os.W_OK):
            _copy(file, output, "r+b")
        else:
            raise
        file.unlink()
    if os.access(output.parent, os.R_OK):
        sync_folder(output.parent)
    return earlier


def set_aside(output: Path, folder: Path, name: str = "") -> Path | None:
    """Give the recording that is called `output` another name; that, or None when there is none.

    Without `name` it is called after when it was complete (ns since 1970): that needs no look into a file of either format,
    of whatever program. Where the folder of `output` is closed to us it goes to `folder`, and `output` is left empty.
    Raises OSError.
    """
    refuse_others(output)
    try:
        found = output.stat()
    except FileNotFoundError:
        return None
    if not found.st_size:  # made for us beforehand
        return None
    beside = os.access(output.parent, os.W_OK)
    stem = name or f"{output.stem}.until-{found.st_mtime_ns}"
    target = free_name(output.parent if beside else folder, stem, output.suffix, but=output)
    if not beside:
        _copy_beside(output, target)
        sync_folder(folder)
        os.truncate(output, 0)
    elif not target.exists():
        try:
            target.hardlink_to(output)  # so the old name is there until it is the new recording's
        except OSError:  # a file system without, or somebody else's file
            output.rename(target)
    return target


def free_name(folder: Path, stem: str, suffix: str, *, but: Path | None = None) -> Path:
    """A path in the folder, with a number behind `stem` where that name is there already and is not the file `but`."""
    path, count = folder / f"{stem}{suffix}", 1
    while path.exists() and (but is None or not path.samefile(but)):
        count += 1
        path = folder / f"{stem}-{count}{suffix}"
    return path


def can_hold_files(folder: Path) -> None:
    """Whether we can make files there, and the folder too if need be. Raises OSError when not."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def sync_folder(folder: Path) -> None:
    """Make created, renamed and deleted names of the folder last. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def refuse_others(output: Path) -> None:
    """Raises FileExistsError or IsADirectoryError when a recording of this name would replace something else.

    OSError when that cannot be told.
    """
    try:
        fd = os.open(output, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(output))
        if not (stat.S_ISREG(mode) and replaceable(fd)):
            raise FileExistsError(
                errno.EEXIST, "exists and is no recording; remove it or choose another path", str(output)
            )
    finally:
        os.close(fd)


def _copy_beside(file: Path, output: Path) -> None:
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        _copy(file, beside, "xb")
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)


def _copy(file: Path, output: Path, mode: Literal["r+b", "xb"]) -> None:
    """Not with copy_file_range: it gives up between some file systems."""
    with file.open("rb") as source, output.open(mode) as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.truncate()
        target.flush()
        os.fsync(target.fileno())
