"""`rezolus fmt FILE...`: .rzl files in the one standard form."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

import click

from rezolus.errors import UserError


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Change nothing; list the files that are not in the standard form.")
def command(files: tuple[Path, ...], *, check: bool) -> int:
    """Lay out .rzl files in the one standard form.

    A file with errors is left as it is and its errors are reported; the other files are still formatted. Exit status 1
    when a file has errors or, with --check, when one is not in the standard form.
    """
    status = 0
    for file in files:
        try:
            text, formatted = _format(file)
        except UserError as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        if text == formatted:
            continue
        if check:
            print(file)
            status = 1
        else:
            _rewrite(file, formatted)
    return status


def _format(file: Path) -> tuple[str, str]:
    """The text of a file, and what it should be."""
    from dsl import CompileError, format_text

    try:
        # As bytes, because reading as text would hide line breaks that are not ours.
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        place = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise UserError(f"error: {file}: not UTF-8 text: {place}") from None
    except OSError as error:
        raise UserError(f"error: {file}: {(error.strerror or str(error)).lower()}") from None
    try:
        return text, format_text(str(file), text)
    except CompileError as error:
        raise UserError(str(error)) from None


def _rewrite(file: Path, text: str) -> None:
    """Replace a file in one step, so that nobody ever sees half of it; mode and owner stay, and so does a link to it."""
    target = file.resolve()
    before = target.stat()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(text.encode())
            out.flush()
            os.fsync(out.fileno())
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(out.fileno(), before.st_uid, before.st_gid)
            os.fchmod(out.fileno(), stat.S_IMODE(before.st_mode))
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
