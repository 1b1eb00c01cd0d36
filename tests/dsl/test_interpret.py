from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsl import ir
from dsl.hooks import Hook
from dsl.interpret.evaluate import Evaluator, Frame, Objects, wrap
from dsl.interpret.machine import OVERFLOW, Machine, bucket_index
from dsl.interpret.testing import run_tests
from dsl.schema import ByCgroup, ByCpu, ByKey, KeyField, Label, Slots
from dsl.schema import Metric as SchemaMetric
from dsl.source import Source, Span
from tests.ir_strategies import Case, cases

TASK = ir.Pointer("task_struct")
SOURCE = Source("t.rzl", "expect m == 1\n")
SPAN = Span(SOURCE, 0, 13)
NOW = ir.Builtin("now", ir.U64)
S32_MIN = -(1 << 31)


def const(value: int, type_: ir.Int = ir.U64) -> ir.Const:
    return ir.Const(value, type_)


def arg(index: int, type_: ir.Type = ir.U64) -> ir.Arg:
    return ir.Arg(index, type_)


def metric(
    kind: Literal["counter", "gauge", "histogram"] = "counter",
    *,
    name: str = "m",
    labels: tuple[Label, ...] = (),
    dimension: ByCpu | ByCgroup | ByKey | None = None,
) -> ir.Metric:
    schema = SchemaMetric(
        name=name, kind=kind, unit="", help="", sampler="s", labels=labels, dimension=dimension, storage=Slots("", 0)
    )
    return ir.Metric(schema, read=False)


def update(
    m: ir.Metric, value: ir.Expr, *, slot: ir.Expr | None = None, row: tuple[ir.Expr, ...] | None = None
) -> ir.Update:
    op: Literal["add", "set", "observe"] = "add"
    if m.schema.kind != "counter":
        op = "set" if m.schema.kind == "gauge" else "observe"
    return ir.Update(SPAN, m, op, slot, row, value)


def state(kind: Literal["task", "hash"], *types: ir.Int, zero_is_absent: bool = False, limit: int = 8) -> ir.State:
    fields = tuple(ir.StateField(f"f{index}", type_) for index, type_ in enumerate(types))
    return ir.State("s", "st", kind, fields, zero_is_absent, limit if kind == "hash" else 0)


def unit(
    *body: ir.Statement,
    metrics: tuple[ir.Metric, ...] = (),
    states: tuple[ir.State, ...] = (),
    tables: tuple[ir.Table, ...] = (),
    tests: tuple[ir.Test, ...] = (),
) -> ir.Unit:
    handler = ir.Handler(SPAN, "s", "e", Hook(kind="raw_tp", name="e"), body)
    return ir.Unit((ir.Sampler(SPAN, "s", "", metrics, states, (handler,), ()),), tables, (), tests)


def machine(
    *body: ir.Statement,
    metrics: tuple[ir.Metric, ...] = (),
    states: tuple[ir.State, ...] = (),
    tables: tuple[ir.Table, ...] = (),
    cpus: int = 64,
) -> Machine:
    return Machine(unit(*body, metrics=metrics, states=states, tables=tables), cpus=cpus)


def worth(expr: ir.Expr, *args: object) -> object:
    frame = Frame(args, (), now=0, cpu=0, current=ir.TestObject())
    return Evaluator({}, Objects()).value(expr, frame)


# Integers


@pytest.mark.parametrize(
    ("op", "left", "right", "type_", "expected"),
    [
        ("+", 0xFFFF_FFFF, 1, ir.U32, 0),
        ("+", (1 << 31) - 1, 1, ir.S32, S32_MIN),
        ("-", 0, 1, ir.U64, (1 << 64) - 1),
        ("*", 1 << 33, 1 << 33, ir.U64, 0),
        ("/", -7, 2, ir.S32, -3),
        ("%", -7, 2, ir.S32, -1),
        ("%", 7, -2, ir.S32, 1),
        ("/", S32_MIN, -1, ir.S32, S32_MIN),
        ("%", S32_MIN, -1, ir.S32, 0),
        (">>", -8, 1, ir.S64, -4),
        (">>", 0x8000_0000, 31, ir.U32, 1),
        ("<<", 1, 33, ir.U32, 2),
        ("<<", 1, -1, ir.S32, S32_MIN),
        ("^", -1, 1, ir.S64, -2),
        ("<", -1, 0, ir.S32, 1),
        ("&&", 2, 4, ir.BOOL, 1),
        ("||", 0, 0, ir.BOOL, 0),
    ],
)
def test_operators_follow_c(op: ir.BinaryOp, left: int, right: int, type_: ir.Int, expected: int) -> None:
    operand = ir.S32 if op == "<" else type_
    assert worth(ir.Binary(op, const(left, operand), const(right, operand), type_)) == expected


@given(st.integers(), st.sampled_from([ir.U8, ir.S8, ir.U16, ir.S16, ir.U32, ir.S32, ir.U64, ir.S64]))
def test_wrapping_keeps_the_lowest_bits_and_the_range(value: int, type_: ir.Int) -> None:
    wrapped = wrap(value, type_)
    assert (wrapped - value) % (1 << type_.width) == 0
    assert wrap(wrapped, type_) == wrapped
    assert (wrapped < 0) <= type_.signed


def test_conversion_extends_by_the_operands_sign() -> None:
    assert worth(ir.Convert(const(-1, ir.S8), ir.U64)) == (1 << 64) - 1
    assert worth(ir.Convert(const(0xFF, ir.U8), ir.S64)) == 0xFF
    assert worth(ir.Convert(const(0x1FF), ir.S8)) == -1


def test_an_argument_is_cut_to_its_type() -> None:
    assert worth(arg(0, ir.S16), 0xFFFF_FFFE) == -2


# Objects


def test_fields_are_read_through_embedded_objects_and_pointers() -> None:
    group = ir.TestObject({"css": ir.TestObject({"id": 9})})
    task = ir.TestObject({"group": group, "comm": "worker"})
    css = ir.Load(arg(0, TASK), 8, ir.Pointer("task_group"), "group")
    assert worth(ir.Load(css, 0, ir.S32, "css.id"), task) == 9
    assert worth(ir.Load(ir.Offset(css, 0, ir.Pointer(), "css"), 0, ir.S32, "id"), task) == 9
    assert worth(ir.Chars(arg(0, TASK), 0, ir.Text(4), "comm"), task) == b"wor"


def test_what_a_test_does_not_say_is_zero_null_or_empty() -> None:
    task = ir.TestObject()
    assert worth(ir.Load(arg(0, TASK), 0, ir.U64, "start"), task) == 0
    assert worth(ir.Load(arg(0, TASK), 0, TASK, "parent"), task) is None
    assert worth(ir.Chars(arg(0, TASK), 0, ir.Text(16), "comm"), task) == b""
    assert worth(arg(3, ir.U64)) == 0


def test_a_bit_field_has_its_own_width_and_sign() -> None:
    sock = ir.TestObject({"kind": 5})
    assert worth(ir.Load(arg(0, TASK), 0, ir.U32, "kind", bit=3, bits=2), sock) == 1
    assert worth(ir.Load(arg(0, TASK), 0, ir.S32, "kind", bit=3, bits=3), sock) == -3


def test_the_same_part_of_an_object_has_the_same_address() -> None:
    objects, request = Objects(), ir.TestObject()
    first = objects.part(request, 16, "driver")
    assert objects.part(request, 16, "driver") is first
    assert objects.address(first) == objects.address(request) + 16
    assert objects.address(ir.TestObject()) != objects.address(ir.TestObject())


# Failures


def test_a_failed_let_leaves_out_the_rest_of_its_block_only() -> None:
    m = metric()
    failing = ir.Let(SPAN, ir.Local("x", ir.U64), ir.Binary("/", const(1), arg(0), ir.U64))
    run = machine(
        ir.If(SPAN, const(1, ir.BOOL), (update(m, const(1)), failing, update(m, const(10))), ()),
        update(m, const(100)),
        metrics=(m,),
    )
    run.fire("e", [0])
    assert run.value("m") == 101
    assert run.discards("s") == {"zero": 1}


def test_a_failed_condition_leaves_out_both_branches() -> None:
    m = metric()
    late = ir.Binary("==", ir.Elapsed(const(1), const(2)), const(0), ir.BOOL)
    run = machine(ir.If(SPAN, late, (update(m, const(1)),), (update(m, const(2)),)), update(m, const(4)), metrics=(m,))
    run.fire("e")
    assert run.value("m") == 4
    assert run.discards("s") == {"clock": 1}


def test_the_side_of_a_select_or_a_logical_operator_that_is_not_needed_cannot_fail() -> None:
    m = metric()
    bad = ir.Binary("/", const(1, ir.U32), const(0, ir.U32), ir.U32)
    chosen = ir.Select(const(0, ir.BOOL), bad, const(7, ir.U32), ir.U32)
    logic = ir.Binary("&&", const(0, ir.BOOL), bad, ir.BOOL)
    run = machine(update(m, chosen), update(m, logic), metrics=(m,))
    run.fire("e")
    assert run.value("m") == 7
    assert run.discards("s") == {}


def test_null_on_the_way_discards() -> None:
    m = metric()
    run = machine(update(m, ir.Load(arg(0, TASK), 0, ir.U32, "pid")), metrics=(m,))
    run.fire("e", [None])
    run.fire("e", [ir.TestObject({"pid": 3})])
    assert run.value("m") == 3
    assert run.discards("s") == {"null": 1}


@pytest.mark.parametrize("kind", ["counter", "histogram"])
def test_a_negative_value_is_out_of_range(kind: Literal["counter", "histogram"]) -> None:
    m = metric(kind)
    run = machine(update(m, const(-1, ir.S32)), metrics=(m,))
    run.fire("e")
    assert run.discards("s") == {"range": 1}
    assert run.rows("m") == ()


def test_an_event_with_several_sites_happens_at_one_of_them() -> None:
    m = metric()
    hooks = (Hook(kind="usdt", name="p:e", offset=offset) for offset in (16, 32))
    handlers = tuple(ir.Handler(SPAN, "s", "e", hook, (update(m, const(1)),)) for hook in hooks)
    run = Machine(ir.Unit((ir.Sampler(SPAN, "s", "", (m,), (), handlers, ()),), (), (), ()))
    run.fire("e")
    assert run.value("m") == 1
    run.fire(handlers[1].hook)
    assert run.value("m") == 2


# Metrics


def test_a_counter_wraps_and_a_gauge_is_signed() -> None:
    c, g = metric(name="c"), metric("gauge", name="g")
    run = machine(update(c, const((1 << 64) - 1)), update(g, const((1 << 64) - 1)), metrics=(c, g))
    run.fire("e")
    run.fire("e")
    assert run.value("c") == (1 << 64) - 2
    assert run.value("g") == -1


def test_a_dimension_keeps_series_apart_and_reads_as_their_sum() -> None:
    m = metric(dimension=ByCpu())
    run = machine(update(m, const(1)), update(m, const(1), row=(arg(0),)), metrics=(m,), cpus=4)
    run.fire("e", [3], cpu=1)
    run.fire("e", [4], cpu=1)
    assert [run.value("m", 0, row) for row in (None, 0, 1, 3)] == [3, 0, 2, 1]
    assert run.discards("s") == {"range": 1}


def test_cgroups_are_those_a_test_gives_its_tasks() -> None:
    m = metric(dimension=ByCgroup())
    run = machine(update(m, const(1)), update(m, const(10), row=(arg(0, TASK),)), metrics=(m,))
    run.fire("e", [ir.TestObject({"cgroup": 70_000})], current=ir.TestObject({"cgroup": 3}))
    run.fire("e", [None])
    assert [run.value("m", 0, row) for row in (3, 1, 0)] == [1, 1, 10]
    assert run.discards("s") == {"null": 1}


def test_keys_past_the_limit_share_the_overflow() -> None:
    key = ByKey((KeyField(label="k", kind="signed", offset=0, size=1),), 1)
    m = metric(dimension=key)
    run = machine(update(m, const(1), row=(arg(0, ir.S8),)), metrics=(m,))
    for number in (255, 7, 255, 8):
        run.fire("e", [number])
    assert run.rows("m") == ((-1,), OVERFLOW)
    assert [run.value("m", 0, row) for row in ((-1,), OVERFLOW)] == [2, 2]
    assert run.discards("s") == {"key_overflow": 2}


def test_tables_and_their_symbols_choose_the_slot() -> None:
    m = metric(labels=(Label("op", ("read", "write")),))
    table = ir.Table("t", ((4, 0), (5, 1)), None, ("read", "write"))
    run = machine(update(m, const(1), slot=ir.TableLookup("t", arg(0))), metrics=(m,), tables=(table,))
    for number in (4, 5, 5, 6):
        run.fire("e", [number])
    assert [run.value("m", slot) for slot in (0, 1)] == [1, 2]
    assert run.discards("s") == {"range": 1}


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 7))
def test_buckets_are_monotonic_and_as_narrow_as_the_power_says(value: int, power: int) -> None:
    index = bucket_index(value, power)
    assert 0 <= index < (64 - power + 1) << power
    assert bucket_index(max(value - 1, 0), power) in (index, index - 1)
    if value < 2 << power:
        assert index == value


# State


def test_task_state_ends_with_its_task() -> None:
    st_, m = state("task", ir.U64, zero_is_absent=True), metric()
    found = ir.Local("t", ir.U64)
    read = ir.ReadState(SPAN, st_, arg(0, TASK), take=False, locals=(found,), then=(update(m, found),), otherwise=())
    run = machine(read, ir.StoreState(SPAN, st_, arg(0, TASK), (arg(1),)), metrics=(m,), states=(st_,))
    worker = ir.TestObject({"pid": 7})
    run.fire("e", [worker, 5])
    run.fire("e", [worker, 0])
    assert run.value("m") == 5
    run.fire("e", [worker, 9])
    assert run.value("m") == 5, "a first field of 0 is an absent entry"
    run.fire("sched_process_free", [worker])
    run.fire("e", [worker, 1])
    assert run.value("m") == 5
    run.fire("e", [None, 1])
    assert run.discards("s") == {"null": 2}


def test_a_full_hash_drops_the_store_and_counts_it() -> None:
    st_ = state("hash", ir.U64, limit=1)
    run = machine(ir.StoreState(SPAN, st_, arg(0), (arg(0),)), states=(st_,))
    for key in (1, 2, 1):
        run.fire("e", [key])
    assert run.entries(st_) == 1
    assert run.discards("s") == {"state_full": 1}


def test_take_forgets_and_a_default_stands_in_for_what_is_absent() -> None:
    st_, m = state("hash", ir.S32), metric("gauge")
    local = ir.Local("v", ir.S32)
    body = (
        ir.ReadState(SPAN, st_, const(1), take=True, locals=(local,), then=(), otherwise=(), default=const(-5, ir.S32)),
        update(m, local),
    )
    run = machine(*body, ir.StoreState(SPAN, st_, const(1), (const(7, ir.S32),)), metrics=(m,), states=(st_,))
    run.fire("e")
    assert run.value("m") == -5
    run.fire("e")
    assert run.value("m") == 7
    assert run.entries(st_) == 1


def test_a_failed_default_leaves_out_the_rest_of_the_block() -> None:
    st_, m = state("hash", ir.U64), metric()
    local = ir.Local("v", ir.U64)
    bad = ir.Binary("%", const(1), const(0), ir.U64)
    read = ir.ReadState(SPAN, st_, const(1), take=False, locals=(local,), then=(), otherwise=(), default=bad)
    run = machine(read, update(m, const(1)), metrics=(m,), states=(st_,))
    run.fire("e")
    assert run.value("m") == 0
    assert run.discards("s") == {"zero": 1}


# Tests in the language


def test_an_expectation_that_fails_says_what_it_got_and_why() -> None:
    m = metric(labels=(Label("op", ("read", "write")),))
    fire = ir.TestFire(SPAN, 5, 0, None, "e", (0,))
    expect = ir.TestExpect(SPAN, "m", 0, None, (2,), is_list=False)
    body = (update(m, const(3), slot=const(1, ir.U32)), update(m, ir.Binary("/", const(1), arg(0), ir.U64)))
    program = unit(*body, metrics=(m,), tests=(ir.Test(SPAN, "case", (fire, expect)),))
    (outcome,) = run_tests(program)
    (mismatch,) = outcome.mismatches
    assert not outcome.passed
    assert (mismatch.expected, mismatch.got, mismatch.span) == ("2", "0", SPAN)
    assert mismatch.notes == ("sampler s discarded 1 (zero)", "m{op: write} is 3")


def test_a_histogram_is_expected_to_hold_exactly_its_observations() -> None:
    m = metric("histogram")
    fires = tuple(ir.TestFire(SPAN, time, 0, None, "e", ()) for time in (5000, 7000))
    program = unit(
        update(m, NOW),
        metrics=(m,),
        tests=(
            ir.Test(SPAN, "right", (*fires, ir.TestExpect(SPAN, "m", 0, None, (7000, 5000), is_list=True))),
            ir.Test(SPAN, "wrong", (*fires, ir.TestExpect(SPAN, "m", 0, None, (5000,), is_list=True))),
        ),
    )
    right, wrong = run_tests(program)
    assert right.passed
    assert (wrong.mismatches[0].expected, wrong.mismatches[0].got) == ("[5000]", "[5000, 7000]")


# Generated programs


@given(cases())
def test_every_generated_program_runs_and_stays_in_bounds(case: Case) -> None:
    task = ir.TestObject({"pid": 4, "tgid": 4, "comm": "oracle"})
    run = Machine(case.unit, cpus=2)
    for firing in case.firings:
        run.fire(firing.event, [task if a == "current" else a for a in firing.args], current=task)
    for sampler in case.unit.samplers:
        for state_ in sampler.states:
            assert run.entries(state_) <= (state_.limit if state_.kind == "hash" else 1)
        for m in sampler.metrics:
            dimension = m.schema.dimension
            bound = dimension.limit + 1 if isinstance(dimension, ByKey) else 2
            assert len(run.rows(m.schema.name)) <= bound
