"""C to finished BPF instructions with BCC: the only module that imports it.

BCC's library creates the maps and puts their descriptors into the instructions, then hands both out; it loads
nothing. It is used as Debian installs it, by explicit path, because the interpreter that runs us may be another
than the distribution's and must not see the rest of the distribution's packages.

The process that compiles keeps 120 MB of LLVM and temporary objects until it ends: call this in a
short-lived one. A construct that LLVM cannot translate (a signed division, 512 bytes of stack exceeded) ends the
process; `crash_error` makes an error of what it had written to `log_fd`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from rezolus.bpf import syscall
from rezolus.bpf.lines import UNIT, SourceMap, map_lines

PACKAGE: Final = Path("/usr/lib/python3/dist-packages/bcc")
HEADERS: Final = Path(__file__).resolve().parents[2] / "bpf"
"""Holds `include/`, the stand-in for a kernel source tree."""

_MESSAGE: Final = re.compile(
    r"^(?P<file>[^:\n]+):(?P<line>\d+):(?P<column>\d+): (?:fatal )?(?P<severity>error|warning|note): (?P<text>.*)$",
    re.MULTILINE,
)
_FATAL: Final = re.compile(
    r"^error: (?:\S*:)?(?P<line>\d+):\d+: (?:in function \S+ [^:]*: )?(?P<text>.*)$"
    r"|^Error at line (?P<line_too>\d+): (?P<text_too>.*?)(?: for DAG.*)?$",
    re.MULTILINE,
)
"""What LLVM says before it ends the process."""
_RESERVED: Final = re.compile(r"(kprobe|kretprobe|tracepoint|raw_tracepoint|kfunc|kretfunc|lsm|bpf_iter)__")


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Something that clang or the verifier said, at its place."""

    severity: str
    """`error`, `warning` or `note`."""
    text: str
    file: str = ""
    """The `.rzl` file; empty for C text that comes from none."""
    line: int = 0
    c_line: int = 0
    c_text: str = ""
    """The generated C at fault."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file else f"{UNIT}:{self.c_line}: " if self.c_line else ""
        return f"{where}{self.severity}: {self.text}"


class CompileError(Exception):
    """The unit as a whole is not accepted; `messages` say where, `log` is all that the compiler printed."""

    def __init__(self, messages: tuple[Message, ...], log: str) -> None:
        super().__init__(messages, log)
        self.messages = messages
        self.log = log

    def __str__(self) -> str:
        return "\n".join(str(message) for message in self.messages) or self.log.strip()


class BccMissingError(Exception):
    """BCC is not installed, or not in a form we can use."""


class Compiled:
    """A compiled unit. Its maps stay open until `close`; duplicate a descriptor to keep it longer."""

    def __init__(self, library: Any, module: int, source: SourceMap, messages: tuple[Message, ...]) -> None:
        self._library = library
        self._module: int | None = module
        self.source = source
        self.messages = messages
        """Warnings."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the compiler's memory and its descriptors of the maps."""
        if self._module is not None:
            self._library.bpf_module_destroy(self._module)
            self._module = None

    def functions(self) -> tuple[str, ...]:
        """Names of the unit's programs."""
        count = self._library.bpf_num_functions(self._module)
        return tuple(self._library.bpf_function_name(self._module, index).decode() for index in range(count))

    def map_fd(self, name: str) -> int:
        """Descriptor of a map, owned by this object; `KeyError` when the unit has no such map."""
        fd = int(self._library.bpf_table_fd(self._module, name.encode()))
        if fd < 0:
            raise KeyError(name)
        return fd

    def instructions(self, function: str) -> bytes:
        """A program as the kernel takes it, map descriptors in place; `KeyError` when there is none of that name."""
        start = self._library.bpf_function_start(self._module, function.encode())
        if not start:
            raise KeyError(function)
        return ctypes.string_at(start, self._library.bpf_function_size(self._module, function.encode()))

    def line_table(self, function: str) -> syscall.LineTable | None:
        """Line records of a program, None when this kernel or BCC does not have them.

        BCC keeps them to itself but attaches them to whatever instructions it loads under the function's name. So it
        loads a program of the same length that does nothing, and the kernel tells us what came with it.
        """
        count = len(self.instructions(function)) // 8
        harmless = bytes.fromhex("b700000000000000") * (count - 1) + bytes.fromhex("9500000000000000")
        text = ctypes.create_string_buffer(harmless, len(harmless))
        socket_filter = 1
        load = self._library["bcc_func_load"]  # a fresh object: the package's own prototype lacks an argument
        load.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
        load.argtypes += [ctypes.c_uint, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p, ctypes.c_uint]
        load.argtypes += [ctypes.c_int]
        name, size = function.encode(), len(harmless)
        with captured_stderr(None):
            fd = load(self._module, socket_filter, name, text, size, b"GPL", 0, 0, None, 0, None, 0, -1)
        if fd < 0:
            return None
        try:
            functions, lines, btf = syscall.prog_line_table(fd)
            return syscall.LineTable(syscall.btf_fd_by_id(btf), functions, lines) if lines and btf else None
        except OSError:
            return None
        finally:
            os.close(fd)


def compile_unit(text: str, *, headers: Path = HEADERS, log_fd: int | None = None) -> Compiled:
    """Compile a unit of BCC C and create its maps.

    `headers` is the stand-in for a kernel tree. What clang prints goes to `log_fd` (else to a file of our own).
    Raises `CompileError` when clang or BCC refuses the text, `BccMissingError` when there is no BCC.
    """
    library = _library()
    source = map_lines(text)
    with _directory_kept(), _kernel_source(headers), captured_stderr(log_fd) as log:
        no_flags = (ctypes.c_char_p * 0)()
        module = library.bpf_module_create_c_from_string(source.text.encode(), 0, no_flags, 0, True, None)
    printed = log.text
    messages = parse_messages(printed, source)
    if not module:
        if not any(message.severity == "error" for message in messages):
            first = next((line for line in printed.splitlines() if line.strip()), "BCC refused the unit without a word")
            messages = (*messages, Message(severity="error", text=first.strip()))
        raise CompileError(messages, printed)
    compiled = Compiled(library, module, source, messages)
    reserved = [name for name in compiled.functions() if _RESERVED.match(name)]
    if reserved:
        compiled.close()
        trouble = f"program name {reserved[0]} begins with a prefix that BCC gives a meaning"
        raise CompileError((Message(severity="error", text=trouble),), "")
    return compiled


def parse_messages(printed: str, source: SourceMap) -> tuple[Message, ...]:
    """What clang printed, at the `.rzl` lines."""
    messages = []
    for found in _MESSAGE.finditer(printed):
        c_line = int(found["line"]) if found["file"].endswith(UNIT) else 0
        messages.append(_message(found["severity"], found["text"], c_line, source))
    return tuple(messages)


def crash_error(text: str, printed: str, ending: str) -> CompileError:
    """The error of a compilation that ended its process.

    `text` is the unit's, `printed` what was written to `log_fd`, `ending` how the process ended (`signal 11`).
    """
    source = map_lines(text)
    messages = parse_messages(printed, source)
    for found in _FATAL.finditer(printed):
        c_line = int(found["line"] or found["line_too"])
        messages = (*messages, _message("error", (found["text"] or found["text_too"]).strip(), c_line, source))
    if not any(message.severity == "error" for message in messages):
        messages = (*messages, Message(severity="error", text=f"the C compiler crashed ({ending})"))
    return CompileError(messages, printed)


def _message(severity: str, text: str, c_line: int, source: SourceMap) -> Message:
    place = source.place(c_line)
    return Message(
        severity=severity,
        text=text,
        file=place.file,
        line=place.line,
        c_line=c_line,
        c_text=source.source(c_line),
    )


class _Log:
    """What was printed, readable when the capture has ended."""

    text: str = ""


@contextlib.contextmanager
def captured_stderr(log_fd: int | None) -> Iterator[_Log]:
    """Send what C code prints to standard error into a file, and read it at the end.

    `log_fd` is a regular file or memfd to append to; a supervisor that passes its own can read it after a crash.
    """
    log = _Log()
    target = os.dup(log_fd) if log_fd is not None else os.memfd_create("clang", os.MFD_CLOEXEC)
    start = os.lseek(target, 0, os.SEEK_END)
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(target, 2)
    try:
        yield log
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved, 2)
        os.close(saved)
        size = os.lseek(target, 0, os.SEEK_END) - start
        log.text = os.pread(target, size, start).decode(errors="replace")
        os.close(target)


@contextlib.contextmanager
def _directory_kept() -> Iterator[None]:
    """BCC changes into the kernel tree and, on some errors, stays there."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextlib.contextmanager
def _kernel_source(headers: Path) -> Iterator[None]:
    if not (headers / "include/linux/kconfig.h").is_file():
        raise BccMissingError(f"{headers} does not hold include/linux/kconfig.h: the installation is not complete")
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before


def _library() -> Any:
    """The package's `lib`: libbcc with its prototypes."""
    package = sys.modules.get("bcc")
    if package is None:
        spec = importlib.util.spec_from_file_location(
            "bcc", PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)]
        )
        if spec is None or spec.loader is None or not PACKAGE.is_dir():
            raise BccMissingError(f"BCC is not in {PACKAGE}: install the package python3-bpfcc")
        package = importlib.util.module_from_spec(spec)
        sys.modules["bcc"] = package
        try:
            spec.loader.exec_module(package)
        except (ImportError, OSError) as error:
            del sys.modules["bcc"]
            raise BccMissingError(f"BCC in {PACKAGE} does not work ({error}): reinstall python3-bpfcc") from error
    return package.lib
