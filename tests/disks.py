"""Small file systems that can really be full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import needs


@contextmanager
def tmpfs(mount: Path, size: str) -> Iterator[Path]:
    """A file system of `size` (as mount takes it) at the directory `mount`, which is made."""
    needs.root()
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)], check=False).returncode:
        needs.cannot_run("needs the right to mount a small file system")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def use_up(file: Path) -> None:
    """Write a file until nothing fits."""
    size = 65536
    with file.open("wb", buffering=0) as ballast:
        while size:
            try:
                ballast.write(bytes(size))
            except OSError:
                size //= 2
