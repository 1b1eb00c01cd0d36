"""Runs the tests a program contains (`test "..." { ... }`) on the interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from dsl import ir
from dsl.interpret.machine import CPUS, Machine, Row
from dsl.schema import Metric
from dsl.source import Span
from dsl.units import SUFFIXES

__all__ = ["Mismatch", "Outcome", "run_tests", "series_name"]

_MAX_NOTES = 8
"""A metric with many series would bury what it got."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An `expect` that does not hold: where it stands, and both values as a reader of the test would write them."""

    span: Span
    expected: str
    got: str
    notes: tuple[str, ...] = ()
    """What may explain it: discarded samples, the series that do have values."""

    @property
    def place(self) -> str:
        """`FILE:LINE`."""
        return f"{self.span.source.path}:{self.span.line}"

    @property
    def line(self) -> str:
        """The line of the source that says what was expected."""
        return self.span.source.line(self.span.line).strip()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a test; it passed when nothing mismatched. A test goes on after a failed `expect`."""

    test: ir.Test
    mismatches: tuple[Mismatch, ...]

    @property
    def place(self) -> str:
        """Where the test begins, `FILE:LINE`."""
        return f"{self.test.span.source.path}:{self.test.span.line}"

    @property
    def name(self) -> str:
        """What the source calls it."""
        return self.test.name

    @property
    def passed(self) -> bool:
        """Whether every `expect` held."""
        return not self.mismatches


def run_tests(unit: ir.Unit) -> Iterator[Outcome]:
    """Every test of the unit in the order of the source, each on a machine of its own that nothing has happened to."""
    for test in unit.tests:
        yield Outcome(test, tuple(_mismatches(unit, test)))


def _mismatches(unit: ir.Unit, test: ir.Test) -> Iterator[Mismatch]:
    metrics = {metric.schema.name: metric for sampler in unit.samplers for metric in sampler.metrics}
    highest = max((step.cpu for step in test.steps if isinstance(step, ir.TestFire)), default=0)
    machine = Machine(unit, cpus=max(CPUS, highest + 1))
    for step in test.steps:
        if isinstance(step, ir.TestFire):
            machine.fire(step.hook_event, step.args, now=step.time_ns, cpu=step.cpu, current=step.current)
        elif (mismatch := _compare(machine, metrics[step.metric], step)) is not None:
            yield mismatch


def _compare(machine: Machine, metric: ir.Metric, step: ir.TestExpect) -> Mismatch | None:
    row = machine.row(step.metric, step.row)
    got: tuple[int, ...]
    if metric.schema.kind == "histogram":
        got = machine.observations(step.metric, step.slot, row)
        as_list = True
    else:
        got = (machine.value(step.metric, step.slot, row),)
        as_list = step.is_list
    if sorted(got) == sorted(step.values):
        return None
    unit = metric.schema.unit
    notes = tuple(islice(_notes(machine, metric, step), _MAX_NOTES))
    return Mismatch(step.span, _shown(step.values, unit, as_list=as_list), _shown(got, unit, as_list=as_list), notes)


def _shown(values: Sequence[int], unit: str, *, as_list: bool) -> str:
    text = ", ".join(_written(value, unit) for value in sorted(values))
    return f"[{text}]" if as_list else text


def _written(value: int, unit: str) -> str:
    """A number as the language writes it: with the largest suffix of its unit that divides it."""
    fitting = [(factor, suffix) for suffix, (factor, of) in SUFFIXES.items() if of == unit and value % factor == 0]
    if not fitting or not value:
        return str(value)
    factor, suffix = max(fitting)
    return f"{value // factor}{suffix}"


def _notes(machine: Machine, metric: ir.Metric, step: ir.TestExpect) -> Iterator[str]:
    discards = machine.discards(metric.schema.sampler)
    if discards:
        counts = ", ".join(f"{count} ({reason})" for reason, count in sorted(discards.items()))
        yield f"sampler {metric.schema.sampler} discarded {counts}"
    for slot in range(metric.schema.cells):
        for row in machine.rows(step.metric):
            value = _reading(machine, metric, slot, row)
            if value and (slot, row) != (step.slot, machine.row(step.metric, step.row)):
                yield f"{series_name(metric.schema, slot, row)} is {value}"


def _reading(machine: Machine, metric: ir.Metric, slot: int, row: Row) -> str:
    """A series that is not 0, as text; empty for one that is."""
    name = metric.schema.name
    if metric.schema.kind == "histogram":
        observed = machine.observations(name, slot, row)
        return _shown(observed, metric.schema.unit, as_list=True) if observed else ""
    value = machine.value(name, slot, row)
    return _written(value, metric.schema.unit) if value else ""


def series_name(schema: Metric, slot: int, row: Row) -> str:
    """`metric[3]{op: read}`: a series as the language writes it, `slot` in row-major order of the labels."""
    labels = []
    for label in reversed(schema.labels):
        slot, index = divmod(slot, len(label.values))
        labels.append(f"{label.name}: {label.values[index]}")
    parts = row if isinstance(row, tuple) else () if row is None else (row,)
    key = ", ".join(f'"{part.decode(errors="replace")}"' if isinstance(part, bytes) else str(part) for part in parts)
    return schema.name + (f"[{key}]" if key else "") + (f"{{{', '.join(reversed(labels))}}}" if labels else "")
