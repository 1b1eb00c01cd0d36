"""What the agent says about its host has the keys and types of Rezolus, and is what the host says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rezolus.agent.systeminfo import systeminfo

THEIRS = json.loads((Path(__file__).parents[1] / "data/rezolus/live/systeminfo.json").read_text())


def shape(value: object) -> object:
    """Names and types; of a list that of its elements."""
    match value:
        case dict():
            return {name: shape(one) for name, one in value.items()}
        case [first, *_]:
            return [shape(first)]
        case _:
            return type(value)


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return str(root)


def cpu(number: int, core: int, package: int, node: int) -> dict[str, str]:
    base = f"sys/devices/system/cpu/cpu{number}"
    return {
        f"{base}/topology/core_id": str(core),
        f"{base}/topology/die_id": "0",
        f"{base}/topology/physical_package_id": str(package),
        f"{base}/node{node}/cpulist": "",
        f"{base}/cache/index0/level": "1",
        f"{base}/cache/index0/type": "Data",
        f"{base}/cache/index0/size": "32K",
        f"{base}/cache/index0/shared_cpu_list": f"{number // 2 * 2}-{number // 2 * 2 + 1}",
        f"{base}/cache/index3/level": "3",
        f"{base}/cache/index3/type": "Unified",
        f"{base}/cache/index3/size": "1024K",
        f"{base}/cache/index3/shared_cpu_list": "0-1" if package == 0 else "2-3",
    }


def test_the_keys_are_those_of_rezolus_in_its_order() -> None:
    ours = systeminfo()
    assert list(ours) == list(THEIRS)
    for name in ("cpu_topology", "caches", "nics"):
        for one in ours[name]:  # type: ignore[attr-defined]
            assert list(one) == list(THEIRS[name][0])


@pytest.mark.parametrize(
    "name", ["os", "kernel", "arch", "hostname", "cpus", "cores", "packages", "memory_total_bytes"]
)
def test_what_every_host_has_is_of_the_same_type(name: str) -> None:
    assert shape(systeminfo()[name]) == shape(THEIRS[name])


def test_it_is_this_host() -> None:
    ours = systeminfo()
    assert (ours["hostname"], ours["arch"]) == (os.uname().nodename, os.uname().machine)
    assert ours["cpus"] == os.sysconf("SC_NPROCESSORS_ONLN")
    assert ours["memory_total_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_two_packages_with_two_threads_a_core(tmp_path: Path) -> None:
    files = {"sys/devices/system/cpu/online": "0-3", "sys/devices/system/cpu/smt/active": "1"}
    for number in range(4):
        files |= cpu(number, core=0, package=number // 2, node=number // 2)
    for node in range(2):
        files[f"sys/devices/system/node/node{node}/cpulist"] = ""
    found = systeminfo(write(tmp_path, files))
    assert [found[name] for name in ("cpus", "cores", "packages", "smt", "numa_nodes")] == [4, 2, 2, True, 2]
    assert found["cpu_topology"][3] == {  # type: ignore[index]
        "cpu": 3, "core": 0, "die": 0, "package": 1, "numa_node": 1
    }  # fmt: skip
    assert found["caches"] == [
        {"level": "L1d", "size": "32K", "instances": 2, "shared_cpus": [[0, 1], [2, 3]]},
        {"level": "L3", "size": "1024K", "instances": 2, "shared_cpus": [[0, 1], [2, 3]]},
    ]


def test_a_host_that_tells_nothing_has_every_key(tmp_path: Path) -> None:
    found = systeminfo(str(tmp_path))
    assert list(found) == list(THEIRS)
    assert [found[name] for name in ("cpu_model", "cpu_vendor", "smt")] == [None, None, None]
    assert [found[name] for name in ("cpu_topology", "caches", "nics", "gpus")] == [[], [], [], []]


def test_only_interfaces_that_are_up_count(tmp_path: Path) -> None:
    files = {
        "sys/class/net/eth0/operstate": "up",
        "sys/class/net/eth0/speed": "25000",
        "sys/class/net/eth0/device/numa_node": "1",
        "sys/class/net/eth1/operstate": "down",
        "sys/class/net/lo/operstate": "unknown",
    }
    write(tmp_path, files)
    (tmp_path / "sys/class/net/eth0/device/driver").symlink_to("../../../../bus/pci/drivers/mlx5_core")
    assert systeminfo(str(tmp_path))["nics"] == [
        {"name": "eth0", "speed": 25000, "numa_node": 1, "driver": "mlx5_core"}
    ]


def test_gpus_are_found_on_the_bus(tmp_path: Path) -> None:
    pci, nvidia = "sys/bus/pci/devices", "proc/driver/nvidia/gpus"
    files = {
        f"{pci}/0000:01:00.0/vendor": "0x10de",
        f"{pci}/0000:01:00.0/class": "0x030200",
        f"{pci}/0000:01:00.0/device": "0x2335",
        f"{pci}/0000:01:00.0/numa_node": "0",
        f"{nvidia}/0000:01:00.0/information": "Model: \t\t NVIDIA H200\nIRQ:   \t\t 44",
        f"{pci}/0000:02:00.0/vendor": "0x1002",
        f"{pci}/0000:02:00.0/class": "0x038000",
        f"{pci}/0000:02:00.0/device": "0x74a1",
        f"{pci}/0000:02:00.0/mem_info_vram_total": "206141652992",
        f"{pci}/0000:03:00.0/vendor": "0x1a03",
        f"{pci}/0000:03:00.0/class": "0x030000",
        f"{pci}/0000:04:00.0/vendor": "0x8086",
        f"{pci}/0000:04:00.0/class": "0x020000",
    }
    gpus = systeminfo(write(tmp_path, files))["gpus"]
    assert isinstance(gpus, list)
    first, second = gpus
    assert first == {
        "index": 0, "name": "NVIDIA H200", "vendor": "NVIDIA", "memory_bytes": None, "driver": None, "numa_node": 0
    }  # fmt: skip
    assert (second["index"], second["name"], second["memory_bytes"]) == (1, "AMD 74a1", 206141652992)
