"""Recordings that nobody finished: found by any of the names a user may know of them, and finished."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rezolus.errors import UserError
from rezolus.outputs import WORK_SUFFIX, output_of, work_folder, work_folders
from rezolus.recording.body import BODY, Body, was_finished
from rezolus.recording.contents import check_folder, clear_folder, is_recording, remove_folder
from rezolus.recording.dump import dump
from rezolus.recording.finish import Recovered, explain, finish, recover, recovered_name
from rezolus.recording.groups import INDEX
from rezolus.recording.output import free_name
from rezolus.recording.raw import RAW
from rezolus.recording.ring import FULL
from rezolus.recording.segment import Segment
from rezolus.recording.store import DAMAGED, DUMP_PREFIX, SUFFIX, folder_lock, recordings_in, segment_files

COMPLETE = "is complete and has the name it was to have; only this folder had been left, and is removed"


class RescueError(UserError):
    """There is nothing to recover, or it cannot be; the text says what was looked at."""


def rescue(path: Path, output: Path | None) -> list[Recovered]:
    """Finish what was left of recordings at `path`: a work folder, a recording in it, the name of an output, a segment.

    The folder of a rolling buffer and single segments are read and stay as they are. `output` names the file
    where there is one recording. Raises RescueError.
    """
    try:
        return _rescue(path, output)
    except OSError as error:
        raise RescueError(f"{output or path}: cannot be recovered: {explain(error)}") from error


def _rescue(path: Path, output: Path | None) -> list[Recovered]:
    if path.is_file() and path.suffix == SUFFIX:
        return [_copy(path, output or _unused(path.with_suffix(".recovered.parquet")))]
    if "%" in path.name and not path.exists():
        return _finish_matching(path, output)
    folder = _folder(path)
    if folder.name.isdecimal() and is_recording(folder) and _is_begun(folder):
        return [_finish(folder, output or recovered_name(folder, _output_of(folder.parent)))]
    if any(path.is_file() for path in segment_files(folder)):
        if (folder / INDEX).exists():
            raise RescueError(
                f"{folder}: has an index of row groups, so it was the folder of a recorder, which is called after "
                "the start in nanoseconds and has nothing else in it; give it such a name and recover that"
            )
        return [_dump(folder, output or _unused(folder.with_name(f"{folder.stem}.recovered.parquet")))]
    return _finish_all(folder, output)


def _is_begun(folder: Path) -> bool:
    """Whether a recorder has this folder, and not a buffer: both have segments."""
    return folder.parent.name.endswith(WORK_SUFFIX) or any((folder / name).exists() for name in (BODY, INDEX, RAW))


def _unused(path: Path) -> Path:
    """The path, with a number where it is there already: nobody has asked for that one to be replaced."""
    return free_name(path.parent, path.stem, path.suffix)


def _folder(path: Path) -> Path:
    """The folder that is meant by `path`."""
    if path.is_dir():
        return path
    work = work_folder(path)
    if work.is_dir():
        return work
    there = "" if path.exists() else f"{path}: no such file or folder, and "
    raise RescueError(f"{there}there is no folder {work} of an unfinished recording; nothing to recover")


def _output_of(work: Path) -> Path:
    """Of which file a folder is the work folder; for others a name like its own."""
    return output_of(work) if work.name.endswith(WORK_SUFFIX) else work / "recording.parquet"


def _finish_matching(path: Path, output: Path | None) -> list[Recovered]:
    """All recordings of a path with the time in its name; those that are still written are none to recover."""
    works = work_folders(path)
    if not works:
        raise RescueError(f"{path}: there is no folder of an unfinished recording of such a name; nothing to recover")
    if output is not None and len(works) > 1:
        raise RescueError(
            f"{path}: there are {len(works)} folders of such names, so none can be called {output}; name one of them"
        )
    outcomes: list[Recovered] = []
    for work in works:
        try:
            outcomes += _finish_all(work, output)
        except RescueError as error:
            outcomes.append(Recovered(str(work), problem=str(error).removeprefix(f"{work}: ")))
    return outcomes


def _finish_all(work: Path, output: Path | None) -> list[Recovered]:
    folders = recordings_in(work)
    if not work.name.endswith(WORK_SUFFIX):  # a copy, or any folder of the user's
        folders = list(filter(is_recording, folders))
    if not folders:
        raise RescueError(f"{work}: holds no recording and no segments; nothing to recover")
    if output is not None and len(folders) > 1:
        raise RescueError(
            f"{work}: holds {len(folders)} recordings, so none can be called {output}; name one of the folders in it"
        )
    if output is not None:
        outcomes = [_finish(folders[0], output)]
    else:
        named = {str(path) for path in folders if was_finished(path)}
        outcomes = [
            msgspec.structs.replace(outcome, problem=COMPLETE) if outcome.folder in named else outcome
            for outcome in recover(folders, _output_of(work))
        ]
        if not outcomes:
            raise RescueError(f"{work}: is still being recorded to")
    with contextlib.suppress(OSError):  # others are there still
        work.rmdir()
    return outcomes


def _finish(folder: Path, target: Path) -> Recovered:
    with folder_lock(folder) as mine:
        if not mine:
            raise RescueError(f"{folder}: is still being recorded to")
        named = was_finished(folder)
        try:
            rows = (
                finish(folder, target) if named or not _is_elsewhere(target, folder) else _finish_copy(folder, target)
            )
        except OSError as error:
            more = "; make room, or name a file on another disk with --output" if error.errno in FULL else ""
            return Recovered(str(folder), problem=explain(error) + more)
        except UserError as error:
            return Recovered(str(folder), problem=explain(error))
    return Recovered(str(folder), str(target) if rows else "", rows, COMPLETE if named else "")


def _is_elsewhere(target: Path, folder: Path) -> bool:
    """Whether the file is to be on another file system: the one of the folder may be full, which is why."""
    return target.parent.stat().st_dev != folder.stat().st_dev


def _finish_copy(folder: Path, target: Path) -> int:
    """As `finish`, but all that is written is written beside the file. Raises OSError and UserError."""
    check_folder(folder)
    with _workshop(target) as work:
        for path in folder.iterdir():
            if path.suffix != DAMAGED:
                shutil.copyfile(path, work / path.name)
        rows = finish(work, target)
    if rows:
        remove_folder(folder)
    return rows


@contextlib.contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """An empty folder beside the file, which goes; one that a killed recovery left is used again.

    Raises OSError, and RescueError when somebody is at it.
    """
    work = target.with_name(f".{target.name}.recovering")
    work.mkdir(exist_ok=True)
    with folder_lock(work) as mine:
        if not mine:
            raise RescueError(f"{work}: another recovery is working on {target.name}")
        clear_folder(work)
        try:
            yield work
        finally:
            if work.is_dir():
                remove_folder(work)


def _copy(segment: Path, target: Path) -> Recovered:
    """A recording of the readings in a segment, made in a folder beside it that goes afterwards."""
    with _workshop(target) as work, contextlib.closing(Body(work)) as body:
        found = Segment(segment)
        if damage := found.damage():
            print(f"error: {damage}", file=sys.stderr)  # noqa: T201 - as of `finish`
        rows = body.add(0, found)
        if rows:
            body.finish(target)
    return Recovered(str(segment), str(target) if rows else "", rows)


def _dump(buffer: Path, target: Path) -> Recovered:
    name = f"{DUMP_PREFIX}recover-{os.getpid()}"
    if _is_elsewhere(target, buffer):
        name = str(target.absolute().with_name(f".{target.name}.{name}"))
    rows = dump(buffer, 0, 2**64 - 1, target, name).rows
    return Recovered(str(buffer), str(target) if rows else "", rows)
