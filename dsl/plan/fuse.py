"""One program per hook: the handlers of all samplers joined, and for each value the place where it is evaluated, once.

A value that several statements need is evaluated in the innermost block around all of them, before the first: at once
where that block is sure to need it, on first demand (`lazy`) where it may not be needed at all, so that no path pays for
the clock, a lookup or a cache miss it does not use. A value that one statement needs is evaluated there.
Cheap arithmetic is not worth a branch: where nothing is sure it is simply written out again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

from dsl import ir
from dsl.hooks import Hook
from dsl.plan.number import Bound, Graph, Memory, Value, root
from dsl.schema import ByCgroup, ByCpu, ByKey

Mode = Literal["eager", "lazy"]

TASK_GROUP = (
    "task_struct.sched_task_group",
    "task_group.css",
    "cgroup_subsys_state.id",
    "cgroup_subsys_state.serial_nr",
)


@dataclass(slots=True, eq=False)
class Block:
    """Statements of one handler, or at the root of a program the handlers themselves."""

    steps: list[Step] = field(default_factory=list)
    place: dict[int, list[tuple[Value, Mode]]] = field(default_factory=dict)
    """Values to evaluate, or to prepare for it, before the step of this number."""


@dataclass(slots=True, eq=False)
class Step:
    """A statement with its expressions as values; without `statement` the whole body of a handler."""

    handler: int
    statement: ir.Statement | None
    head: tuple[Value, ...] = ()
    """Evaluated in this order whenever the statement is reached; a failure abandons the statement."""
    default: Value | None = None
    locals: tuple[Value, ...] = ()
    slot: Value | None = None
    row: tuple[Value, ...] = ()
    value: Value | None = None
    memory: Value | None = None
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """All that happens at one hook."""

    hook: Hook
    handlers: tuple[ir.Handler, ...]
    graph: Graph
    root: Block

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those that share the hook, in the order of the unit."""
        return tuple(dict.fromkeys(handler.sampler for handler in self.handlers))

    def steps(self) -> Iterator[Step]:
        """All statements, in the order of the source."""
        return _steps(self.root)


def _steps(block: Block) -> Iterator[Step]:
    for step in block.steps:
        yield step
        for inner in step.blocks:
            yield from _steps(inner)


def bank_name(metric: ir.Metric) -> str:
    """The bank a metric's values live in."""
    match metric.schema.dimension:
        case ByCgroup():
            return "cgroup"
        case ByKey():
            return metric.schema.name
        case ByCpu():
            return "cpu"
        case _:
            return {"counter": "cpu", "histogram": "hist", "gauge": "one"}[metric.schema.kind]


def fuse(
    hook: Hook,
    handlers: tuple[ir.Handler, ...],
    tables: Mapping[str, ir.Table],
    arrays: frozenset[str] = frozenset(),
    offsets: Mapping[str, int] | None = None,
) -> Fused:
    """Join the handlers of one hook.

    `arrays` names the tables kept in memory; `offsets` has those of `TASK_GROUP`, needed for metrics `by cgroup`.
    """
    graph = Graph(tables, arrays)
    root = Block()
    for number, handler in enumerate(handlers):
        body = _Builder(graph, number, offsets).block(handler.body, {})
        root.steps.append(Step(number, None, blocks=(body,)))
    _name_arguments(graph, handlers)
    _place(graph, root, frozenset(), frozenset())
    return Fused(hook, handlers, graph, root)


def _name_arguments(graph: Graph, handlers: tuple[ir.Handler, ...]) -> None:
    """Arguments are called what the first sampler calls them."""
    for value in graph.values:
        match value.node:
            case ir.Arg(index=index) | ir.UsdtArg(index=index):
                pass
            case ir.ReturnValue():
                index = 0
            case _:
                continue
        names = (handler.arg_names[index] for handler in handlers if index < len(handler.arg_names))
        graph.hints[value] = next((name for name in names if name), f"arg{index}")


@dataclass(slots=True)
class _Builder:
    graph: Graph
    handler: int
    offsets: Mapping[str, int] | None

    def block(self, statements: tuple[ir.Statement, ...], outer: Mapping[str, Value]) -> Block:
        env = dict(outer)
        steps: list[Step] = []
        for statement in statements:
            step = self._step(statement, env)
            if step is not None:
                steps.append(step)
        return Block(steps)

    def _step(self, statement: ir.Statement, env: dict[str, Value]) -> Step | None:
        match statement:
            case ir.Let():
                value = self.graph.number(statement.value, env)
                env[statement.local.name] = value
                self.graph.hints.setdefault(value, statement.local.name)
                return Step(self.handler, statement, (value,)) if value.fallible else None
            case ir.If():
                head = (self.graph.number(statement.condition, env),)
                blocks = (self.block(statement.then, env), self.block(statement.otherwise, env))
                return Step(self.handler, statement, head, blocks=blocks)
            case ir.ReadState():
                return self._read(statement, env)
            case ir.StoreState() | ir.ForgetState():
                key = self._key(statement.state, statement.key, env)
                values = statement.values if isinstance(statement, ir.StoreState) else ()
                numbers = tuple(self.graph.number(value, env) for value in values)
                return Step(self.handler, statement, (key, *numbers), memory=key, row=numbers)
            case ir.Update():
                return self._update(statement, env)
            case ir.ForgetKey():
                row = tuple(self.graph.number(part, env) for part in statement.row)
                return Step(self.handler, statement, row, row=row)
            case _:
                assert_never(statement)

    def _key(self, state: ir.State, key: ir.Expr, env: Mapping[str, Value]) -> Value:
        value = self.graph.number(key, env)
        return self.graph.node(Memory("task"), (root(value),)) if state.kind == "task" else value

    def _read(self, statement: ir.ReadState, env: dict[str, Value]) -> Step:
        key = self._key(statement.state, statement.key, env)
        bound = tuple(self.graph.bind(self.handler, local) for local in statement.locals)
        names = {local.name: value for local, value in zip(statement.locals, bound, strict=True)}
        default = None if statement.default is None else self.graph.number(statement.default, env)
        if default is not None:
            env.update(names)
        blocks = (self.block(statement.then, {**env, **names}), self.block(statement.otherwise, env))
        return Step(self.handler, statement, (key,), memory=key, locals=bound, default=default, blocks=blocks)

    def _update(self, update: ir.Update, env: Mapping[str, Value]) -> Step:
        slot = None if update.slot is None else self.graph.number(update.slot, env)
        row = tuple(self.graph.number(part, env) for part in update.row or ())
        value = self.graph.number(update.value, env)
        memory = self._row(update, row)
        parts = (slot, memory, value) if memory is not None and row else (slot, *row, value, memory)
        head = tuple(item for item in parts if item is not None)
        return Step(self.handler, update, head, slot=slot, row=row, value=value, memory=memory)

    def _row(self, update: ir.Update, row: tuple[Value, ...]) -> Value | None:
        match update.metric.schema.dimension:
            case ByKey():
                return None
            case ByCpu() if row:
                return None
            case ByCgroup():
                return self._cgroup(row[0] if row else None)
            case _:
                name = bank_name(update.metric)
                return self.graph.node(Memory("row", name), () if name == "one" else (self.graph.number(CPU, {}),))

    def _cgroup(self, task: Value | None) -> Value:
        """The row of a task's cgroup: that of the cpu controller, which exists on v1 and v2 alike."""
        if task is None:
            task = self.graph.number(CURRENT, {})
        if self.offsets is None:
            raise LookupError("this kernel has no cpu cgroups (CONFIG_CGROUP_SCHED)")
        offsets = self.offsets
        walkable = isinstance(task.type, ir.Pointer) and task.type.walkable
        group_type = ir.Pointer("task_group", walkable=walkable)
        group = self.graph.node(
            ir.Load(CURRENT, offsets["task_struct.sched_task_group"], group_type, "sched_task_group"), (task,)
        )
        css = offsets["task_group.css"]
        identity = self.graph.node(
            ir.Load(CURRENT, css + offsets["cgroup_subsys_state.id"], ir.S32, "css.id"), (group,)
        )
        serial = self.graph.node(
            ir.Load(CURRENT, css + offsets["cgroup_subsys_state.serial_nr"], ir.U64, "css.serial_nr"), (group,)
        )
        self.graph.hints.setdefault(identity, "css_id")
        self.graph.hints.setdefault(serial, "css_serial")
        return self.graph.node(Memory("cgroup"), (group, identity, serial))


CPU = ir.Builtin("cpu", ir.U32)
CURRENT = ir.Builtin("current", ir.Pointer("task_struct", walkable=True))


def is_kept(value: Value) -> bool:
    """Whether a value is worth a variable and, where it is not sure to be needed, a branch."""
    match value.node:
        case ir.Const() | ir.TextConst() | Bound() | ir.Arg() | ir.ReturnValue() | ir.RecordField():
            return False
        case ir.Convert() | ir.Unary() | ir.Elapsed() | ir.Offset() | ir.Element() | ir.Reinterpret() | ir.TextEqual():
            return False
        case ir.Binary(op="/" | "%"):
            return True
        case ir.Binary():
            return any(choice.fallible for choice in value.choices)
        case _:
            return True


# Where values are needed


_Where = Literal["head", "choice", "choices", "nested"]


@dataclass(slots=True)
class _Need:
    """How a step needs a value: surely in its head, on some condition, inside its blocks."""

    head: bool = False
    choices: int = 0
    nested: bool = False
    sure: bool = False


def _operands(value: Value, need: dict[Value, _Need], *, sure: bool) -> None:
    todo = [(value, sure)]
    while todo:
        item, surely = todo.pop()
        entry = need.setdefault(item, _Need())
        # Further uses say nothing new about what the value is made of.
        known = entry.head or entry.choices > 1
        if surely:
            entry.head = entry.sure = True
        else:
            entry.choices += 1
        if not known:
            todo += [(operand, surely) for operand in item.required]
            todo += [(operand, False) for operand in item.choices]


def _needs(step: Step) -> dict[Value, _Need]:
    need: dict[Value, _Need] = {}
    for value in step.head:
        _operands(value, need, sure=True)
    if step.default is not None:
        _operands(step.default, need, sure=False)
    nested = [_uses(block) for block in step.blocks]
    for uses in nested:
        for value in uses:
            entry = need.setdefault(value, _Need())
            entry.nested = True
            # Of two blocks one is executed, and which is not known; of one (a handler's body) all is.
            entry.sure |= all(other.get(value, False) for other in nested)
    return need


def _uses(block: Block) -> dict[Value, bool]:
    """The values a block needs; True for those it needs on every path."""
    uses: dict[Value, bool] = {}
    for step in block.steps:
        for value, need in _needs(step).items():
            uses[value] = uses.get(value, False) or need.sure
    return uses


def _place(graph: Graph, block: Block, known: frozenset[Value], lazy: frozenset[Value]) -> None:
    """Decide for the values that several steps of a block need; `known` and `lazy` are decided further out."""
    needs = [_needs(step) for step in block.steps]
    uses = _uses(block)
    done, waiting = set(known), set(lazy)
    for value in sorted(uses, key=lambda item: item.id):
        if value in known:
            continue
        steps = [index for index, need in enumerate(needs) if value in need]
        mode = _mode(graph, value, block, needs, steps, sure=uses[value])
        if mode == "here":
            done.add(value)
        elif mode == "eager":
            block.place.setdefault(steps[0], []).append((value, mode))
            done.add(value)
        elif mode == "lazy" and value not in lazy:
            block.place.setdefault(steps[0], []).append((value, mode))
            waiting.add(value)
    for step in block.steps:
        for inner in step.blocks:
            _place(graph, inner, frozenset(done), frozenset(waiting - done))


def _mode(
    graph: Graph, value: Value, block: Block, needs: list[dict[Value, _Need]], steps: list[int], *, sure: bool
) -> Mode | Literal["here"] | None:
    """Where a block evaluates a value; `here`: in the statement that needs it first, which all others follow."""
    need = needs[steps[0]][value]
    if need.head and (len(steps) == 1 or isinstance(block.steps[steps[0]].statement, ir.Let)):
        return "here"
    if not is_kept(value):
        # A name from the source makes the C easier to read; for the rest the C compiler sees what is the same.
        return "eager" if len(steps) > 1 and sure and value in graph.hints and not _is_argument(value) else None
    if len(steps) > 1:
        return "eager" if sure or is_cheap_call(value) else "lazy"
    return "lazy" if need.choices > 1 or (need.choices and need.nested) else None


def _is_argument(value: Value) -> bool:
    return isinstance(value.node, Bound | ir.Arg | ir.ReturnValue | ir.RecordField | ir.UsdtArg)


def is_cheap_call(value: Value) -> bool:
    """A helper that costs no more than finding out whether it has been called."""
    return isinstance(value.node, ir.Builtin) and value.node.name in ("cpu", "current")
