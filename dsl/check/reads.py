"""Metrics that are read instead of counted: sources and the expressions over them."""

from __future__ import annotations

from dsl import ir
from dsl.check.expressions import number
from dsl.check.scope import Body, SamplerScope
from dsl.diagnostics import Diagnostics, did_you_mean
from dsl.kernel.perf_events import PERF_EVENTS
from dsl.schema import ByCapture, ByCpu, Dimension, FromDiscards, FromSource, Label, Op, Source
from dsl.syntax import ast
from dsl.units import BYTES, FACTORS, NANOSECONDS

DISCARD_KEYS: dict[str, tuple[ir.DiscardReason, ...]] = {
    "clock": ("clock",),
    "null": ("null",),
    "zero": ("zero",),
    "range": ("range",),
    "state_full": ("state_full",),
    "key_overflow": ("key_overflow",),
    "total": ("clock", "null", "zero", "range", "state_full"),
}

RUSAGE = {
    "utime": NANOSECONDS,
    "stime": NANOSECONDS,
    "maxrss": BYTES,
    "rss": BYTES,
    "minflt": "",
    "majflt": "",
    "inblock": "",
    "oublock": "",
    "nvcsw": "",
    "nivcsw": "",
}
"""Fields of `rusage` and their units."""

_OPS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}


def source_of(node: ast.SourceDecl, name: str, keys: tuple[str, ...], diags: Diagnostics) -> Source | None:
    """The source as the sampler reads it; None for `discards` and after an error."""
    match node.form:
        case "discards":
            return None
        case "glob":
            return Source(name=name, form="value", path=node.path, keys=keys)
        case "perf":
            events = []
            for event in node.columns:
                found = PERF_EVENTS.get(event)
                if found is None:
                    hint = did_you_mean(event, PERF_EVENTS)
                    diags.error("unknown-event", f"unknown perf event `{event}`", node.span, hint=hint)
                    continue
                events.append((event, *found))
            return Source(name=name, form="perf", keys=keys, events=tuple(events))
        case "columns":
            numbers = tuple(str(node.columns.index(key) + 1) for key in keys if key in node.columns)
            return Source(name=name, form="columns", path=node.path, match=node.match, keys=numbers)
        case _:
            return Source(name=name, form=node.form, path=node.path, keys=keys)


def captures(node: ast.SourceDecl) -> tuple[str, ...]:
    """Names in braces of a glob, `{key}` not counted, in the order of the path."""
    parts = node.path.replace("}", "{").split("{")[1::2]
    return tuple(part for part in parts if part != "key")


class Reads:
    """The source expressions of one sampler; collects which keys of each source are used."""

    def __init__(self, sampler: SamplerScope) -> None:
        self.sampler = sampler
        self.keys: dict[str, dict[str, None]] = {name: {} for name in sampler.sources}

    def unit_name(self, source: str) -> str:
        """A source's name, unique among all samplers."""
        return f"{self.sampler.node.name}.{source}"

    def storage(
        self, node: ast.Metric, labels: tuple[Label, ...], dimension: Dimension | None
    ) -> FromSource | FromDiscards | None:
        """What the metric reads; `FromDiscards` still without offsets. None after an error."""
        value, diags = node.value, self.sampler.diags
        if value is None:
            return None
        if not isinstance(value, tuple):
            if labels:
                diags.error(
                    "missing-label",
                    f"`{node.name}` needs a value per label value",
                    node.span,
                    hint="= { a: ..., b: ... }",
                )
                return None
            if self.discards(value) is not None:
                return FromDiscards(())
            ops = self._ops(value)
            return FromSource((ops,)) if ops and self._fits(node, (ops,), dimension) else None
        given = {part.label: part for part in value}
        wanted = labels[0].values if len(labels) == 1 else ()
        for part in value:
            if part.label not in wanted:
                hint = did_you_mean(part.label, wanted)
                diags.error(
                    "unknown-label-value", f"`{node.name}` has no label value `{part.label}`", part.span, hint=hint
                )
        columns = []
        for name in wanted:
            if name not in given:
                diags.error("missing-label", f"`{node.name}` has no value for `{name}`", node.span)
                continue
            columns.append(self._ops(given[name].value))
        if len(columns) != len(wanted) or not wanted:
            return None
        values = tuple(ops for ops in columns if ops is not None)
        return FromSource(values) if len(values) == len(columns) and self._fits(node, values, dimension) else None

    def discards(self, value: object) -> tuple[ir.DiscardReason, ...] | None:
        """The reasons a metric over a `discards` source counts; None when it is over something else."""
        if not isinstance(value, ast.Field) or not isinstance(value.base, ast.Name):
            return None
        source = self.sampler.sources.get(value.base.name)
        if source is None or source.form != "discards":
            return None
        reasons = DISCARD_KEYS.get(value.names[0])
        if reasons is None:
            hint = did_you_mean(value.names[0], DISCARD_KEYS) or f"it is one of {', '.join(DISCARD_KEYS)}"
            self.sampler.diags.error("unknown-field", f"no discards `{value.names[0]}`", value.span, hint=hint)
        return reasons

    def _fits(self, node: ast.Metric, values: tuple[tuple[Op, ...], ...], dimension: Dimension | None) -> bool:
        """The metric's dimension is the one of the sources it reads."""
        found: set[tuple[str, ...]] = set()
        for ops in values:
            for op in ops:
                if op.op == "load":
                    source = self.sampler.sources[op.source.rpartition(".")[2]]
                    per_cpu = source.form in ("perf", "columns")
                    found.add(("cpu",) if per_cpu else captures(source) if source.form == "glob" else ())
        declared: tuple[str, ...] = ()
        if isinstance(dimension, ByCpu):
            declared = ("cpu",)
        elif isinstance(dimension, ByCapture):
            declared = dimension.labels
        if found <= {declared}:
            return True
        wants = " and ".join(", ".join(names) or "nothing" for names in sorted(found))
        self.sampler.diags.error(
            "dimension-mismatch",
            f"`{node.name}` is by {', '.join(declared) or 'nothing'}, what it reads is by {wants}",
            node.span,
            hint=f"declare it `by {wants}`",
        )
        return False

    def _ops(self, node: ast.Expr) -> tuple[Op, ...] | None:
        """A source expression in postfix order; None after an error."""
        match node:
            case ast.Number():
                value = number(node, Body(self.sampler))
                return (Op("const", number=value.constant or 0),) if value else None
            case ast.Name(name=name) if name in FACTORS:
                return (Op("const", number=FACTORS[name]),)
            case ast.Name(name="page_size"):
                return (Op("const", number=self.sampler.unit.facts.page_size),)
            case ast.Name(name=name) if name in self.sampler.definitions.constants:
                constant = self.sampler.definitions.constants[name].constant
                return (Op("const", number=constant or 0),)
            case ast.Name(name=name) if name in self.sampler.sources:
                return self._load(node, name, "value")
            case ast.Field():
                return self._field(node)
            case ast.Call(name="count", args=(ast.Name(name=name),)) if name in self.sampler.sources:
                return (Op("count", source=self.unit_name(name)),)
            case ast.Binary(op=op, left=left, right=right) if op in _OPS:
                first, second = self._ops(left), self._ops(right)
                if first is None or second is None:
                    return None
                return (*first, *second, Op(_OPS[op]))  # type: ignore[arg-type]
            case _:
                self.sampler.diags.error(
                    "source-expression",
                    "a metric is read as a number, a source's field, count(source), or + - * / of these",
                    node.span,
                    hint=self._source_hint(node),
                )
                return None

    def _source_hint(self, node: ast.Expr) -> str | None:
        return did_you_mean(node.name, self.sampler.sources) if isinstance(node, ast.Name) else None

    def _field(self, node: ast.Field) -> tuple[Op, ...] | None:
        names: list[str] = []
        current: ast.Expr = node
        while isinstance(current, ast.Field):
            names.insert(0, current.names[0])
            current = current.base
        if not isinstance(current, ast.Name) or current.name not in self.sampler.sources:
            text = current.span.text
            hint = did_you_mean(text, self.sampler.sources)
            self.sampler.diags.error("unknown-source", f"no source `{text}`", current.span, hint=hint)
            return None
        return self._load(node, current.name, ".".join(names))

    def _load(self, node: ast.Expr, name: str, key: str) -> tuple[Op, ...] | None:
        source, diags = self.sampler.sources[name], self.sampler.diags
        known: tuple[str, ...] | None = None
        if source.form == "rusage":
            known = tuple(RUSAGE)
        elif source.form in ("columns", "perf"):
            known = source.columns
        elif source.form == "psi":
            known = tuple(f"{who}.{what}" for who in ("some", "full") for what in ("avg10", "avg60", "avg300", "total"))
        elif source.form == "value":
            known = ("value",)
        elif source.form == "cpulist":
            diags.error("source-expression", f"`{name}` is a list", node.span, hint=f"write `count({name})`")
            return None
        if known is not None and key not in known:
            hint = did_you_mean(key, known) or f"it has {', '.join(known)}"
            diags.error("unknown-field", f"the source `{name}` has no `{key}`", node.span, hint=hint)
            return None
        self.keys[name][key] = None
        column = str(source.columns.index(key) + 1) if source.form == "columns" else key
        return (Op("load", source=self.unit_name(name), key=column),)
