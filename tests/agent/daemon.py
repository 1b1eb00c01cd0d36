"""The agent as a program of its own, with the handmade unit: `python -m tests.agent.daemon [OPTION...]`.

Prints lines of JSON: first what it listens on, then one per reading. Options: `--user NAME`, `--stall` (the loader stops
before it loads anything), `--die-once FILE` (the first loader is killed at once), `--broken SAMPLER=verify|compile`,
`--stats hold|off`, `--interval SECONDS`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rezolus.agent.launch import give_up_privileges, start_helper
from rezolus.agent.supervisor import Children

if TYPE_CHECKING:
    from dsl.hooks import Hook
    from dsl.schema import TaskMemory
    from rezolus.agent.isolate import Compile, CompiledUnit, Enabled
    from rezolus.agent.loader import Prepared

BROKEN = {
    "verify": "{ u64 address = ctx[0] + ctx[1]; return *(u32 *)address; }\n",
    "compile": "this_is_not_c;\n",
    "crash": "{ s64 a = ctx[0], b = ctx[1]; return a / b; }\n",
}

TTL_NS = 10_000_000


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", default="rezolus")
    parser.add_argument("--stall", action="store_true")
    parser.add_argument("--die-once")
    parser.add_argument("--broken", action="append", default=[])
    parser.add_argument("--stats", default="hold")
    parser.add_argument("--interval", type=float, default=0.1)
    arguments = parser.parse_args()
    load = partial(_load, arguments=arguments, careful=False)
    carefully = partial(_load, arguments=arguments, careful=True)
    again = partial(load, reload=True)
    control = start_helper(Children(load=load, work=lambda channel: None, load_carefully=carefully, reload=again))
    _run(control, arguments, began)


def _load(
    channel: socket.socket, arguments: argparse.Namespace, *, careful: bool = False, reload: bool = False
) -> None:
    if arguments.die_once and not os.path.exists(arguments.die_once):
        open(arguments.die_once, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)

    from dsl.btf import Btf
    from rezolus.agent.formats import parse_cpulist
    from rezolus.agent.loader import Prepared, privileged, run_loader
    from rezolus.bpf.targets import kernel_btf_ids
    from tests.agent.handmade import compile_handmade

    with open("/sys/kernel/btf/vmlinux", "rb") as file:
        btf = Btf.parse(file.read())
    with open("/sys/devices/system/cpu/possible", "rb") as file:
        cpus = parse_cpulist(file.read())
    broken = {name: BROKEN[how] for name, _, how in (item.partition("=") for item in arguments.broken)}

    def compile_samplers(enabled: Enabled) -> CompiledUnit:
        return compile_handmade(max(cpus) + 1, btf, enabled, broken=broken)

    def prepare(before: TaskMemory | None = None) -> Prepared:
        del before
        return Prepared(
            compile_samplers=compile_samplers,
            btf_id=kernel_btf_ids(btf),
            cpus=cpus,
            wanted=lambda name: True,
            refused="" if privileged() else "needs root",
        )

    if arguments.stall:
        prepare = partial(_stalling, prepare)
    run_loader(channel, prepare, careful=careful, reload=reload)


def _stalling(prepare: Callable[[TaskMemory | None], Prepared], before: TaskMemory | None = None) -> Prepared:
    """What stops when it is asked for BTF ids, which is after files were handed over."""
    prepared = prepare(before)
    prepared.compile_samplers = _tracing(prepared.compile_samplers)
    prepared.btf_id = _never
    return prepared


def _never(hook: Hook) -> int:
    signal.pause()
    raise KeyError(hook.name)


def _tracing(compile_samplers: Compile) -> Compile:
    """The same units with hooks whose BTF ids have to be looked up."""

    def compile_tracing(enabled: Enabled) -> CompiledUnit:
        unit = compile_samplers(enabled)
        hooks = (replace(program, hook=replace(program.hook, kind="tp_btf")) for program in unit.schema.programs)
        from tests.agent.handmade import HandmadeUnit

        return HandmadeUnit(unit.text, replace(unit.schema, programs=tuple(hooks)))

    return compile_tracing


def _report_import(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import":
        print(f"imported late: {arguments[0]}", file=sys.stderr)


def _run(control: socket.socket, arguments: argparse.Namespace, began: float) -> None:
    import logging

    import trio

    from rezolus.agent.agent import Agent, AgentOptions
    from rezolus.agent.helper import Helper
    from rezolus.agent.server import make_app
    from rezolus.agent.snapshots import Snapshots
    from rezolus.agent.status import agent_status
    from rezolus.agent.systeminfo import systeminfo
    from rezolus.http import serve
    from rezolus.reading import Reading
    from rezolus.units import Address

    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    warnings = give_up_privileges(arguments.user)
    sys.addaudithook(_report_import)  # the user we are now may not be able to read our modules

    class Demand:
        interval_ns = round(arguments.interval * 1e9)

        def wants(self, metric: str) -> bool:
            return True

    def publish(reading: Reading) -> None:
        values = {}
        for series, value in zip(reading.catalog.counters, reading.counters, strict=True):
            key = series.name + "".join(f",{k}={v}" for k, v in series.labels.items()) + f",{series.sampler}"
            values[key] = int(value)
        for series, value in zip(reading.catalog.gauges, reading.gauges, strict=True):
            values[series.name] = int(value)
        print(
            json.dumps({"after": time.monotonic() - began, "duration_ns": reading.duration_ns, "values": values}),
            flush=True,
        )

    async def reload(agent: Agent) -> None:
        result = await agent.reload()
        print("\n".join(("reloaded" if result.ok else "not reloaded", *result.problems)), file=sys.stderr)

    async def run() -> None:
        helper = Helper(control, loading=True)
        agent = Agent(helper, AgentOptions(stats=arguments.stats))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(helper.run)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                snapshots = Snapshots(lambda: agent.reading_within(TTL_NS), described=agent.described)
                app = make_app(lambda: agent_status(agent), snapshots, systeminfo=systeminfo())
                address = await nursery.start(serve, app, Address("127.0.0.1", 0))
                print(json.dumps({"listen": str(address), "pid": os.getpid(), "warnings": warnings}), flush=True)
                nursery.start_soon(agent.run, Demand(), publish)
                async for number in signals:
                    if number == signal.SIGHUP:
                        nursery.start_soon(reload, agent)
                    else:
                        nursery.cancel_scope.cancel()

    trio.run(run)


if __name__ == "__main__":
    main()
