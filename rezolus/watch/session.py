"""Runs an agent for a view: has the programs attached, shows each reading, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from dsl.schema import FromSource, Metric
from rezolus.agent.agent import Agent, AgentOptions
from rezolus.agent.handover import Handover
from rezolus.agent.helper import Helper
from rezolus.agent.selfmetrics import DISCARDS
from rezolus.errors import UserError
from rezolus.reading import Reading
from rezolus.units import format_duration
from rezolus.watch.frame import Window
from rezolus.watch.notice import compiling
from rezolus.watch.render import Surroundings, render
from rezolus.watch.view import View

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNAVAILABLE_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to watch."""

    wanted: Callable[[str], bool]
    """Whether a metric is to be shown."""
    interval_ns: int
    window_ns: int
    """How far back distributions and the order of series go."""
    frames: int | None = None
    """End after so many; None shows frames until a signal comes."""
    what: str = ""
    """For the headline and what is said before it: the files."""


@dataclass(frozen=True, slots=True)
class _Demand:
    interval_ns: int
    wanted: Callable[[str], bool]

    def wants(self, metric: str) -> bool:
        return metric == DISCARDS[0] or self.wanted(metric)


def frames_within(duration_ns: int, interval_ns: int) -> int:
    """How many frames a duration has, at least one."""
    return max(1, math.floor(duration_ns / interval_ns))


async def watch(helper: Helper, options: Options, view: View) -> None:
    """Show frames until there are enough or a signal comes, then end the helper. UserError when nothing can be attached."""
    agent = Agent(helper, AgentOptions())
    logging.getLogger("rezolus").addHandler(logging.NullHandler())  # what it has to say is in the frames
    send, readings = trio.open_memory_channel[Reading](1)

    def publish(reading: Reading) -> None:
        # A terminal that is slower than the clock misses readings: the next one tells as much.
        with contextlib.suppress(trio.WouldBlock):
            send.send_nowait(reading)

    async with trio.open_nursery() as nursery:
        await nursery.start(_cancel_on_signal, nursery.cancel_scope)
        nursery.start_soon(helper.run)
        view.wait_for(compiling(options.what))
        await nursery.start(agent.run, _Demand(options.interval_ns, options.wanted), publish)
        window = Window(_runnable(agent, options), options.window_ns)
        view.wait_for(f"{options.what}: attached; first values in {format_duration(options.interval_ns)}")
        await _show(agent, options, readings, window, view)
        nursery.cancel_scope.cancel()


async def _cancel_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*ENDING) as received:
        task_status.started()
        async for _ in received:
            scope.cancel()


async def _show(
    agent: Agent, options: Options, readings: trio.MemoryReceiveChannel[Reading], window: Window, view: View
) -> None:
    shown = 0
    async for reading in readings:
        frame = window.add(reading)
        if frame is None:
            continue
        around = Surroundings(_title(agent, options), tuple(_remarks(agent)))
        view.show(render(frame, around, view.room()))
        shown += 1
        if shown == options.frames:
            return


def _runnable(agent: Agent, options: Options) -> list[Metric]:
    """The metrics to show. UserError when no program was attached and no file is read either."""
    handover = None if agent.running is None else agent.running.handover
    if handover is None or agent.load_error is not None:
        raise UserError(agent.load_error or "nothing was loaded")
    metrics = [metric for metric in handover.schema.metrics if options.wanted(metric.name)]
    if not _attached(handover) and not any(isinstance(metric.storage, FromSource) for metric in metrics):
        raise UserError("\nerror: ".join(_reasons(handover)))
    return metrics


def _attached(handover: Handover) -> int:
    """Programs that are at work for a sampler."""
    return sum(program.error is None and bool(program.samplers) for program in handover.programs)


def _reasons(handover: Handover) -> list[str]:
    """Why nothing runs, each reason once, with all that the kernel or the compiler said."""
    problems = [*handover.problems, *(program.error for program in handover.programs if program.error is not None)]
    texts = [f"{problem}\n{problem.detail}".rstrip() for problem in problems]
    texts += [text for text, _ in _unavailable(handover)]
    return list(dict.fromkeys(texts)) or ["no program could be attached"]


def _title(agent: Agent, options: Options) -> str:
    parts = [options.what]
    running = agent.running
    if running is not None:
        attached = _attached(running.handover)
        if attached:
            parts.append(f"{attached} program{'' if attached == 1 else 's'}")
        if running.costs.windows:
            samplers = {sampler.name for sampler in running.handover.schema.samplers}
            share = sum(running.costs.sampler(name).share for name in samplers)
            parts.append(f"costing {share:.2%} of a CPU")
    clock = agent.statistics().clock
    every = f"every {format_duration(options.interval_ns)}"
    parts.append(f"{every} ({clock.skipped} skipped)" if clock.skipped else every)
    return ", ".join(parts)


def _remarks(agent: Agent) -> Iterator[tuple[str, str]]:
    """What is not as one would wish: (text, style)."""
    if agent.running is None:
        return
    handover = agent.running.handover
    for problem in handover.problems:
        yield (f"{problem.sampler} does not run: {problem}" if problem.sampler else str(problem)), "red"
    for program in handover.programs:
        if program.error is not None and not any(name in _failed(handover) for name in program.samplers):
            yield f"{program.hook}: {program.error}", "red"
    yield from list(dict.fromkeys(_unavailable(handover)))[:_UNAVAILABLE_SHOWN]
    for source in agent.statistics().sources:
        yield f"{source.path}: {source.message}", "yellow"


def _failed(handover: Handover) -> set[str]:
    return {problem.sampler for problem in handover.problems if problem.sampler}


def _unavailable(handover: Handover) -> Iterator[tuple[str, str]]:
    """Events that this host does not have or allow, and what was taken instead."""
    for sampler in handover.schema.samplers:
        for use in sampler.events:
            for alternative, why in use.missing:
                instead = f"; {use.event} instead" if use.hook is not None else ""
                style = "dim" if use.hook is not None else "yellow"
                yield f"{sampler.name}: {alternative} is not available: {why}{instead}", style
