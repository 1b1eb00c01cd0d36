"""Networks of the test's own, and what the kernel counts in a network."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import needs
from tests.kernel.live import Source
from tests.workloads import Worker

ETHERNET_HEADER = 14
HOST = "self"
"""Where most of what others send is: the network of this process."""


def protocol_counters(process: int | str) -> Source:
    """`Tcp:RetransSegs` and so on, of /proc/PID/net/snmp and netstat."""

    def read() -> Mapping[str, int]:
        found = {}
        for file in ("snmp", "netstat"):
            lines = Path(f"/proc/{process}/net/{file}").read_text().splitlines()
            for names, values in zip(lines[::2], lines[1::2], strict=True):
                protocol = names.partition(":")[0]
                for name, value in zip(names.split()[1:], values.split()[1:], strict=True):
                    found[f"{protocol}:{name}"] = int(value)
        return found

    return read


def device_counters(*processes: int | str) -> Source:
    """Packets and bytes, as at the layer above the devices, of all devices in the networks of processes.

    Devices count the Ethernet header, except for the loopback device, which counts after it is taken off.
    """

    def read() -> Mapping[str, int]:
        total = dict.fromkeys(("receive packets", "receive bytes", "transmit packets", "transmit bytes"), 0)
        for process in processes:
            for line in Path(f"/proc/{process}/net/dev").read_text().splitlines()[2:]:
                name, _, rest = line.partition(":")
                values = [int(value) for value in rest.split()]
                loopback = name.strip() == "lo"
                total["receive packets"] += values[1]
                total["receive bytes"] += values[0] - (0 if loopback else values[1] * ETHERNET_HEADER)
                total["transmit packets"] += values[9]
                total["transmit bytes"] += values[8] + (values[9] * ETHERNET_HEADER if loopback else 0)
        return total

    return read


@dataclass(frozen=True, slots=True)
class Networks:
    """Two networks with a cable between them and a process in each."""

    near: Worker
    far: Worker
    near_address: str = "10.77.0.1"
    far_address: str = "10.77.0.2"

    def lose_answers(self, *, lose: bool) -> None:
        """Whether the far network has a way back to the near one."""
        ip(self.far, "route", "add" if lose else "del", "blackhole", self.near_address)


def ip(worker: Worker, *arguments: str) -> None:
    """The `ip` command in the network of a worker."""
    command = ["nsenter", "--target", str(worker.pid), "--net", needs.program("ip", "iproute2"), *arguments]
    subprocess.run(command, check=True)


@contextmanager
def two_networks() -> Iterator[Networks]:
    """They go with their processes."""
    with Worker(own_network=True) as near, Worker(own_network=True) as far:
        networks = Networks(near, far)
        ip(near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(far.pid))
        for worker, address in ((near, networks.near_address), (far, networks.far_address)):
            ip(worker, "address", "add", f"{address}/24", "dev", "cable")
            ip(worker, "link", "set", "cable", "up")
        yield networks
