"""`rezolus metrics`: what definitions define, the same on every host."""

from __future__ import annotations

import re
from pathlib import Path

from dsl import check_files, describe_samplers
from rezolus import definitions
from rezolus.agent.facts import probe
from tests.cli.command import ROOT, rezolus

PAGE = ROOT / "docs" / "metrics.md"

DEFINITIONS = """use "tables.rzl"

sampler shapes "All shapes" {
    source nic = glob "/sys/class/net/{interface}/statistics/{key}"
    counter dropped packets by interface "Packets dropped on receive" = nic.rx_dropped
    counter switches by cpu { parity: parity } "Switches | by parity"
    histogram waited ns "Time waited"
    gauge last_cpu "The CPU last seen"
    state since: ns by task

    measure waited from sched_wakeup(p), sched_wakeup_new(p) to sched_switch(_, _, next) by p

    on no_such_event else sched_switch(_, prev) { switches{parity: parity(prev.pid)} += 1 }
    on call no_such_function else none {
        if cpu == 0 { last_cpu = cpu }
    } else on sched_process_exit {
        last_cpu = cpu
    }
}
"""


def test_the_page_in_docs_is_what_the_command_prints() -> None:
    done = rezolus("metrics", "--markdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PAGE.read_text(), "docs/metrics.md is stale: run `make docs`"


def test_every_shipped_metric_is_listed_with_what_the_checker_knows_of_it() -> None:
    texts = definitions.read_files(definitions.find_files([ROOT / "probes" / "*.rzl"])).complete()
    parsed = definitions.parse(texts)
    listed = {
        metric.name: metric for sampler in describe_samplers(parsed.modules, parsed.used) for metric in sampler.metrics
    }
    checked = {
        metric.schema.name: metric.schema
        for sampler in check_files(parsed, probe(binaries=parsed.binaries)).unit.samplers
        for metric in sampler.metrics
    }
    assert set(listed) == set(checked)
    for name, schema in checked.items():
        found = listed[name]
        assert (found.kind, found.unit, found.help, found.labels, found.line) == (
            schema.kind,
            schema.unit,
            schema.help,
            schema.labels,
            schema.line,
        )
        assert found.origins, f"{name} comes from nowhere"
        assert bool(found.dimension) == (schema.dimension is not None)


def test_all_shapes_of_metrics_are_described_without_asking_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "shapes.rzl").write_text(DEFINITIONS)
    (tmp_path / "tables.rzl").write_text("table parity(n) -> parity { even: 0, 2 odd: 1, 3 other: else }\n")
    done = rezolus("metrics", "--markdown", "shapes.rzl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| `")]
    assert rows == [
        (
            "| `dropped` | counter | packets | by `interface` | Packets dropped on receive "
            "| `/sys/class/net/{interface}/statistics/{key}` |"
        ),
        (
            "| `switches` | counter |  | by `cpu`; `parity`: even, odd, other | Switches \\| by parity "
            "| `no_such_event else sched_switch` |"
        ),
        "| `waited` | histogram | nanoseconds |  | Time waited | `sched_wakeup, sched_wakeup_new to sched_switch` |",
        "| `last_cpu` | gauge |  |  | The CPU last seen | `call no_such_function else sched_process_exit` |",
    ]
    shown = rezolus("metrics", "shapes.rzl", cwd=tmp_path)
    assert shown.returncode == 0
    assert re.search(
        r"^dropped +counter +packets +by interface +Packets dropped on receive", shown.stdout, re.MULTILINE
    )


def test_a_file_that_does_not_parse_is_reported_as_check_does(tmp_path: Path) -> None:
    (tmp_path / "broken.rzl").write_text("sampler broken {\n    countr x\n}\n")
    done = rezolus("metrics", "broken.rzl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("broken.rzl:2:5: error[unknown-keyword]")


def test_a_file_without_metrics_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.rzl").write_text("const answer = 42\n")
    done = rezolus("metrics", "empty.rzl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: these files define no metric\n")
