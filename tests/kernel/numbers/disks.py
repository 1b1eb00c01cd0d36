"""A disk of the test's own: a loop device over a file."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import needs

SECTOR = 512
_FIELDS = {
    "read operations": 0,
    "read bytes": 2,
    "write operations": 4,
    "write bytes": 6,
    "discard operations": 11,
    "discard bytes": 13,
    "flush operations": 15,
}
"""Positions in `/sys/block/DISK/stat` (Documentation/block/stat.rst)."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A loop device."""

    path: str

    def done(self) -> Mapping[str, int]:
        """Requests completed and bytes moved since it was made, as the kernel counts them."""
        return numbers_of(Path("/sys/block", Path(self.path).name, "stat").read_text().split())


def numbers_of(fields: list[str]) -> dict[str, int]:
    return {
        name: int(fields[at]) * (SECTOR if name.endswith("bytes") else 1)
        for name, at in _FIELDS.items()
        if at < len(fields)
    }


def all_disks() -> Mapping[str, int]:
    """The sum over whole disks of /proc/diskstats."""
    total = dict.fromkeys(_FIELDS, 0)
    for line in Path("/proc/diskstats").read_text().splitlines():
        _, _, name, *fields = line.split()
        if Path("/sys/block", name).exists():
            for key, value in numbers_of(fields).items():
                total[key] += value
    return total


@contextmanager
def disk(folder: Path | str | None = None, *, mebibytes: int = 32) -> Iterator[Disk]:
    """A loop device over a new file in `folder`, by default one in memory."""
    losetup = needs.program("losetup", "mount")
    with tempfile.NamedTemporaryFile(dir=folder or "/dev/shm") as file:
        file.truncate(mebibytes << 20)
        made = subprocess.run([losetup, "--find", "--show", file.name], capture_output=True, text=True, check=False)
        if made.returncode:
            needs.cannot_run(f"needs a loop device: {made.stderr.strip()}")
        path = made.stdout.strip()
        try:
            yield Disk(path)
        finally:
            subprocess.run([losetup, "--detach", path], check=True)


@contextmanager
def mounted(device: Disk, folder: Path) -> Iterator[Path]:
    """A new ext4 file system on the disk."""
    subprocess.run([needs.program("mkfs.ext4", "e2fsprogs"), "-q", device.path], check=True)
    subprocess.run(["mount", device.path, str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
