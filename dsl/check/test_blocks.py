"""Checks `test` blocks: events with objects of one's own, and what the metrics must then read."""

from __future__ import annotations

from collections.abc import Sequence

from dsl import ir
from dsl.check.events import event_text
from dsl.check.expressions import check_value
from dsl.check.scope import Body, MetricScope, SamplerScope, UnitScope
from dsl.check.statements import label_slot
from dsl.diagnostics import did_you_mean
from dsl.syntax import ast
from dsl.units import NANOSECONDS

TestValue = object
"""int, str, None or `ir.TestObject`."""


def check_test(node: ast.Test, samplers: Sequence[SamplerScope], unit: UnitScope) -> ir.Test | None:
    """A test of the file's samplers; None after an error."""
    if not samplers:
        unit.diags.error("unknown-metric", "there is no sampler to test", node.span)
        return None
    return _TestChecker(samplers, unit).check(node)


class _TestChecker:
    def __init__(self, samplers: Sequence[SamplerScope], unit: UnitScope) -> None:
        self.unit = unit
        self.body = Body(samplers[0])
        self.owners: dict[str, SamplerScope] = {name: scope for scope in samplers for name in scope.metrics}
        self.events = {
            event_text(event)
            for scope in samplers
            for part in scope.node.members
            if isinstance(part, ast.Handler | ast.Measure)
            for event in _events(part)
        }
        self.objects: dict[str, TestValue] = {}

    def check(self, node: ast.Test) -> ir.Test | None:
        steps: list[ir.TestFire | ir.TestExpect] = []
        for step in node.steps:
            if isinstance(step, ast.TestLet):
                self.objects[step.name] = self.value(step.value)
            else:
                found = self.fire(step) if isinstance(step, ast.Fire) else self.expect(step)
                if found is not None:
                    steps.append(found)
        return ir.Test(node.span, node.name, tuple(steps))

    def value(self, node: ast.Value) -> TestValue:
        """An argument or a field: a number, a string, an object; `null` is a null pointer."""
        if isinstance(node, ast.Record):
            return _object([(name, self.value(value)) for name, value in node.fields])
        if isinstance(node, ast.Name) and node.name in self.objects:
            return self.objects[node.name]
        if isinstance(node, ast.Name) and node.name == "null":
            return None
        if isinstance(node, ast.String):
            return node.value
        return self.number(node)

    def number(self, node: ast.Expr, unit: str = "") -> int:
        """A constant; 0 after an error."""
        if isinstance(node, ast.Name) and node.name in self.unit.facts.syscalls:
            return self.unit.facts.syscalls[node.name]
        found = check_value(node, self.body)
        if found is not None and found.constant is None:
            self.unit.diags.error("not-constant", "a test is made of constants", node.span)
        if found is not None and unit and found.unit not in ("", unit):
            self.unit.diags.error("unit-mismatch", f"expected {unit}, found {found.unit}", node.span)
        return found.constant or 0 if found is not None else 0

    def fire(self, step: ast.Fire) -> ir.TestFire | None:
        if step.event not in self.events:
            hint = did_you_mean(step.event, self.events) or f"it could be {', '.join(sorted(self.events))}"
            self.unit.diags.error(
                "unknown-event", f"nothing here listens to `{step.event}`", step.event_span, hint=hint
            )
            return None
        time = self.number(step.time, NANOSECONDS)
        cpu = self.number(step.cpu) if step.cpu is not None else 0
        current = self.value(step.current) if step.current is not None else None
        args = tuple(self.value(arg) for arg in step.args)
        return ir.TestFire(step.span, time, cpu, current, step.event, args)

    def expect(self, step: ast.Expect) -> ir.TestExpect | None:
        name = step.metric.name
        owner = self.owners.get(name)
        if owner is None:
            hint = did_you_mean(name, self.owners)
            self.unit.diags.error(
                "unknown-metric", f"no metric `{name}` in this file", step.metric.name_span, hint=hint
            )
            return None
        metric = owner.metrics[name]
        slot = label_slot(step.metric, metric, Body(owner))
        if slot is None:
            return None
        if not isinstance(slot, ir.Const):
            self.unit.diags.error("not-constant", "a test is made of constants", step.metric.span)
            return None
        unit = metric.metric.schema.unit
        values = tuple(self.number(value, unit) for value in step.values)
        return ir.TestExpect(step.span, name, slot.value, self.row(step.metric, metric), values, step.is_list)

    def row(self, target: ast.MetricRef, metric: MetricScope) -> tuple[object, ...] | None:
        """The key of the series that is looked at; None, all series together, without one."""
        if not target.keys:
            return None
        names = metric.node.dimension.names if metric.node.dimension else ()
        if len(target.keys) != len(names):
            message = f"`{target.name}` has the keys {', '.join(names)}" if names else f"`{target.name}` has no keys"
            self.unit.diags.error("arity", f"{message}, found {len(target.keys)}", target.span)
            return None
        return tuple(self.value(key) for key in target.keys)


def _events(part: ast.Handler | ast.Measure) -> tuple[ast.Event, ...]:
    if isinstance(part, ast.Measure):
        return tuple(event for group in (*part.start, *part.stop, *part.unless) for event in group)
    inner = _events(part.otherwise) if part.otherwise else ()
    return (*(event for group in part.events for event in group), *inner)


def _object(fields: Sequence[tuple[str, TestValue]]) -> ir.TestObject:
    return ir.TestObject(dict(fields))
