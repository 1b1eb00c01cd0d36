"""`rezolus demo`: the product in ten seconds."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from rezolus.agent.report import AgentStatus
    from rezolus.config import Config
    from rezolus.demo.workload import Tally

CONFIG = Path(__file__).resolve().parent.parent / "demo" / "demo.toml"


@click.command()
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(1, 3600), help="How long.")
@click.option(
    "--config", "file", default=CONFIG, type=click.Path(path_type=Path), help="Instead of the demo's own configuration."
)
@click.option(
    "--output", default=Path("demo.parquet"), show_default=True, type=click.Path(path_type=Path), help="The recording."
)
def command(seconds: float, file: Path, output: Path) -> None:
    """Run the agent beside a small workload and print what it measured.

    The workload starts processes, writes to the disk, talks to itself over loopback TCP and makes system calls.
    """
    from rich.console import Console

    from rezolus.config import load
    from rezolus.demo.recording import summarize
    from rezolus.demo.tables import result

    console = Console()
    config = load(file)
    recording = _recording(config)
    # The daemon writes relative to its working directory. In a folder beside the output the finished file only needs
    # to be renamed, and the workload's writes reach the same disk.
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=output.absolute().parent) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the daemon writes as an unprivileged user
        tally, status = _measure(config, folder, seconds, console)
        os.chown(folder / recording, os.getuid(), os.getgid(), follow_symlinks=False)
        (folder / recording).replace(output)
    summary = summarize(output)
    console.print(result(summary, tally, status))
    console.print(_how_to_look(output, summary.examples), soft_wrap=True, markup=False, highlight=False)


def _recording(config: Config) -> Path:
    """Where the configuration's recorder writes, relative to the working directory."""
    from rezolus.config import RecorderConfig
    from rezolus.errors import UserError

    for name, sink in config.sinks.items():
        if isinstance(sink, RecorderConfig):
            if sink.path.is_absolute():
                raise UserError(f"{config.path}: sinks.{name}.path: the demo needs a relative path, found {sink.path}")
            return sink.path
    raise UserError(f'{config.path}: the demo needs a sink with type = "recorder"')


def _measure(config: Config, folder: Path, seconds: float, console: Console) -> tuple[Tally, AgentStatus]:
    """Runs daemon and workload and shows how far they are; the readings begin before the workload and end after it."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    from rezolus.demo.daemon import read_status, run_workload, running_daemon, stay_with
    from rezolus.errors import UserError

    margin = 1.5 * config.agent.interval / 1e9
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("compiling and attaching", total=None)
        begin = time.monotonic()
        log = folder / "daemon.log"
        with running_daemon(config, folder) as daemon:
            console.print(f"first reading {time.monotonic() - begin:.1f} s after the start")
            start = time.monotonic()
            progress.update(task, description="workload running", total=seconds)

            def show_progress() -> None:
                stay_with(daemon, 0.1, log)
                progress.update(task, completed=min(seconds, time.monotonic() - start))

            tally = run_workload(seconds, folder, show_progress)
            progress.update(task, description="finishing the recording", total=None)
            stay_with(daemon, margin, log)
            status = read_status(config.agent.listen)
    if status is None:
        raise UserError(f"the agent does not answer any more at {config.agent.listen}")
    for line in log.read_text(errors="replace").splitlines():
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    return tally, status


def _how_to_look(output: Path, examples: dict[str, str]) -> str:
    """The last words: what was left, and a look into it with nothing but what the demo itself needs."""
    wanted = next((examples[name] for name in ("tcp_bytes", "syscall", *examples) if name in examples), "duration")
    columns = f'columns=["timestamp", {_literal(wanted)}]'
    table = f"pq.read_table({_literal(str(output))}, {columns})"
    code = f'import pyarrow.parquet as pq; print(*{table}.to_pylist(), sep="\\n")'
    command = shlex.join([_interpreter(), "-c", code])
    return (
        f"left the recording in {output}; to look into it:\n  {command}\n"
        "docs/recorder.md has queries for DuckDB, which is a program of its own"
    )


def _interpreter() -> str:
    """The Python that runs, which has pyarrow, as one would type it: `.venv/bin/python` in the checkout."""
    interpreter, here = Path(sys.executable), Path.cwd()
    return str(interpreter.relative_to(here) if interpreter.is_relative_to(here) else interpreter)


def _literal(text: str) -> str:
    """As Python writes a text. In double quotes, which the shell's single ones leave readable."""
    return json.dumps(text, ensure_ascii=False)
