"""`rezolus compile`: plan, C and schema of what would be loaded, for this kernel or another."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from dsl.schema import Schema
from tests.cli.command import rezolus
from tests.kernels import SUITES, UnreachableError, kernel_btf
from tests.needs import cannot_run

SWITCHES = """rzl 1

sampler switches "Context switches" {
    counter switches by cpu { to: idle | task } "Context switches"
    on sched_switch(_, prev, next) {
        switches{to: if next.pid == 0 then idle else task} += 1
    }
}

sampler runs "Runs of tasks" {
    counter runs "Tasks that left the CPU"
    on sched_switch(_, prev) when prev.pid != 0 { runs += 1 }
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "switches.rzl"
    path.write_text(SWITCHES)
    return path


def test_the_plan_shows_one_program_for_two_samplers_on_a_hook(file: Path) -> None:
    done = rezolus("compile", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == rezolus("compile", file, "--plan").stdout
    paragraphs = done.stdout.split("\n\n")
    programs = [text for text in paragraphs if not text.startswith("memory:")]
    assert len(programs) == 1
    assert re.match(r"\w+:sched_switch ", programs[0])
    assert re.search(r"samplers +switches \d+ %\n +runs \d+ %", programs[0])
    assert re.search(r"memory: \d+ KiB", done.stdout)


def test_the_c_has_the_source_lines_as_comments(file: Path) -> None:
    done = rezolus("compile", file.name, "--c", cwd=file.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#line" not in done.stdout
    assert "// switches.rzl:6: switches{to: if next.pid == 0 then idle else task} += 1" in done.stdout


def test_the_schema_is_json_that_reads_back(file: Path) -> None:
    done = rezolus("compile", file, "--schema")
    assert (done.returncode, done.stderr) == (0, "")
    schema = msgspec.json.decode(done.stdout.encode(), type=Schema)
    assert [metric.name for metric in schema.metrics] == ["switches", "runs"]
    assert [program.samplers for program in schema.programs] == [("switches", "runs")]
    assert done.stdout.count("\n") > 50, "one line is for machines, people read this too"
    assert json.loads(done.stdout)["metrics"][0]["line"] == 4


def test_more_cpus_take_more_rows(file: Path) -> None:
    schema = json.loads(rezolus("compile", file, "--schema", "--cpus", "64").stdout)
    assert [bank["rows"] for bank in schema["banks"] if bank["axis"] == "cpu"] == [64]


@pytest.mark.parametrize("series", SUITES)
def test_definitions_compile_for_other_kernels(series: str, tmp_path: Path) -> None:
    try:
        data = kernel_btf(series)
    except UnreachableError as error:
        cannot_run(str(error))
    btf = tmp_path / "kernel.btf"
    btf.write_bytes(data)
    files = ("probes/scheduler.rzl", "probes/blockio.rzl", "probes/syscall.rzl")
    done = rezolus("compile", *files, "--c", "--btf", btf, "--release", series, "--cpus", "8")
    assert done.returncode == 0, done.stderr
    assert "// probes/scheduler.rzl:" in done.stdout
    done = rezolus("compile", *files, "--btf", btf, "--arch", "aarch64")
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_are_those_of_check(file: Path) -> None:
    file.write_text(SWITCHES.replace("next.pid", "next.pidd").replace("runs += 1", "run += 1"))
    done, checked = rezolus("compile", file), rezolus("check", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count(" error[") == 2
    assert checked.stderr.startswith(done.stderr)


def test_missing_files_are_all_named() -> None:
    done = rezolus("compile", "none.rzl", "neither.rzl")
    assert done.returncode == 1
    assert done.stderr == (
        "error: none.rzl: no such file or directory\nerror: neither.rzl: no such file or directory\n"
    )
