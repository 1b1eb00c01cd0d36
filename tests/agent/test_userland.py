from __future__ import annotations

import ctypes
import platform
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from dsl.facts import Binary
from rezolus.agent.userland import find_binary, probe_binaries, read_binary
from tests import needs

NOP = {"x86_64": b"\x90", "aarch64": b"\x1f\x20\x03\xd5"}[platform.machine()]

# The notes of sys/sdt.h, written out so that the test needs no package beside the compiler.
SOURCE = """
unsigned short counter __attribute__((section(".probes")));
#define NOTE(name, args, semaphore) __asm__ volatile( \\
    "990: nop\\n" \\
    ".pushsection .note.stapsdt,\\"\\",\\"note\\"\\n" \\
    ".balign 4\\n.4byte 992f-991f, 994f-993f, 3\\n" \\
    "991: .asciz \\"stapsdt\\"\\n992: .balign 4\\n" \\
    "993: .8byte 990b, _.stapsdt.base, " semaphore "\\n" \\
    ".asciz \\"shop\\"\\n.asciz \\"" name "\\"\\n.asciz \\"" args "\\"\\n" \\
    "994: .balign 4\\n.popsection\\n" \\
    ".ifndef _.stapsdt.base\\n" \\
    ".pushsection .stapsdt.base,\\"aG\\",\\"progbits\\",.stapsdt.base,comdat\\n.weak _.stapsdt.base\\n.hidden _.stapsdt.base\\n" \\
    "_.stapsdt.base: .space 1\\n.size _.stapsdt.base, 1\\n.popsection\\n.endif\\n")
int sell(int price) { NOTE("sold", "-4@%edi 8@$5", "counter"); return price + 1; }
int look(int price) { NOTE("seen", "", "0"); NOTE("seen", "8@%rsi", "0"); return price; }
static int chosen(int x) { return x; }
static void *choose(void) { return chosen; }
int picked(int) __attribute__((ifunc("choose")));
int main(void) { return sell(0) + look(0); }
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of ours, with functions, an indirect one and USDT probes."""
    compiler = needs.program("gcc", "gcc")
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.c").write_text(SOURCE)
    command = [compiler, "-O1", "-fPIC", "-shared", "-o", "libshop.so", "shop.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "libshop.so"


def offset_in_file(address: int) -> tuple[str, int]:
    """(file, offset) of an address of this process, from the kernel's own account of it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, path = [*line.split(maxsplit=5), ""][:6]
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return path, address - start + int(offset, 16)
    raise LookupError(hex(address))


@pytest.mark.parametrize("name", ["malloc", "free", "pthread_cond_wait", "getppid", "printf", "qsort"])
def test_a_function_of_libc_is_where_this_process_has_it(name: str) -> None:
    path = find_binary("libc")
    assert path is not None
    address = ctypes.cast(getattr(ctypes.CDLL("libc.so.6"), name), ctypes.c_void_p).value
    assert address is not None
    mapped, offset = offset_in_file(address)
    assert read_binary(path).symbols[name] == offset
    assert Path(mapped).resolve() == path


def test_an_old_version_of_a_function_keeps_its_own_name() -> None:
    if platform.machine() != "x86_64":
        needs.cannot_run("needs x86-64: older versions of libc functions exist only there")
    symbols = probe_binaries(["libc"])["libc"].symbols
    assert symbols["pthread_cond_wait"] == symbols["pthread_cond_wait@GLIBC_2.3.2"]
    assert symbols["pthread_cond_wait"] != symbols["pthread_cond_wait@GLIBC_2.2.5"]


def test_functions_are_found_in_a_library_and_in_its_debug_symbols(shop: Path) -> None:
    binary = read_binary(shop)
    library = ctypes.CDLL(str(shop))
    for name in ("sell", "look", "main"):
        address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        assert address is not None
        assert (str(shop), binary.symbols[name]) == offset_in_file(address)
    assert "chosen" in binary.symbols  # static: only the full symbol table has it
    assert "counter" not in binary.symbols


def test_an_indirect_function_is_not_taken_for_its_chooser(shop: Path) -> None:
    binary = read_binary(shop)
    assert "picked" in binary.indirect
    assert "picked" not in binary.symbols


def test_usdt_probes_have_their_sites_arguments_and_counters(shop: Path) -> None:
    binary = read_binary(shop)
    data = shop.read_bytes()
    assert set(binary.usdt) == {"shop:sold", "shop:seen"}
    (sold,) = binary.usdt["shop:sold"]
    assert sold.args == "-4@%edi 8@$5"
    assert data[sold.offset :].startswith(NOP)

    library = ctypes.CDLL(str(shop))
    counter = ctypes.addressof(ctypes.c_ushort.in_dll(library, "counter"))
    assert (str(shop), sold.semaphore) == offset_in_file(counter)
    seen = binary.usdt["shop:seen"]
    assert [(site.args, site.semaphore) for site in seen] == [("", 0), ("8@%rsi", 0)]
    assert all(data[site.offset :].startswith(NOP) for site in seen)


def test_a_stripped_library_keeps_its_exported_functions(shop: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "libshop.so"
    subprocess.run([needs.program("strip", "binutils"), "-o", stripped, shop], check=True)
    before, after = read_binary(shop), read_binary(stripped)
    assert "chosen" not in after.symbols
    assert after.symbols["sell"] == before.symbols["sell"]
    assert after.usdt == before.usdt


def test_programs_are_found_on_the_path_and_libraries_as_the_loader_finds_them(shop: Path) -> None:
    assert find_binary("libc") == find_binary("libc.so.6") == find_binary("c")
    program = shop.parent / "checkout"
    shutil.copy(shop, program)
    program.chmod(0o755)
    assert find_binary("checkout", search=[str(program.parent)]) == program
    assert find_binary(str(shop)) == shop
    assert find_binary("no-such-program") is None
    assert find_binary("/no/such/file") is None
    assert find_binary("no/such/file") is None


def test_a_link_is_followed_to_the_file_that_the_kernel_probes(shop: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(shop)
    assert probe_binaries([str(link)])[str(link)].path == str(shop)


def cut(path: Path, folder: Path) -> Path:
    part = folder / "cut"
    part.write_bytes(path.read_bytes()[:3000])
    return part


def test_a_file_that_cannot_be_read_says_why(shop: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert read_binary(script) == Binary(str(script), {}, {}, problem="not a compiled program or library (no ELF file)")
    assert read_binary(tmp_path / "gone").problem == "no such file or directory"
    assert read_binary(tmp_path).problem == "is a directory"
    damaged = read_binary(cut(shop, tmp_path))
    assert damaged.problem
    assert not damaged.symbols


def test_damaged_files_never_raise(shop: Path, tmp_path: Path) -> None:
    good = shop.read_bytes()
    damaged = tmp_path / "damaged"
    for at in range(0, min(len(good), 1024), 3):
        damaged.write_bytes(good[:at] + b"\xff" + good[at + 1 :])
        read_binary(damaged)
    headers = int.from_bytes(good[0x28:0x30], "little")
    chance = random.Random(7)
    for at in range(headers, len(good), 17):
        damaged.write_bytes(good[:at] + chance.randbytes(2) + good[at + 2 :])
        read_binary(damaged)
