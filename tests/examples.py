"""The shipped examples, made to fit where a test runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import needs

EXAMPLES = Path(__file__).parent.parent / "examples"
_PLACE = "/tmp/shop"
"""Where the example says that its program is."""


def build(source: Path, target: Path) -> None:
    """Compile a program of one C file, with its functions' names."""
    subprocess.run([needs.program("cc", "gcc"), "-O1", "-g", "-o", str(target), str(source)], check=True)


def application(folder: Path) -> Path:
    """A copy of `application.rzl` for a program `shop` built beside it."""
    program, copy = folder / "shop", folder / "application.rzl"
    build(EXAMPLES / "shop.c", program)
    copy.write_text((EXAMPLES / copy.name).read_text().replace(_PLACE, str(program)))
    return copy
