"""Describes the host as `dsl.facts.TargetFacts`: what the compiler needs to know, gathered by the loader or a command.

Takes about 0.1 s, most of it reading and walking the kernel's BTF; root sees everything, others what they may.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from dsl.btf import Btf, BtfError
from dsl.facts import Arch, Binary, Capability, ModuleBtfs, TargetFacts, TracepointFormats, btf_tracepoints
from rezolus.agent.capabilities import probe_capabilities
from rezolus.errors import UserError

_ARCHES: Final[Mapping[str, Arch]] = {"x86_64": "x86_64", "aarch64": "aarch64"}

_NO_RAW: Final = frozenset({"syscalls", "ftrace"})
"""Categories of tracefs whose events are no tracepoints: they are made of `sys_enter` and of the tracers."""


class FactsError(UserError):
    """The host cannot be described; the text says what is wrong and what to do."""


def probe(
    *,
    btf_path: Path | None = None,
    binaries: Iterable[str] = (),
    sysfs: Path = Path("/sys"),
    proc: Path = Path("/proc"),
) -> TargetFacts:
    """Describe this host.

    `btf_path` replaces `/sys/kernel/btf/vmlinux`, for kernels that do not carry their BTF; it must then be readable, while a
    kernel without BTF is only poorer. `binaries` are the programs and libraries to look into, by the names that
    definitions use. As root, mounts tracefs where it is missing and lifts RLIMIT_MEMLOCK, which older
    kernels charge programs to. Raises `FactsError`.
    """
    machine = platform.machine()
    if machine not in _ARCHES:
        raise FactsError(f"this machine is {machine}; supported are {' and '.join(_ARCHES)}")
    _lift_memlock()
    tracefs = find_tracefs(sysfs)
    btf = _read_btf(btf_path, sysfs)
    modules = ModuleBtfs(btf, _read_modules(sysfs) if btf_path is None else {})
    events = _event_paths(tracefs)
    devices = sysfs / "bus/event_source/devices"
    capabilities = probe_capabilities(btf, tracefs=tracefs, devices=devices)
    cpus = sysfs / "devices/system/cpu"
    return TargetFacts(
        arch=_ARCHES[machine],
        release=platform.release(),
        page_size=os.sysconf("SC_PAGE_SIZE"),
        possible_cpus=max(parse_cpulist(_read(cpus / "possible"))) + 1,
        online_cpus=parse_cpulist(_read(cpus / "online")),
        pid_max=int(_read(proc / "sys/kernel/pid_max")),
        btf=btf,
        module_btf=modules,
        tracepoints=TracepointFormats(_Formats(events)),
        raw_tracepoints=_raw_tracepoints(btf, events),
        functions=_functions(tracefs, capabilities),
        capabilities=capabilities,
        cgroup_v1=_cpu_is_v1(proc),
        binaries=_look_into(binaries),
    )


def _look_into(binaries: Iterable[str]) -> Mapping[str, Binary]:
    names = tuple(binaries)
    if not names:
        return {}
    from rezolus.agent.userland import probe_binaries  # reading ELF files takes 20 ms to import

    return probe_binaries(names)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise FactsError(f"cannot read {path}: {said}; are /proc and /sys mounted?") from None


def parse_cpulist(text: str) -> tuple[int, ...]:
    """CPU numbers of `0-3,8`, as sysfs writes it."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def find_tracefs(sysfs: Path = Path("/sys")) -> Path | None:
    """The tracing file system, mounted where it is missing and we may; None when it cannot be had or read."""
    place = sysfs / "kernel/tracing"
    # Before 4.1 and on some hosts still, it is seen below debugfs only.
    for found in (place, sysfs / "kernel/debug/tracing"):
        if _readable(found / "events"):
            return found
    if place.is_dir() and os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mount(b"tracefs", os.fsencode(place), b"tracefs", 0, None)
    return place if _readable(place / "events") else None


def _readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _lift_memlock() -> None:
    """Until 97306be45fbe ("bpf: switch to memcg-based memory accounting", 5.11) the limit of 64 KiB refuses nearly everything."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        return  # not allowed, and on newer kernels not needed


def _read_btf(path: Path | None, sysfs: Path) -> Btf | None:
    place = path or sysfs / "kernel/btf/vmlinux"
    try:
        return Btf.parse(place.read_bytes())
    except OSError as error:
        if path is None:
            return None
        raise FactsError(
            f"cannot read the kernel's BTF from {path}: {(error.strerror or str(error)).lower()}"
        ) from None
    except BtfError as error:
        raise FactsError(f"{place} holds no valid BTF: {error.problem}") from None


def _read_modules(sysfs: Path) -> Mapping[str, bytes]:
    blobs = {}
    for path in sorted((sysfs / "kernel/btf").glob("*")):
        if path.name != "vmlinux":
            try:
                blobs[path.name] = path.read_bytes()
            except OSError:
                continue  # the module has just been removed
    return blobs


def _event_paths(tracefs: Path | None) -> Mapping[str, Path]:
    """`category:event` -> its folder in tracefs."""
    if tracefs is None:
        return {}
    events: dict[str, Path] = {}
    with os.scandir(tracefs / "events") as categories:
        for category in categories:
            if category.is_dir():
                folders = (entry for entry in os.scandir(category.path) if entry.is_dir())
                events |= {f"{category.name}:{event.name}": Path(event.path) for event in folders}
    return events


class _Formats(Mapping[str, str]):
    """Format texts, each read when it is asked for: the kernel takes 0.1 s to print all 2,300 of them.

    They do not change while the kernel runs, so that reading late is the same as reading now.
    """

    __slots__ = ("_paths",)

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, name: str) -> str:
        try:
            return (self._paths[name] / "format").read_text()
        except OSError:
            raise KeyError(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return (dict, (dict(self),))


def _raw_tracepoints(btf: Btf | None, events: Mapping[str, Path]) -> frozenset[str]:
    typed = btf_tracepoints(btf) if btf is not None else frozenset()
    pairs = (name.split(":", 1) for name in events)
    return typed | {event for category, event in pairs if category not in _NO_RAW}


def _functions(tracefs: Path | None, capabilities: Mapping[str, Capability]) -> frozenset[str]:
    """What ftrace can probe; nothing when functions cannot be probed anyway or the kernel does not tell."""
    if tracefs is None or all(capabilities[kind].state == "no" for kind in ("fentry", "kprobe")):
        return frozenset()
    try:
        lines = (tracefs / "available_filter_functions").read_text().splitlines()
    except OSError:
        return frozenset()
    # A module's function is followed by `[module]`.
    return frozenset(line.partition(" ")[0] for line in lines)


def _cpu_is_v1(proc: Path) -> bool:
    """Hierarchy 0 in `/proc/cgroups` is the v2 one, or none."""
    try:
        lines = (proc / "cgroups").read_text().splitlines()
    except OSError:
        return False
    fields = (line.split() for line in lines)
    return any(field[0] == "cpu" and field[1] != "0" for field in fields if len(field) > 1)
