"""The checking stage: parsed files and a target become the checked program.

Everything that is wrong in all files is reported before the stage ends. Definitions come first (tables, functions,
constants, then each sampler's metrics, states and sources), then what the handlers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from dsl import ir
from dsl.check.expressions import INTEGER_TYPES, check_expr
from dsl.check.handlers import check_handler, check_measure
from dsl.check.kernel_types import find_member
from dsl.check.reads import Reads, source_of
from dsl.check.scope import Body, Definitions, FunctionScope, MetricScope, SamplerScope, TableScope, UnitScope
from dsl.check.test_blocks import check_test
from dsl.check.values import Value
from dsl.diagnostics import did_you_mean
from dsl.hooks import Hook
from dsl.kernel.constants import CONSTANTS
from dsl.kernel.syscalls import KNOWN_SYSCALLS
from dsl.schema import ByCapture, ByCgroup, ByCpu, ByKey, Dimension, KeyField, Label, Slots, Source
from dsl.schema import Metric as SchemaMetric
from dsl.source import Span
from dsl.suggest import is_slip
from dsl.syntax import ast
from dsl.units import NANOSECONDS, canonical

_MAX_CELLS = 4096
_MAX_KEYS = 65_536
_MAX_POWER = 7
DEFAULT_STATE_LIMIT = 10_240
_NATURAL_KEYS = frozenset(("comm", "pid", "tid", "uid"))


def check(modules: Sequence[ast.Module], used: Mapping[ast.Use, ast.Module], unit: UnitScope) -> ir.Unit:
    """All samplers of the files, resolved and typed. Errors go to `unit.diags`; what is returned then is incomplete."""
    tables: dict[str, ir.Table] = {}
    checkers = []
    known: dict[ast.Module, Definitions] = {}
    for module in modules:
        definitions = _file_definitions(module, used, unit, tables, known)
        samplers_here = [item for item in module.items if isinstance(item, ast.Sampler)]
        checkers += [_SamplerChecker(item, definitions, unit, tables) for item in samplers_here]
    samplers = tuple(checker.check() for checker in checkers)
    sources = tuple(source for checker in checkers for source in checker.source_list)
    scopes = [checker.scope for checker in checkers]
    tests = tuple(
        found
        for module in modules
        for item in module.items
        if isinstance(item, ast.Test) and (found := check_test(item, scopes, unit)) is not None
    )
    return ir.Unit(samplers, tuple(tables.values()), sources, tests)


# Definitions of a file


def _file_definitions(
    module: ast.Module,
    used: Mapping[ast.Use, ast.Module],
    unit: UnitScope,
    tables: dict[str, ir.Table],
    known: dict[ast.Module, Definitions],
) -> Definitions:
    """What a file defines or uses. `known` has the files seen so far: each is defined once, and may be used in a circle."""
    if module in known:
        return known[module]
    definitions = known[module] = Definitions()
    for item in module.items:
        if isinstance(item, ast.Use) and item in used:
            inner = _file_definitions(used[item], used, unit, tables, known)
            definitions.tables.update(inner.tables)
            definitions.functions.update(inner.functions)
            definitions.constants.update(inner.constants)
    for item in module.items:
        if isinstance(item, ast.Table | ast.Function | ast.Const):
            define(item, definitions, unit, tables, owner="")
    return definitions


def define(
    item: ast.Table | ast.Function | ast.Const,
    definitions: Definitions,
    unit: UnitScope,
    tables: dict[str, ir.Table],
    *,
    owner: str,
) -> None:
    """Add a table, function or constant to what is visible."""
    match item:
        case ast.Function():
            definitions.functions[item.name] = FunctionScope(item, definitions)
        case ast.Const():
            value = check_expr(item.value, _bare_body(definitions, unit, item.span))
            if isinstance(value, Value) and (value.literal or value.constant is not None):
                definitions.constants[item.name] = value
            elif value is not None:
                unit.diags.error("not-constant", f"`{item.name}` is not a constant", item.value.span)
        case ast.Table():
            _define_table(item, definitions, unit, tables, owner)


def _bare_body(definitions: Definitions, unit: UnitScope, span: Span) -> Body:
    """A scope without a sampler: constants and table rows are checked in it."""
    node = ast.Sampler(span, "", span, "", ())
    return Body(SamplerScope(unit, node, definitions))


def _define_table(
    node: ast.Table, definitions: Definitions, unit: UnitScope, tables: dict[str, ir.Table], owner: str
) -> None:
    body = _bare_body(definitions, unit, node.span)
    values = tuple(dict.fromkeys(row.value for row in node.rows))
    mapping: dict[int, int] = {}
    places: dict[int, ast.Expr] = {}
    default = None
    absent: list[ast.Name] = []
    syscalls = node.param_type == "syscall"
    for row in node.rows:
        if row.is_else:
            default = values.index(row.value)
        for item in row.items:
            number = _syscall(item, unit) if syscalls else _row_number(item, body, absent)
            if number is None:
                continue
            if number in mapping:
                unit.diags.error(
                    "duplicate-row",
                    f"`{item.span.text}` is in the table twice",
                    item.span,
                    labels=[(places[number].span, "first here")],
                )
            mapping[number], places[number] = values.index(row.value), item
    if absent:
        more = f" and {len(absent) - 1} others of this table" if len(absent) > 1 else ""
        message = f"this kernel has no `{absent[0].name}`{more}: nothing is counted for it"
        unit.diags.warning("absent-enumerator", message, absent[0].span)
    name = f"{owner}_{node.name}" if owner else node.name
    while name in tables:
        name += "_"
    table = ir.Table(name, tuple(sorted(mapping.items())), default, values, tuple(enumerate(values)))
    tables[name] = table
    definitions.tables[node.name] = TableScope(table, values, syscalls)


def _row_number(item: ast.Expr, body: Body, absent: list[ast.Name]) -> int | None:
    if isinstance(item, ast.Name) and _is_absent(item.name, body):
        absent.append(item)
        return None
    value = check_expr(item, body)
    if value is None:
        return None
    if isinstance(value, Value) and value.constant is not None and value.is_integer:
        return value.constant
    body.sampler.diags.error("not-constant", "a row of a table holds constants", item.span)
    return None


def _is_absent(name: str, body: Body) -> bool:
    """Whether a name looks like an enumerator that other kernels have; not when it is nearly one that this one has."""
    if not name.isupper() or name in CONSTANTS or name in body.sampler.definitions.constants:
        return False
    unit = body.sampler.unit
    if unit.enumerator(name) is not None:
        return False
    family = name.rpartition("_")[0].partition("_")[0] + "_"
    return not is_slip(name, (other for other in unit.enumerators() if other.startswith(family)))


def _syscall(item: ast.Expr, unit: UnitScope) -> int | None:
    """A system call's number; one that this architecture does not have is left out without a word, as tables serve all."""
    if not isinstance(item, ast.Name):
        unit.diags.error("not-constant", "a row of a table of system calls holds their names", item.span)
        return None
    number = unit.facts.syscalls.get(item.name)
    if number is None and item.name not in KNOWN_SYSCALLS:
        hint = did_you_mean(item.name, KNOWN_SYSCALLS)
        unit.diags.error("unknown-name", f"no system call `{item.name}`", item.span, hint=hint)
    return number


# Samplers


class _SamplerChecker:
    """One sampler: its declarations at once, its handlers on `check()` when all samplers are declared."""

    def __init__(
        self, node: ast.Sampler, definitions: Definitions, unit: UnitScope, tables: dict[str, ir.Table]
    ) -> None:
        self.scope = SamplerScope(unit, node, definitions.child())
        self.source_list: list[Source] = []
        self.events: list[tuple[str, Hook | None, tuple[tuple[str, str], ...], int]] = []
        earlier = unit.samplers.setdefault(node.name, node)
        if earlier is not node:
            self._twice("sampler", node.name, node.name_span, earlier.name_span)
        self._names: dict[str, Span] = {}
        self._declare_all(tables)

    def _twice(self, what: str, name: str, span: Span, first: Span) -> None:
        self.scope.diags.error(
            "duplicate-name", f"the {what} `{name}` exists already", span, labels=[(first, "first here")]
        )

    def _declare_all(self, tables: dict[str, ir.Table]) -> None:
        scope = self.scope
        for part in scope.node.members:
            if isinstance(part, ast.Handler | ast.Measure):
                continue
            first = self._names.setdefault(part.name, part.name_span)
            if first is not part.name_span:
                self._twice("name", part.name, part.name_span, first)
            if isinstance(part, ast.Table | ast.Function | ast.Const):
                define(part, scope.definitions, scope.unit, tables, owner=scope.node.name)
            elif isinstance(part, ast.SourceDecl):
                scope.sources[part.name] = part
            elif isinstance(part, ast.State):
                self._state(part)
        self.reads = Reads(scope)
        for part in scope.node.members:
            if isinstance(part, ast.Metric):
                self._metric(part)
        for name, decl in scope.sources.items():
            keys = tuple(self.reads.keys[name])
            found = source_of(decl, self.reads.unit_name(name), keys, scope.diags)
            if found is not None and (keys or found.form == "cpulist"):
                self.source_list.append(found)

    def check(self) -> ir.Sampler:
        """The handlers, now that every name is known."""
        scope, handlers = self.scope, []
        for part in scope.node.members:
            if isinstance(part, ast.Handler):
                handlers += check_handler(part, scope, self.events)
            elif isinstance(part, ast.Measure):
                handlers += check_measure(part, scope, self.events)
        node = scope.node
        metrics = {name: self._finish_metric(metric) for name, metric in scope.metrics.items()}
        for name, metric in metrics.items():
            scope.metrics[name].metric = metric
        handlers = [replace(handler, body=_rebind(handler.body, metrics)) for handler in handlers]
        states = tuple(scope.states.values())
        finished = tuple(metrics.values())
        return ir.Sampler(node.span, node.name, node.help, finished, states, tuple(handlers), tuple(self.events))

    def _state(self, node: ast.State) -> None:
        scope = self.scope
        type_ = INTEGER_TYPES.get(node.type_name, ir.U64)
        unit = "" if node.type_name in INTEGER_TYPES else canonical(node.type_name)
        field = ir.StateField(node.name, type_)
        zero = unit == NANOSECONDS
        if node.key == "task":
            if node.limit is not None:
                scope.diags.error(
                    "state-limit", "a state by task has no limit: it lives as long as the task", node.span
                )
            state = ir.State(scope.node.name, node.name, "task", (field,), zero, line=node.span.line)
        else:
            key = INTEGER_TYPES.get(node.key, ir.U64)
            if node.key not in INTEGER_TYPES and scope.unit.structure(node.key) is None:
                hint = did_you_mean(node.key, ("task", *INTEGER_TYPES))
                scope.diags.error(
                    "unknown-type",
                    f"`{node.key}` is neither `task`, an integer type nor a kernel structure",
                    node.key_span,
                    hint=hint,
                )
            limit = node.limit if node.limit is not None else DEFAULT_STATE_LIMIT
            if not 1 <= limit <= _MAX_KEYS * 16:
                scope.diags.error("bad-limit", f"a limit is 1 to {_MAX_KEYS * 16}", node.span)
            state = ir.State(scope.node.name, node.name, "hash", (field,), zero, limit, key, node.span.line)
            if node.key not in INTEGER_TYPES and scope.unit.structure(node.key) is not None:
                scope.state_structures[node.name] = node.key
        scope.states[node.name] = state
        scope.state_units[node.name] = unit

    def _metric(self, node: ast.Metric) -> None:
        scope = self.scope
        earlier = scope.unit.metrics.setdefault(node.name, node)
        if earlier is not node and earlier not in scope.node.members:
            self._twice("metric", node.name, node.name_span, earlier.name_span)
        if not node.help:
            scope.diags.error(
                "missing-help",
                f"`{node.name}` does not say what it is",
                node.span,
                hint='add a description: "Packets dropped"',
            )
        if node.power is not None and (node.kind != "histogram" or not 0 <= node.power <= _MAX_POWER):
            scope.diags.error("bad-power", f"`power` is 0 to {_MAX_POWER} and for histograms", node.span)
        labels = self._labels(node)
        dimension = self._dimension(node)
        self._check_size(node, labels)
        storage = self.reads.storage(node, labels, dimension)
        if node.value is not None and node.kind == "histogram":
            scope.diags.error("read-metric", "a histogram cannot be read from a source", node.span)
        schema = SchemaMetric(
            name=node.name,
            kind=node.kind,
            unit=canonical(node.unit),
            help=node.help,
            sampler=scope.node.name,
            labels=labels,
            dimension=dimension,
            power=3 if node.power is None else node.power,
            storage=storage or Slots("", 0),
            hooks=self._source_names(node),
            file=node.span.source.path,
            line=node.span.line,
        )
        discards = self.reads.discards(node.value) or ()
        scope.metrics[node.name] = MetricScope(node, ir.Metric(schema, node.value is not None, discards))

    def _source_names(self, node: ast.Metric) -> tuple[str, ...]:
        """What a read metric is read from, for documentation."""
        if node.value is None:
            return ()
        roots = [part.value for part in node.value] if isinstance(node.value, tuple) else [node.value]
        names: dict[str, None] = {}
        for root in roots:
            for name, decl in self.scope.sources.items():
                if name in root.span.text:
                    names[decl.path or decl.form] = None
        return tuple(names)

    def _labels(self, node: ast.Metric) -> tuple[Label, ...]:
        labels = []
        for label in node.labels:
            values = label.values
            table = self.scope.definitions.tables.get(values[0]) if len(values) == 1 else None
            if table is not None:
                values = table.values
            if len(set(values)) != len(values):
                self.scope.diags.error("duplicate-name", f"a value of `{label.name}` stands there twice", label.span)
            labels.append(Label(label.name, values))
        return tuple(labels)

    def _check_size(self, node: ast.Metric, labels: tuple[Label, ...]) -> None:
        cells = 1
        for label in labels:
            cells *= len(label.values)
        if cells > _MAX_CELLS:
            self.scope.diags.error(
                "metric-too-large", f"{cells} combinations of label values, at most {_MAX_CELLS}", node.span
            )
        if node.kind == "histogram" and node.dimension is not None and node.dimension.names != ("cpu",):
            keys = 4096 if node.dimension.names == ("cgroup",) else node.dimension.limit or 1024
            power = 3 if node.power is None else node.power
            size = keys * cells * ((65 - power) << power) * 8
            if size > 64 << 20:
                self.scope.diags.error(
                    "metric-too-large",
                    f"`{node.name}` would take {size >> 20} MiB",
                    node.span,
                    hint="lower `limit` or `power`",
                )

    def _has_cgroups(self) -> bool:
        task = self.scope.unit.structure("task_struct")
        return task is not None and find_member(task, "sched_task_group") is not None

    def _dimension(self, node: ast.Metric) -> Dimension | None:
        found, diags = node.dimension, self.scope.diags
        if found is None:
            return None
        if found.names == ("cpu",):
            return ByCpu()
        if found.names == ("cgroup",):
            if node.value is not None:
                diags.error("dimension-mismatch", "no source is by cgroup", found.span)
            if not self._has_cgroups():
                diags.error("no-cgroups", "this kernel has no cpu cgroups (CONFIG_CGROUP_SCHED)", found.span)
            return ByCgroup()
        if "cpu" in found.names or "cgroup" in found.names:
            diags.error("dimension-mismatch", "`cpu` and `cgroup` stand alone", found.span)
        if node.value is not None:
            return ByCapture(found.names)
        limit = found.limit
        if limit is None:
            diags.error(
                "bad-limit",
                "an open-ended key needs a bound",
                found.span,
                hint=f"by {', '.join(found.names)} limit 1000",
            )
            limit = 1
        elif not 1 <= limit <= _MAX_KEYS:
            diags.error("bad-limit", f"a limit is 1 to {_MAX_KEYS}, found {limit}", found.span)
        return ByKey((), limit)

    def _finish_metric(self, scope: MetricScope) -> ir.Metric:
        """With the key's layout and the hooks, which the handlers have shown."""
        metric, diags = scope.metric, self.scope.diags
        schema = metric.schema
        if not metric.read and not scope.hooks and not diags.has_errors:
            diags.warning("never-updated", f"nothing updates `{schema.name}` on this kernel", scope.node.name_span)
        changes: dict[str, object] = {"hooks": schema.hooks or tuple(dict.fromkeys(scope.hooks))}
        if isinstance(schema.dimension, ByKey):
            names = scope.node.dimension.names if scope.node.dimension else ()
            types: Sequence[ir.Type] = scope.key_types or [ir.U64] * len(names)
            changes["dimension"] = ByKey(_key_fields(names, types), schema.dimension.limit)
        return ir.Metric(msgspec.structs.replace(schema, **changes), metric.read, metric.discards)


def _key_fields(names: Sequence[str], types: Sequence[ir.Type]) -> tuple[KeyField, ...]:
    fields, offset = [], 0
    for name, type_ in zip(names, types, strict=True):
        if isinstance(type_, ir.Text):
            size = (type_.size + 7) // 8 * 8
            fields.append(KeyField(label=name, kind="string", offset=offset, size=size))
        else:
            size = 8
            signed = isinstance(type_, ir.Int) and type_.signed
            fields.append(KeyField(label=name, kind="signed" if signed else "unsigned", offset=offset, size=size))
        offset += size
    return tuple(fields)


def _rebind(statements: tuple[ir.Statement, ...], metrics: Mapping[str, ir.Metric]) -> tuple[ir.Statement, ...]:
    """The same statements, updating the finished metrics of these names."""
    found: list[ir.Statement] = []
    for node in statements:
        match node:
            case ir.Update() | ir.ForgetKey():
                found.append(replace(node, metric=metrics[node.metric.schema.name]))
            case ir.If() | ir.ReadState():
                then, otherwise = _rebind(node.then, metrics), _rebind(node.otherwise, metrics)
                found.append(replace(node, then=then, otherwise=otherwise))
            case _:
                found.append(node)
    return tuple(found)
