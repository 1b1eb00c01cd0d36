"""A daemon whose readings are numbered: `python -m tests.faults.numbered CONFIG WITNESS START`.

The counter `number` is START, START + 1, ... in successive readings, among the series of a real host. WITNESS is a mapped file that
holds the number of the last reading published and how many each sink had written by then, whatever kills the process.
"""

from __future__ import annotations

import logging
import mmap
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio

from rezolus.reading import Catalog, Reading, Series
from rezolus.sinks.stream import Demand
from tests.synthetic import Walk, catalog

NUMBER = Series("number", "counter", {}, "", "Number of the reading.", "faults")
WITNESS = struct.Struct("<3Q")


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What the file holds."""

    number: int
    recorded: int = 0
    buffered: int = 0


def make_witness(path: Path) -> None:
    path.write_bytes(WITNESS.pack(0, 0, 0))


def witnessed(path: Path) -> Witnessed:
    return Witnessed(*WITNESS.unpack(path.read_bytes()))


class NumberedSource:
    """`written` says how many readings the recorder and hindsight have written."""

    def __init__(self, witness: Path, start: int) -> None:
        self._witness = witness
        self._start = start
        self.written: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def labels(self) -> dict[str, str]:
        return {"source": "numbered"}

    def merge_labels(self) -> dict[str, str]:
        return {"source": "numbered", "node": "here"}

    def metadata(self) -> dict[str, str]:
        return {"systeminfo": "{}"}

    async def run(
        self,
        demand: Demand,
        publish: Callable[[Reading], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        made = list(Walk(catalog(cgroups=10)).run(20))
        base = made[0].catalog
        whole = Catalog((NUMBER, *base.counters), base.gauges, base.histograms)
        begin = time.monotonic_ns()
        with self._witness.open("r+b") as file, mmap.mmap(file.fileno(), WITNESS.size) as last:
            task_status.started()
            for tick in range(1 << 32):
                await trio.sleep(max(0.0, (begin + tick * demand.interval_ns - time.monotonic_ns()) / 1e9))
                number = self._start + tick
                values = made[tick % len(made)]
                publish(
                    Reading(
                        catalog=whole,
                        time_ns=time.time_ns(),
                        monotonic_ns=time.monotonic_ns(),
                        duration_ns=1000,
                        counters=np.concatenate((np.array([number], np.uint64), values.counters)),
                        gauges=values.gauges,
                        histograms=values.histograms,
                    )
                )
                WITNESS.pack_into(last, 0, number, *self.written())

    def adjust(self, demand: Demand) -> None:
        raise AssertionError("nothing is reloaded here")


def main() -> None:
    from rezolus.config import LOCAL, load
    from rezolus.daemon import Daemon

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config, witness, start = sys.argv[1:]
    trio.run(Daemon(load(config), {LOCAL: NumberedSource(Path(witness), int(start))}).run)


if __name__ == "__main__":
    main()
