"""The C text of a unit: what BCC compiles, and the same for readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsl import ir
from dsl.emit.body import emit_body
from dsl.emit.expressions import Expressions
from dsl.emit.structures import Structures
from dsl.emit.types import ctype
from dsl.emit.writer import Writer
from dsl.plan.names import Names
from dsl.plan.storage import BankLayout, Member, TableLayout
from dsl.plan.tasks import TaskLayout
from dsl.plan.unit import Plan, Program, companions, state_map
from dsl.schema import CGROUP_NAMES, CGROUP_ROWS, ByKey

__all__ = ["CUnit", "emit"]

MMAPABLE = "0x400"

_DISCARDS = (
    "#define DISCARD(word) \\",
    "    do { struct cpu_row *row = cpu_row_at(bpf_get_smp_processor_id()); if (row) row->word += 1; } while (0)",
    "#define DISCARD_ATOMIC(word) \\",
    "    do { struct cpu_row *row = cpu_row_at(bpf_get_smp_processor_id()); \\",
    "         if (row) __sync_fetch_and_add(&row->word, 1); } while (0)",
)
"""Counts a discard where the row of this CPU has not been looked up."""


@dataclass(frozen=True, slots=True)
class CUnit:
    """`text` is for BCC, with `#line` directives; `readable` the same code with the source lines as comments."""

    text: str
    readable: str
    initial: Mapping[str, bytes]
    """What the first (only) row of a map holds before any program runs."""
    layouts: Mapping[str, str]
    """What is in each map that lasts, as text; see `_layouts`."""


def emit(plan: Plan) -> CUnit:
    """Write a plan as C."""
    structures = Structures()
    scratch: list[tuple[str, int]] = []
    functions = [(program, _function(plan, program, structures, scratch)) for program in plan.programs]
    head = [
        "#include <rezolus/base.h>",
        *_section(structures.definitions()),
        *_maps(plan, scratch),
    ]
    texts = []
    for readable in (False, True):
        lines = list(head)
        for program, writer in functions:
            opening = f"int {program.function}(unsigned long long *ctx)"
            if readable:
                lines += [
                    "",
                    f"// {program.fused.hook}: {', '.join(program.fused.samplers) or 'frees task state'}",
                    opening,
                ]
                lines += ["{", *writer.for_readers(), "}"]
            else:
                lines += ["", *_where(program), opening, "{", *writer.for_compiler(), "}"]
        texts.append("\n".join(lines) + "\n")
    return CUnit(texts[0], texts[1], _initial(plan), _layouts(plan))


def _where(program: Program) -> list[str]:
    handlers = program.fused.handlers
    return [f'#line {handlers[0].span.line} "{handlers[0].span.source.path}"'] if handlers else []


def _function(plan: Plan, program: Program, structures: Structures, scratch: list[tuple[str, int]]) -> Writer:
    writer = Writer()
    reserved = {*plan.schema.maps, *structures_taken(plan)}
    expressions = Expressions(plan, program, structures, writer, Names(set(reserved)), scratch=scratch)
    emit_body(expressions)
    if program.frees_tasks:
        writer.line("u64 freed = ctx[0];")
        writer.line("tasks.delete(&freed);")
    writer.line("return 0;")
    return writer


def structures_taken(plan: Plan) -> set[str]:
    """Functions of the unit, which no variable may hide."""
    rows = {f"{item.bank.name}_row_at" for item in plan.banks} | {f"{item.bank.name}_slot" for item in plan.banks}
    return rows | {"task_find", "task_make", "tables_at", "scratch_row_at"} | {item.function for item in plan.programs}


def _section(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def _maps(plan: Plan, scratch: list[tuple[str, int]]) -> list[str]:
    lines: list[str] = []
    for item in plan.banks:
        lines += ["", *_bank(item)]
        if item.bank.name == "cpu":
            lines += _DISCARDS
        if item.bank.axis == "cgroup":
            lines += _cgroup_names(plan, item)
    for item in _keyed(plan):
        lines += ["", *_keys(plan, item)]
    if plan.tasks:
        lines += ["", *_tasks(plan.tasks)]
    for state in _hashes(plan):
        lines += ["", *_hash(state)]
    if plan.tables:
        lines += ["", *_tables(plan)]
    if "scratch" in plan.schema.maps:
        lines += ["", "struct scratch_row {", *(f"    u64 {name}[{words}];" for name, words in scratch)]
        lines += [*(["    u64 unused;"] if not scratch else []), "};"]
        lines += _array("scratch", "scratch_row", 1, "0", table="percpu_array")
    return lines


def _keyed(plan: Plan) -> list[BankLayout]:
    return [item for item in plan.banks if item.bank.axis == "key"]


def _hashes(plan: Plan) -> list[ir.State]:
    return [state for sampler in plan.unit.samplers for state in sampler.states if state.kind == "hash"]


def _layouts(plan: Plan) -> dict[str, str]:
    """What is in each map that lasts, as its declaration: the same text means the same thing in every word."""
    found: dict[str, list[str]] = {}
    for item in plan.banks:
        name = item.bank.name
        # Two programs that write a word may do so in different ways only if they never do so together.
        atomic = sorted(
            f"{metric} {'any' if slot is None else slot}" for metric, slot in plan.shared if _has(item, metric)
        )
        lines = [*_bank(item), *atomic]
        if item.bank.axis == "cgroup":
            found[CGROUP_NAMES] = _names_of_cgroups()
        if item.bank.axis == "key":
            lines += _keys(plan, item)
            found |= dict.fromkeys(companions(name, forgets=name in plan.forgotten), lines)
        found[name] = lines
    if plan.tasks:
        memory = plan.tasks.memory
        found["tasks"] = [f"{memory.kind} {memory.limit} {memory.words} {memory.epoch}"]
    versions = {sampler.name: sampler.version for sampler in plan.schema.samplers}
    for state in _hashes(plan):
        found[state_map(state)] = [versions[state.sampler], *_hash(state)]
    return {name: "\n".join(lines) for name, lines in found.items()}


def _has(item: BankLayout, metric: str) -> bool:
    return any(member.name == metric for member in item.members)


def _array(name: str, kind: str, rows: int, flags: str, function: str = "", table: str = "array") -> list[str]:
    """An array map of structures, and the function that finds a row.

    BCC writes code to print and scan the values of every map, element by element of every array; with some ten thousand
    buckets that takes longer than all the rest. Bytes it takes for one string.
    """
    return [
        f"struct {name}_bytes {{",
        f"    char bytes[sizeof(struct {kind})];",
        "};",
        f'BPF_F_TABLE("{table}", u32, struct {name}_bytes, {name}, {rows}, {flags});',
        f"static inline struct {kind} *{function or f'{name}_row_at'}(u32 index)",
        "{",
        f"    return (struct {kind} *){name}.lookup(&index);",
        "}",
    ]


def _words(members: tuple[Member, ...]) -> list[str]:
    return [f"    u64 {item.name}{f'[{item.words}]' if item.words > 1 else ''};" for item in members]


def _bank(item: BankLayout) -> list[str]:
    bank = item.bank
    lines = [f"struct {bank.name}_row {{"]
    if bank.axis == "cgroup":
        lines.append("    u64 serial;")
    elif bank.axis == "key":
        lines.append("    u64 used;")
    lines += _words(item.members)
    used = max((member.offset + member.words for member in item.members), default=0)
    if used < bank.words:
        lines.append(f"    u64 padding[{bank.words - used}];")
    return [*lines, "};", *_array(bank.name, f"{bank.name}_row", bank.rows, MMAPABLE)]


def _cgroup_names(plan: Plan, item: BankLayout) -> list[str]:
    offsets = plan.target.cgroup_offsets or {}
    used = max(member.offset + member.words for member in item.members)
    values = {
        "REZOLUS_CGROUP_WORDS": used,
        "REZOLUS_CGROUP_ROWS": CGROUP_ROWS,
        "REZOLUS_GROUP_CGROUP": offsets["task_group.css"] + offsets["cgroup_subsys_state.cgroup"],
        "REZOLUS_CGROUP_LEVEL": offsets["cgroup.level"],
        "REZOLUS_CGROUP_KN": offsets["cgroup.kn"],
        "REZOLUS_KN_NAME": offsets["kernfs_node.name"],
        "REZOLUS_KN_PARENT": offsets["kernfs_node.parent"],
        "REZOLUS_KN_ID": offsets["kernfs_node.id"],
    }
    return [
        *(f"#define {name} {value}" for name, value in values.items()),
        "#include <rezolus/cgroup.h>",
        *_names_of_cgroups(),
    ]


def _names_of_cgroups() -> list[str]:
    return _array(CGROUP_NAMES, "cgroup_name", CGROUP_ROWS, MMAPABLE, "cgroup_name_at")


def _keys(plan: Plan, item: BankLayout) -> list[str]:
    """The companions of a bank by open-ended keys, and the function that finds or makes a key's row."""
    name = item.bank.name
    dimension = next(
        metric.schema.dimension
        for sampler in plan.unit.samplers
        for metric in sampler.metrics
        if metric.schema.name == name
    )
    if not isinstance(dimension, ByKey):
        raise TypeError(name)
    lines = [f"struct {name}_key {{"]
    end = 0
    for part in sorted(dimension.fields, key=lambda field: field.offset):
        if part.offset > end:
            lines.append(f"    char before_{part.label}[{part.offset - end}];")
        if part.kind == "string":
            lines.append(f"    u64 {part.label}[{part.size // 8}];")
        else:
            lines.append(f"    {'s' if part.kind == 'signed' else 'u'}{8 * part.size} {part.label};")
        end = part.offset + part.size
    if end < item.bank.key_size:
        lines.append(f"    char rest[{item.bank.key_size - end}];")
    limit, forgets = dimension.limit, name in plan.forgotten
    maps = [
        f'BPF_F_TABLE("array", u32, struct {name}_key, {name}_keys, {item.bank.rows}, {MMAPABLE});',
        f'BPF_F_TABLE("hash", struct {name}_key, u32, {name}_slots, {limit}, 0);',
        f'BPF_F_TABLE("array", u32, u64, {name}_next, 1, 0);',
        *([f'BPF_QUEUESTACK("queue", {name}_free, u32, {item.bank.rows}, 0);'] if forgets else []),
    ]
    functions = [*_claim_slot(name, limit, forgets=forgets), *_find_slot(name, limit, forgets=forgets)]
    if forgets:
        used = max(member.offset + member.words for member in item.members)
        functions += _forget_slot(name, used)
    return [*lines, "};", *maps, *functions]


def _claim_slot(name: str, limit: int, *, forgets: bool) -> list[str]:
    """A row for a new key: one that a forgotten key gave back, else the next that was never used, else the overflow."""
    recycled = [f"    u32 slot = {limit};", f"    if (!{name}_free.pop(&slot))", "        return slot;"]
    return [
        f"static inline u32 {name}_claim(void)",
        "{",
        *(recycled if forgets else []),
        "    u32 only = 0;",
        f"    u64 *next = {name}_next.lookup(&only);",
        f"    if (!next || *next >= {limit})",
        f"        return {limit};",
        "    u64 claimed = __sync_fetch_and_add(next, 1);",
        f"    return claimed < {limit} ? claimed : {limit};",
        "}",
    ]


def _find_slot(name: str, limit: int, *, forgets: bool) -> list[str]:
    # The clock is a number that a row has not had before: user space sees by it that the row changed hands.
    generation = "bpf_ktime_get_ns() | 1" if forgets else "1"
    give_back = [f"        {name}_free.push(&slot, 0);"] if forgets else []
    return [
        f"static inline u32 {name}_slot(struct {name}_key *key)",
        "{",
        f"    u32 *found = {name}_slots.lookup(key);",
        "    if (likely(found))",
        "        return *found;",
        f"    u32 slot = {name}_claim();",
        f"    if (slot >= {limit})",
        f"        return {limit};",
        f"    if ({name}_slots.insert(key, &slot)) {{",
        f"        /* Another CPU was first with this key; the row claimed here {'goes back' if forgets else 'stays empty'}. */",
        *give_back,
        f"        found = {name}_slots.lookup(key);",
        f"        return found ? *found : {limit};",
        "    }",
        f"    struct {name}_key *place = {name}_keys.lookup(&slot);",
        f"    struct {name}_row *row = {name}_row_at(slot);",
        "    if (place && row) {",
        "        *place = *key;",
        '        asm volatile("" ::: "memory");',
        f"        row->used = {generation};",
        "    }",
        "    return slot;",
        "}",
    ]


def _forget_slot(name: str, words: int) -> list[str]:
    """Give a key's row back. An event on another CPU that found the row just before may still count into it."""
    return [
        f"static inline void {name}_forget(struct {name}_key *key)",
        "{",
        f"    u32 *found = {name}_slots.lookup(key);",
        "    if (!found)",
        "        return;",
        "    u32 slot = *found;",
        f"    if ({name}_slots.delete(key))",
        "        return;",
        f"    u64 *row = (u64 *){name}_row_at(slot);",
        "    if (row)",
        f"        rezolus_clear(row, 0, {words});",
        f"    {name}_free.push(&slot, 0);",
        "}",
    ]


def _tasks(tasks: TaskLayout) -> list[str]:
    lines = ["struct task_struct;", *_task_state(tasks)]
    if tasks.kind == "storage":
        return [
            *lines,
            "BPF_TASK_STORAGE(tasks, struct task_state);",
            "static inline struct task_state *task_find(struct task_struct *task)",
            "{",
            "    return tasks.task_storage_get(task, 0, 0);",
            "}",
            "static inline struct task_state *task_make(struct task_struct *task)",
            "{",
            "    return tasks.task_storage_get(task, 0, 1);",
            "}",
        ]
    return [
        *lines,
        f'BPF_F_TABLE("hash", u64, struct task_state, tasks, {tasks.limit}, 0);',
        "static inline struct task_state *task_find(u64 task)",
        "{",
        "    return tasks.lookup(&task);",
        "}",
        "static inline struct task_state *task_make(u64 task)",
        "{",
        "    struct task_state fresh = {};",
        "    tasks.insert(&task, &fresh);",
        "    return tasks.lookup(&task);",
        "}",
    ]


def _task_state(tasks: TaskLayout) -> list[str]:
    """The structure, its gaps spelled out: they are places of states that are gone, and room for others to come."""
    end = 8 * tasks.memory.flag_words
    lines = ["struct task_state {", f"    u64 present[{tasks.memory.flag_words}];"]
    for item in tasks.fields:
        if item.offset > end:
            lines.append(f"    u8 gap_{end}[{item.offset - end}];")
        lines.append(f"    {ctype(item.field.type)} {item.member};")
        end = item.offset + item.field.type.width // 8
    if end < tasks.entry_bytes:
        lines.append(f"    u8 gap_{end}[{tasks.entry_bytes - end}];")
    return [*lines, "};"]


def _hash(state: ir.State) -> list[str]:
    name = state_map(state)
    fields = sorted(state.fields, key=lambda item: -item.type.width)
    return [
        f"struct {name}_entry {{",
        *(f"    {ctype(item.type)} {item.name};" for item in fields),
        "};",
        f'BPF_F_TABLE("hash", u64, struct {name}_entry, {name}, {state.limit}, 0);',
    ]


def _tables(plan: Plan) -> list[str]:
    tables = _wide_first(plan)
    return [
        "struct tables {",
        *(f"    u{8 * item.width} {item.table}[{len(item.entries)}];" for item in tables),
        "};",
        *_array("tables", "tables", 1, "0", "tables_at"),
    ]


def _wide_first(plan: Plan) -> list[TableLayout]:
    return sorted(plan.tables, key=lambda item: -item.width)


def _initial(plan: Plan) -> dict[str, bytes]:
    if not plan.tables:
        return {}
    image = b"".join(item.image() for item in _wide_first(plan))
    align = max(item.width for item in plan.tables)
    return {"tables": image.ljust(-(-len(image) // align) * align, b"\0")}
