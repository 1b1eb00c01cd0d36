"""Perf events: what carries a program to tracepoints, kernel and user functions, timers and counters."""

from __future__ import annotations

import ctypes
import fcntl
from dataclasses import dataclass
from typing import Final

from rezolus.bpf import syscall

TYPE_TRACEPOINT: Final = 2

_IOC_ENABLE: Final = 0x2400
_IOC_SET_BPF: Final = 0x40042408
_FLAG_FD_CLOEXEC: Final = 8


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period_or_freq", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
    )


_INHERIT: Final = 1 << 1
_FREQ: Final = 1 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfEvent:
    """Arguments of perf_event_open that matter here."""

    type: int
    config: int
    text: str = ""
    """kprobe and uprobe: function or path (`config1` points to it)."""
    offset: int = 0
    """kprobe and uprobe: offset (`config2`)."""
    frequency: int = 0
    period: int = 0
    pid: int = -1
    cpu: int = -1
    inherit: bool = False


def open_event(event: PerfEvent) -> int:
    """Open a perf event. It counts at once."""
    text = ctypes.create_string_buffer(event.text.encode()) if event.text else None
    attribute = _Attribute(
        type=event.type,
        size=ctypes.sizeof(_Attribute),
        config=event.config,
        sample_period_or_freq=event.frequency or event.period,
        flags=(_FREQ if event.frequency else 0) | (_INHERIT if event.inherit else 0),
        config1=ctypes.addressof(text) if text is not None else 0,
        config2=event.offset,
    )
    return syscall.call(
        syscall.numbers()[1],
        ctypes.c_void_p(ctypes.addressof(attribute)),
        ctypes.c_long(event.pid),
        ctypes.c_long(event.cpu),
        ctypes.c_long(-1),
        ctypes.c_long(_FLAG_FD_CLOEXEC),
    )


def set_program(event_fd: int, prog_fd: int) -> None:
    """Run a program at each occurrence of an event, for as long as the event's descriptor is open."""
    fcntl.ioctl(event_fd, _IOC_SET_BPF, prog_fd)
    fcntl.ioctl(event_fd, _IOC_ENABLE, 0)
