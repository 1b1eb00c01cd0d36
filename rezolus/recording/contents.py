"""What may lie in a recording's folder. A folder with anything else in it is somebody's own: nothing in it is touched.

People name folders after years and files `index`. So neither a name made of digits nor a known file name is enough: the
files have to begin as ours do.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from rezolus.errors import UserError
from rezolus.recording.body import BODY, ENTRIES
from rezolus.recording.groups import INDEX, MENDED, begins_index
from rezolus.recording.output import PARQUET, SNAPSHOTS
from rezolus.recording.raw import ENDS, RAW
from rezolus.recording.store import DAMAGED, SUFFIX

_NAMES = {BODY, ENTRIES, INDEX, MENDED, RAW, ENDS}
_ASIDE = re.compile(rf"(\d+|{BODY}|{INDEX}|{RAW})(-\d+)?{re.escape(DAMAGED)}")
"""Names of what was kept because it could not be used."""


class NotARecordingError(UserError):
    """The folder is not one that a recorder made; the text says why. Nothing was done to it."""


def is_recording(folder: Path) -> bool:
    """Whether a recorder's files are in the folder, with something in them, and nothing else is. Raises OSError."""
    return _stranger(folder) is None and any(map(_shows_recorder, folder.iterdir()))


def check_folder(folder: Path) -> None:
    """Raises NotARecordingError when the folder is somebody's own, and OSError.

    A recorder that was killed early leaves files with nothing in them, or none.
    """
    stranger = _stranger(folder)
    if stranger is not None:
        raise NotARecordingError(
            f"{folder}: is no folder of a recorder: it has {stranger!r} in it; nothing was done to it"
        )
    if not any(map(_shows_recorder, folder.iterdir())):
        for path in folder.iterdir():
            if not _is_of_no_use(path):
                raise NotARecordingError(
                    f"{folder}: is no folder of a recorder: {path.name!r} is none of its files; nothing was done to it"
                )


def remove_folder(folder: Path) -> None:
    """Remove a recorder's folder, which `check_folder` has seen; with what is kept as damaged it stays. Raises OSError."""
    clear_folder(folder)
    with contextlib.suppress(OSError):  # that; or the folder above is not ours, then an empty one stays
        folder.rmdir()


def clear_folder(folder: Path) -> None:
    """Unlink a recorder's files but for what is kept as damaged. Raises OSError."""
    for path in [path for path in folder.iterdir() if _is_known(path)]:
        if path.suffix != DAMAGED:
            path.unlink()


def _stranger(folder: Path) -> str | None:
    """The name of something in it that no recorder makes."""
    return next((path.name for path in sorted(folder.iterdir()) if not _is_known(path)), None)


def _is_known(path: Path) -> bool:
    segment = path.suffix == SUFFIX and path.stem.isdecimal()
    named = segment or path.name in _NAMES or _ASIDE.fullmatch(path.name) is not None
    return named and path.is_file() and not path.is_symlink()


def _shows_recorder(path: Path) -> bool:
    """Whether the file is one that only a recorder makes: by a name of its own, or by how it begins."""
    if path.suffix == SUFFIX or path.name == ENDS:
        return True
    if path.name == INDEX:
        return begins_index(path)
    begin = _begin(path)
    if path.name == BODY:
        return begin[:-1] == PARQUET
    return path.name == RAW and begin[:2] in SNAPSHOTS


def _is_of_no_use(path: Path) -> bool:
    """Whether nothing is lost with the file: it is empty or a bare beginning. What is damaged stays in any case."""
    begin = _begin(path)
    return path.suffix == DAMAGED or not begin or (path.name == BODY and PARQUET.startswith(begin))


def _begin(path: Path) -> bytes:
    """The first bytes, one more than there are in a body with nothing in it."""
    with path.open("rb") as file:
        return file.read(len(PARQUET) + 1)
