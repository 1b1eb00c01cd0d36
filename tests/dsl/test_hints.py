"""What the compiler advises: names that this kernel has, and nothing that only silences a mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from dsl import CompileError, Diagnostic, check_files, format_text, parse_files
from dsl.btf import Btf
from dsl.facts import TargetFacts, TracepointFormats
from tests.btfwriter import BtfWriter

WITHOUT = "add `else none()` if the sampler is worth having without it"
FORMAT = """\
name: sched_process_fork
ID: 300
format:
	field:int parent_pid;	offset:8;	size:4;	signed:1;
"""


def facts(members: Sequence[str] = ("pid",)) -> TargetFacts:
    """A kernel with three tracepoints, of a task with these members."""
    btf = BtfWriter()
    number = btf.integer("int", 4, signed=True)
    fields = [(name, number, 4 * index) for index, name in enumerate(members)]
    task = btf.ptr(btf.struct("task_struct", 4 * len(fields), *fields))
    for name in ("sched_process_fork", "sched_process_exit", "task_newtask"):
        btf.tracepoint(name, ("parent", task), ("child", task))
    known = TargetFacts.for_btf(Btf.parse(btf.blob()), release="example")
    return dataclasses.replace(known, tracepoints=TracepointFormats({"sched:sched_process_fork": FORMAT}))


def complaint(statement: str, kernel: TargetFacts) -> Diagnostic:
    """The one error about a handler."""
    text = f'sampler s "S" {{\n    counter c "C"\n    {statement}\n}}\n'
    with pytest.raises(CompileError) as caught:
        check_files(parse_files({"s.rzl": text}, lambda _: ""), kernel)
    (found,) = (item for item in caught.value.diagnostics if item.severity == "error")
    return found


@pytest.mark.parametrize(
    ("event", "hint"),
    [
        ("fork()", "did you mean `sched_process_fork`?"),
        ("sched_process()", "did you mean `sched_process_exit` or `sched_process_fork`?"),
        ("sched_proces_fork()", "did you mean `sched_process_fork`?"),
        ("record sched:fork()", "did you mean `sched_process_fork`?"),
        ("record shed:sched_process_fork()", "did you mean `sched:sched_process_fork`?"),
        ("nothing_like_it()", WITHOUT),
        ("call nothing_like_it()", WITHOUT),
    ],
)
def test_an_event_that_this_kernel_does_not_have_gets_names_or_the_way_to_go_without(event: str, hint: str) -> None:
    found = complaint(f"on {event} {{ c += 1 }}", facts())
    assert (found.code, found.hints) == ("unknown-event", (hint,))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("sched_process_fork(a, b, c)", "has no argument number 3"),
        ("sched_process_fork(rq: request)", "has no argument `request *`"),
        ("perf cpu_cycles every 0", "the period of a perf event is at least 1"),
        ("sched_process_fork(a, b, c) else nothing_like_it()", "no tracepoint `nothing_like_it`"),
    ],
)
def test_what_is_wrong_on_every_kernel_is_not_to_be_silenced(event: str, message: str) -> None:
    found = complaint(f"on {event} {{ c += 1 }}", facts())
    assert message in found.message
    assert found.code == "unknown-event"
    assert WITHOUT not in found.hints


def test_the_way_to_go_without_is_in_the_standard_form_and_is_taken() -> None:
    text = 'sampler s "S" {\n    counter c "C"\n    on nothing_like_it() else none() { c += 1 }\n}\n'
    assert format_text("s.rzl", text) == text
    checked = check_files(parse_files({"s.rzl": text}, lambda _: ""), facts())
    assert [item.severity for item in checked.diagnostics] == ["warning"]


def test_members_are_listed_when_they_are_few_and_counted_when_they_are_many() -> None:
    handler = "on sched_process_fork(task) when task.zzz == 0 { c += 1 }"
    few, many = ([f"m{index}" for index in range(count)] for count in (12, 13))
    assert complaint(handler, facts(few)).hints == (f"it has {', '.join(few)}",)
    assert complaint(handler, facts(many)).hints == (
        "it has 13 members; `bpftool btf dump file /sys/kernel/btf/vmlinux format c` shows those of this kernel",
    )
