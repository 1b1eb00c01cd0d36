"""What our programs cost, from the kernel's own books.

The kernel times programs only while somebody asks it to, and timing costs some 20 ns a run. So it is asked for a second
now and then: within such a window counts and times are exact, between windows the last rates are taken to hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rezolus.agent.handover import ProgramReport
from rezolus.agent.selfmetrics import RUN_COUNT, RUN_TIME, SelfMetric, counter
from rezolus.bpf.stats import ProgramStats, program_stats

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program or a sampler's share of its programs cost in the last window."""

    runs: float
    """Runs per second."""
    ns: float
    """Nanoseconds per second: 1e9 is one CPU."""

    @property
    def ns_per_run(self) -> float:
        """Mean duration of a run."""
        return self.ns / self.runs if self.runs else 0.0

    @property
    def share(self) -> float:
        """Of one CPU, 0 to 1 and above."""
        return self.ns / NS

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.runs + other.runs, self.ns + other.ns)

    def over(self, seconds: float) -> Cost:
        """Totals after so many seconds at this rate."""
        return Cost(self.runs * seconds, self.ns * seconds)

    def part(self, share: float) -> Cost:
        """Of a shared program what one sampler accounts for: every run serves it, but not all of the time is spent on it."""
        return Cost(self.runs, self.ns * share)


NOTHING = Cost(0.0, 0.0)


class CostMeter:
    """Costs by program and by sampler, over windows that the owner opens and closes."""

    def __init__(
        self,
        programs: Sequence[ProgramReport],
        fds: Mapping[str, int],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        read: Callable[[int], ProgramStats] = program_stats,
        before: CostMeter | None = None,
    ) -> None:
        """`before` is what measured the programs that these replace: totals go on, and rates until the next window."""
        self._programs = [program for program in programs if program.function in fds]
        self._fds = fds
        self._clock = clock
        self._read = read
        self._begin: tuple[int, dict[str, ProgramStats]] | None = None
        self._rates: dict[str, Cost] = {}
        """By program."""
        names = dict.fromkeys(name for program in self._programs for name in program.samplers)
        self._shares = dict.fromkeys(names, NOTHING)
        """By sampler."""
        self._totals = dict.fromkeys(names, NOTHING)
        """By sampler up to `_at`; here runs and ns are totals."""
        self._at = clock()
        self.windows = 0
        """Windows that were measured."""
        if before is not None:
            self._go_on(before)

    def _go_on(self, before: CostMeter) -> None:
        before._advance(self._at)
        self._rates = {program.function: before.program(program.function) for program in self._programs}
        self._shares = {name: before.sampler(name) for name in self._shares}
        self._totals = {name: before._totals.get(name, NOTHING) for name in self._totals}
        self.windows = before.windows

    @property
    def empty(self) -> bool:
        """Whether there is nothing to measure."""
        return not self._programs

    def begin(self) -> None:
        """Open a window; the kernel is keeping times from now on."""
        self._begin = (self._clock(), self._stats())

    def end(self) -> None:
        """Close the window: its rates hold until the next one is closed."""
        if self._begin is None:
            return
        since, before = self._begin
        self._begin = None
        now, after = self._clock(), self._stats()
        self._advance(now)
        seconds = max(now - since, 1) / NS
        self._rates = {
            function: Cost(
                (after[function].run_cnt - stats.run_cnt) / seconds,
                (after[function].run_time_ns - stats.run_time_ns) / seconds,
            )
            for function, stats in before.items()
        }
        for name in self._shares:
            used = [program for program in self._programs if name in program.samplers]
            parts = (self.program(program.function).part(weight(program, name)) for program in used)
            self._shares[name] = sum(parts, NOTHING)
        self.windows += 1

    def program(self, function: str) -> Cost:
        """A program's cost in the last window."""
        return self._rates.get(function, NOTHING)

    def sampler(self, name: str) -> Cost:
        """A sampler's cost in the last window: the runs of its programs, of shared ones' time its part by weight."""
        return self._shares.get(name, NOTHING)

    def recursion_misses(self, function: str) -> int:
        """Runs the kernel left out because the program was running already."""
        fd = self._fds.get(function)
        return 0 if fd is None else self._read(fd).recursion_misses

    def metrics(self) -> list[SelfMetric]:
        """`rezolus_bpf_run_count` and `rezolus_bpf_run_time` of every sampler with programs."""
        found = []
        for name in self._shares:
            found.append(counter(RUN_COUNT, partial(self._total_runs, name), sampler=name))
            found.append(counter(RUN_TIME, partial(self._total_ns, name), sampler=name))
        return sorted(found, key=lambda metric: metric.series.name)

    def _total_runs(self, name: str) -> int:
        """Up to now: between windows the last rates run on. Asked for at every reading, hence no `Cost` is made."""
        return int(self._totals[name].runs + self._shares[name].runs * (self._clock() - self._at) / NS)

    def _total_ns(self, name: str) -> int:
        return int(self._totals[name].ns + self._shares[name].ns * (self._clock() - self._at) / NS)

    def _advance(self, now: int) -> None:
        """Fix the totals up to now, after which other rates hold."""
        since = (now - self._at) / NS
        self._at = now
        for name, rate in self._shares.items():
            self._totals[name] += rate.over(since)

    def _stats(self) -> dict[str, ProgramStats]:
        return {program.function: self._read(self._fds[program.function]) for program in self._programs}


def weight(program: ProgramReport, sampler: str) -> float:
    """The part of a program's work that is done for a sampler."""
    weights = program.weights or (1,) * len(program.samplers)
    total = sum(weights)
    mine = sum(w for name, w in zip(program.samplers, weights, strict=True) if name == sampler)
    return mine / total if total else 1 / len(program.samplers)
