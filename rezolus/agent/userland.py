"""Programs and libraries to be probed: where they are, their functions and USDT probes as file offsets."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile

from dsl.facts import Binary, UsdtSite

_CACHE: Final = Path("/etc/ld.so.cache")
_CACHE_MAGIC: Final = b"glibc-ld.so.cache1.1"
_CACHE_ENTRY: Final = struct.Struct("=iIIIQ")
"""flags, key, value, osversion, hwcap of `struct file_entry_new` in glibc's dl-cache.h."""
_LIBRARY_DIRECTORIES: Final = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")
_TRIPLETS: Final = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
_CACHE_ABI: Final = {"x86_64": 0x0300, "aarch64": 0x0A00}
"""The upper byte of an entry's flags: which ABI the library is for."""

_SYMBOL: Final = {"<": struct.Struct("<IBBHQQ"), ">": struct.Struct(">IBBHQQ")}
_FUNCTION, _INDIRECT = 2, 10
_HIDDEN_VERSION: Final = 0x8000


def find_binary(name: str, *, search: Sequence[str] | None = None) -> Path | None:
    """Where a program or library is: an absolute path, a program on PATH, or a library as the loader would find it.

    `libc`, `libc.so.6` and `c` all name the C library. `search` are folders to use instead of PATH.
    """
    if name.startswith("/"):
        return _real(Path(name))
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep) if search is None else search
    for folder in folders:
        path = Path(folder, name)
        if folder and path.is_file() and os.access(path, os.X_OK):
            return _real(path)
    return None if "/" in name else _find_library(name)


def _real(path: Path) -> Path | None:
    return path.resolve() if path.is_file() else None


def _find_library(name: str) -> Path | None:
    """The library of that soname, else the one whose name begins so (`libc` is `libc.so.6`), newest version first."""
    machine = os.uname().machine
    known = _cached_libraries(machine)
    for wanted in (name, f"lib{name}"):
        soname = re.compile(re.escape(wanted) + r"(\.so(\.[\w.]+)?)?")
        fitting = sorted(filter(soname.fullmatch, known), key=_version, reverse=True)
        if fitting:
            return _real(Path(known[fitting[0]]))
    for wanted in (name, f"lib{name}"):
        for folder in _LIBRARY_DIRECTORIES:
            for place in (Path(folder, _TRIPLETS.get(machine, "")), Path(folder)):
                found = sorted(
                    [*place.glob(f"{wanted}.so"), *place.glob(f"{wanted}.so.*")], key=_version_of, reverse=True
                )
                if found:
                    return _real(found[0])
    return None


def _version(soname: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", soname.partition(".so")[2]))


def _version_of(path: Path) -> tuple[int, ...]:
    return _version(path.name)


def _cached_libraries(machine: str) -> Mapping[str, str]:
    """Soname -> path of this machine's ABI in `/etc/ld.so.cache`; empty when there is none that we can read."""
    try:
        cache = _CACHE.read_bytes()
    except OSError:
        return {}
    start = cache.find(_CACHE_MAGIC)
    if start < 0 or len(cache) < start + 48:
        return {}
    (count,) = struct.unpack_from("=I", cache, start + len(_CACHE_MAGIC))
    libraries: dict[str, str] = {}
    for at in range(start + 48, min(start + 48 + count * _CACHE_ENTRY.size, len(cache) - 23), _CACHE_ENTRY.size):
        flags, key, value, _, hwcap = _CACHE_ENTRY.unpack_from(cache, at)
        # hwcap: a variant for certain CPUs only, which the plain path stands beside.
        if flags & 0xFF00 == _CACHE_ABI.get(machine) and not hwcap:
            libraries.setdefault(_text(cache, start + key), _text(cache, start + value))
    return libraries


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at)
    return os.fsdecode(data[at : end if end >= 0 else len(data)])


def probe_binaries(names: Iterable[str]) -> Mapping[str, Binary]:
    """Each name that can be found -> what is in the file. Raises nothing: an unreadable file says so in `problem`."""
    found: dict[str, Binary] = {}
    for name in names:
        path = find_binary(name)
        if path is not None:
            found[name] = read_binary(path)
    return found


def read_binary(path: Path) -> Binary:
    """Functions and USDT probes of an ELF file, as file offsets."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                return Binary(str(path), {}, {}, problem="not a compiled program or library (no ELF file)")
            return _read(path, _Elf.of(ELFFile(file)))
    except OSError as error:
        return Binary(str(path), {}, {}, problem=(error.strerror or str(error)).lower())
    except Exception as error:  # noqa: BLE001 - pyelftools does not say what it raises on a damaged file
        return Binary(
            str(path), {}, {}, problem=f"not understood as an ELF file ({str(error) or type(error).__name__})"
        )


@dataclass(frozen=True, slots=True)
class _Elf:
    file: ELFFile
    order: str
    """`<` or `>` of `struct`."""
    segments: tuple[tuple[int, int, int], ...]
    """(address, file offset, size in the file) of what is loaded."""
    size: int
    """Size of the whole file."""

    @classmethod
    def of(cls, file: ELFFile) -> _Elf:
        if file.elfclass != 64:
            raise ValueError("not a 64-bit program or library")
        segments = tuple(
            (segment["p_vaddr"], segment["p_offset"], segment["p_filesz"])
            for segment in file.iter_segments()
            if segment["p_type"] == "PT_LOAD"
        )
        return cls(file, "<" if file.little_endian else ">", segments, file.stream.seek(0, os.SEEK_END))

    def file_offset(self, address: int) -> int | None:
        """Where the byte at an address is in the file; None when it is not from the file."""
        for start, offset, size in self.segments:
            if start <= address < start + size:
                return address - start + offset
        return None

    def data(self, name: str) -> bytes:
        """A section's bytes; empty when there is none."""
        section = self.file.get_section_by_name(name)
        if section is None or section["sh_type"] == "SHT_NOBITS":
            return b""
        # Not `section.data()`: that allocates whatever size a damaged header states.
        self.file.stream.seek(section["sh_offset"])
        data: bytes = self.file.stream.read(min(section["sh_size"], self.size - section["sh_offset"]))
        return data


def _read(path: Path, elf: _Elf) -> Binary:
    symbols: dict[str, int] = {}
    indirect: set[str] = set()
    for table, strings, versions in ((".dynsym", ".dynstr", _versions(elf)), (".symtab", ".strtab", [])):
        for name, address, kind in _symbols(elf, table, strings, versions):
            offset = elf.file_offset(address)
            if kind == _INDIRECT:
                indirect.add(name)
            elif offset is not None:
                symbols.setdefault(name, offset)
    return Binary(str(path), symbols, _usdt(elf), frozenset(indirect))


def _symbols(elf: _Elf, table: str, strings: str, versions: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(name, address, kind) of the defined functions; one with a version also as `name@VERSION`.

    Read with `struct`: pyelftools builds an object for each symbol, which takes seconds for a browser.
    """
    names = elf.data(strings)
    records = elf.data(table)
    layout = _SYMBOL[elf.order]
    usable = records[: len(records) // layout.size * layout.size]
    for index, (name_at, info, _, section, address, _) in enumerate(layout.iter_unpack(usable)):
        kind = info & 0xF
        if kind not in {_FUNCTION, _INDIRECT} or section == 0:
            continue
        name = _text(names, name_at)
        version = versions[index] if index < len(versions) else ""
        if version:
            yield f"{name}@{version.removeprefix('@')}", address, kind
        # `@` marks a version kept for old programs; new ones get another function of that name.
        if not version.startswith("@"):
            yield name, address, kind


def _versions(elf: _Elf) -> list[str]:
    """Version of each dynamic symbol, with an `@` before it when it is not the default of its name."""
    names = dict(_version_names(elf))
    versions = []
    for (word,) in struct.iter_unpack(elf.order + "H", elf.data(".gnu.version")):
        # 0 is local, 1 the file itself.
        index = word & ~_HIDDEN_VERSION
        name = names.get(index, "") if index > 1 else ""
        versions.append("@" + name if name and word & _HIDDEN_VERSION else name)
    return versions


def _version_names(elf: _Elf) -> Iterator[tuple[int, str]]:
    """Index -> name of the versions that a library defines: a chain of `Elf64_Verdef`, each with a chain of names."""
    records, strings = elf.data(".gnu.version_d"), elf.data(".dynstr")
    at = 0
    while at + 20 <= len(records):
        _, _, index, _, _, name_at, following = struct.unpack_from(elf.order + "4H3I", records, at)
        (string_at,) = struct.unpack_from(elf.order + "I", records, at + name_at)
        yield index, _text(strings, string_at)
        if not following:
            return
        at += following


def _usdt(elf: _Elf) -> Mapping[str, tuple[UsdtSite, ...]]:
    """The notes of `sys/sdt.h`: owner `stapsdt`, type 3, three addresses, then provider, name and arguments."""
    base_section = elf.file.get_section_by_name(".stapsdt.base")
    base_now = base_section["sh_addr"] if base_section is not None else None
    sites: dict[str, list[UsdtSite]] = {}
    for owner, kind, content in _notes(elf.data(".note.stapsdt"), elf.order):
        if owner != b"stapsdt" or kind != 3 or len(content) < 24:
            continue
        address, base, semaphore = struct.unpack_from(elf.order + "3Q", content)
        provider, name, arguments, *_ = [*content[24:].split(b"\0"), b"", b"", b""]
        # Prelinking moves the sections and not the notes.
        moved = base_now - base if base_now is not None else 0
        offset = elf.file_offset(address + moved)
        if offset is None:
            continue
        counter = (elf.file_offset(semaphore + moved) or 0) if semaphore else 0
        site = UsdtSite(offset, counter, arguments.decode(errors="replace"))
        sites.setdefault(f"{os.fsdecode(provider)}:{os.fsdecode(name)}", []).append(site)
    return {name: tuple(dict.fromkeys(found)) for name, found in sites.items()}


def _notes(data: bytes, order: str) -> Iterator[tuple[bytes, int, bytes]]:
    at = 0
    while at + 12 <= len(data):
        owner_bytes, content_bytes, kind = struct.unpack_from(order + "3I", data, at)
        owner_at = at + 12
        content_at = owner_at + (owner_bytes + 3) // 4 * 4
        yield data[owner_at : owner_at + owner_bytes].rstrip(b"\0"), kind, data[content_at : content_at + content_bytes]
        at = content_at + (content_bytes + 3) // 4 * 4
