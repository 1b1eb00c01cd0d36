"""Planning: one program per hook, each value once, memory that follows what is needed."""

from __future__ import annotations

import msgspec
import pytest

from dsl import ir
from dsl.emit.unit import emit
from dsl.plan.fuse import Block, Mode
from dsl.plan.number import Value
from dsl.plan.render import describe, map_bytes, render_plan
from dsl.plan.unit import Plan, Target, plan
from dsl.schema import ByCgroup, ByCpu, FromDiscards, Slots
from tests.dsl.units import (
    CPU,
    NOW,
    ONE,
    TARGET,
    Sampler,
    add,
    arg,
    differ,
    keyed,
    label,
    line,
    load,
    metric,
    pid,
    scheduler,
    store,
    task,
    time_state,
    unit,
    update,
    when,
)

SCHEDULER = """\
tp_btf:sched_switch  (on_sched_switch)
  samplers  s 89 %
            m 10 %
  reads     prev.__state                         load           where used         s
            prev.pid                             load           where used         s
            cpu                                  helper         once, shared       s
            row of bank cpu                      array lookup   where used         s
            state of task prev                   task storage   where used         s
            now                                  helper         on demand, shared  s
            next.pid                             load           once, shared       s m
            state of task next                   task storage   where used         s
            row of bank hist                     array lookup   where used         s
            next.sched_task_group                load           where used         m
            next.sched_task_group.css.id         load           where used         m
            next.sched_task_group.css.serial_nr  load           where used         m
            row of cgroup of next                array lookup   where used         m
  updates   switches                             plain
            waits                                plain
            moves                                atomic
  state     store s.since (tasks)
            take s.since (tasks)
  discards  null, state_full, clock

memory: 1136 KiB of values
  cpu                                0.2 KiB  bank by cpu, 4 x 8 words
  hist                              15.5 KiB  bank by stripe, 4 x 496 words
  cgroup                           256.0 KiB  bank by cgroup, 4096 x 8 words
  cgroup_names                     864.0 KiB  names of cgroups
  tasks                              0.0 KiB  state of tasks, 48 bytes each, kept with the task
"""


def target(**changes: object) -> Target:
    values = {name: getattr(TARGET, name) for name in Target.__slots__}
    return Target(**(values | changes))


def modes(planned: Plan) -> dict[str, Mode]:
    """How the values of the only program that are decided ahead are evaluated, at any depth."""
    (program,) = planned.programs
    found: dict[str, Mode] = {}

    def visit(block: Block) -> None:
        for values in block.place.values():
            found.update({name(value): mode for value, mode in values})
        for step in block.steps:
            for inner in step.blocks:
                visit(inner)

    def name(value: Value) -> str:
        return describe(value, program.fused.graph.hints)

    visit(program.fused.root)
    return found


def test_a_hook_has_one_program_and_the_plan_says_what_it_shares() -> None:
    assert render_plan(plan(scheduler(), TARGET)) == SCHEDULER


def test_the_same_input_gives_the_same_text() -> None:
    first, second = emit(plan(scheduler(), TARGET)), emit(plan(scheduler(), TARGET))
    assert first == second


def test_words_of_a_bank_do_not_overlap_and_cpus_share_no_cache_line() -> None:
    metrics = [metric("counter", f"m{count}", by=ByCpu(), labels=label(count)) for count in (3, 1, 7)]
    planned = plan(unit(Sampler("s", metrics).on("e", *(add(item, pid(0)) for item in metrics))), TARGET)
    (bank,) = planned.banks
    taken = [word for member in bank.members for word in range(member.offset, member.offset + member.words)]
    assert taken == list(range(len(taken)))
    assert len(taken) == 3 + 1 + 7 + 2  # and two reasons to discard: a null pointer, a negative amount
    assert bank.bank.words % 8 == 0
    assert bank.bank.words >= len(taken)
    offsets = {item.name: item.storage.offset for item in planned.schema.metrics if isinstance(item.storage, Slots)}
    assert offsets == {"m3": 0, "m1": 3, "m7": 4}


def test_only_words_that_one_program_writes_are_added_to_without_atomics() -> None:
    one, two = metric("counter", "one"), metric("counter", "two")
    sampler = Sampler("s", [one, two]).on("a", add(one), add(two)).on("b", add(two))
    planned = plan(unit(sampler), TARGET)
    assert not planned.is_shared("one", 0)
    assert planned.is_shared("two", 0)
    assert plan(unit(sampler), target(recursion_safe=False)).is_shared("one", 0)


def test_labels_are_told_apart_when_another_cpu_writes_one_of_them() -> None:
    moves = metric("counter", "moves", by=ByCpu(), labels=label(2))
    here = update(moves, "add", ONE, slot=ir.Const(0, ir.U32))
    there = update(moves, "add", ONE, slot=ir.Const(1, ir.U32), row=(arg(0, ir.U32),))
    planned = plan(unit(Sampler("s", [moves]).on("e", here, there)), TARGET)
    assert not planned.is_shared("moves", 0)
    assert planned.is_shared("moves", 1)
    assert planned.is_shared("moves", None)


def test_uprobes_are_preemptible_so_their_counters_are_atomic() -> None:
    calls = metric("counter", "calls")
    planned = plan(unit(Sampler("s", [calls]).on("malloc", add(calls), kind="uprobe")), TARGET)
    assert planned.is_shared("calls", 0)


def test_a_value_that_is_not_sure_to_be_needed_waits_for_its_first_use() -> None:
    last = metric("gauge", "last")
    one = when(differ(arg(0, ir.U32), 0, ir.U32), update(last, "set", NOW))
    two = when(differ(arg(1, ir.U32), 0, ir.U32), update(last, "set", NOW))
    planned = plan(unit(Sampler("s", [last]).on("e", one, two)), TARGET)
    assert modes(planned)["now"] == "lazy"


def test_a_value_that_is_sure_to_be_needed_is_evaluated_at_once() -> None:
    last = metric("gauge", "last")
    maybe = when(differ(arg(0, ir.U32), 0, ir.U32), update(last, "set", NOW))
    planned = plan(unit(Sampler("s", [last]).on("e", maybe), Sampler("t").on("e", update(last, "set", NOW))), TARGET)
    assert modes(planned)["now"] == "eager"


def test_the_clock_is_read_once_whatever_is_joined() -> None:
    waits = [metric("histogram", f"h{number}") for number in range(5)]
    states = [time_state(f"since{number}") for number in range(5)]
    samplers = [
        Sampler(f"s{number}", [histogram], [state]).on(
            "e",
            store(state, task(0), NOW),
            update(histogram, "observe", NOW),
        )
        for number, (histogram, state) in enumerate(zip(waits, states, strict=True))
    ]
    assert emit(plan(unit(*samplers), TARGET)).text.count("bpf_ktime_get_ns()") == 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({}, "storage"), ({"task_storage": False}, "hash")],
)
def test_task_state_is_kept_by_the_kernel_where_it_can(changes: dict[str, object], kind: str) -> None:
    planned = plan(scheduler(), target(**changes))
    assert planned.tasks is not None
    assert planned.tasks.kind == kind


def test_raw_tracepoints_do_not_type_their_tasks_so_their_state_is_a_hash() -> None:
    state = time_state("since")
    planned = plan(unit(Sampler("s", [], [state]).on("e", store(state, task(0), NOW), kind="raw_tp")), TARGET)
    assert planned.tasks is not None
    assert planned.tasks.kind == "hash"
    assert [program.function for program in planned.programs if program.frees_tasks] == ["on_sched_process_free"]


def test_state_of_the_current_task_is_kept_by_the_kernel_in_any_program() -> None:
    state = time_state("since")
    current = ir.Builtin("current", ir.Pointer("task_struct", walkable=True))
    sampler = Sampler("s", [], [state]).on("f", store(state, current, NOW), kind="kprobe")
    planned = plan(unit(sampler), TARGET)
    assert planned.tasks is not None
    assert planned.tasks.kind == "storage"


def test_memory_does_not_grow_with_the_number_of_possible_pids() -> None:
    sizes = {map_bytes(plan(scheduler(), target(pid_max=2**power, task_storage=False))) for power in (15, 18, 22)}
    assert len(sizes) == 1
    assert max(sizes) < 4 << 20


def test_histograms_have_at_most_sixteen_stripes() -> None:
    banks = plan(scheduler(), target(possible_cpus=512)).banks
    assert {item.bank.name: item.bank.rows for item in banks} == {"cpu": 512, "hist": 16, "cgroup": 4096}
    assert plan(scheduler(), target(possible_cpus=512)).is_shared("waits", 0)


def test_discards_are_counted_by_sampler_reason_and_program() -> None:
    planned = plan(scheduler(), TARGET)
    first, second = planned.schema.samplers
    assert [reason for reason, _ in first.discards] == ["null", "state_full", "clock"]
    assert [reason for reason, _ in second.discards] == ["null"]
    assert len({offset for sampler in (first, second) for _, offset in sampler.discards}) == 4


def test_a_metric_of_discards_adds_up_the_words_of_all_programs() -> None:
    lost = metric("counter", "lost")
    lost = ir.Metric(lost.schema, read=True, discards=("null",))
    counts = metric("counter", "counts")
    sampler = Sampler("s", [lost, counts]).on("a", add(counts, pid(0))).on("b", add(counts, pid(0)))
    planned = plan(unit(sampler), TARGET)
    storage = planned.schema.metrics[0].storage
    assert isinstance(storage, FromDiscards)
    assert storage.offsets == tuple(
        offset for reason, offset in planned.schema.samplers[0].discards if reason == "null"
    )
    assert len(storage.offsets) == 2


def test_dense_tables_become_arrays_and_others_comparisons() -> None:
    dense = ir.Table("dense", tuple((number, number % 3) for number in range(20)), 3, ())
    sparse = ir.Table("sparse", ((1, 0), (70000, 1)), None, ())
    counts = metric("counter", "counts", labels=label(4))
    body = [add(counts, slot=ir.TableLookup(name, arg(0))) for name in ("dense", "sparse")]
    emitted = emit(plan(unit(Sampler("s", [counts]).on("e", *body), tables=(dense, sparse)), TARGET))
    assert emitted.initial == {"tables": bytes(number % 3 for number in range(20))}
    assert "case 70000ULL:" in emitted.text


def test_hooks_of_one_name_get_functions_of_different_names() -> None:
    counts = metric("counter", "counts")
    sampler = (
        Sampler("s", [counts])
        .on("f", add(counts))
        .on("f", add(counts), kind="raw_tp")
        .on("f", add(counts), kind="fexit")
    )
    names = [program.function for program in plan(unit(sampler), TARGET).programs]
    assert names == ["on_f", "on_f_raw_tp", "on_return_f"]


def test_the_schema_is_complete_and_can_be_sent() -> None:
    counts = keyed("counts")
    body = (
        update(counts, "add", ONE, row=(ir.Builtin("comm", ir.Text(16)),)),
        update(metric("counter", "groups", by=ByCgroup()), "add", ONE),
    )
    groups = body[1].metric
    planned = plan(unit(Sampler("s", [counts, groups]).on("e", *body)), TARGET)
    assert set(planned.schema.maps) == {
        *("cpu", "cgroup", "cgroup_names", "counts", "counts_keys", "counts_slots", "counts_next"),
    }
    described = msgspec.msgpack.decode(msgspec.msgpack.encode(planned.schema), type=type(planned.schema))
    assert described == planned.schema
    (program,) = described.programs
    assert len(program.weights) == len(program.samplers) == 1


def test_a_failing_let_is_evaluated_even_if_nothing_uses_it() -> None:
    counts = metric("counter", "counts")
    unused = ir.Let(line(2), ir.Local("x", ir.S32), load(task(0), 8, ir.S32, "x"))
    planned = plan(unit(Sampler("s", [counts]).on("e", unused, add(counts, at=3))), TARGET)
    text = emit(planned).text
    assert text.index("goto end") < text.index("->counts += 1")


def test_a_let_that_cannot_fail_costs_nothing_unless_used() -> None:
    counts = metric("counter", "counts")
    unused = ir.Let(line(2), ir.Local("x", ir.U64), NOW)
    used = ir.Let(line(2), ir.Local("y", ir.U32), CPU)
    planned = plan(unit(Sampler("s", [counts]).on("e", unused, used, add(counts, ir.Local("y", ir.U32)))), TARGET)
    assert "bpf_ktime_get_ns" not in emit(planned).text
