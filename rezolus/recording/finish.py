"""From segments to Parquet: the child process of a recorder, and the way back to a recording whose daemon is gone.

    python -m rezolus.recording.finish absorb FOLDER LAST    segments up to number LAST become row groups
    python -m rezolus.recording.finish finish FOLDER OUTPUT  all segments do, and the file gets its footer and name
    python -m rezolus.recording.finish dump FOLDER START END OUTPUT WORK  readings of a hindsight buffer, ns; says what in JSON

Segments that have become row groups are deleted. Either command may die at any point and be run again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

import msgspec

from rezolus.errors import UserError
from rezolus.recording.body import Body
from rezolus.recording.dump import dump
from rezolus.recording.segment import SegmentError
from rezolus.recording.store import folder_lock, segment_files, segment_number

DAMAGED = ".damaged"
NICENESS = 5
"""Turning segments into Parquet can wait for the sampling."""


def absorb(folder: Path, last: int) -> int:
    """Turn the folder's segments up to number `last` into row groups; returns their rows. Raises OSError, UserError."""
    with contextlib.closing(Body(folder)) as body:
        return _absorb(body, folder, last)


def finish(folder: Path, output: Path) -> int:
    """Turn what the folder holds into the Parquet file `output` and delete the folder; returns the rows.

    Without rows no file is written. Raises OSError and UserError.
    """
    with contextlib.closing(Body(folder)) as body:
        _absorb(body, folder, sys.maxsize)
        if body.rows:
            body.finish(output)
    if not any(path.suffix == DAMAGED for path in folder.iterdir()):
        # The folder above may belong to someone else, then an empty folder stays.
        shutil.rmtree(folder, ignore_errors=True)
    return body.rows


def recover(work: Path, output: Path) -> list[Path]:
    """Finish every recording that was left in the work folder of `output`; returns the files written.

    They are called after `output` and the time of their first reading, and lie beside it or, where that folder is
    closed to us, in the work folder. Recordings still being written are left
    alone. Raises OSError and UserError.
    """
    written = []
    for folder in sorted(path for path in work.iterdir() if path.is_dir()):
        with folder_lock(folder) as mine:
            if not mine:
                continue
            # Beside `output`, unless root made that file in a folder which we may not write to.
            place = output.parent if os.access(output.parent, os.W_OK) else work
            target = place / f"{output.stem}.recovered-{folder.name}{output.suffix}"
            if finish(folder, target):
                written.append(target)
    return written


def _absorb(body: Body, folder: Path, last: int) -> int:
    rows = 0
    for path in segment_files(folder):
        if segment_number(path) > last:
            break
        try:
            rows += body.absorb(path)
        except SegmentError as error:
            # One damaged file must not hold up the others; it stays for whoever wants to look into it.
            aside = path.with_suffix(DAMAGED)
            path.rename(aside)
            print(f"error: {error}; kept as {aside}", file=sys.stderr)  # noqa: T201 - the parent passes it on
        else:
            path.unlink()
    return rows


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    command, folder, operand, *more = arguments
    try:
        if command == "dump":
            os.nice(NICENESS)
            dumped = dump(Path(folder), int(operand), int(more[0]), Path(more[1]), more[2])
            print(msgspec.json.encode(dumped).decode())  # noqa: T201
        elif command == "absorb":
            os.nice(NICENESS)
            print(absorb(Path(folder), int(operand)))  # noqa: T201
        elif command == "recover":
            os.nice(NICENESS)
            for path in recover(Path(folder), Path(operand)):
                print(path)  # noqa: T201
        else:
            print(finish(Path(folder), Path(operand)))  # noqa: T201
    except OSError as error:
        place = error.filename2 or error.filename  # of a rename, the new name
        where = f"{place}: " if place else ""
        print(f"error: {where}{(error.strerror or str(error)).lower()}", file=sys.stderr)  # noqa: T201
        return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
