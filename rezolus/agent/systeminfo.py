"""What `/systeminfo` says about the host: the keys of Rezolus, each there, null when this host does not tell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from rezolus.agent.formats import MalformedError, parse_cpulist

_GPU_VENDORS = {0x10DE: "NVIDIA", 0x1002: "AMD", 0x8086: "Intel"}
_DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")
"""VGA and 3D controllers, other display controllers, processing accelerators."""

Facts = dict[str, object]


def systeminfo(root: str = "/") -> Facts:
    """Everything, read from /proc and /sys below `root`: some milliseconds, more with the number of CPUs."""
    base = Path(root)
    proc, sys = base / "proc", base / "sys"
    cpuinfo = _first_of_each(_text(proc / "cpuinfo") or "")
    topology = _topology(sys)
    return {
        "os": "linux",
        "kernel": _text(proc / "version") or "",
        "arch": os.uname().machine,
        "hostname": _text(proc / "sys/kernel/hostname") or "",
        "cpu_model": cpuinfo.get("model name"),
        "cpu_vendor": cpuinfo.get("vendor_id"),
        "cpus": len(topology),
        "cores": len({(cpu["package"], cpu["die"], cpu["core"]) for cpu in topology}),
        "packages": len({cpu["package"] for cpu in topology}),
        "smt": {"0": False, "1": True}.get(_text(sys / "devices/system/cpu/smt/active") or ""),
        "memory_total_bytes": _memory_bytes(_text(proc / "meminfo") or ""),
        "numa_nodes": max(1, sum(1 for _ in (sys / "devices/system/node").glob("node[0-9]*"))),
        "cpu_topology": topology,
        "caches": _caches(sys, [cpu["cpu"] for cpu in topology]),
        "nics": [_nic(path) for path in sorted(_entries(sys / "class/net")) if _is_up(path)],
        "gpus": _gpus(proc, sys),
    }


def _topology(sys: Path) -> list[dict[str, int]]:
    """One entry per CPU that is online; what a CPU does not tell is 0."""
    cpus = sys / "devices/system/cpu"
    found = []
    for cpu in _cpulist(_text(cpus / "online")):
        folder = cpus / f"cpu{cpu}"
        nodes = [int(path.name[4:]) for path in folder.glob("node[0-9]*") if path.name[4:].isdecimal()]
        found.append(
            {
                "cpu": cpu,
                "core": _number(folder / "topology/core_id") or 0,
                "die": _number(folder / "topology/die_id") or 0,
                "package": _number(folder / "topology/physical_package_id") or 0,
                "numa_node": nodes[0] if nodes else 0,
            }
        )
    return found


def _caches(sys: Path, cpus: Iterable[int]) -> list[Facts]:
    """Per level and size, which CPUs share each instance."""
    found: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for cpu in cpus:
        for index in (sys / f"devices/system/cpu/cpu{cpu}/cache").glob("index[0-9]*"):
            level, size = _text(index / "level"), _text(index / "size")
            shared = _cpulist(_text(index / "shared_cpu_list"))
            if level and size and shared:
                letter = {"Data": "d", "Instruction": "i"}.get(_text(index / "type") or "", "")
                found.setdefault((f"L{level}{letter}", size), set()).add(shared)
    return [
        {"level": level, "size": size, "instances": len(shared), "shared_cpus": [list(cpus) for cpus in sorted(shared)]}
        for (level, size), shared in sorted(found.items())
    ]


def _nic(path: Path) -> Facts:
    return {
        "name": path.name,
        "speed": _positive(path / "speed"),
        "numa_node": _not_negative(path / "device/numa_node"),
        "driver": _link_name(path / "device/driver"),
    }


def _is_up(path: Path) -> bool:
    """Loopback's state is `unknown`."""
    return _text(path / "operstate") == "up"


def _gpus(proc: Path, sys: Path) -> list[Facts]:
    found: list[Facts] = []
    for path in sorted(_entries(sys / "bus/pci/devices")):
        vendor = _GPU_VENDORS.get(_hex(path / "vendor"))
        if vendor is None or not (_text(path / "class") or "").startswith(_DISPLAY_CLASSES):
            continue
        nvidia = _first_of_each(_text(proc / f"driver/nvidia/gpus/{path.name}/information") or "")
        found.append(
            {
                "index": len(found),
                "name": nvidia.get("Model") or _text(path / "product_name") or f"{vendor} {_hex(path / 'device'):04x}",
                "vendor": vendor,
                "memory_bytes": _positive(path / "mem_info_vram_total"),
                "driver": _link_name(path / "driver"),
                "numa_node": _not_negative(path / "numa_node"),
            }
        )
    return found


def _memory_bytes(meminfo: str) -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _first_of_each(text: str) -> dict[str, str]:
    """`name : value` lines; of a name that comes again the first one."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip():
            found.setdefault(name.strip(), value.strip())
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path) or ""
    return int(text) if re.fullmatch(r"-?\d+", text, re.ASCII) else None


def _positive(path: Path) -> int | None:
    number = _number(path)
    return number if number and number > 0 else None


def _not_negative(path: Path) -> int | None:
    number = _number(path)
    return None if number is None or number < 0 else number


def _hex(path: Path) -> int:
    text = _text(path) or ""
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", text) else 0


def _cpulist(text: str | None) -> tuple[int, ...]:
    try:
        return parse_cpulist((text or "").encode())
    except MalformedError:
        return ()


def _link_name(path: Path) -> str | None:
    try:
        return path.readlink().name
    except OSError:
        return None
