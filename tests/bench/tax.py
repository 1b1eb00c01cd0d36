"""What every shipped sampler costs two processes that do nothing but system calls and context switches."""

from __future__ import annotations

from tests.bench import units
from tests.bench.rows import Result, Row
from tests.bench.workload import pass_bytes

TARGET_NS = 1400
TURNS = 12
REPEATS = 12


def run() -> Result:
    """The best round with the programs attached and without, in turn."""
    with units.loaded(units.compiled()) as programs:
        without, beside = [], []
        for _ in range(TURNS):
            without.append(pass_bytes(REPEATS))
            with units.attached(programs):
                beside.append(pass_bytes(REPEATS))
    bare, taxed = min(without), min(beside)
    return Result(
        "Tax on two processes passing a byte through pipes on one CPU",
        (
            Row("a round, nothing attached", bare, "ns"),
            Row("a round, every shipped sampler", taxed, "ns"),
            Row("extra per round", taxed - bare, "ns", TARGET_NS),
        ),
    )
