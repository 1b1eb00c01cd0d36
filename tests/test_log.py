"""What the daemon says, to people and to the journal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SAYS = "from rezolus import log; log.start('info'); log.logger.info('fine'); log.logger.error('two\\nlines')"


def said(file: Path, *, stream: bool) -> str:
    """What goes to a file, of which the environment says that it is the journal or not."""
    with file.open("w") as output:
        found = os.fstat(output.fileno())
        journal = f"{found.st_dev}:{found.st_ino + (not stream)}"
        environment = {**os.environ, "JOURNAL_STREAM": journal}
        subprocess.run([sys.executable, "-c", SAYS], stderr=output, env=environment, check=True)
    return file.read_text()


def test_people_read_levels_as_words(tmp_path: Path) -> None:
    assert said(tmp_path / "log", stream=False) == "fine\nerror: two\nlines\n"


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    assert said(tmp_path / "log", stream=True) == "<6>fine\n<3>two\n<3>lines\n"


ACCEPTING = (
    "import logging; from rezolus import log; log.start('error'); trio = logging.getLogger('trio.serve_listeners')\n"
    "for _ in range(3):\n"
    "    try: raise OSError('no')\n"
    "    except OSError: trio.error('accept returned %s', 'EMFILE', exc_info=True)"
)


def test_a_lack_of_descriptors_is_said_once_and_without_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", ACCEPTING], stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == "error: accept returned EMFILE\n"
