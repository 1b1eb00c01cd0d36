"""What the parts of a fused program cost, roughly: to split its measured time among the samplers that share it."""

from __future__ import annotations

from dsl import ir
from dsl.plan.fuse import Fused, Step
from dsl.plan.number import Memory, Value, closure

# Nanoseconds per operation by `kernel.bpf_stats_enabled` on x86-64, see docs/design/codegen.md; only their ratio matters.
_BUILTINS = {"now": 49, "cpu": 2, "pid": 5, "tid": 5, "uid": 5, "current": 2, "comm": 20}
_MEMORY = {"row": 4, "cgroup": 6, "task": 15, "tables": 3}


def weights(fused: Fused) -> tuple[int, ...]:
    """Per sampler of the program, in tenths of a nanosecond; a shared value is divided among those that need it."""
    users: dict[Value, set[str]] = {}
    own: dict[str, int] = dict.fromkeys(fused.samplers, 10)
    for step in fused.steps():
        sampler = fused.handlers[step.handler].sampler
        for value in closure((*step.head, *((step.default,) if step.default else ()))):
            users.setdefault(value, set()).add(sampler)
        own[sampler] += _statement(step)
    for value, samplers in users.items():
        for sampler in samplers:
            own[sampler] += _evaluation(value) // len(samplers)
    return tuple(own.values())


def _evaluation(value: Value) -> int:
    match value.node:
        case ir.Builtin(name=name):
            return 10 * _BUILTINS[name]
        case Memory(kind=kind):
            return 10 * _MEMORY[kind]
        case ir.Load(base=base):
            walkable = isinstance(base.type, ir.Pointer) and base.type.walkable
            return 10 if walkable else 100
        case ir.Chars() | ir.CString():
            return 250
        case _:
            return 4


def _statement(step: Step) -> int:
    match step.statement:
        case ir.StoreState(state=state):
            return 20 if state.kind == "task" else 1800
        case ir.ReadState(state=state):
            return 10 if state.kind == "task" else 120
        case ir.ForgetState(state=state):
            return 10 if state.kind == "task" else 800
        case ir.ForgetKey():
            return 1500
        case ir.Update(op="observe"):
            return 60
        case ir.Update(metric=metric):
            return 200 if metric.schema.dimension and metric.schema.dimension.__class__.__name__ == "ByKey" else 15
        case _:
            return 2
