from __future__ import annotations

import pickle
from dataclasses import replace
from textwrap import dedent

import pytest

from dsl.btf import Btf, Struct
from dsl.facts import (
    CAPABILITIES,
    Capability,
    FormatError,
    ModuleBtfs,
    TargetFacts,
    TracepointField,
    TracepointFormats,
    parse_tracepoint_format,
)
from dsl.kernel.syscalls import syscall_numbers
from tests import needs
from tests.btfwriter import BtfWriter
from tests.kernels import SUITES, UnreachableError, kernel_btf

FORMAT = dedent("""\
    name: irq_handler_entry
    ID: 134
    format:
    \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

    \tfield:int irq;\toffset:8;\tsize:4;\tsigned:1;
    \tfield:__data_loc char[] name;\toffset:12;\tsize:4;\tsigned:0;
    \tfield:char comm[16];\toffset:16;\tsize:16;\tsigned:0;
    \tfield:const char * where;\toffset:32;\tsize:8;\tsigned:0;
    \tfield:unsigned long args[6];\toffset:40;\tsize:48;\tsigned:0;

    print fmt: "irq=%d name=%s", REC->irq, __get_str(name)
    """)


def test_a_tracepoint_format_is_read() -> None:
    found = parse_tracepoint_format(FORMAT)
    assert (found.name, found.id) == ("irq_handler_entry", 134)
    assert found.fields == (
        TracepointField("common_type", "unsigned short", 0, 2, signed=False),
        TracepointField("irq", "int", 8, 4, signed=True),
        TracepointField("name", "__data_loc char[]", 12, 4, signed=False),
        TracepointField("comm", "char[16]", 16, 16, signed=False),
        TracepointField("where", "const char *", 32, 8, signed=False),
        TracepointField("args", "unsigned long[6]", 40, 48, signed=False),
    )


@pytest.mark.parametrize("text", ["", "name: x\nformat:\n", "name: x\nID: 1\nformat:\n\tfield:int a;\tsize:4;\n"])
def test_what_is_no_tracepoint_format_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_tracepoint_format(text)


def test_formats_are_parsed_when_asked_for_and_a_broken_one_is_a_missing_one() -> None:
    formats = TracepointFormats({"irq:irq_handler_entry": FORMAT, "bad:one": "?"})
    assert formats["irq:irq_handler_entry"] is formats["irq:irq_handler_entry"]
    assert formats.get("bad:one") is None
    assert list(formats) == ["irq:irq_handler_entry", "bad:one"]


def small_kernel() -> tuple[BtfWriter, BtfWriter]:
    """A kernel with a tracepoint and a function, and a module with one of each."""
    kernel = BtfWriter()
    number = kernel.integer("int", 4, signed=True)
    task = kernel.ptr(kernel.struct("task_struct", 4, ("pid", number, 0)))
    kernel.tracepoint("sched_switch", ("preempt", number), ("prev", task), ("next", task))
    kernel.func("wake_up", kernel.proto(number, ("p", task), ("sync", number)))
    module = BtfWriter(base=kernel)
    module.tracepoint("nfs_open", ("inode", module.ptr(module.struct("inode", 8))))
    module.func("nfs_read", module.proto(0, ("count", number)))
    return kernel, module


def small_facts() -> TargetFacts:
    kernel, module = small_kernel()
    btf = Btf.parse(kernel.blob())
    modules = ModuleBtfs(btf, {"broken": b"never read", "nfs": module.blob()})
    return replace(TargetFacts.for_btf(btf, release="6.1"), module_btf=modules)


def test_tracepoint_arguments_have_types_and_names_without_the_data_pointer() -> None:
    facts = small_facts()
    args = facts.tracepoint_args("sched_switch")
    assert args is not None
    assert [(arg.name, arg.btf.type_name(arg.type_id)) for arg in args] == [
        ("preempt", "int"),
        ("prev", "struct task_struct *"),
        ("next", "struct task_struct *"),
    ]
    assert facts.tracepoint_module("sched_switch") == ""
    assert facts.tracepoint_args("sched_swatch") is None


def test_arguments_without_recorded_names_are_nameless() -> None:
    kernel = BtfWriter()
    kernel.typedef("btf_trace_old", kernel.ptr(kernel.proto(0, ("", kernel.ptr(0)), ("", kernel.integer("int", 4)))))
    args = TargetFacts.for_btf(Btf.parse(kernel.blob()), release="5.8").tracepoint_args("old")
    assert args is not None
    assert [arg.name for arg in args] == [""]


def test_tracepoints_and_functions_of_modules_are_found_without_reading_the_other_modules() -> None:
    facts = small_facts()
    args = facts.tracepoint_args("nfs_open")
    assert args is not None
    assert [arg.name for arg in args] == ["inode"]
    assert facts.tracepoint_module("nfs_open") == "nfs"
    found = facts.function_proto("nfs_read")
    assert found is not None
    assert (found.module, [arg.name for arg in found.args], found.return_type_id) == ("nfs", ["count"], 0)
    assert facts.function_proto("nfs_write") is None


def test_a_function_that_ftrace_does_not_list_cannot_be_probed() -> None:
    facts = small_facts()
    found = facts.function_proto("wake_up")
    assert found is not None
    assert [found.btf.type_name(arg.type_id) for arg in found.args] == ["struct task_struct *", "int"]
    assert set(facts.function_names()) >= {"wake_up"}

    listed = replace(facts, functions=frozenset({"schedule"}))
    assert listed.function_proto("wake_up") is None
    assert set(listed.function_names()) == {"schedule"}


def test_every_capability_is_stated_and_hook_kinds_share_them() -> None:
    facts = small_facts()
    assert set(facts.capabilities) == set(CAPABILITIES)
    assert facts.capability("fexit") == facts.capability("fentry") == Capability("yes")
    assert facts.capability("teleport").state == "unknown"
    assert facts.capability("task_storage").state == "no"  # this small BTF has no such map type


def test_facts_survive_pickling() -> None:
    again = pickle.loads(pickle.dumps(small_facts()))
    assert again.tracepoint_module("nfs_open") == "nfs"


@pytest.mark.parametrize(
    ("arch", "calls"),
    [
        ("x86_64", {"read": 0, "execve": 59, "rseq": 334, "pidfd_send_signal": 424, "clone3": 435, "mseal": 462}),
        ("aarch64", {"io_setup": 0, "read": 63, "execve": 221, "pidfd_send_signal": 424, "clone3": 435, "mseal": 462}),
    ],
)
def test_syscall_numbers_are_those_of_the_architecture(arch: str, calls: dict[str, int]) -> None:
    table = syscall_numbers(arch)
    assert {name: table[name] for name in calls} == calls
    assert len(set(table.values())) == len(table)
    assert ("open" in table) == (arch == "x86_64")


@pytest.mark.slow
@pytest.mark.parametrize("series", SUITES)
def test_other_kernels_are_described_by_their_btf(series: str) -> None:
    try:
        facts = TargetFacts.for_btf(Btf.parse(kernel_btf(series)), release=series)
    except UnreachableError as error:
        needs.cannot_run(str(error))
    assert facts.btf is not None

    switch = facts.tracepoint_args("sched_switch")
    assert switch is not None
    assert [arg.name for arg in switch][:3] == ["preempt", "prev", "next"]
    assert switch[1].btf.type_name(switch[1].type_id) == "struct task_struct *"
    send = facts.function_proto("tcp_sendmsg")
    assert send is not None
    assert [(arg.btf.type_name(arg.type_id), arg.name) for arg in send.args] == [
        ("struct sock *", "sk"),
        ("struct msghdr *", "msg"),
        ("size_t", "size"),
    ]
    # Facts of these kernels that no one of them shares with all others.
    task = facts.btf.find("task_struct", Struct)
    assert task is not None
    old = series == "5.10"
    assert facts.btf.member_path(task, "state" if old else "__state")
    assert facts.btf.member_path(task, "__state" if old else "state") is None
    assert facts.capability("task_storage").state == ("no" if old else "yes")
    assert ("sock_send_length" in facts.raw_tracepoints) == (series == "6.12")
    negative = facts.btf.enum_value("HRTIMER_NORESTART")
    assert negative is not None
    assert negative[0] == 0
