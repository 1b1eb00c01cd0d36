"""Names of variables for values."""

from __future__ import annotations

from collections.abc import Mapping

from dsl import ir
from dsl.plan.number import Bound, Memory, Value, bottom


def value_name(value: Value, hints: Mapping[Value, str]) -> str:
    """A name a reader understands: the source's, else `prev_pid`, `now`, `cpu_row`."""
    if value in hints:
        return hints[value]
    node = value.node
    match node:
        case Memory(kind="task"):
            return f"{value_name(value.operands[0], hints)}_entry"
        case Memory(kind="cgroup"):
            return f"{value_name(bottom(value.operands[0].operands[0]), hints)}_cgroup"
        case Memory(kind="tables"):
            return "lookup"
        case Memory(name=name):
            return f"{name}_row"
        case ir.Builtin(name="cpu"):
            return "this_cpu"
        case ir.Builtin(name=name):
            return name
        case Bound(local=local):
            return local.name
        case ir.Load(path=path) | ir.Chars(path=path):
            base, member = value_name(value.operands[0], hints), path.strip("_").replace(".", "_")
            return f"{base}_{member}" if len(base) + len(member) < 32 else member or base
        case ir.Reinterpret() | ir.Offset() | ir.Convert():
            return value_name(value.operands[0], hints)
        case ir.RecordField(name=name):
            return name
        case ir.Arg(index=index):
            return f"arg{index}"
        case ir.ReturnValue():
            return "result"
        case ir.UsdtArg(index=index):
            return f"arg{index}"
        case ir.TableLookup(table=table):
            return table
        case ir.Elapsed():
            return "elapsed"
        case ir.Select() | ir.Binary():
            return "value"
        case ir.CString():
            return f"{value_name(value.operands[0], hints)}_text"
        case _:
            return "value"
