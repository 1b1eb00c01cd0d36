"""The loader's side of a reload: what of the running set the next one goes on with, and whether it may replace it.

The daemon tells the loader what runs: the handover that it was once given, and its descriptors. From these the next
set takes over every map that looks the same inside and out, and every attachment to the same hook. New programs go into
the slots that are not in use, new attachments find theirs empty: nothing of the new set counts before the daemon
turns the switch. A loader that ends before that, however it ends, has changed nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from dsl.hooks import Hook
from dsl.schema import Bank, Metric, Program, Schema, Slots
from rezolus.agent.handover import Handover, Problem, ProgramReport, Stage
from rezolus.bpf import dispatch, syscall
from rezolus.bpf.attach import AttachError, attach
from rezolus.bpf.dispatch import Dispatcher
from rezolus.bpf.load import BtfId, Failure, Loaded, load_dispatcher
from rezolus.bpf.stats import check_map

BLOCKING = frozenset(("config", "check", "compile", "verify"))
"""Stages at which a problem that is new makes a reload fail."""


@dataclass(frozen=True, slots=True)
class _Attached:
    """A hook that is attached already."""

    file: str
    dispatcher: Dispatcher
    links: tuple[int, ...]


@dataclass(slots=True)
class Standing:
    """The running set; its descriptors are closed with it. Without arguments: nothing runs."""

    handover: Handover | None = None
    fds: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """ValueError when the descriptors are not what their names say; maps are looked at when they are taken over."""
        for name, fd in self.fds.items():
            if name == "switch:":
                dispatch.check_switch(fd)
            elif name.startswith("slots:"):
                dispatch.check_slots(fd)

    @property
    def switch(self) -> int | None:
        """What its dispatchers look at; None when nothing was loaded."""
        return self.fds.get("switch:")

    def maps(self, layouts: Mapping[str, str]) -> dict[str, int]:
        """The maps that a unit with these layouts may go on with."""
        if self.handover is None:
            return {}
        return {
            name: self.fds[f"map:{name}"]
            for name, layout in self.handover.layouts.items()
            if layouts.get(name) == layout and f"map:{name}" in self.fds
        }

    def attached(self) -> dict[Hook, _Attached]:
        """What is attached, by hook."""
        found = {}
        for program in self.handover.programs if self.handover is not None else ():
            links = tuple(self._links(program.function))
            slots = self.fds.get(f"slots:{program.function}")
            if program.error is None and slots is not None and links:
                dispatcher = Dispatcher(self.fds[f"prog:{program.function}"], slots)
                found[program.hook] = _Attached(program.file, dispatcher, links)
        return found

    def perf(self, schema: Schema) -> dict[str, int]:
        """The counters of perf sources that count the same in another schema, by the names they travel by."""
        if self.handover is None:
            return {}
        before = {(source.name, *event) for source in self.handover.schema.sources for event in source.events}
        same = [
            f"perf:{s.name}:{event[0]}:" for s in schema.sources for event in s.events if (s.name, *event) in before
        ]
        return {name: fd for name, fd in self.fds.items() if name.startswith(tuple(same))}

    def refusals(self, problems: Iterable[Problem], schema: Schema) -> list[Problem]:
        """The problems because of which the next set must not replace this one.

        What was wrong before and still is does not stand in the way; what ran and would not run any more does.
        """
        if self.handover is None:
            return []
        known = {(problem.stage, problem.file, problem.message) for problem in self.handover.problems}
        failed = {brief.name for brief in self.handover.absent if brief.state == "failed"}
        running = {name for program in self.handover.schema.programs for name in program.samplers}
        kept = {sampler.name for sampler in schema.samplers}
        return [
            problem
            for problem in problems
            if (problem.stage in BLOCKING and not self._excused(problem, failed, known))
            or (problem.sampler in running and problem.sampler not in kept)
        ]

    def close(self) -> None:
        """Close the loader's copies."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()

    @staticmethod
    def _excused(problem: Problem, failed: set[str], known: set[tuple[Stage, str, str]]) -> bool:
        return problem.sampler in failed or (problem.stage, problem.file, problem.message) in known

    def _links(self, function: str) -> Iterator[int]:
        number = 0
        while (fd := self.fds.get(f"link:{function}:{number}")) is not None:
            yield fd
            number += 1


def attach_all(
    programs: Sequence[Program], loaded: Loaded, btf_id: BtfId, standing: Standing
) -> tuple[ProgramReport, ...]:
    """Attach every loaded program so that it can be exchanged; an attachment that fails leaves a hole, not a failure.

    Where nothing ran before, programs run at once, else when the switch is turned to `next_value`.
    """
    if standing.switch is not None:
        loaded.switch = _copy(standing.switch)
    elif loaded.switch < 0:
        loaded.switch = dispatch.make_switch()
    slot = dispatch.slot_of(next_value(standing))
    before = standing.attached()
    refused = {outcome.function: outcome.failure for outcome in loaded.outcomes}
    reports = []
    for program in programs:
        failure = refused.get(program.function)
        file = identity_of(program.hook)
        if program.function in loaded.programs:
            known = before.get(program.hook)
            if known is not None and known.file == file:
                del before[program.hook]
                _join(program, loaded, slot, known)
            else:
                failure = _attach_new(program, loaded, slot, btf_id)
        reports.append(_report(program, file, failure))
    # What a loader before us may have left there when it was killed.
    dispatch.clear((gone.dispatcher.slots for gone in before.values()), slot)
    return tuple(reports)


def next_value(standing: Standing) -> int:
    """What the switch says when the next set runs."""
    return 0 if standing.switch is None else dispatch.following(dispatch.value_of(standing.switch))


def settle(loaded: Loaded, standing: Standing) -> None:
    """Empty the slots that the switch does not point at, of both sets: whichever of the two lost is then gone."""
    if standing.switch is not None:
        slots = [dispatcher.slots for dispatcher in loaded.dispatchers.values()]
        slots += [known.dispatcher.slots for known in standing.attached().values()]
        dispatch.clear(slots, 1 - dispatch.slot_of(dispatch.value_of(standing.switch)))


def _join(program: Program, loaded: Loaded, slot: int, known: _Attached) -> None:
    """Have an attachment that exists choose between the old program and this one."""
    dispatch.put(known.dispatcher.slots, slot, loaded.programs[program.function])
    loaded.dispatchers[program.function] = Dispatcher(_copy(known.dispatcher.program), _copy(known.dispatcher.slots))
    loaded.links[program.function] = tuple(_copy(fd) for fd in known.links)


def _attach_new(program: Program, loaded: Loaded, slot: int, btf_id: BtfId) -> Failure | None:
    if program.function not in loaded.dispatchers:
        with suppress(OSError):
            _dispatch(program, loaded, slot, btf_id)
    # Where the kernel knows no tail calls it is the program itself: counted, but at a reload some events twice.
    dispatcher = loaded.dispatchers.get(program.function)
    entry = loaded.programs[program.function] if dispatcher is None else dispatcher.program
    try:
        loaded.links[program.function] = attach(entry, program.hook)
    except AttachError as error:
        return Failure(stage="attach", reason=error.reason)
    return None


def _dispatch(program: Program, loaded: Loaded, slot: int, btf_id: BtfId) -> None:
    """Put a dispatcher before a program."""
    slots = dispatch.make_slots()
    try:
        dispatch.put(slots, slot, loaded.programs[program.function])
        attached = load_dispatcher(program.hook, program.function, switch=loaded.switch, slots=slots, btf_id=btf_id)
    except OSError:
        os.close(slots)
        raise
    loaded.dispatchers[program.function] = Dispatcher(attached, slots)


def _report(program: Program, file: str, failure: Failure | None) -> ProgramReport:
    return ProgramReport(
        function=program.function,
        hook=program.hook,
        samplers=program.samplers,
        weights=program.weights,
        file=file,
        error=None if failure is None else failure_problem(failure),
    )


def failure_problem(failure: Failure, sampler: str = "") -> Problem:
    """A failed program as the status pages show it."""
    message = failure.messages[0] if failure.messages else None
    return Problem(
        stage=failure.stage,
        sampler=sampler,
        message=message.text if message is not None else failure.reason,
        file=message.file if message is not None else "",
        line=message.line if message is not None else 0,
        detail=failure.log,
    )


def identity_of(hook: Hook) -> str:
    """Which file a hook in a user program is in: a program that was installed anew is another one of the same name."""
    if not hook.path:
        return ""
    try:
        status = os.stat(hook.path)
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}"


def carry_gauges(loaded: Loaded, schema: Schema, standing: Standing, taken: Iterable[str]) -> None:
    """Give gauges their last values where they moved: programs set them, perhaps not again for a long time."""
    if standing.handover is None:
        return
    before = standing.handover.schema
    old_banks = {bank.name: bank for bank in before.banks}
    for bank in schema.banks:
        old = old_banks.get(bank.name)
        fd = standing.fds.get(f"map:{bank.name}")
        target = loaded.maps.get(bank.name)
        if old is None or fd is None or target is None or bank.name in taken or old.rows != bank.rows:
            continue
        moved = list(_moved_gauges(bank, schema.metrics, before.metrics))
        if moved:
            _carry_rows(bank, target, old, fd, moved)


def _moved_gauges(bank: Bank, now: Sequence[Metric], before: Sequence[Metric]) -> Iterator[tuple[int, int, int]]:
    """(old word, new word, number of words) of the gauges of a bank that were there with the same labels."""
    known = {metric.name: metric for metric in before if metric.kind == "gauge"}
    for metric in now:
        old = known.get(metric.name)
        if old is None or metric.kind != "gauge" or (old.labels, old.dimension) != (metric.labels, metric.dimension):
            continue
        match metric.storage, old.storage:
            case Slots(bank=name, offset=new_word), Slots(bank=old_name, offset=old_word):
                if name == old_name == bank.name and bank.axis in ("one", "cpu"):
                    yield old_word, new_word, metric.cells
            case _:
                pass


def _carry_rows(bank: Bank, fd: int, old: Bank, old_fd: int, moved: Sequence[tuple[int, int, int]]) -> None:
    """Raises ValueError when the running map, or what was said to be in it, cannot be: nothing is copied then."""
    check_map(old_fd, f"map {old.name}", kind=syscall.MAP_ARRAY, value_size=8 * old.words, rows=old.rows)
    check_map(fd, f"new map {bank.name}", kind=syscall.MAP_ARRAY, value_size=8 * bank.words, rows=bank.rows)
    for source, target, words in moved:
        if not (0 <= source <= old.words - words and 0 <= target <= bank.words - words):
            raise ValueError(f"a gauge is said to lie outside of the map {old.name}")
    for row in range(bank.rows):
        key = struct.pack("=I", row)
        values = syscall.map_lookup(old_fd, key, 8 * old.words) or bytes(8 * old.words)
        fresh = bytearray(8 * bank.words)
        for source, target, words in moved:
            fresh[8 * target : 8 * (target + words)] = values[8 * source : 8 * (source + words)]
        syscall.map_update(fd, key, bytes(fresh))


def _copy(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
