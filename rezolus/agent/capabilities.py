"""What this kernel lets us attach, found out by trying: versions and configuration do not tell (lockdown, missing
capabilities, backports).

Each probe loads a program of two instructions, attaches it to something that hardly ever happens where only attaching
tells, and closes it again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from dsl.btf import Btf, Func, Typedef
from dsl.facts import Capability
from rezolus.bpf import syscall
from rezolus.bpf.perf_event import PerfEvent, open_event

_RETURN_0: Final = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)
"""`r0 = 0; exit`"""

_RARE_TRACEPOINT: Final = "sched_process_exec"
_RARE_FUNCTIONS: Final = ("security_sb_statfs", "vfs_statfs", "do_sys_settimeofday64", "vfs_read")

_TYPE_SOFTWARE, _CPU_CLOCK = 1, 0
_TYPE_HARDWARE, _CPU_CYCLES = 0, 0

_HELPER_TASK_STORAGE_GET: Final = 156
_HELPER_CURRENT_TASK_BTF: Final = 158
_MAP_CREATE, _BTF_LOAD = 0, 18
_MAP_TASK_STORAGE: Final = 29
_F_NO_PREALLOC: Final = 1

_PASSING: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EBUSY})
"""Errors that say something about this moment, not about the kernel."""


class _MissingError(Exception):
    """Something that the probe needs is not there; the text says what."""


def probe_capabilities(btf: Btf | None, *, tracefs: Path | None, devices: Path) -> Mapping[str, Capability]:
    """A value for each of `dsl.facts.CAPABILITIES`.

    `devices` is `/sys/bus/event_source/devices`; `tracefs` is None where it is not mounted. Takes some ten milliseconds
    where everything works. Leaves nothing behind.
    """
    probes: Mapping[str, Callable[[], None]] = {
        "tp_btf": lambda: _try_tp_btf(_need(btf)),
        "raw_tp": _try_raw_tp,
        "tracepoint": lambda: _try_tracepoint(tracefs),
        "fentry": lambda: _try_fentry(_need(btf)),
        "kprobe": lambda: _try_kprobe(devices),
        "uprobe": lambda: _try_uprobe(devices),
        "usdt": lambda: _try_usdt(devices),
        "perf": _try_perf,
        "perf_hardware": _try_hardware,
        "task_storage": lambda: _try_task_storage(_need(btf)),
        "current_task_btf": lambda: _try_current_task(_need(btf)),
    }
    return {name: _outcome(probe) for name, probe in probes.items()}


def _outcome(probe: Callable[[], None]) -> Capability:
    try:
        probe()
    except _MissingError as error:
        return Capability("no", str(error))
    except OSError as error:
        said = os.strerror(error.errno or 0).lower()
        if error.errno in _PASSING:
            return Capability("unknown", f"could not be examined ({said})")
        if error.errno in {errno.EPERM, errno.EACCES} and os.geteuid() != 0:
            return Capability("unknown", "needs root")
        return Capability("no", f"refused by the kernel ({said})")
    return Capability("yes")


def _need(btf: Btf | None) -> Btf:
    if btf is None:
        raise _MissingError("this kernel has no BTF")
    return btf


def _load(prog_type: int, *, instructions: bytes = _RETURN_0, attach_type: int = 0, btf_id: int = 0) -> int:
    return syscall.prog_load(
        syscall.Load(
            instructions=instructions,
            prog_type=prog_type,
            name="rezolus_probe",
            attach_type=attach_type,
            attach_btf_id=btf_id,
        )
    )


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _tracepoint_id(btf: Btf) -> int:
    found = btf.find_id(f"btf_trace_{_RARE_TRACEPOINT}", Typedef)
    if found is None:
        raise _MissingError(f"this kernel's BTF has no tracepoint {_RARE_TRACEPOINT}")
    return found


def _try_tp_btf(btf: Btf) -> None:
    prog = _load(syscall.PROG_TRACING, attach_type=syscall.ATTACH_TRACE_RAW_TP, btf_id=_tracepoint_id(btf))
    with _closing(prog):
        os.close(syscall.raw_tracepoint_open(prog, None))


def _try_raw_tp() -> None:
    with _closing(_load(syscall.PROG_RAW_TRACEPOINT)) as prog:
        os.close(syscall.raw_tracepoint_open(prog, _RARE_TRACEPOINT))


def _try_tracepoint(tracefs: Path | None) -> None:
    if tracefs is None:
        raise _MissingError("tracefs is not mounted")
    os.close(_load(syscall.PROG_TRACEPOINT))


def _try_fentry(btf: Btf) -> None:
    """Loading is not enough: AArch64 before 6.0 loads the program and then has no way to call it."""
    function = next(filter(None, (btf.find_id(name, Func) for name in _RARE_FUNCTIONS)), None)
    if function is None:
        raise _MissingError("this kernel's BTF has no functions")
    prog = _load(syscall.PROG_TRACING, attach_type=syscall.ATTACH_TRACE_FENTRY, btf_id=function)
    with _closing(prog):
        os.close(syscall.raw_tracepoint_open(prog, None))


def _device_type(devices: Path, name: str) -> int:
    try:
        return int((devices / name / "type").read_text())
    except FileNotFoundError:
        raise _MissingError(f"this kernel has no {name}s") from None


def _try_kprobe(devices: Path) -> None:
    kind = _device_type(devices, "kprobe")
    os.close(_load(syscall.PROG_KPROBE))
    last = errno.ENOENT
    for name in _RARE_FUNCTIONS:
        try:
            os.close(open_event(PerfEvent(type=kind, config=0, text=name, cpu=0)))
        except OSError as error:
            last = error.errno or 0
        else:
            return
    raise OSError(last, os.strerror(last))


def _try_uprobe(devices: Path) -> None:
    """Not attached anywhere: that would change code of a running program."""
    _device_type(devices, "uprobe")
    os.close(_load(syscall.PROG_KPROBE))


def _try_usdt(devices: Path) -> None:
    _try_uprobe(devices)
    if not (devices / "uprobe/format/ref_ctr_offset").exists():
        raise _MissingError("this kernel cannot count the readers of a USDT probe")


def _try_perf() -> None:
    os.close(_load(syscall.PROG_PERF_EVENT))
    os.close(open_event(PerfEvent(type=_TYPE_SOFTWARE, config=_CPU_CLOCK, period=10**9, cpu=0)))


def _try_hardware() -> None:
    try:
        os.close(open_event(PerfEvent(type=_TYPE_HARDWARE, config=_CPU_CYCLES, cpu=0)))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV}:
            raise _MissingError("this machine offers no hardware counters") from None
        raise


def _call(helper: int) -> bytes:
    return struct.pack("=BBhi", 0x85, 0, 0, helper)


def _try_current_task(btf: Btf) -> None:
    code = _call(_HELPER_CURRENT_TASK_BTF) + _RETURN_0
    prog_type, attach_type = syscall.PROG_TRACING, syscall.ATTACH_TRACE_RAW_TP
    os.close(_load(prog_type, instructions=code, attach_type=attach_type, btf_id=_tracepoint_id(btf)))


def _try_task_storage(btf: Btf) -> None:
    """`task_storage_get(map, current, 0, CREATE)` in a tracing program: the map exists since 5.11, this use since 5.12."""
    with _closing(_load_btf()) as types, _closing(_create_task_storage(types)) as fd:
        code = b"".join(
            (
                _call(_HELPER_CURRENT_TASK_BTF),
                struct.pack("=BBhi", 0xBF, 0x02, 0, 0),  # r2 = r0
                struct.pack("=BBhi", 0x18, 0x11, 0, fd) + bytes(8),  # r1 = map
                struct.pack("=BBhi", 0xB7, 0x03, 0, 0),  # r3 = 0
                struct.pack("=BBhi", 0xB7, 0x04, 0, 1),  # r4 = BPF_LOCAL_STORAGE_GET_F_CREATE
                _call(_HELPER_TASK_STORAGE_GET),
                _RETURN_0,
            )
        )
        prog_type, attach_type = syscall.PROG_TRACING, syscall.ATTACH_TRACE_RAW_TP
        os.close(_load(prog_type, instructions=code, attach_type=attach_type, btf_id=_tracepoint_id(btf)))


def _load_btf() -> int:
    """A BTF object of two integers, `int` (1) and `u64` (2): a storage map must say what its keys and values are."""
    strings = b"\0int\0u64\0"
    types = struct.pack("=4I", 1, 1 << 24, 4, 1 << 24 | 32) + struct.pack("=4I", 5, 1 << 24, 8, 64)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    blob = ctypes.create_string_buffer(header + types + strings, len(header + types + strings))
    return _bpf(_BTF_LOAD, struct.pack("=QQI", ctypes.addressof(blob), 0, len(blob)))


def _create_task_storage(types: int) -> int:
    name = b"rezolus_probe"
    # map_type key_size value_size max_entries map_flags inner_map_fd numa_node map_name ifindex btf_fd key value
    request = struct.pack("=7I16s4I", _MAP_TASK_STORAGE, 4, 8, 0, _F_NO_PREALLOC, 0, 0, name, 0, types, 1, 2)
    return _bpf(_MAP_CREATE, request)


def _bpf(command: int, request: bytes) -> int:
    attribute = ctypes.create_string_buffer(request, 128)
    address = ctypes.c_void_p(ctypes.addressof(attribute))
    return syscall.call(syscall.numbers()[0], ctypes.c_long(command), address, ctypes.c_long(128))
