"""From a unit of C to programs that run: the loader's one public function.

All programs are loaded first and attached afterwards, so that no event is counted by a set that then turns out to be
incomplete. A program that the kernel refuses is reported and the others go on; only a unit that does not
compile fails as a whole (`CompileError`), the caller then tries without the sampler at fault.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

import msgspec

from dsl.hooks import Hook
from dsl.schema import Program
from rezolus.bpf import dispatch, syscall
from rezolus.bpf.attach import AttachError, attach
from rezolus.bpf.compile import HEADERS, Compiled, Message, compile_unit
from rezolus.bpf.dispatch import Dispatcher
from rezolus.bpf.instructions import point_at
from rezolus.bpf.stats import read_fdinfo
from rezolus.bpf.verifier import reduce_log

BtfId = Callable[[Hook], int]
"""BTF id of a `tp_btf`, `fentry` or `fexit` hook's target: of the typedef `btf_trace_NAME` or of the function, in
the numbering of its module. Raises `KeyError` when the kernel does not describe it."""

_TYPES: Final = {
    "tp_btf": (syscall.PROG_TRACING, syscall.ATTACH_TRACE_RAW_TP),
    "fentry": (syscall.PROG_TRACING, syscall.ATTACH_TRACE_FENTRY),
    "fexit": (syscall.PROG_TRACING, syscall.ATTACH_TRACE_FEXIT),
    "raw_tp": (syscall.PROG_RAW_TRACEPOINT, 0),
    "tracepoint": (syscall.PROG_TRACEPOINT, 0),
    "perf": (syscall.PROG_PERF_EVENT, 0),
    "kprobe": (syscall.PROG_KPROBE, 0),
    "kretprobe": (syscall.PROG_KPROBE, 0),
    "uprobe": (syscall.PROG_KPROBE, 0),
    "uretprobe": (syscall.PROG_KPROBE, 0),
    "usdt": (syscall.PROG_KPROBE, 0),
}


class Unit(msgspec.Struct, frozen=True):
    """What the compiler hands to the loader."""

    text: str
    """BCC C: maps, and one non-static function per program. `#line N "file.rzl"` directives say where code
    comes from."""
    programs: tuple[Program, ...]
    maps: tuple[str, ...]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a program does not run."""

    stage: Literal["verify", "attach"]
    reason: str
    """The error in words, without place."""
    messages: tuple[Message, ...] = ()
    """The verifier's verdict at its `.rzl` line."""
    log: str = ""
    """The verifier's whole log."""

    def __str__(self) -> str:
        return "\n".join(str(message) for message in self.messages) or self.reason


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a program; without `failure` it runs."""

    function: str
    hook: Hook
    failure: Failure | None = None


@dataclass(slots=True)
class Loaded:
    """The descriptors of a loaded unit, owned by this object; closing them (in every process) detaches and frees all."""

    maps: dict[str, int] = field(default_factory=dict)
    """By map name."""
    programs: dict[str, int] = field(default_factory=dict)
    """By function."""
    links: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """By function; a perf event has one for each CPU."""
    dispatchers: dict[str, Dispatcher] = field(default_factory=dict)
    """By function, where programs are not attached themselves."""
    switch: int = -1
    """What the dispatchers look at; -1 without any."""
    outcomes: tuple[Outcome, ...] = ()
    warnings: tuple[Message, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def detach(self) -> None:
        """Detach every program; maps and programs stay."""
        for fds in self.links.values():
            for fd in fds:
                os.close(fd)
        self.links.clear()

    def close(self) -> None:
        """Close everything."""
        self.detach()
        for fd in {*self.programs.values(), *self.maps.values(), *self._dispatching()}:
            os.close(fd)
        self.programs.clear()
        self.maps.clear()
        self.dispatchers.clear()
        self.switch = -1

    def fds(self) -> dict[str, int]:
        """All descriptors under the names they travel by: `map:NAME`, `prog:FUNCTION`, `link:FUNCTION:NUMBER`.

        Of a program that can be exchanged, `prog:` is what is attached; then there are `slots:FUNCTION`, `switch:` for all of
        them, and `code:FUNCTION` where the program is another one, held so that one can see whose it is.
        """
        named = {f"map:{name}": fd for name, fd in self.maps.items()}
        for name, fd in self.programs.items():
            dispatcher = self.dispatchers.get(name)
            named[f"prog:{name}"] = fd if dispatcher is None else dispatcher.program
            if dispatcher is not None:
                named[f"slots:{name}"] = dispatcher.slots
                if dispatcher.program != fd:
                    named[f"code:{name}"] = fd
        if self.switch >= 0:
            named["switch:"] = self.switch
        for name, fds in self.links.items():
            named |= {f"link:{name}:{number}": fd for number, fd in enumerate(fds)}
        return named

    def _dispatching(self) -> Iterator[int]:
        for dispatcher in self.dispatchers.values():
            yield from (dispatcher.program, dispatcher.slots)
        if self.switch >= 0:
            yield self.switch


def load(
    unit: Unit,
    btf_id: BtfId,
    *,
    replace: Mapping[str, int] | None = None,
    attached: bool = True,
    exchangeable: bool = False,
    headers: Path = HEADERS,
    log_fd: int | None = None,
) -> Loaded:
    """Compile a unit, load its programs, attach them.

    `replace` names maps that exist already (descriptors stay the caller's): the programs use those instead of new
    ones, which is how a reload keeps its counters; they must have the same shape, else `ValueError`. With `attached`
    False programs are only loaded. `exchangeable` programs can be replaced by others later (see `dispatch`). Raises
    `CompileError` and `BccMissingError` (see `compile_unit`, also for `log_fd`).
    """
    _raise_limits()
    loaded = Loaded()
    try:
        with compile_unit(unit.text, headers=headers, log_fd=log_fd) as compiled:
            loaded.warnings = compiled.messages
            patches = _take_maps(compiled, unit, loaded, replace or {})
            if exchangeable:
                loaded.switch = dispatch.make_switch()
            failures = _load_programs(compiled, unit, loaded, patches, btf_id)
        if attached:
            failures |= _attach_programs(unit, loaded)
    except BaseException:
        loaded.close()
        raise
    loaded.outcomes = tuple(
        Outcome(function=program.function, hook=program.hook, failure=failures.get(program.function))
        for program in unit.programs
    )
    return loaded


def _raise_limits() -> None:
    """Descriptors are what an attachment consists of; and kernels before 5.11 charge maps to locked memory."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _take_maps(compiled: Compiled, unit: Unit, loaded: Loaded, replace: Mapping[str, int]) -> dict[int, int]:
    """Keep descriptors of the unit's maps; returns which of the compiler's descriptors to exchange."""
    patches = {}
    for name in unit.maps:
        made = compiled.map_fd(name)
        wanted = replace.get(name)
        if wanted is not None:
            _check_same_shape(name, made, wanted)
            patches[made] = wanted
        loaded.maps[name] = fcntl.fcntl(made if wanted is None else wanted, fcntl.F_DUPFD_CLOEXEC, 3)
    return patches


def _check_same_shape(name: str, made: int, wanted: int) -> None:
    old, new = read_fdinfo(wanted), read_fdinfo(made)
    for key in ("map_type", "key_size", "value_size", "max_entries", "map_flags"):
        if old.get(key) != new.get(key):
            raise ValueError(f"map {name} has another {key} than the one to take over: {new.get(key)}, {old.get(key)}")


def _load_programs(
    compiled: Compiled, unit: Unit, loaded: Loaded, patches: Mapping[int, int], btf_id: BtfId
) -> dict[str, Failure]:
    failures = {}
    for program in unit.programs:
        code = point_at(compiled.instructions(program.function), patches)
        try:
            if loaded.switch < 0 or not _load_exchangeable(program, code, loaded, btf_id):
                loaded.programs[program.function] = _load_program(compiled, program, code, btf_id)
        except _RefusedError as refused:
            failures[program.function] = refused.failure
    return failures


def _load_exchangeable(program: Program, code: bytes, loaded: Loaded, btf_id: BtfId) -> bool:
    """Load a program that others can take the place of; false when the kernel does not want it like that."""
    slots = dispatch.make_slots()
    try:
        with _request(program.hook, program.function, dispatch.prefix(loaded.switch, slots) + code, btf_id) as request:
            fd = syscall.prog_load(request)
    except OSError:
        os.close(slots)
        return False
    except _RefusedError:
        os.close(slots)
        raise
    loaded.programs[program.function] = fd
    loaded.dispatchers[program.function] = Dispatcher(fd, slots)
    return True


class _RefusedError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def _load_program(compiled: Compiled, program: Program, code: bytes, btf_id: BtfId) -> int:
    with _request(program.hook, program.function, code, btf_id) as request:
        try:
            return syscall.prog_load(request)
        except OSError:
            return _load_explaining(compiled, program, request)


def load_dispatcher(hook: Hook, function: str, *, switch: int, slots: int, btf_id: BtfId) -> int:
    """Load what is attached to a hook in place of the programs in `slots`. OSError when the kernel refuses it."""
    with _request(hook, function, dispatch.dispatcher(switch, slots), btf_id) as request:
        return syscall.prog_load(request)


@contextmanager
def _request(hook: Hook, function: str, code: bytes, btf_id: BtfId) -> Iterator[syscall.Load]:
    """What to ask the kernel for so that the program fits its hook."""
    prog_type, attach_type = _TYPES[hook.kind]
    module_fd = 0
    target = 0
    if prog_type == syscall.PROG_TRACING:
        try:
            target = btf_id(hook)
            module_fd = syscall.module_btf_fd(hook.module) if hook.module else 0
        except (KeyError, FileNotFoundError):
            reason = f"the kernel's BTF does not describe {hook}"
            raise _RefusedError(Failure(stage="attach", reason=reason)) from None
    try:
        yield syscall.Load(
            instructions=code,
            prog_type=prog_type,
            name=function,
            attach_type=attach_type,
            attach_btf_id=target,
            attach_btf_fd=module_fd,
        )
    finally:
        if module_fd:
            os.close(module_fd)


def _load_explaining(compiled: Compiled, program: Program, request: syscall.Load) -> int:
    """Load once more with a log; records of source lines are made only now, when somebody needs them."""
    table = compiled.line_table(program.function)
    code, log, fd = syscall.prog_load_log(request, table)
    if table is not None:
        os.close(table.btf_fd)
        if fd < 0 and reduce_log(log).instruction is None:
            # Nothing was verified: the kernel may have stumbled over the records instead of the program.
            code, log, fd = syscall.prog_load_log(request, None)
    if fd >= 0:
        return fd
    verdict = reduce_log(log)
    reason = verdict.reason or _in_words(code, program.hook)
    c_line = table.line_of(verdict.instruction) if table is not None and verdict.instruction is not None else 0
    place = compiled.source.place(c_line)
    message = Message(
        severity="error",
        text=f"the verifier refuses {program.function} ({program.hook}): {reason}"
        if verdict.reason
        else f"the kernel refuses {program.function} ({program.hook}): {reason}",
        file=place.file,
        line=place.line,
        c_line=c_line,
        c_text=compiled.source.source(c_line),
    )
    raise _RefusedError(Failure(stage="verify", reason=reason, messages=(message,), log=log))


def _in_words(code: int, hook: Hook) -> str:
    if code == errno.EPERM and hook.kind in {"fentry", "fexit"}:
        return "not permitted: this kernel is locked down against probing its functions"
    if code in {errno.EPERM, errno.EACCES}:
        return "not permitted: needs root (CAP_BPF and CAP_PERFMON)"
    if code == errno.EINVAL and hook.kind in {"tp_btf", "fentry", "fexit"}:
        return f"this kernel does not take programs of kind {hook.kind}"
    return os.strerror(code)


def _attach_programs(unit: Unit, loaded: Loaded) -> dict[str, Failure]:
    failures = {}
    for program in unit.programs:
        fd = loaded.programs.get(program.function)
        if fd is None:
            continue
        try:
            loaded.links[program.function] = attach(fd, program.hook)
        except AttachError as error:
            failures[program.function] = Failure(stage="attach", reason=error.reason)
    return failures
