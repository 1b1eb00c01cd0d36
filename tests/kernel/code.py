"""A function to probe, without a compiler: a file whose first page is code and whose second page is data."""

from __future__ import annotations

import ctypes
import mmap
import platform
from pathlib import Path

_IDENTITY = {"x86_64": bytes.fromhex("89f8c3"), "aarch64": bytes.fromhex("1f2003d5c0035fd6")}
"""`int f(int x) { return x; }` by machine."""


class CodeFile:
    """The file, mapped into this process as a loader maps a program."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        path.write_bytes(_IDENTITY[platform.machine()].ljust(mmap.PAGESIZE, b"\0") + bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            code = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_EXEC}
            data = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE, "offset": mmap.PAGESIZE}
            self._code = mmap.mmap(file.fileno(), mmap.PAGESIZE, **code)
            self._data = mmap.mmap(file.fileno(), mmap.PAGESIZE, **data)
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        self._function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(self._address())

    def _address(self) -> int:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith(self.path) and "x" in line.split()[1]:
                return int(line.partition("-")[0], 16)
        raise AssertionError("the code is not mapped")

    def call(self, value: int) -> int:
        """Call the function."""
        return int(self._function(value))

    @property
    def semaphore_offset(self) -> int:
        """File offset of a reference counter."""
        return mmap.PAGESIZE + 16

    @property
    def semaphore(self) -> int:
        """What the kernel keeps in the reference counter."""
        return int.from_bytes(self._data[16:18], "little")
