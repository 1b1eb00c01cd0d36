"""What names mean: the definitions of a unit, of a sampler, and the variables of one handler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dsl import ir
from dsl.check.kernel_types import TypeRef, find_structure
from dsl.check.values import Place, Value
from dsl.diagnostics import Diagnostics
from dsl.facts import TargetFacts
from dsl.kernel.btf_types import Struct
from dsl.syntax import ast

BUILTINS: dict[str, ir.Builtin] = {
    "now": ir.Builtin("now", ir.U64),
    "cpu": ir.Builtin("cpu", ir.U32),
    "pid": ir.Builtin("pid", ir.U32),
    "tid": ir.Builtin("tid", ir.U32),
    "uid": ir.Builtin("uid", ir.U32),
    "comm": ir.Builtin("comm", ir.Text(16)),
    "current": ir.Builtin("current", ir.Pointer("task_struct", walkable=True)),
}


@dataclass(frozen=True, slots=True, eq=False)
class TableScope:
    """A checked table and the label values it yields, in order."""

    table: ir.Table
    values: tuple[str, ...]
    is_syscall: bool


@dataclass(frozen=True, slots=True, eq=False)
class FunctionScope:
    """A function and the place it was written at: its names mean what they mean there."""

    node: ast.Function
    home: Definitions


@dataclass(slots=True, eq=False)
class Definitions:
    """Tables, functions and constants visible in a file or in a sampler; the inner ones hide the outer."""

    tables: dict[str, TableScope] = field(default_factory=dict)
    functions: dict[str, FunctionScope] = field(default_factory=dict)
    constants: dict[str, Value] = field(default_factory=dict)

    def child(self) -> Definitions:
        """A copy to add to, for an inner scope."""
        return Definitions(dict(self.tables), dict(self.functions), dict(self.constants))


@dataclass(slots=True, eq=False)
class UnitScope:
    """What all samplers of a compilation share."""

    facts: TargetFacts
    diags: Diagnostics
    metrics: dict[str, ast.Metric] = field(default_factory=dict)
    samplers: dict[str, ast.Sampler] = field(default_factory=dict)

    def structure(self, name: str) -> TypeRef | None:
        """A kernel structure by its tag."""
        return find_structure((btf for _, btf in self.facts.btfs_naming(name)), name)

    def structure_names(self) -> Iterable[str]:
        """Structures of the kernel proper, for suggestions."""
        return self.facts.btf.names(Struct) if self.facts.btf else ()

    def enumerator(self, name: str) -> int | None:
        """The value of a kernel enumerator."""
        for _, btf in self.facts.btfs_naming(name):
            found = btf.enum_value(name)
            if found is not None:
                return found[0]
        return None

    def enumerators(self) -> Iterable[str]:
        """Enumerators of the kernel proper, for suggestions."""
        return self.facts.btf.enumerators() if self.facts.btf else ()


@dataclass(slots=True, eq=False)
class MetricScope:
    """A metric while handlers are checked: what they update and with which keys."""

    node: ast.Metric
    metric: ir.Metric
    key_types: list[ir.Type] | None = None
    """Types of an open-ended key's parts, from the first update."""
    hooks: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class SamplerScope:
    """The names of one sampler."""

    unit: UnitScope
    node: ast.Sampler
    definitions: Definitions
    metrics: dict[str, MetricScope] = field(default_factory=dict)
    states: dict[str, ir.State] = field(default_factory=dict)
    state_units: dict[str, str] = field(default_factory=dict)
    state_structures: dict[str, str] = field(default_factory=dict)
    """Of a state whose key is an address: the structure that must be there."""
    sources: dict[str, ast.SourceDecl] = field(default_factory=dict)

    @property
    def diags(self) -> Diagnostics:
        return self.unit.diags

    def label_sets(self) -> Iterable[tuple[str, ...]]:
        """Every list of label values of the sampler: of metrics first, then of tables."""
        for metric in self.metrics.values():
            for label in metric.metric.schema.labels:
                yield label.values
        for table in self.definitions.tables.values():
            yield table.values


@dataclass(slots=True, eq=False)
class Body:
    """One handler being checked: its variables, and the statements of the block being built."""

    sampler: SamplerScope
    names: dict[str, Value | Place] = field(default_factory=dict)
    out: list[ir.Statement] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    optional: frozenset[str] = frozenset()
    """Arguments that an alternative of the event would have bound, but not the one chosen."""
    calls: tuple[str, ...] = ()
    """Functions being substituted, to stop recursion."""

    def inner(self) -> Body:
        """A nested block: sees the variables so far, its own end with it."""
        return Body(self.sampler, dict(self.names), [], self.used, self.optional, self.calls)

    def local(self, name: str, type_: ir.Type) -> ir.Local:
        """A fresh local for a source variable; a name used before in the handler gets a number behind it."""
        unique, count = name, 1
        while unique in self.used:
            count += 1
            unique = f"{name}_{count}"
        self.used.add(unique)
        return ir.Local(unique, type_)
