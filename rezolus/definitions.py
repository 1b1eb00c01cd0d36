"""Definition files: found by name or pattern, read, and compiled for a host.

The one way from `.rzl` files to the compiler, for the commands and for the daemon's loader.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dsl import Checked, Compiled, Parsed, check_each, compile_unit, parse_files
from dsl.facts import TargetFacts
from dsl.schema import TaskMemory
from rezolus.errors import UserError
from rezolus.files import read_beginning

MAXIMUM_BYTES = 4 << 20
"""Read of one file; what is larger is no definition, and could be endless."""

Enabled = Callable[[str], bool]
"""Whether the sampler of this name is wanted."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be read."""

    path: str
    reason: str
    """`no such file or directory`"""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Texts:
    """What was read, by path as given."""

    texts: Mapping[str, str]
    unreadable: tuple[Unreadable, ...]

    def complete(self) -> Mapping[str, str]:
        """The texts; UserError with every file that could not be read."""
        if self.unreadable:
            raise UserError("\nerror: ".join(map(str, self.unreadable)))
        return self.texts


def find_files(names: Iterable[str | Path]) -> tuple[str, ...]:
    """The files that names and patterns (`probes/*.rzl`) stand for, each once, a pattern's in order of name.

    What exists is no pattern, and a pattern without a match stays as it is, for the reader to report.
    """
    found: dict[str, None] = {}
    for name in map(str, names):
        matches = [] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - may be absolute
        found.update(dict.fromkeys(matches or [name]))
    return tuple(found)


def read_files(paths: Iterable[str | Path]) -> Texts:
    """Read files of definitions; those that cannot be read are in the result with the reason."""
    texts: dict[str, str] = {}
    unreadable = []
    for path in map(str, paths):
        try:
            texts[path] = read_file(path)
        except UnicodeDecodeError as error:
            place = f"byte {error.start} is {error.object[error.start]:#04x}"
            unreadable.append(Unreadable(path, f"is not UTF-8 text: {place}"))
        except IsADirectoryError:
            unreadable.append(Unreadable(path, f"is a directory; name its files: {path.rstrip('/')}/*.rzl"))
        except OSError as error:
            unreadable.append(Unreadable(path, (error.strerror or str(error)).lower()))
    return Texts(texts, tuple(unreadable))


def read_file(path: str) -> str:
    """The text of a regular file. Raises OSError and UnicodeDecodeError."""
    content = read_beginning(path, MAXIMUM_BYTES + 1)
    if len(content) > MAXIMUM_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content.decode()


def parse(texts: Mapping[str, str]) -> Parsed:
    """Parse files and what they `use`; errors are in the result."""
    return parse_files(texts, read_file)


def compiler(
    parsed: Parsed, facts: TargetFacts, checked: Checked, enabled: Enabled, before: TaskMemory | None = None
) -> Callable[[Enabled], Compiled]:
    """Compiles the samplers of `checked`, or fewer of them: what isolating a sampler at fault takes.

    `enabled` is what `checked` was checked with, `before` as of `compile_unit`.
    """
    names = frozenset(sampler.name for sampler in checked.unit.samplers)

    def compile_samplers(wanted: Enabled) -> Compiled:
        chosen = frozenset(name for name in names if wanted(name))
        if chosen == names:
            return compile_unit(checked.unit, facts, before)
        fewer = check_each(parsed, facts, lambda name: enabled(name) and name in chosen)
        return compile_unit(fewer.unit, facts, before)

    return compile_samplers
