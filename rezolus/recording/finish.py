"""From segments to Parquet: the child process of a recorder, and the way back to a recording whose daemon is gone.

    python -m rezolus.recording.finish absorb FOLDER LAST    segments up to number LAST become row groups
    python -m rezolus.recording.finish finish FOLDER OUTPUT  all segments do, and the file gets its footer and name; an
                                                             earlier recording of that name gets another one
    python -m rezolus.recording.finish replace FOLDER OUTPUT the same, but an earlier recording is replaced
    python -m rezolus.recording.finish recover WORK OUTPUT   what was left in a work folder becomes files
    python -m rezolus.recording.finish dump FOLDER START END OUTPUT WORK  readings of a hindsight buffer, ns; says what in JSON

Segments that have become row groups are deleted. Each command may die at any point and be run again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rezolus.errors import UserError
from rezolus.recording.body import Body, was_finished
from rezolus.recording.contents import check_folder, remove_folder
from rezolus.recording.dump import dump
from rezolus.recording.groups import INDEX
from rezolus.recording.output import give_name, set_aside
from rezolus.recording.raw import RAW, settle
from rezolus.recording.segment import Segment, SegmentError
from rezolus.recording.store import Extent, aside_of, folder_lock, recordings_in, segment_files, segment_number

NICENESS = 5
"""Turning segments into Parquet can wait for the sampling."""


def absorb(folder: Path, last: int) -> int:
    """Turn the folder's segments up to number `last` into row groups; returns their rows. Raises OSError, UserError."""
    with contextlib.closing(Body(folder)) as body:
        return _absorb(body, folder, last)


@dataclass(frozen=True, slots=True)
class Completed:
    """What became of a recording."""

    rows: int
    """In its file; without any there is none."""
    earlier: Path | None = None
    """What the recording that had the name before is called now; None when there was none, or it was replaced."""


def finish(folder: Path, output: Path) -> int:
    """Turn what the folder holds into the file `output` and delete the folder; returns the rows. What has the name is replaced.

    Without rows no file is written. What is damaged is kept, in the folder. Raises OSError and UserError; NotARecordingError
    when there is anything in the folder that no recorder put there.
    """
    return _finish(folder, output, None).rows


def finish_beside(folder: Path, output: Path) -> Completed:
    """The same, but an earlier recording of that name gets another one."""
    return _finish(folder, output, folder.parent)


def _finish(folder: Path, output: Path, aside: Path | None) -> Completed:
    check_folder(folder)
    done = (_finish_raw if (folder / RAW).exists() else _finish_parquet)(folder, output, aside)
    remove_folder(folder)
    return done


def _finish_parquet(folder: Path, output: Path, aside: Path | None) -> Completed:
    if not segment_files(folder) and not (folder / INDEX).exists():
        return Completed(0)
    with contextlib.closing(Body(folder)) as body:
        _absorb(body, folder, sys.maxsize)
        return Completed(body.rows, body.finish(output, aside=aside) if body.rows else None)


def _finish_raw(folder: Path, output: Path, aside: Path | None) -> Completed:
    found = settle(folder)
    if found.problem:
        _tell(found.problem)
    return Completed(found.rows, give_name(found.file, output, aside=aside) if found.rows else None)


class Recovered(msgspec.Struct, frozen=True):
    """What became of an unfinished recording."""

    folder: str
    file: str = ""
    """What was written; empty when there was nothing to write, or not all of it could be."""
    rows: int = 0
    problem: str = ""


def recover(folders: Iterable[Path], output: Path, *, yielding: bool = False) -> list[Recovered]:
    """Finish each recording of `output` that was left in one of the folders; those still being written are left alone.

    One that cannot be finished does not keep the others from it. `yielding`: a new recording is going to be called `output`,
    so one that got that name as it was killed gets the name of a recovered one. Raises OSError when a folder cannot be read.
    """
    outcomes = []
    for folder in folders:
        with folder_lock(folder) as mine:
            if mine and yielding and was_finished(folder):
                outcomes.append(_yield_name(folder, output))
            elif mine:
                outcomes.append(_recover_one(folder, recovered_name(folder, output)))
    return outcomes


def recovered_name(folder: Path, output: Path) -> Path:
    """What a recording that was left in `folder` is called: after `output` and its first reading, beside `output`.

    Where that folder is closed to us because root made the file for us, it stays in the work folder.
    """
    place = output.parent if os.access(output.parent, os.W_OK) else folder.parent
    return place / f"{output.stem}.recovered-{folder.name}{output.suffix}"


def _recover_one(folder: Path, target: Path) -> Recovered:
    try:
        rows = finish(folder, target)
    except (OSError, UserError) as error:
        return Recovered(str(folder), problem=explain(error))
    return Recovered(str(folder), str(target) if rows else "", rows)


def _yield_name(folder: Path, output: Path) -> Recovered:
    try:
        named = set_aside(output, folder.parent, recovered_name(folder, output).stem)
        finish(folder, output)
    except (OSError, UserError) as error:
        return Recovered(str(folder), problem=explain(error))
    return Recovered(str(folder), str(named or ""))


def explain(error: OSError | UserError) -> str:
    """What went wrong, with the place."""
    if isinstance(error, UserError):
        return str(error)
    place = error.filename2 or error.filename  # of a rename, the new name
    where = f"{place}: " if place else ""
    return f"{where}{(error.strerror or str(error)).lower()}"


def _absorb(body: Body, folder: Path, last: int) -> int:
    rows = 0
    for problem in body.problems:
        _tell(problem)
    for path in segment_files(folder):
        if segment_number(path) > last:
            break
        try:
            segment = Segment(path)
            if segment_number(path) > body.last_segment:
                rows += body.add(segment_number(path), segment)
            problem = segment.damage()
        except SegmentError as error:
            problem = str(error)
        if problem:
            # One damaged file must not hold up the others; it stays for whoever wants to look into it.
            aside = aside_of(path)
            path.rename(aside)
            _tell(f"{problem}; kept as {aside}")
        else:
            path.unlink()
    return rows


def _tell(problem: str) -> None:
    print(f"error: {problem}", file=sys.stderr)  # noqa: T201 - the parent passes it on


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    command, folder, operand, *more = arguments
    try:
        if command == "dump":
            os.nice(NICENESS)
            dumped = dump(
                Path(folder), int(operand), int(more[0]), Path(more[1]), more[2], Extent(int(more[3]), int(more[4]))
            )
            print(msgspec.json.encode(dumped).decode())  # noqa: T201
        elif command == "absorb":
            os.nice(NICENESS)
            print(absorb(Path(folder), int(operand)))  # noqa: T201
        elif command == "recover":
            os.nice(NICENESS)
            for outcome in recover(recordings_in(Path(folder)), Path(operand), yielding=True):
                _report(outcome)
            with contextlib.suppress(OSError):  # somebody is still at it, or it is not ours to remove
                Path(folder).rmdir()
        elif command == "replace":
            print(finish(Path(folder), Path(operand)))  # noqa: T201
        else:
            done = finish_beside(Path(folder), Path(operand))
            print(done.rows, *filter(None, [done.earlier]), sep="\n")  # noqa: T201
    except (OSError, UserError) as error:
        print(f"error: {explain(error)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _report(outcome: Recovered) -> None:
    """The file on stdout, or on stderr why there is none."""
    if outcome.file:
        print(outcome.file)  # noqa: T201
    elif outcome.problem:
        print(f"error: {outcome.folder} cannot be recovered: {outcome.problem}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
