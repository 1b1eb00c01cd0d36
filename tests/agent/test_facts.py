from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from dsl.btf import Btf, Struct
from dsl.facts import CAPABILITIES
from rezolus.agent.capabilities import probe_capabilities
from rezolus.agent.facts import FactsError, find_tracefs, parse_cpulist, probe
from tests.btfwriter import BtfWriter

NOBODY = 65534
DEVICES = Path("/sys/bus/event_source/devices")


@pytest.mark.kernel
def test_this_host_is_described_as_it_describes_itself() -> None:
    facts = probe(binaries=["libc", "no-such-program"])
    assert facts.release == os.uname().release
    assert facts.arch == os.uname().machine
    assert facts.page_size == os.sysconf("SC_PAGE_SIZE")
    assert len(facts.online_cpus) == os.sysconf("SC_NPROCESSORS_ONLN")
    assert facts.possible_cpus >= len(facts.online_cpus)
    assert facts.pid_max == int(Path("/proc/sys/kernel/pid_max").read_text())
    assert facts.btf is not None
    assert facts.btf.find("task_struct", Struct) is not None
    assert {"sched_switch", "sys_enter"} <= facts.raw_tracepoints
    assert "sys_enter_read" not in facts.raw_tracepoints
    assert set(facts.binaries) == {"libc"}


@pytest.mark.kernel
def test_classic_tracepoints_come_with_their_records(tracefs: Path) -> None:
    facts = probe()
    record = facts.tracepoints["sched:sched_switch"]
    fields = {field.name: field for field in record.fields}
    assert fields["next_pid"].size == 4
    assert record.id == int((tracefs / "events/sched/sched_switch/id").read_text())
    assert "sched:no_such_event" not in facts.tracepoints
    assert facts.tracepoints.get("sched:no_such_event") is None
    assert pickle.loads(pickle.dumps(facts)).tracepoints["sched:sched_switch"] == record


@pytest.mark.kernel
def test_as_root_every_capability_is_decided_and_a_no_has_its_reason() -> None:
    for name, capability in probe().capabilities.items():
        assert capability.state in {"yes", "no"}, f"{name}: {capability}"
        assert (capability.state == "no") == bool(capability.reason)


@pytest.mark.kernel
def test_without_privileges_a_refusal_decides_nothing() -> None:
    btf = Btf.parse(Path("/sys/kernel/btf/vmlinux").read_bytes())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        found = probe_capabilities(btf, tracefs=None, devices=DEVICES)
        os.write(writer, json.dumps({name: [state.state, state.reason] for name, state in found.items()}).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        states = json.loads(pipe.read())
    assert os.waitpid(child, 0)[1] == 0
    assert set(states) == set(CAPABILITIES)
    assert states["tp_btf"] == states["task_storage"] == ["unknown", "needs root"]


@pytest.mark.kernel
def test_a_kernel_without_type_information_says_so() -> None:
    found = probe_capabilities(None, tracefs=None, devices=Path("/nonexistent"))
    assert found["tp_btf"].reason == found["task_storage"].reason == "this kernel has no BTF"
    assert found["tracepoint"].reason == "tracefs is not mounted"
    assert found["kprobe"].reason == "this kernel has no kprobes"


class Host:
    """A /sys and a /proc of our own making."""

    def __init__(self, root: Path) -> None:
        self.sysfs, self.proc = root / "sys", root / "proc"
        self.write("sys/devices/system/cpu/possible", "0-3,8\n")
        self.write("sys/devices/system/cpu/online", "0,2-3\n")
        self.write("proc/sys/kernel/pid_max", "4194304\n")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.sysfs.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_cpus_are_counted_up_to_the_last_possible_one(host: Host) -> None:
    facts = probe(sysfs=host.sysfs, proc=host.proc)
    assert (facts.possible_cpus, facts.online_cpus, facts.pid_max) == (9, (0, 2, 3), 4194304)
    assert facts.btf is None
    assert facts.tracepoints == {}


@pytest.mark.parametrize(("hierarchy", "v1"), [("3", True), ("0", False)])
def test_the_cgroup_version_is_that_of_the_cpu_controller(host: Host, hierarchy: str, *, v1: bool) -> None:
    host.write(
        "proc/cgroups", f"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t5\t1\t1\ncpu\t{hierarchy}\t1\t1\n"
    )
    assert probe(sysfs=host.sysfs, proc=host.proc).cgroup_v1 is v1


def test_a_kernel_without_a_cgroups_file_has_no_v1(host: Host) -> None:
    assert not probe(sysfs=host.sysfs, proc=host.proc).cgroup_v1


def test_modules_bring_their_own_types(host: Host) -> None:
    kernel = BtfWriter()
    number = kernel.integer("int", 4)
    module = BtfWriter(base=kernel)
    module.tracepoint("nfs_open", ("mode", number))
    host.write("sys/kernel/btf/vmlinux", kernel.blob())
    host.write("sys/kernel/btf/nfs", module.blob())

    facts = probe(sysfs=host.sysfs, proc=host.proc)
    args = facts.tracepoint_args("nfs_open")
    assert args is not None
    assert [arg.name for arg in args] == ["mode"]
    assert facts.tracepoint_module("nfs_open") == "nfs"


def test_events_of_tracefs_are_raw_tracepoints_but_for_those_made_of_others(host: Host) -> None:
    for name in ("sched/sched_switch", "syscalls/sys_enter_read", "ftrace/function"):
        host.write(f"sys/kernel/debug/tracing/events/{name}/format", "name: x\nID: 7\nformat:\n")
    facts = probe(sysfs=host.sysfs, proc=host.proc)
    assert facts.raw_tracepoints == {"sched_switch"}
    assert facts.tracepoints["syscalls:sys_enter_read"].id == 7
    assert find_tracefs(host.sysfs) == host.sysfs / "kernel/debug/tracing"


def test_a_configured_btf_that_cannot_be_used_is_an_error(host: Host) -> None:
    missing = host.sysfs / "missing.btf"
    with pytest.raises(FactsError, match=r"cannot read the kernel's BTF from .*missing\.btf: no such file"):
        probe(btf_path=missing, sysfs=host.sysfs, proc=host.proc)
    broken = host.write("sys/broken.btf", b"\x7fELF, which is not BTF at all")
    with pytest.raises(FactsError, match=r"broken\.btf holds no valid BTF: not BTF, it begins with 7f45"):
        probe(btf_path=broken, sysfs=host.sysfs, proc=host.proc)


def test_a_host_without_proc_and_sys_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match="are /proc and /sys mounted"):
        probe(sysfs=tmp_path, proc=tmp_path)


@pytest.mark.parametrize(("text", "cpus"), [("0\n", (0,)), ("0-2", (0, 1, 2)), ("1,4-5,7", (1, 4, 5, 7)), ("", ())])
def test_cpu_lists_are_read(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpulist(text) == cpus
