"""`rezolus demo` as a user runs it."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """As shipped, but with addresses of its own and in a tenth of the time."""
    text = (ROOT / "rezolus" / "demo" / "demo.toml").read_text()
    text = text.replace('interval = "1s"', 'interval = "100ms"')
    for address in ("127.0.0.1:4241", "127.0.0.1:4242"):
        text = text.replace(f'listen = "{address}"', f'listen = "127.0.0.1:{free_port()}"')
    file = tmp_path / "rezolus.toml"
    file.write_text(text)
    return file


def demo(config: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "rezolus",
        "demo",
        "--seconds",
        "2",
        "--config",
        str(config),
        "--output",
        str(output),
    ]
    environment = {"COLUMNS": "160", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=output.parent, env=environment, capture_output=True, text=True, check=False)


def test_the_demo_measures_its_workload_and_leaves_the_recording(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "demo.parquet"
    done = demo(config, output)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"demo.parquet", "rezolus.toml"}
    assert pq.read_metadata(output).num_rows >= 20
    for title in ("Rates over", "Distributions", "The workload's own count", "What it cost"):
        assert title in done.stdout
    assert re.search(r"^syscall_latency +[0-9,]+ +[0-9.]+ [nµm]?s", done.stdout, re.MULTILINE)
    assert "CPU of the daemon" in done.stdout
    (look,) = re.findall(r"to look into it:\n  (.+)\n", done.stdout)
    rows = subprocess.run(shlex.split(look), capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(rows) == pq.read_metadata(output).num_rows
    assert all(re.fullmatch(r"\{'timestamp': \d+, 'tcp_bytes/[^']+': (\d+|None)\}", row) for row in rows), rows[0]


def test_an_address_in_use_is_said_before_anything_is_started(config: Path, tmp_path: Path) -> None:
    port = int(re.findall(r'listen = "127.0.0.1:(\d+)"', config.read_text())[1])
    with socket.create_server(("127.0.0.1", port)):
        done = demo(config, tmp_path / "demo.parquet")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: 127.0.0.1:{port} is in use")
    assert [path.name for path in tmp_path.iterdir()] == ["rezolus.toml"]
