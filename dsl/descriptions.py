"""What definitions define, for readers: metrics with their labels, and the events and files they come from as the source writes them.

Taken from the syntax tree alone, so it is the same on every host: what an event became on one of them is in the schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass

from dsl.check.events import NONE, event_text
from dsl.schema import Kind, Label
from dsl.source import Span
from dsl.syntax import ast
from dsl.units import canonical


@dataclass(frozen=True, slots=True)
class MetricDescription:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    """As on the wire, `nanoseconds`; empty without one."""
    help: str
    labels: tuple[Label, ...]
    dimension: tuple[str, ...]
    """`("cpu",)`, `("cgroup",)`, or the names of an open-ended key."""
    origins: tuple[str, ...]
    """Events that update it, or files it is read from; what stands in for another follows it as `A else B`."""
    line: int


@dataclass(frozen=True, slots=True)
class SamplerDescription:
    """One sampler and its metrics, in the order of the source."""

    name: str
    help: str
    file: str
    line: int
    metrics: tuple[MetricDescription, ...]
    attaches: bool
    """Whether it counts at events; else all its metrics are read from files."""


def describe_samplers(
    modules: Iterable[ast.Module], used: Mapping[ast.Use, ast.Module]
) -> tuple[SamplerDescription, ...]:
    """All samplers of files that parse, whether or not they check."""
    found = []
    for module in modules:
        shared = _tables(module, used)
        found += [_sampler(item, shared) for item in module.items if isinstance(item, ast.Sampler)]
    return tuple(found)


def incomplete_files(modules: Iterable[ast.Module], used: Mapping[ast.Use, ast.Module]) -> frozenset[str]:
    """Files that use one which is missing or does not parse."""
    return frozenset(
        module.source.path
        for module in modules
        if any(isinstance(item, ast.Use) and item not in used for item in module.items)
    )


def _tables(module: ast.Module, used: Mapping[ast.Use, ast.Module]) -> dict[str, ast.Table]:
    """Tables that every sampler of a file sees."""
    tables: dict[str, ast.Table] = {}
    for item in module.items:
        if isinstance(item, ast.Use) and item in used:
            tables |= {inner.name: inner for inner in used[item].items if isinstance(inner, ast.Table)}
    return tables | {item.name: item for item in module.items if isinstance(item, ast.Table)}


def _sampler(node: ast.Sampler, shared: Mapping[str, ast.Table]) -> SamplerDescription:
    tables = {**shared, **{part.name: part for part in node.members if isinstance(part, ast.Table)}}
    sources = {part.name: part for part in node.members if isinstance(part, ast.SourceDecl)}
    metrics = tuple(
        MetricDescription(
            name=part.name,
            kind=part.kind,
            unit=canonical(part.unit),
            help=part.help,
            labels=tuple(_label(label, tables) for label in part.labels),
            dimension=part.dimension.names if part.dimension else (),
            origins=tuple(dict.fromkeys(_origins(part, node, sources))),
            line=part.span.line,
        )
        for part in node.members
        if isinstance(part, ast.Metric)
    )
    attaches = any(isinstance(part, ast.Handler | ast.Measure) for part in node.members)
    return SamplerDescription(node.name, node.help, node.span.source.path, node.span.line, metrics, attaches)


def _label(node: ast.LabelDecl, tables: Mapping[str, ast.Table]) -> Label:
    table = tables.get(node.values[0]) if len(node.values) == 1 else None
    values = node.values if table is None else tuple(dict.fromkeys(row.value for row in table.rows))
    return Label(node.name, values)


def _origins(metric: ast.Metric, sampler: ast.Sampler, sources: Mapping[str, ast.SourceDecl]) -> Iterator[str]:
    for node in _nodes(metric.value):
        if isinstance(node, ast.Name) and node.name in sources:
            source = sources[node.name]
            yield source.path or source.form
    for part in sampler.members:
        if isinstance(part, ast.Handler):
            yield from _of_handler(part, metric.name)
        elif isinstance(part, ast.Measure) and part.target.name == metric.name:
            yield f"{', '.join(_events(part.start))} to {', '.join(_events(part.stop))}"


def _of_handler(node: ast.Handler, metric: str) -> Iterator[str]:
    """The events of a handler that updates the metric; those of the handlers that replace it follow them."""
    updating = []
    current: ast.Handler | None = node
    while current is not None:
        if _updates(current.body, metric):
            updating.append(_events(current.events))
        current = current.otherwise
    if len(updating) == 1:
        yield from updating[0]
    elif updating:
        yield " else ".join(dict.fromkeys(", ".join(events) for events in updating))


def _updates(body: ast.Block, metric: str) -> bool:
    updates = (node for node in _nodes(body) if isinstance(node, ast.Add | ast.Observe | ast.Assign))
    return any(node.target.name == metric for node in updates)


def _events(alternatives: Iterable[tuple[ast.Event, ...]]) -> list[str]:
    """One text per event; `else none()` is no event."""
    return [
        " else ".join(event_text(event) for event in group if event.kind != "tracepoint" or event.name != NONE)
        for group in alternatives
    ]


def _nodes(root: object) -> Iterator[object]:
    """All nodes of a tree, parents first."""
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, tuple):
            pending.extend(reversed(node))
        elif is_dataclass(node) and not isinstance(node, Span | type):
            yield node
            pending.extend(getattr(node, field.name) for field in reversed(fields(node)))
