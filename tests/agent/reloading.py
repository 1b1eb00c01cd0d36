"""An agent that is told to reload: `python -m tests.agent.reloading CONFIG INTERVAL_NS`.

Takes commands on standard input, one a line, and answers each with a line of JSON: `read` (a reading now), `reload` (the
result), `backwards` (counters that any reading of the clock showed lower than the one before), `catalogs` (how often a
new catalog had the series of the one before), `gap` (the longest time between two readings of the clock since it was
asked last, seconds), `held` (descriptors of this process, BPF objects among them).
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rezolus.agent.launch import children, give_up_privileges, start_helper

if TYPE_CHECKING:
    from rezolus.agent.agent import Agent
    from rezolus.reading import Catalog, Reading, Series


def main() -> None:
    config, interval_ns = Path(sys.argv[1]), int(sys.argv[2])
    with start_helper(children(config)) as control:
        _run(control, interval_ns)


def _run(control: socket.socket, interval_ns: int) -> None:
    import logging

    import trio

    from rezolus.agent.agent import Agent, AgentOptions
    from rezolus.agent.helper import Helper

    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    give_up_privileges("nobody")
    os.set_blocking(0, False)

    class Demand:
        def __init__(self) -> None:
            self.interval_ns = interval_ns

        def wants(self, metric: str) -> bool:
            return bool(metric)

    times = [0]
    longest = [0]
    latest: dict[str, int] = {}
    backwards: set[str] = set()
    catalogs: list[Catalog] = []
    needless = [0]

    def publish(reading: Reading) -> None:
        counters = _counters(reading)
        backwards.update(name for name, value in counters.items() if value < latest.get(name, 0))
        if catalogs and reading.catalog is not catalogs[0]:
            needless[0] += _series(reading.catalog) == _series(catalogs[0])
        catalogs[:] = [reading.catalog]
        latest.clear()
        latest.update(counters)
        if times[0]:
            longest[0] = max(longest[0], reading.monotonic_ns - times[0])
        times[0] = reading.monotonic_ns

    async def answer(agent: Agent, line: str) -> object:
        match line:
            case "read":
                reading = agent.reading_within(0)
                assert reading is not None
                return _values(reading)
            case "reload":
                result = await agent.reload()
                return {"ok": result.ok, "problems": result.problems, "changed": result.changed}
            case "backwards":
                return sorted(backwards)
            case "catalogs":
                return needless[0]
            case "gap":
                found, longest[0] = longest[0], 0
                return found / 1e9
            case _:
                return _held()

    async def run() -> None:
        helper = Helper(control, loading=True)
        agent = Agent(helper, AgentOptions(stats="hold"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(helper.run)
            await nursery.start(agent.run, Demand(), publish)
            print(json.dumps({"pid": os.getpid()}), flush=True)
            pending = b""
            while True:
                await trio.lowlevel.wait_readable(0)
                got = os.read(0, 4096)
                if not got:
                    break
                *lines, pending = (pending + got).split(b"\n")
                for line in lines:
                    print(json.dumps(await answer(agent, line.decode())), flush=True)
            nursery.cancel_scope.cancel()

    trio.run(run)


def _series(catalog: Catalog) -> object:
    return catalog.counters, catalog.gauges, catalog.histograms


def _counters(reading: Reading) -> dict[str, int]:
    names = (_name(series) for series in reading.catalog.counters)
    return dict(zip(names, reading.counters.tolist(), strict=True))


def _name(series: Series) -> str:
    return series.name + "".join(f",{k}={v}" for k, v in series.labels.items()) + f",{series.sampler}"


def _values(reading: Reading) -> dict[str, object]:
    values: dict[str, object] = {**_counters(reading)}
    catalog = reading.catalog
    for series, value in zip(catalog.gauges, reading.gauges.tolist(), strict=True):
        values[_name(series)] = value
    for index, series in enumerate(catalog.histograms):
        begin, end = catalog.histogram_offsets[index : index + 2]
        values[series.name] = reading.histograms[begin:end].tolist()
    return values


def _held() -> dict[str, int]:
    kinds = {"all": 0, "map": 0, "prog": 0}
    for entry in Path("/proc/self/fd").iterdir():
        kinds["all"] += 1
        target = os.readlink(entry) if entry.is_symlink() else ""
        for kind in ("map", "prog"):
            kinds[kind] += target == f"anon_inode:bpf-{kind}"
    return kinds


if __name__ == "__main__":
    main()
