"""The received maps as numpy views."""

from __future__ import annotations

from collections.abc import Mapping

from dsl.schema import CGROUP_NAME_ROW, CGROUP_NAMES, CGROUP_ROWS, Schema
from rezolus.agent.sampling import Memory
from rezolus.bpf.maps import map_array, map_bytes


def map_memory(schema: Schema, fds: Mapping[str, int], cpus: tuple[int, ...]) -> Memory:
    """Map every bank of the schema and what belongs to it. The views stay when the descriptors are closed.

    `fds` is by map name. ValueError or OSError when a map is not as the schema says.
    """
    names = fds.get(CGROUP_NAMES)
    return Memory(
        banks={bank.name: map_array(fds[bank.name], bank.rows, bank.words) for bank in schema.banks},
        cpus=cpus,
        cgroup_names=None if names is None else map_array(names, CGROUP_ROWS, CGROUP_NAME_ROW // 8),
        keys={
            bank.name: map_bytes(fds[f"{bank.name}_keys"], bank.rows, bank.key_size)
            for bank in schema.banks
            if bank.axis == "key"
        },
    )
