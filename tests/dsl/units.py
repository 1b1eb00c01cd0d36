"""Small checked units for tests of planning and emission, built by hand: no grammar, no kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dsl import ir
from dsl.hooks import Hook, HookKind
from dsl.plan.unit import Target
from dsl.schema import ByCgroup, ByCpu, ByKey, Dimension, KeyField, Label, Slots
from dsl.schema import Metric as SchemaMetric
from dsl.source import Source, Span

OFFSETS = {
    "task_struct.sched_task_group": 800,
    "task_group.css": 0,
    "cgroup_subsys_state.id": 72,
    "cgroup_subsys_state.serial_nr": 80,
    "cgroup_subsys_state.cgroup": 0,
    "cgroup.kn": 256,
    "cgroup.level": 216,
    "kernfs_node.name": 16,
    "kernfs_node.parent": 8,
    "kernfs_node.id": 96,
}
"""Where an invented kernel has the members on the way to a cgroup's name."""

TARGET = Target(possible_cpus=4, cgroup_offsets=OFFSETS)
TASK = ir.Pointer("task_struct", walkable=True)
NOW = ir.Builtin("now", ir.U64)
CPU = ir.Builtin("cpu", ir.U32)
COMM = ir.Builtin("comm", ir.Text(16))
ONE = ir.Const(1, ir.U64)

_SOURCE = Source("test.rzl", "".join(f"line {number}\n" for number in range(1, 100)))


def line(number: int) -> Span:
    """The place of a statement."""
    start = sum(len(f"line {before}\n") for before in range(1, number))
    return Span(_SOURCE, start, start + 4)


def arg(index: int, type_: ir.Type = ir.U64) -> ir.Arg:
    """An argument of the event."""
    return ir.Arg(index, type_)


def task(index: int) -> ir.Arg:
    """An argument that is a task."""
    return ir.Arg(index, TASK)


def load(base: ir.Expr, offset: int, type_: ir.Type, path: str, *, bit: int = 0, bits: int = 0) -> ir.Load:
    """A member."""
    return ir.Load(base, offset, type_, path, bit, bits)


def pid(index: int) -> ir.Load:
    """The pid of a task argument."""
    return load(task(index), 1264, ir.S32, "pid")


def differ(left: ir.Expr, right: int, type_: ir.Int = ir.S32) -> ir.Binary:
    """`left != right`."""
    return ir.Binary("!=", left, ir.Const(right, type_), ir.BOOL)


def metric(
    kind: Literal["counter", "gauge", "histogram"],
    name: str,
    *,
    by: Dimension | None = None,
    labels: tuple[Label, ...] = (),
    power: int = 3,
    sampler: str = "s",
) -> ir.Metric:
    """A metric updated by programs."""
    described = SchemaMetric(
        name=name,
        kind=kind,
        unit="",
        help="a test",
        sampler=sampler,
        labels=labels,
        dimension=by,
        power=power,
        storage=Slots("", 0),
    )
    return ir.Metric(described, read=False)


def label(count: int) -> tuple[Label, ...]:
    """A label of `count` values."""
    return (Label("kind", tuple(f"k{number}" for number in range(count))),)


def add(target: ir.Metric, value: ir.Expr = ONE, *, at: int = 1, slot: ir.Expr | None = None) -> ir.Update:
    """`target += value`."""
    return ir.Update(line(at), target, "add", slot, None, value)


def update(
    target: ir.Metric,
    op: Literal["add", "set", "observe"],
    value: ir.Expr,
    *,
    row: tuple[ir.Expr, ...] | None = None,
    slot: ir.Expr | None = None,
    at: int = 1,
) -> ir.Update:
    """Any update."""
    return ir.Update(line(at), target, op, slot, row, value)


def when(condition: ir.Expr, *then: ir.Statement, at: int = 1, otherwise: tuple[ir.Statement, ...] = ()) -> ir.If:
    """`if condition { then }`."""
    return ir.If(line(at), condition, then, otherwise)


def time_state(name: str, sampler: str = "s") -> ir.State:
    """A time remembered of each task."""
    return ir.State(sampler, name, "task", (ir.StateField("value", ir.U64),), zero_is_absent=True)


def store(state: ir.State, key: ir.Expr, *values: ir.Expr, at: int = 1) -> ir.StoreState:
    """`state[key] = values`."""
    return ir.StoreState(line(at), state, key, values)


def take(state: ir.State, key: ir.Expr, local: ir.Local, *then: ir.Statement, at: int = 1) -> ir.ReadState:
    """`if let local = take state[key] { then }`."""
    return ir.ReadState(line(at), state, key, True, (local,), then, ())


@dataclass
class Sampler:
    """A sampler in the making."""

    name: str
    metrics: list[ir.Metric] = field(default_factory=list)
    states: list[ir.State] = field(default_factory=list)
    handlers: list[ir.Handler] = field(default_factory=list)

    def on(
        self,
        event: str,
        *body: ir.Statement,
        kind: HookKind = "tp_btf",
        names: tuple[str, ...] = (),
        hook: Hook | None = None,
    ) -> Sampler:
        """Add what happens at an event."""
        where = hook or Hook(kind=kind, name=event)
        self.handlers.append(ir.Handler(line(1), self.name, event, where, body, names))
        return self

    def build(self) -> ir.Sampler:
        """The finished sampler."""
        parts = (tuple(self.metrics), tuple(self.states), tuple(self.handlers))
        return ir.Sampler(line(1), self.name, "a test", *parts, ())


def unit(*samplers: Sampler, tables: tuple[ir.Table, ...] = ()) -> ir.Unit:
    """The samplers together."""
    return ir.Unit(tuple(sampler.build() for sampler in samplers), tables, (), ())


def scheduler() -> ir.Unit:
    """Two samplers on one hook, with what the real ones do: times of tasks, a clock, counters by CPU and by cgroup."""
    switches = metric("counter", "switches", by=ByCpu(), labels=label(2))
    waits = metric("histogram", "waits")
    moves = metric("counter", "moves", by=ByCgroup(), sampler="m")
    since = time_state("since")
    left = ir.Local("left", ir.U64)
    kind = ir.Local("kind", ir.U32)
    involuntary = ir.Binary("==", load(task(1), 24, ir.U32, "__state"), ir.Const(0, ir.U32), ir.BOOL)
    chosen = ir.Select(involuntary, ir.Const(0, ir.U32), ir.Const(1, ir.U32), ir.U32)
    first = Sampler("s", [switches, waits], [since]).on(
        "sched_switch",
        ir.Let(line(2), kind, chosen),
        when(
            differ(pid(1), 0),
            add(switches, slot=kind, at=4),
            store(since, task(1), NOW, at=5),
            at=3,
        ),
        when(
            differ(pid(2), 0),
            take(since, task(2), left, update(waits, "observe", ir.Elapsed(NOW, left), at=7), at=7),
            at=6,
        ),
        names=("", "prev", "next"),
    )
    second = Sampler("m", [moves]).on(
        "sched_switch",
        when(differ(pid(2), 0), update(moves, "add", ONE, row=(task(2),), at=11), at=10),
        names=("", "from", "to"),
    )
    return unit(first, second)


def keyed(name: str, limit: int = 10) -> ir.Metric:
    """A counter by an open-ended text of 16 bytes."""
    return metric("counter", name, by=ByKey((KeyField(label="comm", kind="string", offset=0, size=16),), limit))
