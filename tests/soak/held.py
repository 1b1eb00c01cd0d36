"""What a daemon holds at one moment, and whether it holds more and more."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path

from tests import leaks
from tests.bench.processes import GONE, memory, tree

MB = 10**6
WARM_UP = 0.3
"""The part of the samples, at the beginning, in which caches fill and buffers reach their size."""


@dataclass(frozen=True, slots=True)
class Held:
    """Of the daemon and its root helper together, while no loader or worker runs."""

    second: float
    """Since the start of the run."""
    rounds: int
    pss_mb: float
    anonymous_mb: float
    """Resident memory that is no file's: unlike Pss it does not depend on who else has mapped what."""
    descriptors: int
    threads: int
    maps: int
    """BPF objects that nobody else holds, whether by a descriptor of the daemon's or inside the kernel."""
    programs: int
    links: int


COLUMNS = tuple(field.name for field in fields(Held))
UNITS = {"pss_mb": "MB", "anonymous_mb": "MB"}
TOLERANCE = {
    "pss_mb": 2.0,
    "anonymous_mb": 2.0,
    "descriptors": 2,
    "threads": 2,
    "maps": 0.5,
    "programs": 0.5,
    "links": 0.5,
}
"""How much more may be held at the end of the run than when it was warm."""


def measure(pid: int, second: float, rounds: int) -> Held:
    """What the process and its descendants hold now."""
    descriptors = threads = anonymous = 0
    for member in tree(pid):
        with suppress(*GONE):
            descriptors += len(list(Path(f"/proc/{member}/fd").iterdir()))
            status = Path(f"/proc/{member}/status").read_text()
            lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            threads += int(lines["Threads"])
            anonymous += int(lines["RssAnon"].split()[0]) << 10
    objects = leaks.own_objects()
    return Held(
        second=second,
        rounds=rounds,
        pss_mb=memory(pid).pss / MB,
        anonymous_mb=anonymous / MB,
        descriptors=descriptors,
        threads=threads,
        maps=objects["map_id"],
        programs=objects["prog_id"],
        links=objects["link_id"],
    )


def growth(samples: Sequence[Held], column: str) -> float:
    """How much a column grew from the warm-up to the end: the median slope of all pairs of samples times the time between.

    Single samples that are off, however far, do not move it. 0 for fewer than three samples.
    """
    warm = samples[round(len(samples) * WARM_UP) :]
    if len(warm) < 3:
        return 0.0
    points = [(held.second, float(getattr(held, column))) for held in warm]
    slopes = [(y - x) / (t - s) for (s, x), (t, y) in combinations(points, 2)]
    return statistics.median(slopes) * (points[-1][0] - points[0][0])


def growing(samples: Sequence[Held], tolerance: dict[str, float] = TOLERANCE) -> dict[str, float]:
    """The columns that are not flat, with their growth."""
    found = {column: growth(samples, column) for column in tolerance}
    return {column: more for column, more in found.items() if more > tolerance[column]}


def heading() -> str:
    """The first line of the table."""
    return "  ".join(f"{column:>12}" for column in COLUMNS)


def line(held: Held) -> str:
    """A line of the table."""
    return "  ".join(f"{value:12.1f}" if isinstance(value, float) else f"{value:12}" for value in astuple(held))


def verdict(samples: Sequence[Held]) -> str:
    """What became of each column, and whether all are flat."""
    lines = []
    for column, allowed in TOLERANCE.items():
        more = growth(samples, column)
        word = "flat" if more <= allowed else "GROWS"
        lines.append(
            f"{column:>12}  {word:5}  {more:+.2f} {UNITS.get(column, '')} (allowed {allowed:g})".replace(" (", "  (")
        )
    return "\n".join(lines)
