"""Attach a loaded program to its hook.

An attachment is one or more descriptors: it ends when the last copy is closed, so nothing is left behind however the
holders end.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final, assert_never

from dsl.hooks import Hook
from rezolus.bpf import perf_event, syscall
from rezolus.bpf.perf_event import PerfEvent

_DEVICES: Final = Path("/sys/bus/event_source/devices")
_TRACEFS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_EVERY_PROCESS: Final = -1


class AttachError(Exception):
    """The kernel does not let this program attach there; `code` is the errno, 0 when it was not asked."""

    def __init__(self, hook: Hook, reason: str, code: int) -> None:
        super().__init__(hook, reason, code)
        self.hook = hook
        self.reason = reason
        self.code = code

    def __str__(self) -> str:
        return f"cannot attach to {self.hook}: {self.reason}"


def attach(prog_fd: int, hook: Hook) -> tuple[int, ...]:
    """Attach and return the descriptors that hold the attachment, owned by the caller. Raises `AttachError`."""
    try:
        return _attach(prog_fd, hook)
    except OSError as error:
        raise AttachError(hook, _reason(hook, error), error.errno or 0) from error


def _attach(prog_fd: int, hook: Hook) -> tuple[int, ...]:
    match hook.kind:
        case "tp_btf" | "fentry" | "fexit":
            return (syscall.raw_tracepoint_open(prog_fd, None),)
        case "raw_tp":
            return (syscall.raw_tracepoint_open(prog_fd, hook.name),)
        case "tracepoint":
            # The program runs on all CPUs wherever the event that carries it lives.
            event = PerfEvent(type=perf_event.TYPE_TRACEPOINT, config=_tracepoint_id(hook), cpu=online_cpus()[0])
            return (_with_program(event, prog_fd),)
        case "kprobe" | "kretprobe":
            return (_with_program(_kernel_function(hook), prog_fd),)
        case "uprobe" | "uretprobe" | "usdt":
            return (_with_program(_user_function(hook), prog_fd),)
        case "perf":
            return _perf(prog_fd, hook)
        case _:
            assert_never(hook.kind)


def _with_program(event: PerfEvent, prog_fd: int) -> int:
    fd = perf_event.open_event(event)
    try:
        perf_event.set_program(fd, prog_fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _tracepoint_id(hook: Hook) -> int:
    category, _, name = hook.name.partition(":")
    for root in _TRACEFS:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return int((root / "events" / category / name / "id").read_text(encoding="ascii"))
    if not any((root / "events").is_dir() for root in _TRACEFS):
        raise AttachError(hook, f"tracefs is not mounted on {_TRACEFS[0]}: mount -t tracefs none {_TRACEFS[0]}", 0)
    raise AttachError(hook, "this kernel has no such tracepoint", errno.ENOENT)


def _kernel_function(hook: Hook) -> PerfEvent:
    bit = 1 << _bit("kprobe", "retprobe", 0) if hook.kind == "kretprobe" else 0
    return PerfEvent(type=_device_type("kprobe"), config=bit, text=hook.name, offset=hook.offset, cpu=online_cpus()[0])


def _user_function(hook: Hook) -> PerfEvent:
    config = 1 << _bit("uprobe", "retprobe", 0) if hook.kind == "uretprobe" else 0
    if hook.semaphore:
        config |= hook.semaphore << _bit("uprobe", "ref_ctr_offset", 32)
    # The kernel takes all processes (of one CPU's event, which serves all CPUs) or one process on any CPU.
    cpu = online_cpus()[0] if hook.pid == _EVERY_PROCESS else -1
    return PerfEvent(
        type=_device_type("uprobe"), config=config, text=hook.path, offset=hook.offset, pid=hook.pid, cpu=cpu
    )


def _perf(prog_fd: int, hook: Hook) -> tuple[int, ...]:
    """One event per CPU; of one process, one per thread, and threads to come inherit it."""
    if hook.pid == _EVERY_PROCESS:
        places = [(_EVERY_PROCESS, cpu) for cpu in online_cpus()]
    else:
        places = [(thread, -1) for thread in _threads(hook.pid)]
    fds: list[int] = []
    try:
        for pid, cpu in places:
            event = PerfEvent(
                type=hook.perf_type,
                config=hook.perf_config,
                frequency=hook.frequency,
                period=hook.period,
                pid=pid,
                cpu=cpu,
                inherit=pid != _EVERY_PROCESS,
            )
            try:
                fds.append(_with_program(event, prog_fd))
            except OSError as error:
                # A CPU may go offline and a thread may end between the listing and now.
                if error.errno not in (errno.ENODEV, errno.ESRCH):
                    raise
        if not fds:
            raise ProcessLookupError(errno.ESRCH, "no CPU or thread took the event")
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return tuple(fds)


def _threads(pid: int) -> list[int]:
    try:
        return [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, f"no process {pid}") from None


def online_cpus() -> list[int]:
    """CPUs that run now."""
    cpus: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text(encoding="ascii").strip().split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _device_type(device: str) -> int:
    try:
        return int((_DEVICES / device / "type").read_text(encoding="ascii"))
    except FileNotFoundError:
        raise OSError(errno.EOPNOTSUPP, f"this kernel has no {device}s") from None


def _bit(device: str, parameter: str, usual: int) -> int:
    """First bit of a parameter in `config`, from the device's own description (`config:32-63`)."""
    try:
        text = (_DEVICES / device / "format" / parameter).read_text(encoding="ascii")
    except FileNotFoundError:
        return usual
    return int(text.strip().removeprefix("config:").partition("-")[0])


def _reason(hook: Hook, error: OSError) -> str:
    match error.errno:
        case errno.EOPNOTSUPP if hook.kind in {"kprobe", "kretprobe"}:
            return "this kernel is built without kprobes"
        case errno.EPERM | errno.EACCES:
            return "not permitted: needs root (CAP_BPF and CAP_PERFMON) and a kernel that is not locked down"
        case errno.ENOENT if hook.kind in {"uprobe", "uretprobe", "usdt"}:
            return f"{hook.path} does not exist"
        case errno.ENOENT if hook.kind == "perf":
            return "this host has no such performance counter"
        case errno.ENOENT:
            return "this kernel has no such function or tracepoint"
        case errno.EINVAL if hook.kind == "raw_tp":
            return "the program reads more arguments than this kernel's tracepoint has"
        case errno.EINVAL if hook.kind in {"uprobe", "uretprobe", "usdt"}:
            return f"no instruction can be probed at offset {hook.offset:#x} of {hook.path}"
        case errno.ESRCH if hook.pid != _EVERY_PROCESS:
            return f"no process {hook.pid}"
        case errno.EBUSY:
            return "the kernel is busy there: another tracer holds it"
        case errno.EMFILE | errno.ENFILE:
            return "too many open files: raise the limit (LimitNOFILE)"
        case _:
            return error.strerror or str(error)
