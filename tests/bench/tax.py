"""What every shipped sampler costs two processes that do nothing but system calls and context switches."""

from __future__ import annotations

from tests.bench import units
from tests.bench.rows import Result, Row
from tests.bench.workload import pass_bytes

TARGET_NS = 1400
TURNS = 15
REPEATS = 150
BARE_NS = 2749
"""The bare round of the host on which the target was set."""


def run() -> Result:
    """The best round without programs, with programs that do nothing on the same hooks, and with ours, in turn."""
    with units.loaded(units.compiled(), exchangeable=True) as programs:
        hooks = tuple(dict.fromkeys(units.hooks_of(programs).values()))
        with units.empty(hooks) as nothing:
            bare, floor, taxed = [], [], []
            for _ in range(TURNS):
                bare.append(pass_bytes(REPEATS))
                with units.attached(nothing):
                    floor.append(pass_bytes(REPEATS))
                with units.attached(programs):
                    taxed.append(pass_bytes(REPEATS))
    extra = min(taxed) - min(bare)
    scaled = TARGET_NS * min(bare) / BARE_NS
    return Result(
        "Tax on two processes passing a byte through pipes on one CPU",
        (
            Row("a round, nothing attached", min(bare), "ns"),
            Row("a round, every shipped sampler", min(taxed), "ns"),
            Row("extra per round", extra, "ns", TARGET_NS),
            Row("the same, target scaled to this host's bare round", extra, "ns", scaled),
            Row("extra per round, empty programs on the same hooks", min(floor) - min(bare), "ns"),
        ),
    )
