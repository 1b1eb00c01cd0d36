"""`rezolus watch FILE... [METRIC...]`: live values of definitions, as their author sees them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rezolus.errors import UserError
from rezolus.units import parse_duration

if TYPE_CHECKING:
    import socket

    from dsl import Checked, Parsed
    from dsl.facts import TargetFacts
    from dsl.schema import TaskMemory
    from rezolus.agent.loader import Prepared
    from rezolus.watch.notice import Notice
    from rezolus.watch.session import Options

SHORTEST = "10ms"
WINDOW = "10s"


class Duration(click.ParamType[int]):
    """`1s`, `250ms`: nanoseconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            nanoseconds = parse_duration(str(value))
        except ValueError:
            nanoseconds = 0
        if nanoseconds < parse_duration(SHORTEST):
            self.fail(f"{value!r} is no duration of at least {SHORTEST}, such as 250ms, 1s or 5m", param, ctx)
        return nanoseconds


@dataclass(frozen=True, slots=True)
class Selection:
    """What the arguments name."""

    files: tuple[str, ...]
    patterns: tuple[str, ...]

    def wants(self, metric: str) -> bool:
        """Whether a metric is to be shown; all are when none is named."""
        return not self.patterns or any(fnmatchcase(metric, pattern) for pattern in self.patterns)


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="FILE... [METRIC...]")
@click.option("--interval", type=Duration(), default="1s", show_default=True, help="Time between two readings.")
@click.option("--duration", type=Duration(), help="End after this time.")
@click.option("--once", is_flag=True, help="Show one interval and end.")
@click.option(
    "--window", type=Duration(), default=WINDOW, show_default=True, help="How far back percentiles and bars go."
)
@click.option("--top", type=click.IntRange(1, 1000), default=10, show_default=True, help="Series shown per metric.")
def command(
    arguments: tuple[str, ...], interval: int, duration: int | None, *, once: bool, window: int, top: int
) -> None:
    """Attach .rzl files, and nothing else, and show their live values until Ctrl-C.

    Rates of counters, values of gauges, percentiles and distributions of histograms, the busiest series first. METRIC names
    or patterns (`scheduler_*`) choose what is shown. Needs root.
    """
    from rezolus import definitions
    from rezolus.terminal import console
    from rezolus.watch.notice import Notice, compiling

    selection = select(arguments)
    files = definitions.find_files(selection.files)
    parsed = definitions.parse(definitions.read_files(files).complete())
    _require_root(parsed, arguments)
    with Notice(console(stderr=True)) as notice:
        what = ", ".join(Path(file).name for file in files)
        notice.say(compiling(what))  # before what takes long, which begins with imports
        from rezolus.watch.session import Options, frames_within

        checked, facts = _check(parsed, notice)
        _require_metrics(checked, selection)
        options = Options(
            wanted=selection.wants,
            interval_ns=interval,
            window_ns=max(window, interval),
            frames=1 if once else None if duration is None else frames_within(duration, interval),
            what=what,
        )
        with _start(parsed, facts, checked, selection.wants) as control:
            _show(control, options, top, notice)


def select(arguments: tuple[str, ...]) -> Selection:
    """Tell files from metrics: a file ends in `.rzl`, has a `/`, or is there. Raises UserError without a file."""
    files = tuple(text for text in arguments if text.endswith(".rzl") or "/" in text or Path(text).exists())
    if not files:
        raise UserError(f"none of {', '.join(arguments)} is a file; name the .rzl files to attach before the metrics")
    return Selection(files, tuple(text for text in arguments if text not in files))


def _require_root(parsed: Parsed, arguments: tuple[str, ...]) -> None:
    """UserError when programs are to be attached by who may not. Files can be watched by everybody."""
    from dsl import describe_samplers

    attaching = any(sampler.attaches for sampler in describe_samplers(parsed.modules, parsed.used))
    if os.geteuid() != 0 and attaching:
        raise UserError(f"attaching eBPF programs needs root: run `sudo rezolus watch {shlex.join(arguments)}`")


def _check(parsed: Parsed, notice: Notice) -> tuple[Checked, TargetFacts]:
    """Raises CompileError with everything that `rezolus check` reports; prints the warnings."""
    from dsl import check_files
    from rezolus.agent.facts import probe
    from rezolus.cli.check import print_diagnostics

    facts = probe(binaries=parsed.binaries)
    checked = check_files(parsed, facts)
    if checked.diagnostics:
        notice.clear()
        print_diagnostics(checked.diagnostics)
    return checked, facts


def _require_metrics(checked: Checked, selection: Selection) -> None:
    """UserError when no metric can ever have a value, and for a name or pattern that matches none."""
    from dsl import did_you_mean

    samplers = checked.unit.samplers
    names = [metric.schema.name for sampler in samplers for metric in sampler.metrics]
    if not names:
        raise UserError("these files define no metric")
    if not any(sampler.handlers or any(metric.read for metric in sampler.metrics) for sampler in samplers):
        raise UserError("there is nothing to watch: this host has or allows none of the events, as said above")
    for pattern in selection.patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = did_you_mean(pattern, names) or f"there are {', '.join(names)}"
            raise UserError(f"no metric matches {pattern!r}, and there is no such file; {hint}")


def _start(parsed: Parsed, facts: TargetFacts, checked: Checked, wanted: Callable[[str], bool]) -> socket.socket:
    """Start the process that loads and attaches, from here where everything is checked already."""
    from rezolus.agent.launch import start_helper
    from rezolus.agent.supervisor import Children

    def load(channel: socket.socket) -> None:
        from rezolus.agent.loader import run_loader

        run_loader(channel, prepare)

    def prepare(before: TaskMemory | None) -> Prepared:
        from rezolus import definitions
        from rezolus.agent.loader import Prepared, privileged
        from rezolus.agent.prepare import NEEDS_ROOT
        from rezolus.bpf.targets import kernel_btf_ids

        return Prepared(
            compile_samplers=definitions.compiler(parsed, facts, checked, lambda _: True, before),
            btf_id=kernel_btf_ids(facts.btf),
            cpus=tuple(range(facts.possible_cpus)),
            wanted=wanted,
            refused="" if privileged() else NEEDS_ROOT,
        )

    return start_helper(Children(load=load, work=lambda channel: channel.close()))


def _show(control: socket.socket, options: Options, top: int, notice: Notice) -> None:
    import trio

    from rezolus.agent.helper import Helper
    from rezolus.terminal import console
    from rezolus.watch.session import watch
    from rezolus.watch.view import view_on

    async def run() -> None:
        with view_on(console(), top, notice) as view:
            await watch(Helper(control, loading=True), options, view)

    trio.run(run)
