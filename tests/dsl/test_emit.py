"""Emission: the C of each construct. That it loads and counts right is `tests/kernel`'s business."""

from __future__ import annotations

import re
import textwrap

import pytest

from dsl import ir
from dsl.emit.registers import Arch, Place, argument, usdt_place
from dsl.emit.structures import Structures
from dsl.emit.unit import emit
from dsl.hooks import HookKind
from dsl.plan.unit import plan
from dsl.schema import ByCpu
from tests.dsl.units import (
    COMM,
    NOW,
    ONE,
    TARGET,
    TASK,
    Sampler,
    add,
    arg,
    keyed,
    label,
    line,
    load,
    metric,
    scheduler,
    store,
    take,
    task,
    time_state,
    unit,
    update,
    when,
)

COUNT = metric("counter", "count")
GAUGE = metric("gauge", "last")
SIZES = metric("histogram", "sizes", labels=label(4))
START = ir.State("s", "start", "hash", (ir.StateField("at", ir.U64),), zero_is_absent=True, limit=10)
LEFT = ir.Local("t", ir.U64)


def body(*statements: ir.Statement, kind: HookKind = "tp_btf", tables: tuple[ir.Table, ...] = ()) -> str:
    """The statements of a handler in C, without what surrounds them in every program."""
    metrics = [COUNT, GAUGE, SIZES, keyed("names")]
    sampler = Sampler("s", metrics, [START]).on("e", *statements, kind=kind, names=("a", "b"))
    text = emit(plan(unit(sampler, tables=tables), TARGET)).readable
    lines = text[text.index("\nint on_") + 1 :].splitlines()[2:-2]
    kept = [line for line in lines if line.strip() and not line.strip().startswith("//")]
    return textwrap.dedent("\n".join(kept))


def test_a_typed_argument_is_followed_by_plain_loads() -> None:
    flags = load(load(task(0), 16, TASK, "real_parent"), 8, ir.U32, "flags", bit=3, bits=2)
    assert body(update(GAUGE, "set", flags)) == textwrap.dedent("""\
        struct task_struct *a = (struct task_struct *)ctx[0];
        {
            if (unlikely(!a)) {
                DISCARD(on_e__s__null);
                goto skip;
            }
            struct task_struct *a_real_parent = a->real_parent;
            if (unlikely(!a_real_parent)) {
                DISCARD(on_e__s__null);
                goto skip;
            }
            u32 a_real_parent_flags = (u32)((a_real_parent->flags >> 3) & 0x3U);
            struct one_row *one_row = one_row_at(0);
            if (!one_row)
                return 0;
            one_row->last = a_real_parent_flags;
            skip:;
        }""")


def test_an_untyped_argument_is_followed_by_probe_reads() -> None:
    text = body(update(GAUGE, "set", load(task(0), 8, ir.S16, "prio", bit=3, bits=5)), kind="raw_tp")
    assert "bpf_probe_read_kernel(&a_prio, sizeof(a_prio), (u8 *)a + 8); /* prio */" in text
    assert "a_prio = (s16)((s32)((u32)a_prio << 24) >> 27);" in text


def test_memory_of_a_process_is_read_as_such() -> None:
    pointer = arg(0, ir.Pointer(user=True))
    assert "bpf_probe_read_user(&a_x" in body(update(GAUGE, "set", load(pointer, 8, ir.U32, "x")), kind="uprobe")
    name = ir.CString(pointer, ir.Text(16))
    text = body(update(keyed("names"), "add", ONE, row=(name,)), kind="uprobe")
    assert "u64 a_text[2] = {};" in text
    assert "if (unlikely(bpf_probe_read_user_str(a_text, 16, (void *)a) < 0)) {" in text


def test_a_field_of_a_record_is_read_from_the_context() -> None:
    text = body(update(GAUGE, "set", ir.RecordField("bytes", 24, ir.S32)), kind="tracepoint")
    assert "s32 bytes = *(s32 *)((u8 *)ctx + 24);" in text


@pytest.mark.parametrize(
    ("node", "kind", "expected"),
    [
        (arg(1, ir.S32), "tp_btf", "s32 b = (s32)ctx[1];"),
        (arg(0, ir.U64), "raw_tp", "u64 a = ctx[0];"),
        (arg(1, ir.S32), "kprobe", "s32 b = (s32)ctx[13];"),
        (arg(7, ir.S32), "kprobe", "bpf_probe_read_kernel(&arg7, sizeof(arg7), (void *)(ctx[19] + 16));"),
        (arg(7, ir.S32), "uprobe", "bpf_probe_read_user(&arg7, sizeof(arg7), (void *)(ctx[19] + 16));"),
        (ir.ReturnValue(ir.U32, 3), "fexit", "u32 a = (u32)ctx[3];"),
        (ir.ReturnValue(ir.U32, 3), "kretprobe", "u32 a = (u32)ctx[10];"),
        (ir.UsdtArg("-4@%edi", ir.S32, 1), "usdt", "s32 b = (s32)ctx[14];"),
        (ir.UsdtArg("4@-20(%rbp)", ir.U32), "usdt", "bpf_probe_read_user(&a, sizeof(a), (void *)(ctx[4] + -20));"),
    ],
)
def test_an_argument_is_where_its_hook_has_it(node: ir.Expr, kind: HookKind, expected: str) -> None:
    assert expected in body(update(GAUGE, "set", node), kind=kind)


def test_signed_numbers_wrap_and_divide_without_undefined_behaviour() -> None:
    number = arg(0, ir.S64)
    total = ir.Binary("+", number, ir.Const(-5, ir.S64), ir.S64)
    text = body(update(GAUGE, "set", ir.Binary("/", total, ir.Unary("-", number, ir.S64), ir.S64)))
    assert "u64 divisor" not in text  # it is in the header
    assert "(s64)((u64)a + (u64)(-5LL))" in text
    assert "(s64)((u64)0 - (u64)a)" in text
    assert "rezolus_divide(" in text


def test_a_kernel_pointer_is_made_a_number_before_it_is_calculated_with() -> None:
    pointer = ir.Convert(task(0), ir.U64)
    assert "REZOLUS_ADDRESS(a) >> 6" in body(
        update(GAUGE, "set", ir.Binary(">>", pointer, ir.Const(6, ir.U64), ir.U64))
    )
    assert "REZOLUS_ADDRESS" not in body(store(START, task(0), NOW))


def test_a_text_is_compared_by_words() -> None:
    text = body(when(ir.TextEqual(COMM, "redis-server"), update(GAUGE, "set", ONE)))
    assert "bpf_get_current_comm(comm, 16);" in text
    assert "if (comm[0] == 0x65732d7369646572ULL && comm[1] == 0x72657672ULL) {" in text


def test_a_text_that_cannot_fit_is_never_equal() -> None:
    assert "if (0) {" in body(when(ir.TextEqual(COMM, "a name of more than fifteen"), update(GAUGE, "set", ONE)))


def test_a_remembered_value_is_changed_in_place() -> None:
    assert body(store(START, arg(0), NOW)) == textwrap.dedent("""\
        u64 a = ctx[0];
        {
            u64 start_key = (u64)a;
            u64 now = bpf_ktime_get_ns();
            struct s_start_entry *start_entry = s_start.lookup(&start_key);
            if (start_entry) {
                start_entry->at = now;
            } else {
                struct s_start_entry new_start = {};
                new_start.at = now;
                long failed = s_start.update(&start_key, &new_start);
                if (unlikely(failed)) {
                    DISCARD(on_e__s__state_full);
                }
            }
        }""")


def test_a_duration_is_observed_unless_time_went_backwards() -> None:
    elapsed = ir.Elapsed(NOW, LEFT)
    text = body(take(START, arg(0), LEFT, update(SIZES, "observe", elapsed, slot=ir.Const(2, ir.U32))))
    assert text == textwrap.dedent("""\
        u64 a = ctx[0];
        {
            u64 start_key = (u64)a;
            struct s_start_entry *start_entry = s_start.lookup(&start_key);
            if (start_entry) {
                u64 t = start_entry->at;
                s_start.delete(&start_key);
                u64 now = bpf_ktime_get_ns();
                if (unlikely(t > now)) {
                    DISCARD(on_e__s__clock);
                    goto skip_2;
                }
                u32 this_cpu = bpf_get_smp_processor_id();
                struct hist_row *hist_row = hist_row_at(this_cpu);
                if (!hist_row)
                    return 0;
                u64 at = (u64)2U * 496 + rezolus_bucket(now - t, 3);
                REZOLUS_OPAQUE(at);
                if (at < 1984)
                    hist_row->sizes[at] += 1;
                skip_2:;
            }
        }""")


def test_an_open_ended_key_gets_a_row_or_the_overflow() -> None:
    assert body(update(keyed("names"), "add", ONE, row=(COMM,))) == textwrap.dedent("""\
        {
            u64 comm[2] = {};
            bpf_get_current_comm(comm, 16);
            struct names_key key = {};
            key.comm[0] = comm[0];
            key.comm[1] = comm[1] & 0xffffffffffffffULL;
            u32 index = names_slot(&key);
            struct names_row *names_row = names_row_at(index);
            if (!names_row)
                return 0;
            if (unlikely(index == 10)) {
                names_row->used = 1;
                DISCARD(on_e__s__key_overflow);
            }
            __sync_fetch_and_add(&names_row->names, 1);
        }""")


def test_an_array_of_symbols_is_looked_up_within_its_bounds() -> None:
    table = ir.Table("op", tuple((number, number % 3) for number in range(20)), None, ())
    text = body(update(SIZES, "observe", ONE, slot=ir.TableLookup("op", arg(0, ir.S32))), tables=(table,))
    assert "u64 op_number = a;" in text
    assert "if (op_number < 20) {" in text
    assert "op = lookup->op[op_number];" in text
    assert "if (unlikely(op == 0xffffffffU)) {" in text


def test_only_the_chosen_side_is_evaluated() -> None:
    side = load(task(1), 1264, ir.S32, "pid")
    text = body(update(GAUGE, "set", ir.Select(arg(0, ir.U32), side, ir.Const(0, ir.S32), ir.S32)))
    assert text.index("if (a) {") < text.index("if (unlikely(!b))") < text.index("b->pid") < text.index("} else {")


def test_a_cpu_that_the_source_names_is_checked() -> None:
    moves = metric("counter", "moves", by=ByCpu())
    sampler = Sampler("s", [moves]).on("e", update(moves, "add", ONE, row=(arg(0, ir.U32),)))
    text = emit(plan(unit(sampler), TARGET)).readable
    assert "if (unlikely(cpu_number >= 4)) {" in text
    assert "__sync_fetch_and_add(&other_row->moves, 1);" in text


def test_lines_of_the_source_are_in_both_texts() -> None:
    emitted = emit(plan(scheduler(), TARGET))
    assert re.findall(r'#line (\d+) "test\.rzl"', emitted.text)[:4] == ["1", "1", "2", "1"]
    assert "        // test.rzl:3: line 3\n" in emitted.readable
    assert "#line" not in emitted.readable


def test_an_entry_made_under_one_name_of_a_task_is_seen_under_another() -> None:
    state = time_state("since")
    other = ir.Local("other", ir.U64)
    sampler = Sampler("s", [GAUGE], [state]).on(
        "e",
        take(state, task(1), ir.Local("first", ir.U64), update(GAUGE, "set", ONE)),
        store(state, task(0), NOW, at=2),
        take(state, task(1), other, update(GAUGE, "set", other), at=3),
        names=("a", "b"),
    )
    text = emit(plan(unit(sampler), TARGET)).readable
    assert "a_entry = task_make(a);" in text
    assert "if (!b_entry && b)\n" in text


def test_members_that_overlap_lie_side_by_side() -> None:
    structures = Structures()
    structures.member("sock", "hash", 8, "u64")
    structures.member("sock", "port", 12, "u16")
    structures.member("sock", "state", 18, "u8")
    assert structures.definitions() == [
        "struct sock;",
        "",
        "struct sock {",
        "    union {",
        "        struct {",
        "            char before_hash[8];",
        "            u64 hash;",
        "            char before_state[2];",
        "            u8 state;",
        "        };",
        "        struct {",
        "            char before_port[12];",
        "            u16 port;",
        "        };",
        "    };",
        "};",
    ]


def test_a_member_read_in_two_widths_has_two_names() -> None:
    structures = Structures()
    assert structures.member("sock", "state", 16, "u8") == "state"
    assert structures.member("sock", "state", 16, "u8") == "state"
    assert structures.member("sock", "state", 16, "u32") == "state_u32_at_16"


def test_a_member_at_an_odd_address_is_no_member_of_a_c_structure() -> None:
    assert Structures().member("packed", "value", 5, "u32") is None
    assert Structures().member("outer", "value", -8, "u32") is None


@pytest.mark.parametrize(
    ("arch", "notation", "place"),
    [
        ("x86_64", "8@%rdi", Place(False, 14)),
        ("x86_64", "-4@%r8d", Place(False, 9)),
        ("x86_64", "1@%al", Place(False, 10)),
        ("x86_64", "-4@$-5", Place(False, displacement=-5)),
        ("x86_64", "-4@-20(%rbp)", Place(True, 4, displacement=-20)),
        ("x86_64", "8@(%rax,%rdx,8)", Place(True, 10, 12, 8)),
        ("x86_64", "8@16(,%rcx,4)", Place(True, None, 11, 4, 16)),
        ("aarch64", "8@x0", Place(False, 0)),
        ("aarch64", "-4@w19", Place(False, 19)),
        ("aarch64", "-4@5", Place(False, displacement=5)),
        ("aarch64", "4@[sp, 12]", Place(True, 31, displacement=12)),
        ("aarch64", "8@[x1]", Place(True, 1)),
        ("aarch64", "8@[x1, x2]", Place(True, 1, 2)),
    ],
)
def test_a_usdt_argument_is_found_by_its_notation(arch: Arch, notation: str, place: Place) -> None:
    assert usdt_place(arch, notation) == place


@pytest.mark.parametrize(("arch", "notation"), [("x86_64", "8@x0"), ("aarch64", "8@%rdi"), ("x86_64", "8@sym(%rip,")])
def test_a_notation_of_another_architecture_is_refused(arch: Arch, notation: str) -> None:
    with pytest.raises(ValueError, match="cannot read a USDT argument"):
        usdt_place(arch, notation)


def test_arguments_behind_the_registers_are_on_the_stack() -> None:
    assert argument("x86_64", 5) == Place(False, 8)
    assert argument("x86_64", 6) == Place(True, 19, displacement=8)
    assert argument("aarch64", 8) == Place(True, 31, displacement=0)


def test_a_text_too_big_for_the_stack_is_kept_in_the_scratch_row() -> None:
    path = ir.CString(arg(0, ir.Pointer()), ir.Text(256))
    sampler = Sampler("s", [GAUGE]).on(
        "e", when(ir.TextEqual(path, "/etc/passwd"), update(GAUGE, "set", ONE)), kind="kprobe"
    )
    planned = plan(unit(sampler), TARGET)
    text = emit(planned).text
    assert "scratch" in planned.schema.maps
    assert "    u64 on_e_arg0_text[32];" in text
    assert "bpf_probe_read_kernel_str(arg0_text, 256" in text


def test_expressions_of_expressions_do_not_grow_without_bounds() -> None:
    """A thousand variables, each twice the one before, and as many that choose between the one before and itself."""
    before: ir.Expr = arg(0)
    statements: list[ir.Statement] = []
    for number in range(1000):
        twice = ir.Local(f"twice{number}", ir.U64)
        same = ir.Local(f"same{number}", ir.U64)
        statements.append(ir.Let(line(1), twice, ir.Binary("+", before, before, ir.U64)))
        statements.append(ir.Let(line(1), same, ir.Select(ir.Convert(twice, ir.U32), twice, twice, ir.U64)))
        before = same
    assert len(body(*statements, update(GAUGE, "set", before))) < 500_000


def test_a_discard_uses_the_row_that_is_there() -> None:
    sampler = Sampler("s", [COUNT]).on(
        "e", add(COUNT), ir.Let(line(2), ir.Local("x", ir.S32), load(task(0), 8, ir.S32, "x"))
    )
    text = emit(plan(unit(sampler), TARGET)).readable
    assert "DISCARD(on_e__s__null);" in text
    assert text.count("cpu_row_at(this_cpu)") == 1
