"""A source of readings like a real host's: about 650 scalar series and 33 histograms on random walks, always the same."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import trio

from rezolus.reading import Catalog, Reading, Series
from rezolus.sinks.stream import Demand

START_NS = 1_795_372_013_000_000_000
SECOND_NS = 1_000_000_000


def histogram(name: str, sampler: str, /, **labels: str) -> Series:
    return Series(name, "histogram", labels, "nanoseconds", f"Distribution of {name}.", sampler)


def catalog(*, cgroups: int = 40, cpus: int = 2, power: int = 3) -> Catalog:
    counters = [
        Series("cpu_usage", "counter", {"id": str(cpu), "state": state}, "nanoseconds", "Time of CPUs.", "cpu_usage")
        for state in ("user", "system", "softirq")
        for cpu in range(cpus)
    ]
    counters += [
        Series("syscall", "counter", {"op": f"class{n}"}, "syscalls", "System calls \\ by class.", "syscall_counts")
        for n in range(16)
    ]
    counters += [
        Series(
            name, "counter", {"id": str(n), "name": f"/system.slice/unit{n}.service"}, "", f"{name} by cgroup.", "cg"
        )
        for name in (f"cgroup_metric{m}" for m in range(14))
        for n in range(cgroups)
    ]
    gauges = [Series(f"memory_part{n}", "gauge", {}, "bytes", f"Part {n}.", "memory_meminfo") for n in range(68)]
    histograms = [histogram("syscall_latency", "syscall_latency", op=f"class{n}") for n in range(16)]
    histograms += [histogram(f"latency{n}", "latencies") for n in range(17)]
    if power != 3:
        histograms = [Series(h.name, h.kind, h.labels, h.unit, h.help, h.sampler, power) for h in histograms]
    return Catalog(tuple(counters), tuple(gauges), tuple(histograms))


class Walk:
    """Successive readings of a catalog; counters and buckets only grow."""

    def __init__(self, series: Catalog | None = None, *, seed: int = 7, interval_ns: int = SECOND_NS) -> None:
        self.random = np.random.default_rng(seed)
        self.interval_ns = interval_ns
        self.ticks = 0
        self.enter(catalog() if series is None else series)

    def enter(self, series: Catalog) -> None:
        self.catalog = series
        self.counters = self.random.integers(0, 2**40, len(series.counters)).astype(np.uint64)
        self.gauges = self.random.integers(-(2**20), 2**40, len(series.gauges))
        self.histograms = np.zeros(series.histogram_offsets[-1], np.uint64)

    def step(self) -> Reading:
        random = self.random
        self.counters = self.counters + random.integers(0, 50_000, len(self.counters)).astype(np.uint64)
        self.gauges = self.gauges + random.integers(-4096, 4096, len(self.gauges)) * (
            random.random(len(self.gauges)) < 0.6
        )
        self.histograms = self.histograms.copy()
        for begin, end in zip(self.catalog.histogram_offsets, self.catalog.histogram_offsets[1:], strict=False):
            # latencies between 1 us and 1 ms: some twenty buckets change per tick
            where = begin + np.clip(random.normal((end - begin) * 0.26, (end - begin) * 0.03, 60), 0, end - begin - 1)
            np.add.at(self.histograms, where.astype(np.int64), np.uint64(1))
        self.ticks += 1
        return self.reading()

    def reading(self) -> Reading:
        return Reading(
            catalog=self.catalog,
            time_ns=START_NS + self.ticks * self.interval_ns,
            monotonic_ns=SECOND_NS + self.ticks * self.interval_ns,
            duration_ns=400_000,
            counters=self.counters,
            gauges=self.gauges,
            histograms=self.histograms,
        )

    def run(self, count: int) -> Iterator[Reading]:
        for _ in range(count):
            yield self.step()


class SyntheticSource:
    """Publishes a walk on a clock with absolute deadlines, `limit` readings and then none."""

    def __init__(self, walk: Walk, *, limit: int | None = None) -> None:
        self.walk = walk
        self.limit = limit
        self.late = 0
        self.interval_ns = SECOND_NS

    def labels(self) -> dict[str, str]:
        return {"source": "synthetic"}

    def merge_labels(self) -> dict[str, str]:
        return {"source": "synthetic", "node": "here"}

    def metadata(self) -> dict[str, str]:
        return {"systeminfo": "{}"}

    async def run(
        self,
        demand: Demand,
        publish: Callable[[Reading], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        # Few different readings, made beforehand: what is measured is the sinks, not the random numbers.
        made = [self.walk.step() for _ in range(20)]
        task_status.started()
        self.interval_ns = demand.interval_ns
        begin = trio.current_time()
        number = elapsed_ns = 0
        while self.limit is None or number < self.limit:
            await trio.sleep_until(begin + elapsed_ns / SECOND_NS)
            self.late += trio.current_time() > begin + (elapsed_ns + self.interval_ns) / SECOND_NS
            template = made[number % len(made)]
            now = time.time_ns()
            publish(
                Reading(
                    template.catalog,
                    now,
                    elapsed_ns,
                    300_000,
                    template.counters,
                    template.gauges,
                    template.histograms,
                )
            )
            number += 1
            elapsed_ns += self.interval_ns
        await trio.sleep_forever()

    def adjust(self, demand: Demand) -> None:
        self.interval_ns = demand.interval_ns


def main() -> None:
    """`python -m tests.synthetic CONFIG [LIMIT]`: the daemon with this source, which gives so many readings."""
    from rezolus.config import LOCAL, load
    from rezolus.daemon import Daemon, reread_file

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load(sys.argv[1])
    source = SyntheticSource(Walk(), limit=int(sys.argv[2]) if len(sys.argv) > 2 else None)
    trio.run(Daemon(config, {LOCAL: source}, reread=partial(reread_file, config.path, "agent")).run)


if __name__ == "__main__":
    main()
