"""Hindsight in a whole daemon: with readings every 10 ms, and with the real agent in a process that is killed."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import trio

from rezolus.config import LOCAL, load
from rezolus.daemon import Daemon
from rezolus.sinks.hindsight import HindsightStatistics
from tests import needs
from tests.recording.replayed import readings_in
from tests.synthetic import SyntheticSource, Walk

ROOT = Path(__file__).parent.parent.parent
MS = 10**6


def hindsight(folder: Path, port: int = 0, more: str = "") -> str:
    return (
        f'[sinks.hind]\ntype = "hindsight"\npath = "{folder}/out.parquet"\nlisten = "127.0.0.1:{port}"\n'
        f'duration = "1m"\n{more}\n'
    )


def statistics(daemon: Daemon) -> HindsightStatistics:
    found = daemon.statistics().sinks["hind"]
    assert isinstance(found, HindsightStatistics)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Poll for what the daemon counts; the caller has the deadline."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)


async def test_dumps_beside_readings_every_10_ms_cost_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "rezolus.toml"
    path.write_text('[agent]\ninterval = "10ms"\n' + hindsight(tmp_path))
    daemon = Daemon(load(path), {LOCAL: SyntheticSource(Walk())})
    answers: list[httpx.Response] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: daemon.run(task_status=task_status))
            await until(lambda: statistics(daemon).written >= 100)
            url = f"http://{statistics(daemon).listen}"
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:

                async def ask(method: str, path: str) -> None:
                    answers.append(await client.request(method, path))

                async with trio.open_nursery() as asking:
                    for _ in range(3):
                        asking.start_soon(ask, "GET", "/dump")
                    asking.start_soon(ask, "POST", "/dump/file")
            daemon.stop()
    assert [answer.status_code for answer in answers] == [200] * 4
    stream = daemon.statistics().streams[0]
    assert (stream.lost, statistics(daemon).lost) == (0, 0)
    assert statistics(daemon).written == stream.delivered
    ticks = np.array([reading.monotonic_ns for reading in readings_in(tmp_path / "out.parquet.buffer")])
    assert len(ticks) == stream.delivered
    assert set(np.diff(ticks)) == {10 * MS}
    taken = pq.read_table(tmp_path / "out.parquet", columns=["timestamp"])["timestamp"].to_pylist()
    assert len(taken) >= 100
    assert taken == [reading.time_ns for reading in readings_in(tmp_path / "out.parquet.buffer")][: len(taken)]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """pytest's own are closed to the user that the daemon becomes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def rezolus(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon as users start it; killed in the end."""
    with config.with_suffix(".log").open("w") as said:
        child = subprocess.Popen([sys.executable, "-m", "rezolus", str(config)], cwd=ROOT, stderr=said)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def wait_for(what: Callable[[], bool], child: subprocess.Popen[bytes], log: Path) -> None:
    """Poll until it is so; the daemon must live meanwhile."""
    deadline = time.monotonic() + 30
    while child.poll() is None and time.monotonic() < deadline:
        try:
            if what():
                return
        except (httpx.TransportError, FileNotFoundError):
            pass  # not yet
        threading.Event().wait(0.02)
    pytest.fail(f"exit status {child.poll()}; it said: {log.read_text()}")


@pytest.mark.kernel
def test_the_real_agent_is_killed_and_the_next_one_has_its_readings(open_folder: Path) -> None:
    needs.bpf()
    port = free_port()
    config = open_folder / "rezolus.toml"
    log = config.with_suffix(".log")
    work = open_folder / "hind"
    agent = f'[agent]\ninterval = "20ms"\nlisten = "127.0.0.1:{free_port()}"\n'
    config.write_text(agent + hindsight(work, port))
    url = f"http://127.0.0.1:{port}"

    def held() -> int:
        count: int = httpx.get(f"{url}/status", trust_env=False).json()["snapshot_count"]
        return count

    with rezolus(config) as first:
        wait_for(lambda: held() > 100, first, log)
        before = held()
        first.send_signal(signal.SIGKILL)
        first.wait()
    with rezolus(config) as second:
        wait_for(lambda: held() > before + 50, second, log)
        whole = httpx.get(f"{url}/dump", timeout=30, trust_env=False)
        assert whole.status_code == 200
        second.send_signal(signal.SIGHUP)
        wait_for(lambda: (work / "out.parquet").stat().st_size > 0, second, log)
        status = httpx.get(f"{url}/status", trust_env=False).json()
        assert (status["lost"], status["error"]) == (0, None)
        second.send_signal(signal.SIGTERM)
        assert second.wait(10) == 0
    file = pq.ParquetFile(io.BytesIO(whole.content))
    assert file.metadata.num_rows >= before + 50
    metadata = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert metadata["sampling_interval_ms"] == "20"
    assert json.loads(metadata["systeminfo"])["cpus"] > 0
    assert "cpu_usage" in json.loads(metadata["descriptions"])
    assert "cpu_usage/user/0" in file.schema_arrow.names
    assert pq.read_metadata(work / "out.parquet").num_rows >= file.metadata.num_rows
