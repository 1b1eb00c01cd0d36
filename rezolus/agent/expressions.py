"""Metrics read from sources: postfix expressions over tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dsl.schema import ByCapture, ByCpu, Dimension, FromSource, Kind, Metric, Op
from rezolus.agent.parts import cell_labels, make_series
from rezolus.agent.sources import COUNT, Instance, SourceReader, Table
from rezolus.reading import ABSENT_GAUGE, U64, Series

_MASK = 2**64 - 1
SINGLE: tuple[Instance, ...] = ((),)
"""The instances of a source without captures."""


class AbsentError(Exception):
    """An operand has no value now, or a division by zero."""


Value = Callable[[Instance], int]
"""The value of an expression at one instance of its source; raises AbsentError."""


def compile_ops(ops: Sequence[Op], tables: Mapping[str, Table]) -> Value:
    """A postfix expression as a function. Most are one column, perhaps times a constant: these take no detour."""
    match ops:
        case [Op(op="load" | "count")]:
            return _loader(ops[0], tables)
        case [Op(op="load"), Op(op="const", number=factor), Op(op="mul")]:
            load = _loader(ops[0], tables)
            return lambda instance: load(instance) * factor
        case _:
            return partial(_evaluate, ops, {op: _loader(op, tables) for op in ops if op.source})


def _loader(op: Op, tables: Mapping[str, Table]) -> Value:
    table, key = tables[op.source], COUNT if op.op == "count" else op.key

    def load(instance: Instance) -> int:
        rows = table.rows
        row = rows.get(instance)
        if row is None:
            # A source without captures has one row, the same for every instance.
            row = rows.get(())
        value = None if row is None else row.get(key)
        if value is None:
            raise AbsentError
        return value

    return load


def _evaluate(ops: Sequence[Op], loaders: Mapping[Op, Value], instance: Instance) -> int:
    stack: list[int] = []
    for op in ops:
        if op.source:
            stack.append(loaders[op](instance))
        elif op.op == "const":
            stack.append(op.number)
        else:
            right = stack.pop()
            stack.append(_combine(op.op, stack.pop(), right))
    return stack.pop()


def _combine(op: str, left: int, right: int) -> int:
    if op == "add":
        return left + right
    if op == "sub":
        return left - right
    if op == "mul":
        return left * right
    if right == 0:
        raise AbsentError
    return left // right


class SourcePart:
    """One metric that is read: a series per cell and instance that has, or had, a value.

    A counter that is absent for a while keeps its value, as a gauge it is `ABSENT_GAUGE`; when its instance is gone, so is
    the series.
    """

    def __init__(self, metric: Metric, storage: FromSource, reader: SourceReader) -> None:
        self.kind: Kind = metric.kind
        self._metric = metric
        self._cells = tuple(cell_labels(metric))
        self._expressions = [compile_ops(ops, reader.tables) for ops in storage.values]
        names = list(dict.fromkeys(op.source for ops in storage.values for op in ops if op.source))
        self._leading = [reader.tables[name] for name in names]
        self._label_names = _label_names(metric.dimension)
        self._low, self._high = (0, _MASK) if self.kind == "counter" else (ABSENT_GAUGE + 1, 2**63 - 1)
        self._instances: tuple[Instance, ...] = ()
        self._keys: list[tuple[int, Instance]] = []
        self._values: dict[tuple[int, Instance], int] = {}
        self.series: tuple[Series, ...] = ()
        self.size = 0

    def poll(self) -> bool:
        instances = self._current_instances()
        if instances is not self._instances and instances != self._instances:
            kept = set(instances)
            self._values = {k: v for k, v in self._values.items() if k[1] in kept}
        self._instances = instances
        before = self._values
        values: dict[tuple[int, Instance], int] = {}
        for cell, expression in enumerate(self._expressions):
            for instance in instances:
                value = self._value(expression, instance)
                if value is not None:
                    values[cell, instance] = value
                elif (cell, instance) in before:
                    stale = before[cell, instance] if self.kind == "counter" else ABSENT_GAUGE
                    values[cell, instance] = stale
        self._values = values
        if len(values) == len(self._keys) and list(values) == self._keys:
            return False
        self._keys = list(values)
        self.series = tuple(
            make_series(self._metric, self._cells[cell], self._labels(instance)) for cell, instance in self._keys
        )
        self.size = len(self._keys)
        return True

    def fill(self, out: U64) -> None:
        for at, value in enumerate(self._values.values()):
            out[at] = value & _MASK

    def _value(self, expression: Value, instance: Instance) -> int | None:
        try:
            value = expression(instance) if self._label_names else self._total(expression)
        except AbsentError:
            return None
        return value if self._low <= value <= self._high else None

    def _total(self, expression: Value) -> int:
        """A metric without a dimension: the sum over all instances of its source."""
        instances = self._source_instances()
        if not instances:
            return expression(())
        values = []
        for instance in instances:
            try:
                values.append(expression(instance))
            except AbsentError:
                continue
        if not values:
            raise AbsentError
        return sum(values)

    def _current_instances(self) -> tuple[Instance, ...]:
        return self._source_instances() if self._label_names else SINGLE

    def _source_instances(self) -> tuple[Instance, ...]:
        """Of the first source that has several; a source without captures has the one instance ()."""
        for table in self._leading:
            if table.instances and table.instances is not SINGLE and table.instances != SINGLE:
                return table.instances
        return ()

    def _labels(self, instance: Instance) -> dict[str, str]:
        return dict(zip(self._label_names, instance, strict=False))


def _label_names(dimension: Dimension | None) -> tuple[str, ...]:
    match dimension:
        case None:
            return ()
        case ByCpu():
            return ("id",)
        case ByCapture(labels=labels):
            return labels
        case _:
            raise TypeError(f"a metric read from a source cannot be {dimension}")
