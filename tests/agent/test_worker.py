"""Completing a recording in a worker: as the unprivileged user, with nothing imported late."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from rezolus.agent.helper import Helper
from rezolus.agent.launch import start_helper
from rezolus.agent.supervisor import Children
from rezolus.agent.worker import run_worker
from rezolus.bpf.handover import send
from tests import needs

ECHO = """
import os
def main(arguments):
    print(os.getuid(), *arguments)
    return 3
"""


def _work(channel: socket.socket) -> None:
    run_worker(channel, "a_module_for_the_worker", "nobody")


async def test_a_worker_does_what_it_is_told_as_another_user(tmp_path: Path) -> None:
    needs.root()
    (tmp_path / "a_module_for_the_worker.py").write_text(ECHO)
    sys.path.insert(0, str(tmp_path))  # readable by root only: the worker imports before it gives up root
    os.chmod(tmp_path, 0o700)
    try:
        helper = Helper(start_helper(Children(load=lambda channel: None, work=_work)), loading=True)
    finally:
        sys.path.remove(str(tmp_path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(helper.run)
        outcome = await helper.work(["a", "b"])
        nursery.cancel_scope.cancel()
    helper.close()
    assert (outcome.status, outcome.stdout.split()) == (3, ["65534", "a", "b"])


def test_what_a_worker_did_is_told_when_nobody_waits_for_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    needs.root()
    (tmp_path / "a_module_for_the_worker.py").write_text(ECHO)
    sys.path.insert(0, str(tmp_path))
    ours, theirs = socket.socketpair()
    send(ours, ["a", "b"])
    ours.shutdown(socket.SHUT_RD)
    pid = os.fork()
    if pid == 0:
        try:
            _work(theirs)
            os._exit(0)
        finally:
            os._exit(1)
    sys.path.remove(str(tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    ours.close()
    theirs.close()
    assert capfd.readouterr().err == "65534 a b (done by a worker that was not waited for)\n"


def test_writing_parquet_imports_nothing_that_was_not_imported_before(tmp_path: Path) -> None:
    """It is done by a user who may not be able to read our packages."""
    code = """
import sys
from pathlib import Path
from rezolus.recording.finish import finish
"""
    code += RECORD
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3"]


RECORD = """
from rezolus.recording.store import create_segment
from tests.synthetic import Walk
folder = Path(sys.argv[1]) / "work"
folder.mkdir()
writer = create_segment(folder, 0, {})
for reading in Walk().run(3): writer.append(reading)
writer.close()
late = []
sys.addaudithook(lambda event, what: late.append(what[0]) if event == "import" else None)
rows = finish(folder, Path(sys.argv[1]) / "out.parquet")
assert not late, late
print(rows)
"""


def test_the_root_helper_stays_small() -> None:
    """It is forked with what is imported then and lives as long as the daemon."""
    code = "import sys, rezolus.agent.launch; print(*({'numpy', 'msgspec', 'trio', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.split() == []
