"""The loader on the running kernel: every kind of hook counts exactly what happened."""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import time
from pathlib import Path

import pytest

from dsl.hooks import Hook
from rezolus.bpf import syscall
from rezolus.bpf.compile import CompileError, crash_error
from rezolus.bpf.load import Loaded, load
from rezolus.bpf.maps import map_array
from rezolus.bpf.stats import map_memory, program_stats
from tests.kernel.code import CodeFile
from tests.kernel.units import COUNT, COUNTS, btf_ids, task_struct, unit

GETPPID = {"x86_64": 110, "aarch64": 173}[platform.machine()]
OURS = f"if (bpf_get_current_pid_tgid() >> 32 != {os.getpid()}) return 0;\n"
SYS_ENTER = Hook(kind="tp_btf", name="sys_enter")
COUNT_GETPPID = f"if (ctx[1] != {GETPPID}) return 0;\n{OURS}{COUNT}"


def count(loaded: Loaded) -> int:
    return int(map_array(loaded.maps["counts"], 16, 1)[0, 0])


def descriptors() -> list[Path]:
    return sorted(Path("/proc/self/fd").iterdir())


def call_getppid(times: int) -> None:
    for _ in range(times):
        os.getppid()


def reasons(loaded: Loaded) -> list[str]:
    return [str(outcome.failure) for outcome in loaded.outcomes if outcome.failure]


@pytest.mark.parametrize("kind", ["tp_btf", "raw_tp"])
def test_a_tracepoint_program_counts_every_event(kind: str) -> None:
    hook = Hook(kind=kind, name="sys_enter")  # type: ignore[arg-type]
    with load(unit((hook, COUNT_GETPPID)), btf_ids()) as loaded:
        assert reasons(loaded) == []
        call_getppid(1000)
        assert count(loaded) == 1000
        loaded.detach()
        call_getppid(10)
        assert count(loaded) == 1000


def test_a_classic_tracepoint_reads_its_record() -> None:
    head = COUNTS + "struct record { u64 common; long id; };\n"
    body = f"struct record *r = ctx; if (r->id != {GETPPID}) return 0;\n{OURS}{COUNT}"
    hook = Hook(kind="tracepoint", name="raw_syscalls:sys_enter")
    with load(unit((hook, body), head=head), btf_ids()) as loaded:
        assert reasons(loaded) == []
        call_getppid(1000)
        assert count(loaded) == 1000


def test_typed_arguments_are_read_by_plain_loads() -> None:
    body = f"struct task_struct *p = (void *)ctx[1]; if (p->pid != {os.getpid()}) return 0;\n{COUNT}"
    hook = Hook(kind="tp_btf", name="sched_switch")
    with load(unit((hook, body), head=COUNTS + task_struct()), btf_ids()) as loaded:
        assert reasons(loaded) == []
        before = int(Path("/proc/self/sched").read_text().split("nr_switches")[1].split()[1])
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for _ in range(50):
                os.sched_yield()
            os._exit(0)
        os.close(writer)
        os.read(reader, 1)  # sleeps until the child has gone
        os.waitpid(child, 0)
        os.close(reader)
        after = int(Path("/proc/self/sched").read_text().split("nr_switches")[1].split()[1])
        assert 0 < count(loaded) <= after - before + 20


@pytest.mark.parametrize("pid", [-1, os.getpid()])
def test_user_functions_are_probed_at_entry_and_return(tmp_path: Path, pid: int) -> None:
    code = CodeFile(tmp_path / "code")
    entry = Hook(kind="uprobe", name="f", path=code.path, pid=pid)
    back = Hook(kind="uretprobe", name="f", path=code.path, pid=pid)
    second = "u32 key = 1; u64 *count = counts.lookup(&key); if (!count) return 0; *count += 1;"
    with load(unit((entry, COUNT), (back, second)), btf_ids()) as loaded:
        assert reasons(loaded) == []
        assert [code.call(number) for number in range(20)] == list(range(20))
        assert map_array(loaded.maps["counts"], 16, 1)[:3, 0].tolist() == [20, 20, 0]


def test_a_usdt_probe_raises_its_semaphore_while_attached(tmp_path: Path) -> None:
    code = CodeFile(tmp_path / "code")
    hook = Hook(kind="usdt", name="p:f", path=code.path, semaphore=code.semaphore_offset)
    with load(unit((hook, COUNT)), btf_ids()) as loaded:
        assert reasons(loaded) == []
        assert code.semaphore == 1
        code.call(1)
        assert count(loaded) == 1
    assert code.semaphore == 0


@pytest.mark.parametrize("pid", [-1, os.getpid()])
def test_timed_sampling_runs_the_program(pid: int) -> None:
    cpu_clock = Hook(kind="perf", name="cpu_clock", perf_type=1, perf_config=0, frequency=997, pid=pid)
    with load(unit((cpu_clock, COUNT)), btf_ids()) as loaded:
        assert reasons(loaded) == []
        deadline = time.monotonic() + 20
        while count(loaded) < 5 and time.monotonic() < deadline:
            sum(range(1000))
        assert count(loaded) >= 5


@pytest.mark.parametrize("kind", ["fentry", "fexit", "kprobe", "kretprobe"])
def test_kernel_functions_are_probed_or_the_reason_is_given(kind: str) -> None:
    hook = Hook(kind=kind, name="vfs_read")  # type: ignore[arg-type]
    with load(unit((hook, OURS + COUNT)), btf_ids()) as loaded:
        (outcome,) = loaded.outcomes
        counts = map_array(loaded.maps["counts"], 16, 1)  # asks /proc, by reads of its own
        before = int(counts[0, 0])
        with Path("/dev/zero").open("rb", buffering=0) as zeros:
            for _ in range(100):
                zeros.read(1)
        if outcome.failure is None:
            assert counts[0, 0] - before == 100
        elif kind in {"fentry", "fexit"}:
            assert outcome.failure.reason == "not permitted: this kernel is locked down against probing its functions"
        else:
            assert outcome.failure.reason == "this kernel is built without kprobes"


def test_a_refused_program_is_reported_at_its_line_and_the_others_run() -> None:
    bad = f'{COUNT}#line 24 "other.rzl"\n*count = *(u64 *)((char *)count\n + 800);\n#line 25 "other.rzl"\n'
    with load(unit((SYS_ENTER, COUNT_GETPPID), (SYS_ENTER, bad)), btf_ids()) as loaded:
        good, refused = loaded.outcomes
        assert good.failure is None
        assert refused.failure is not None
        assert refused.failure.stage == "verify"
        assert "invalid access to map value, value_size=8 off=800 size=8" in refused.failure.reason
        (message,) = refused.failure.messages
        assert (message.file, message.line) == ("other.rzl", 24)
        assert "program_1 (tp_btf:sys_enter)" in message.text
        assert "processed" in refused.failure.log
        call_getppid(10)
        assert count(loaded) == 10


def test_hooks_that_do_not_exist_are_named() -> None:
    hooks = [
        Hook(kind="tp_btf", name="no_such_event"),
        Hook(kind="raw_tp", name="no_such_event"),
        Hook(kind="tracepoint", name="no:event"),
        Hook(kind="uprobe", name="f", path="/no/such/file"),
        Hook(kind="uprobe", name="f", path="/etc/hostname", pid=2**22 - 1),
        Hook(kind="perf", name="cpu_clock", perf_type=1, frequency=99, pid=2**22 - 1),
    ]
    with load(unit(*((hook, COUNT) for hook in hooks)), btf_ids()) as loaded:
        assert [outcome.failure and outcome.failure.stage for outcome in loaded.outcomes] == ["attach"] * len(hooks)
        assert reasons(loaded) == [
            "the kernel's BTF does not describe tp_btf:no_such_event",
            "this kernel has no such function or tracepoint",
            "this kernel has no such tracepoint",
            "/no/such/file does not exist",
            "no process 4194303",
            "no process 4194303",
        ]


def test_reading_an_argument_that_a_raw_tracepoint_lacks_is_explained() -> None:
    with load(unit((Hook(kind="raw_tp", name="sys_enter"), "return ctx[7];")), btf_ids()) as loaded:
        assert reasons(loaded) == ["the program reads more arguments than this kernel's tracepoint has"]


def test_a_compile_error_is_at_its_line_and_nothing_stays_open(capfd: pytest.CaptureFixture[str]) -> None:
    before = descriptors()
    body = f'{COUNT}#line 12 "probe.rzl"\nundeclared\n = 1;'
    with pytest.raises(CompileError) as caught:
        load(unit((SYS_ENTER, body)), btf_ids())
    (message,) = caught.value.messages
    assert str(message) == "probe.rzl:12: error: use of undeclared identifier 'undeclared'"
    assert message.c_text == "undeclared"
    assert capfd.readouterr().err == ""
    assert descriptors() == before


def test_bcc_leaves_no_trace_in_the_process() -> None:
    directory, paths = Path.cwd(), list(sys.path)
    load(unit((SYS_ENTER, COUNT)), btf_ids()).close()  # imports it, wherever the test order put the first use
    before = descriptors()
    load(unit((SYS_ENTER, COUNT)), btf_ids()).close()
    assert (Path.cwd(), sys.path) == (directory, paths)
    assert "BCC_KERNEL_SOURCE" not in os.environ
    assert descriptors() == before


def test_a_second_set_takes_over_the_counters_of_the_first() -> None:
    with load(unit((SYS_ENTER, COUNT_GETPPID)), btf_ids()) as first:
        call_getppid(5)
        with load(unit((SYS_ENTER, COUNT_GETPPID)), btf_ids(), replace=first.maps) as second:
            first.detach()
            call_getppid(7)
            assert count(second) == 12
        with pytest.raises(ValueError, match="map counts has another max_entries"):
            load(unit((SYS_ENTER, COUNT), head=COUNTS.replace("16", "17")), btf_ids(), replace=first.maps)


def test_task_storage_counts_each_task_by_itself() -> None:
    head = "struct state { u64 runs; };\nstruct task_struct;\nBPF_TASK_STORAGE(states, struct state);\n" + COUNTS
    body = f"""if (ctx[1] != {GETPPID}) return 0;
{OURS}struct state *s = states.task_storage_get(bpf_get_current_task_btf(), 0, 1);
if (!s) return 0;
s->runs += 1;
u32 key = 0; u64 *count = counts.lookup(&key); if (count) *count = s->runs;
"""
    with load(unit((SYS_ENTER, body), head=head, maps=("counts", "states")), btf_ids()) as loaded:
        assert reasons(loaded) == []
        call_getppid(3)
        assert count(loaded) == 3
        pidfd = os.pidfd_open(os.getpid())
        assert syscall.map_lookup(loaded.maps["states"], pidfd.to_bytes(4, sys.byteorder), 8) == b"\3" + bytes(7)
        os.close(pidfd)
        again = unit((SYS_ENTER, body), head=head, maps=("counts", "states"))
        with load(again, btf_ids(), replace={"states": loaded.maps["states"]}) as second:
            loaded.detach()
            call_getppid(1)
            assert count(second) == 4


def test_a_raw_tracepoint_program_runs_on_arguments_of_our_own() -> None:
    body = "u32 key = 0; u64 *count = counts.lookup(&key); if (!count) return 0; *count += ctx[0] * ctx[1]; return 7;"
    with load(unit((Hook(kind="raw_tp", name="sys_enter"), body)), btf_ids(), attached=False) as loaded:
        assert syscall.prog_test_run(loaded.programs["program_0"], [6, 7]) == 7
        assert count(loaded) == 42


def test_the_kernel_keeps_the_books_while_asked_to() -> None:
    with load(unit((SYS_ENTER, COUNT_GETPPID)), btf_ids()) as loaded:
        fd = loaded.programs["program_0"]
        assert program_stats(fd).run_cnt == 0
        books = syscall.enable_stats()
        call_getppid(100)
        os.close(books)
        stats = program_stats(fd)
        assert stats.run_cnt >= 100
        assert stats.run_time_ns > 0
        assert stats.memlock >= 4096
        assert map_memory(loaded.maps["counts"]) >= 128


def test_maps_are_read_and_written_by_key() -> None:
    head = 'BPF_F_TABLE("hash", u64, u64, counts, 16, 0);\n'
    with load(unit((SYS_ENTER, "return 0;"), head=head), btf_ids(), attached=False) as loaded:
        fd = loaded.maps["counts"]
        keys = [number.to_bytes(8, sys.byteorder) for number in range(5)]
        for key in keys:
            syscall.map_update(fd, key, key)
        assert sorted(syscall.map_keys(fd, 8)) == sorted(keys)
        assert syscall.map_delete(fd, keys[0])
        assert not syscall.map_delete(fd, keys[0])
        assert [syscall.map_lookup(fd, key, 8) for key in keys] == [None, *keys[1:]]


def test_a_crash_of_the_compiler_is_explained_from_what_it_left(tmp_path: Path) -> None:
    line = '\n#line 33 "probe.rzl"\n'
    for statement, text in (
        ("return (s64)ctx[0] / (s64)ctx[1];", "probe.rzl:33: error: Unsupport signed division"),
        ("char b[600] = {}; bpf_get_current_comm(b + ctx[0] % 500, 16); return b[3];", "BPF stack limit of 512 bytes"),
    ):
        subject = unit((Hook(kind="raw_tp", name="sys_enter"), line + statement))
        log = os.open(tmp_path / "log", os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            faulthandler.disable()  # the crash is wanted
            load(subject, btf_ids(), log_fd=log)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        printed = os.pread(log, 1 << 20, 0).decode()
        os.close(log)
        assert status != 0
        assert text in str(crash_error(subject.text, printed, f"status {status}"))
