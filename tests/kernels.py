"""BTF of kernels that are not running here, from Debian's image packages.

`kernel_btf("6.1")` downloads the cloud image of that Debian kernel (20 to 35 MB) with apt in a directory of its own,
unpacks the kernel, cuts out `.BTF` and keeps only that, under `$XDG_CACHE_HOME/rezolus-tests`.
Everything comes from the mirror that the machine itself uses.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zstandard
from elftools.elf.elffile import ELFFile

SUITES: Final = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
"""Kernel series -> the Debian suite whose kernel it is."""

_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class UnreachableError(Exception):
    """The kernel's package cannot be had here; the text says why, for the skip."""


def kernel_btf(series: str) -> bytes:
    """Raw BTF of Debian's kernel of a series, a key of `SUITES`. Raises `UnreachableError`."""
    cached = _cache_dir() / f"debian-{series}-amd64.btf"
    if not cached.exists():
        with tempfile.TemporaryDirectory(prefix="rezolus-kernel-") as scratch:
            package = _download(series, Path(scratch))
            btf = read_btf(unpack_image(_image_of(package, Path(scratch))))
            cached.parent.mkdir(parents=True, exist_ok=True)
            part = cached.with_suffix(f".{os.getpid()}")
            part.write_bytes(btf)
            part.replace(cached)
    return cached.read_bytes()


def _cache_dir() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "rezolus-tests"


def _mirror() -> str:
    """The Debian mirror of this machine's own apt sources."""
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            found = re.match(r"(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(https?://\S*/debian/?)(?:\s|$)", line)
            if found:
                return found[1].rstrip("/")
    raise UnreachableError("this machine's apt sources name no Debian mirror")


def _download(series: str, scratch: Path) -> Path:
    """Fetch the image package of a series into `scratch`."""
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (scratch / folder).mkdir(parents=True)
    sources = scratch / "sources.list"
    suite = SUITES[series]
    sources.write_text(
        f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main\n"
        f"deb [signed-by={_KEYRING}] {_mirror()}-security {suite}-security main\n"
    )
    options = {
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": scratch / "parts",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    }
    arguments = [f"-o{name}={value}" for name, value in options.items()]
    _run(["apt-get", *arguments, "-qq", "update"], scratch)
    shown = _run(["apt-cache", *arguments, "show", "--no-all-versions", "linux-image-cloud-amd64"], scratch)
    image = re.search(rf"^Depends: .*?(linux-image-{re.escape(series)}\.\S+)", shown, re.MULTILINE)
    if image is None:
        raise UnreachableError(f"{suite} has no linux-image-cloud-amd64 of {series}")
    _run(["apt-get", *arguments, "-qq", "download", image[1]], scratch)
    return next(scratch.glob("linux-image-*.deb"))


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    except FileNotFoundError:
        raise UnreachableError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"{command[0]} {command[-1]} took more than 300 s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no message").splitlines()[-1]
        raise UnreachableError(f"{command[0]} {command[-1]} failed: {last}") from None
    return done.stdout


def _image_of(package: Path, scratch: Path) -> bytes:
    _run(["dpkg-deb", "-x", str(package), str(scratch / "tree")], scratch)
    return next((scratch / "tree/boot").glob("vmlinuz-*")).read_bytes()


def unpack_image(image: bytes) -> bytes:
    """The vmlinux in an x86 bzImage (`Documentation/arch/x86/boot.rst`)."""
    setup_bytes = (image[0x1F1] + 1) * 512
    payload_at, payload_bytes = (int.from_bytes(image[at : at + 4], "little") for at in (0x248, 0x24C))
    payload = image[setup_bytes + payload_at :][:payload_bytes]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload[:-4])
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return b"".join(_unpack_lz4(payload))
    raise ValueError(f"kernel payload begins with {payload[:6].hex()}, no known compression")


def _unpack_lz4(payload: bytes) -> Iterator[bytes]:
    """The legacy LZ4 frame that kernels use: blocks of 8 MiB, each with its length before it.

    After the last block stands the unpacked size, which is no block: it would reach past the end.
    """
    at = 4
    while at + 4 <= len(payload):
        length = int.from_bytes(payload[at : at + 4], "little")
        at += 4
        if at + length > len(payload):
            return
        yield _unpack_lz4_block(payload[at : at + length])
        at += length


def _unpack_lz4_block(block: bytes) -> bytes:
    out = bytearray()
    at = 0
    while True:
        token = block[at]
        at += 1
        literals, at = _lz4_length(block, at, token >> 4)
        out += block[at : at + literals]
        at += literals
        if at >= len(block):
            return bytes(out)
        distance = block[at] | block[at + 1] << 8
        length, at = _lz4_length(block, at + 2, token & 15)
        length += 4
        start = len(out) - distance
        # A match may reach into what it produces: then it repeats.
        chunk = out[start : start + length]
        out += chunk if distance >= length else (chunk * (length // distance + 1))[:length]


def _lz4_length(block: bytes, at: int, length: int) -> tuple[int, int]:
    if length == 15:
        while True:
            extra = block[at]
            at += 1
            length += extra
            if extra != 255:
                break
    return length, at


def read_btf(vmlinux: bytes) -> bytes:
    """The `.BTF` section of a kernel."""
    section = ELFFile(io.BytesIO(vmlinux)).get_section_by_name(".BTF")
    if section is None:
        raise ValueError("this kernel has no .BTF section")
    data: bytes = section.data()
    return data
