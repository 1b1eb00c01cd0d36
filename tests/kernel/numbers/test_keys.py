"""Open-ended keys: bounded, visible when they overflow, and given back when they are forgotten."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import needs
from tests.kernel.live import Live, Values, live

DEFINITION = """
sampler keys "Programs by name" {
    counter starts by comm limit 2 "Programs started"
    counter living by pid, comm limit 2 "Programs that run"

    on sched_process_exec(p) when p.comm == "rzl_one" || p.comm == "rzl_two" || p.comm == "rzl_three" {
        starts[p.comm] += 1
        living[p.tgid, p.comm] += 1
    }

    on sched_process_exit(p) when p.pid == p.tgid { forget living[p.tgid, p.comm] }
}
"""


def keys(values: Values, metric: str) -> dict[str, int]:
    """A metric's series by the label `comm`."""
    return {labels["comm"]: value for labels, value in values.numbers.get(metric, ())}


def run(live: Live, folder: Path, program: str, metric: str) -> Values:
    """Start a program that waits for input, under a name nobody else has; a reading while it runs, then it ends."""
    path = folder / program
    if not path.exists():
        path.write_bytes(Path("/bin/cat").read_bytes())
        path.chmod(0o755)
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        pid = str(process.pid)
        values = live.until(
            lambda now: any(
                value and labels.get("pid", pid) == pid and labels["comm"] in (program, "(other)")
                for labels, value in now.numbers.get(metric, ())
            ),
            f"{program} in {metric}",
        )
        process.communicate()
    return values


def test_keys_past_the_limit_are_counted_together(tmp_path: Path) -> None:
    """Two of three names have a series of their own; the third is `(other)`, and the overflow is counted."""
    needs.bpf()
    (tmp_path / "keys.rzl").write_text(DEFINITION)
    with live([tmp_path / "keys.rzl"]) as running:
        for program in ("rzl_one", "rzl_two", "rzl_three"):
            run(running, tmp_path, program, "starts")
        values = running.read()
        assert keys(values, "starts") == {"rzl_one": 1, "rzl_two": 1, "(other)": 1}
        assert values.sum("rezolus_discards", reason="key_overflow") == 1


def test_a_forgotten_key_leaves_its_row_to_the_next(tmp_path: Path) -> None:
    """With room for two keys, ten programs one after the other are each seen alone, at 1, and are gone afterwards."""
    needs.bpf()
    (tmp_path / "keys.rzl").write_text(DEFINITION)
    with live([tmp_path / "keys.rzl"]) as running:
        for program in ("rzl_one", "rzl_two", "rzl_three", "rzl_one", "rzl_two") * 2:
            assert keys(run(running, tmp_path, program, "living"), "living") == {program: 1}
            running.until(lambda now: not keys(now, "living"), "no program")
