"""The system calls of BPF, by ctypes: nothing here knows what the programs are for.

Every function returns a file descriptor or data, or raises `OSError` with the kernel's errno.
Descriptors are close-on-exec and belong to the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

_NUMBERS: Final = {"x86_64": (321, 298), "aarch64": (280, 241), "riscv64": (280, 241), "s390x": (351, 331)}
"""(bpf, perf_event_open) by machine."""

PROG_KPROBE: Final = 2
PROG_TRACEPOINT: Final = 5
PROG_PERF_EVENT: Final = 7
PROG_RAW_TRACEPOINT: Final = 17
PROG_TRACING: Final = 26

ATTACH_TRACE_RAW_TP: Final = 23
ATTACH_TRACE_FENTRY: Final = 24
ATTACH_TRACE_FEXIT: Final = 25

MAP_ARRAY: Final = 2
MAP_PROG_ARRAY: Final = 3
MAP_MMAPABLE: Final = 0x400

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY, _PROG_LOAD = range(6)
_PROG_TEST_RUN, _BTF_GET_FD_BY_ID, _OBJ_GET_INFO, _RAW_TRACEPOINT_OPEN = 10, 19, 15, 17
_BTF_GET_NEXT_ID, _ENABLE_STATS = 23, 32

_LOG_BYTES: Final = (1 << 24) - 1
"""The longest log that every kernel accepts."""


class _ProgLoad(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("func_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("line_info_cnt", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class _ProgInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("gpl_compatible", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("nr_jited_ksyms", ctypes.c_uint32),
        ("nr_jited_func_lens", ctypes.c_uint32),
        ("jited_ksyms", ctypes.c_uint64),
        ("jited_func_lens", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("nr_func_info", ctypes.c_uint32),
        ("nr_line_info", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("jited_line_info", ctypes.c_uint64),
        ("nr_jited_line_info", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("jited_line_info_rec_size", ctypes.c_uint32),
        ("nr_prog_tags", ctypes.c_uint32),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: Any) -> int:
    """Call the kernel; raise `OSError` when it says no.

    EINTR and EAGAIN are tried again: a long verification that a signal interrupts ends so.
    """
    for _ in range(5):
        result = int(_libc.syscall(ctypes.c_long(number), *arguments))
        if result >= 0:
            return result
        number_of_error = ctypes.get_errno()
        if number_of_error not in {errno.EINTR, errno.EAGAIN}:
            break
    raise OSError(number_of_error, os.strerror(number_of_error))


def numbers() -> tuple[int, int]:
    """Numbers of bpf and perf_event_open on this machine."""
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"BPF system call numbers of the machine {machine!r} are not known")
    return _NUMBERS[machine]


def _bpf(command: int, attribute: ctypes.Structure | ctypes.Array[ctypes.c_char]) -> int:
    size = ctypes.sizeof(attribute)
    return call(numbers()[0], ctypes.c_long(command), ctypes.c_void_p(ctypes.addressof(attribute)), ctypes.c_long(size))


def _packed(layout: str, *values: int | bytes) -> ctypes.Array[ctypes.c_char]:
    """An attribute of a command with few members, zero-filled to 128 bytes."""
    return ctypes.create_string_buffer(struct.pack("=" + layout, *values), 128)


@dataclass(frozen=True, slots=True)
class LineTable:
    """What connects instructions with source lines, in the kernel's own layout."""

    btf_fd: int
    functions: bytes
    """`struct bpf_func_info[]`, 8 bytes each."""
    lines: bytes
    """`struct bpf_line_info[]`, 16 bytes each."""

    def line_of(self, instruction: int) -> int:
        """Source line of an instruction, 0 when the table has none."""
        found = 0
        for offset, _file, _text, place in struct.iter_unpack("=IIII", self.lines):
            if offset > instruction:
                break
            found = (place >> 10) or found
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Arguments of BPF_PROG_LOAD that matter here."""

    instructions: bytes
    prog_type: int
    name: str
    attach_type: int = 0
    attach_btf_id: int = 0
    attach_btf_fd: int = 0
    """BTF object of the kernel module that `attach_btf_id` belongs to; 0 for vmlinux."""


def prog_load(load: Load) -> int:
    """Load a program, without a log."""
    attribute, keep = _load_attribute(load)
    fd = _bpf(_PROG_LOAD, attribute)
    del keep
    return fd


def prog_load_log(load: Load, table: LineTable | None) -> tuple[int, str, int]:
    """Load a program once more to hear why not: (errno, the verifier's log, fd).

    With errno 0 the program was accepted this time, the fd is then valid (else -1).
    """
    with mmap.mmap(-1, _LOG_BYTES) as log:
        attribute, keep = _load_attribute(load)
        window = (ctypes.c_char * _LOG_BYTES).from_buffer(log)
        attribute.log_level = 1
        attribute.log_size = _LOG_BYTES
        attribute.log_buf = ctypes.addressof(window)
        if table is not None:
            functions = ctypes.create_string_buffer(table.functions, len(table.functions))
            lines = ctypes.create_string_buffer(table.lines, len(table.lines))
            attribute.prog_btf_fd = table.btf_fd
            attribute.func_info_rec_size, attribute.line_info_rec_size = 8, 16
            attribute.func_info = ctypes.addressof(functions)
            attribute.line_info = ctypes.addressof(lines)
            attribute.func_info_cnt = len(table.functions) // 8
            attribute.line_info_cnt = len(table.lines) // 16
        try:
            fd, code = _bpf(_PROG_LOAD, attribute), 0
        except OSError as error:
            fd, code = -1, error.errno or 0
        del keep, window
        end = log.find(b"\0")
        return code, log[: max(end, 0)].decode(errors="replace"), fd


def _load_attribute(load: Load) -> tuple[_ProgLoad, list[object]]:
    instructions = ctypes.create_string_buffer(load.instructions, len(load.instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    attribute = _ProgLoad(
        prog_type=load.prog_type,
        insn_cnt=len(load.instructions) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(licence),
        prog_name=load.name.encode()[:15],
        expected_attach_type=load.attach_type,
        attach_btf_id=load.attach_btf_id,
        attach_btf_obj_fd=load.attach_btf_fd,
    )
    return attribute, [instructions, licence]


def prog_line_table(fd: int) -> tuple[bytes, bytes, int]:
    """Function records, line records and BTF id that a loaded program carries."""
    first = _ProgInfo()
    _object_info(fd, first)
    functions = ctypes.create_string_buffer(max(1, first.nr_func_info) * 8)
    lines = ctypes.create_string_buffer(max(1, first.nr_line_info) * 16)
    second = _ProgInfo(
        nr_func_info=first.nr_func_info,
        nr_line_info=first.nr_line_info,
        func_info_rec_size=8,
        line_info_rec_size=16,
        func_info=ctypes.addressof(functions),
        line_info=ctypes.addressof(lines),
    )
    _object_info(fd, second)
    return functions.raw[: first.nr_func_info * 8], lines.raw[: first.nr_line_info * 16], int(first.btf_id)


def _object_info(fd: int, info: ctypes.Structure) -> None:
    _bpf(_OBJ_GET_INFO, _packed("IIQ", fd, ctypes.sizeof(info), ctypes.addressof(info)))


def prog_test_run(fd: int, arguments: Sequence[int]) -> int:
    """Run a raw tracepoint program once with these arguments (each a u64) and return what it returned (u32).

    Kernel 5.10 and newer.
    """
    context = ctypes.create_string_buffer(struct.pack(f"={len(arguments)}Q", *arguments), 8 * len(arguments))
    size = ctypes.sizeof(context)
    # prog_fd retval data_size_in data_size_out data_in data_out repeat duration ctx_size_in ctx_size_out ctx_in ...
    attribute = _packed("IIIIQQIIIIQ", fd, 0, 0, 0, 0, 0, 0, 0, size, 0, ctypes.addressof(context))
    _bpf(_PROG_TEST_RUN, attribute)
    return int(struct.unpack_from("=I", attribute, 4)[0])


def raw_tracepoint_open(prog_fd: int, name: str | None) -> int:
    """Attach to a raw tracepoint; with `name` None to what the program was loaded for (tp_btf, fentry, fexit)."""
    text = ctypes.create_string_buffer(name.encode()) if name is not None else None
    return _bpf(_RAW_TRACEPOINT_OPEN, _packed("QI", ctypes.addressof(text) if text is not None else 0, prog_fd))


def enable_stats() -> int:
    """Have the kernel keep run times and counts of all programs while the returned descriptor is open (5.8)."""
    return _bpf(_ENABLE_STATS, _packed("I", 0))


def btf_fd_by_id(number: int) -> int:
    """Open a BTF object by its id."""
    return _bpf(_BTF_GET_FD_BY_ID, _packed("I", number))


def module_btf_fd(module: str) -> int:
    """Open the BTF object of a kernel module; ENOENT when it is not loaded or has none."""
    for number in _btf_ids():
        with contextlib.suppress(FileNotFoundError):
            fd = btf_fd_by_id(number)
            if _btf_name(fd) == module:
                return fd
            os.close(fd)
    raise FileNotFoundError(errno.ENOENT, f"kernel module {module} is not loaded or has no BTF")


def _btf_ids() -> Iterator[int]:
    number = 0
    while True:
        attribute = _packed("II", number, 0)
        try:
            _bpf(_BTF_GET_NEXT_ID, attribute)
        except FileNotFoundError:
            return
        number = struct.unpack_from("=I", attribute, 4)[0]
        yield number


def _btf_name(fd: int) -> str:
    name = ctypes.create_string_buffer(64)
    # struct bpf_btf_info: btf, btf_size, id, name, name_len, kernel_btf
    info = ctypes.create_string_buffer(struct.pack("=QIIQII", 0, 0, 0, ctypes.addressof(name), 64, 0))
    _bpf(_OBJ_GET_INFO, _packed("IIQ", fd, 32, ctypes.addressof(info)))
    return name.value.decode()


def map_create(map_type: int, *, value_size: int, rows: int, name: str, flags: int = 0) -> int:
    """Make a map whose keys are row numbers."""
    return _bpf(_MAP_CREATE, _packed("7I16s", map_type, 4, value_size, rows, flags, 0, 0, name.encode()[:15]))


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Value of a key; None when it is not there. Per-CPU maps: `value_size` times the possible CPUs.

    The kernel fills as much as its map holds: of a map that came from elsewhere see first what it is (`stats.check_map`).
    """
    name, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    try:
        _bpf(_MAP_LOOKUP, _packed("IIQQQ", fd, 0, ctypes.addressof(name), ctypes.addressof(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Store a value, whether the key is there or not. The kernel reads as much as its map holds, so `value` must be that long."""
    name, data = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE, _packed("IIQQQ", fd, 0, ctypes.addressof(name), ctypes.addressof(data), 0))


def map_delete(fd: int, key: bytes) -> bool:
    """Remove a key; False when it was not there."""
    name = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE, _packed("IIQQQ", fd, 0, ctypes.addressof(name), 0, 0))
    except FileNotFoundError:
        return False
    return True


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Keys of a map, in no order; one that comes or goes meanwhile may be missed or seen twice."""
    following = ctypes.create_string_buffer(key_size)
    before = 0
    current = ctypes.create_string_buffer(key_size)
    while True:
        try:
            _bpf(_MAP_NEXT_KEY, _packed("IIQQQ", fd, 0, before, ctypes.addressof(following), 0))
        except FileNotFoundError:
            return
        yield following.raw
        current.raw = following.raw
        before = ctypes.addressof(current)
