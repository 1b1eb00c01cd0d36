"""The three services as whoever runs Rezolus has them: its files, its commands, one process each."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from tests import needs

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 60.0

pytestmark = pytest.mark.kernel


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


@contextmanager
def service(folder: Path, *arguments: str) -> Iterator[None]:
    """A service until the end of the block; it must end well and have nothing to complain of."""
    log = folder / f"{arguments[-1]}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "rezolus", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)
    try:
        yield
        process.terminate()
        assert process.wait(DEADLINE_S) == 0, log.read_text()
        assert "error" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def answer(url: str, wanted: Callable[[httpx.Response], bool], folder: Path) -> httpx.Response:
    """The first answer that is as wanted."""
    deadline = time.monotonic() + DEADLINE_S
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = response = httpx.get(url, trust_env=False)
            if response.status_code == 200 and wanted(response):
                return response
        except httpx.TransportError as error:
            last = error
        threading.Event().wait(0.05)
    logs = "\n".join(f"{log.name}: {log.read_text()}" for log in folder.glob("*.log"))
    pytest.fail(f"{url}: {last}\n{logs}")


def test_files_and_commands_of_rezolus_run_agent_exporter_and_hindsight(tmp_path: Path) -> None:
    needs.bpf()
    tmp_path.chmod(0o755)  # pytest makes it for root only
    agent, exporter, hindsight = free_ports(3)
    (tmp_path / "agent.toml").write_text(f"""
        [general]
        listen = "127.0.0.1:{agent}"
        ttl = "10ms"
        [scheduler]
        policy = "normal"
        [log]
        level = "info"
        [defaults]
        enabled = false
        [samplers.cpu_usage]
        enabled = true
        [samplers.scheduler_runqueue]
        enabled = true
    """)
    (tmp_path / "exporter.toml").write_text(f"""
        [general]
        listen = "127.0.0.1:{exporter}"
        source = "127.0.0.1:{agent}"
        interval = "100ms"
        [prometheus]
        histograms = true
        summaries = true
    """)
    (tmp_path / "hindsight.toml").write_text(f"""
        [general]
        listen = "127.0.0.1:{hindsight}"
        source = "127.0.0.1:{agent}"
        interval = "100ms"
        duration = "1min"
        output = "out.rez"
    """)
    with (
        service(tmp_path, "agent.toml"),
        service(tmp_path, "exporter", "exporter.toml"),
        service(tmp_path, "hindsight", "hindsight.toml"),
    ):
        page = answer(
            f"http://127.0.0.1:{exporter}/metrics", lambda response: 'percentile="0.99"' in response.text, tmp_path
        )
        assert "cpu_usage{" in page.text
        assert "scheduler_runqueue_latency_distribution_bucket" in page.text
        answer(
            f"http://127.0.0.1:{hindsight}/status", lambda response: response.json()["snapshot_count"] >= 10, tmp_path
        )
        dump = answer(f"http://127.0.0.1:{hindsight}/dump", lambda response: response.content[:4] == b"PAR1", tmp_path)
        written = httpx.post(f"http://127.0.0.1:{hindsight}/dump/file", trust_env=False, timeout=DEADLINE_S)
    assert pq.read_table(io.BytesIO(dump.content)).num_rows >= 10
    assert Path(written.json()["path"]).name == "out.parquet"
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == written.json()["snapshots"]
