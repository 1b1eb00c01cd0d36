"""BTF ids of what programs attach to, from the running kernel."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from dsl.btf import Btf, Func, Typedef
from dsl.hooks import Hook
from rezolus.bpf.load import BtfId

_DIRECTORY: Final = Path("/sys/kernel/btf")


def kernel_btf_ids(vmlinux: Btf | None = None, directory: Path = _DIRECTORY) -> BtfId:
    """The lookup that `load` wants; pass the kernel's BTF where it has been read already.

    It must describe the running kernel: ids are positions in its type table. Modules are read when first asked for.
    """

    @cache
    def core() -> Btf:
        return vmlinux if vmlinux is not None else Btf.parse((directory / "vmlinux").read_bytes())

    @cache
    def types_of(module: str) -> Btf:
        return Btf.parse((directory / module).read_bytes(), core()) if module else core()

    def btf_id(hook: Hook) -> int:
        try:
            types = types_of(hook.module)
        except FileNotFoundError:
            raise KeyError(hook.module or "vmlinux") from None
        found = (
            types.find_id(f"btf_trace_{hook.name}", Typedef)
            if hook.kind == "tp_btf"
            else types.find_id(hook.name, Func)
        )
        if found is None:
            raise KeyError(hook.name)
        return found

    return btf_id
