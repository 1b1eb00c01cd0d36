"""What the compiler may know of the kernel and host it compiles for.

A `TargetFacts` is plain data: compiling reads nothing from the host, so that every kernel's output can be made and
tested anywhere. `rezolus.agent.facts` describes this host, `TargetFacts.for_btf` any kernel of which the BTF is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from dsl.btf import Btf, Func, FuncProto, Ptr, Typedef
from dsl.kernel import syscalls

Arch = syscalls.Arch
State = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether the target can do something. `unknown` is not `no`: it may be worth a try."""

    state: State
    reason: str = ""
    """Why not, or why nobody knows, for a reader: `refused by the kernel (operation not permitted)`."""


CAPABILITIES: Final[Mapping[str, str]] = {
    "tp_btf": "BTF-typed tracepoints (5.5)",
    "raw_tp": "raw tracepoints (4.17)",
    "tracepoint": "classic tracepoints",
    "fentry": "functions by fentry and fexit (5.5)",
    "kprobe": "functions by kprobe and kretprobe",
    "uprobe": "user functions",
    "usdt": "USDT probes, semaphores included (4.20)",
    "perf": "programs on perf events",
    "perf_hardware": "hardware counters",
    "task_storage": "state that lives with a task (5.11; in tracing programs 5.12)",
    "current_task_btf": "the current task as a typed pointer (5.11)",
}
"""Every capability that a `TargetFacts` states, with its meaning and the first kernel that has it."""

_SAME_AS: Final[Mapping[str, str]] = {"fexit": "fentry", "kretprobe": "kprobe", "uretprobe": "uprobe"}


@dataclass(frozen=True, slots=True)
class TracepointField:
    """A field of a classic tracepoint's record; offset and size in bytes."""

    name: str
    type: str
    """As the kernel prints it, arrays behind it: `pid_t`, `char[16]`, `__data_loc char[]`."""
    offset: int
    size: int
    signed: bool


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """A classic tracepoint: its record, the common fields included."""

    name: str
    id: int
    fields: tuple[TracepointField, ...]


class FormatError(Exception):
    """A tracepoint's `format` is not what kernels write."""


_FIELD: Final = re.compile(
    r"\s*field:(?P<declaration>[^;]+);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);(?:\s*signed:(?P<signed>[01]);)?"
)
_DECLARATION: Final = re.compile(r"(?P<type>.*?)\s*(?P<name>\w+)\s*(?P<array>(?:\[[^]]*\])*)")


def parse_tracepoint_format(text: str) -> Tracepoint:
    """Read tracefs' `events/CATEGORY/EVENT/format`. Raises `FormatError`."""
    name = re.search(r"^name: *(\S+)$", text, re.MULTILINE)
    number = re.search(r"^ID: *(\d+)$", text, re.MULTILINE)
    if name is None or number is None:
        raise FormatError("tracepoint format without name or ID")
    fields = tuple(_parse_field(line) for line in text.splitlines() if line.lstrip().startswith("field:"))
    return Tracepoint(name[1], int(number[1]), fields)


def _parse_field(line: str) -> TracepointField:
    found = _FIELD.match(line)
    declared = _DECLARATION.fullmatch(found["declaration"].strip()) if found else None
    if found is None or declared is None:
        raise FormatError(f"tracepoint field {line.strip()!r} is not understood")
    signed = found["signed"] == "1"
    return TracepointField(
        declared["name"], declared["type"] + declared["array"], int(found["offset"]), int(found["size"]), signed
    )


class TracepointFormats(Mapping[str, Tracepoint]):
    """Classic tracepoints by `category:event`, from their format texts, each parsed when it is asked for.

    A text that cannot be had or parsed any more (its module went) is a missing tracepoint.
    """

    __slots__ = ("_parsed", "_texts")

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._parsed: dict[str, Tracepoint] = {}

    def __getitem__(self, name: str) -> Tracepoint:
        found = self._parsed.get(name)
        if found is None:
            try:
                found = self._parsed[name] = parse_tracepoint_format(self._texts[name])
            except FormatError:
                raise KeyError(name) from None
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class ModuleBtfs(Mapping[str, Btf]):
    """BTF of the kernel's modules by module name, each parsed when it is asked for."""

    __slots__ = ("_base", "_blobs", "_parsed")

    def __init__(self, base: Btf | None, blobs: Mapping[str, bytes]) -> None:
        self._base = base
        self._blobs = blobs if base is not None else {}
        self._parsed: dict[str, Btf] = {}

    def __getitem__(self, module: str) -> Btf:
        found = self._parsed.get(module)
        if found is None:
            found = self._parsed[module] = Btf.parse(self._blobs[module], self._base)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)

    def naming(self, name: str) -> Iterator[tuple[str, Btf]]:
        """The modules whose BTF has this string: a search in bytes, so that the others need not be parsed."""
        wanted = name.encode() + b"\0"
        for module, blob in self._blobs.items():
            if wanted in blob:
                yield module, self[module]


@dataclass(frozen=True, slots=True)
class UsdtSite:
    """One place in a binary where a USDT probe stands."""

    offset: int
    """File offset of the instruction."""
    semaphore: int
    """File offset of the reference counter; 0 when the probe has none."""
    args: str
    """The arguments in the notation of the assembler: `8@%rdi -4@-20(%rbp)`."""


@dataclass(frozen=True, slots=True)
class Binary:
    """A program or library as far as probes need it."""

    path: str
    """Absolute, symbolic links resolved."""
    symbols: Mapping[str, int]
    """Function -> file offset; versioned ones also as `name@VERSION`."""
    usdt: Mapping[str, tuple[UsdtSite, ...]]
    """`provider:name` -> its sites."""
    indirect: frozenset[str] = frozenset()
    """Functions that the loader replaces by the variant for this CPU (`memcpy`); their symbol is not the code that
    runs, hence not in `symbols`."""
    problem: str = ""
    """Why nothing could be read from the file; empty normally."""


@dataclass(frozen=True, slots=True)
class KernelParam:
    """A parameter of a tracepoint or kernel function."""

    name: str
    """Empty where the kernel recorded none."""
    type_id: int
    btf: Btf
    """Whose id it is."""


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """A kernel function that can be probed."""

    name: str
    module: str
    """Empty for vmlinux."""
    args: tuple[KernelParam, ...]
    return_type_id: int
    """0 for `void`."""
    variadic: bool
    btf: Btf


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """Everything the compiler may know of its target."""

    arch: Arch
    release: str
    """As `uname -r` prints it; for people only: what a kernel has is asked of its BTF, not of its version."""
    page_size: int = 4096
    possible_cpus: int
    online_cpus: tuple[int, ...]
    pid_max: int
    btf: Btf | None
    """None where the kernel has no type information: only classic tracepoints and user space remain."""
    module_btf: ModuleBtfs = field(default_factory=lambda: ModuleBtfs(None, {}))
    tracepoints: Mapping[str, Tracepoint] = field(default_factory=dict)
    """Classic tracepoints by `category:event`."""
    raw_tracepoints: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    """Kernel functions that can be probed; empty when the kernel does not tell, then those of the BTF count."""
    capabilities: Mapping[str, Capability]
    """A value for each of `CAPABILITIES`; see `capability`."""
    cgroup_v1: bool = False
    """Whether the cpu controller is in a cgroup v1 hierarchy."""
    binaries: Mapping[str, Binary] = field(default_factory=dict)
    """Programs and libraries by the name that a definition uses for them; what is not there was not found."""

    @classmethod
    def for_btf(
        cls, btf: Btf, *, release: str, arch: Arch = "x86_64", possible_cpus: int = 2, cgroup_v1: bool = False
    ) -> TargetFacts:
        """A kernel known by its BTF alone, able to do everything that its BTF does not contradict."""
        return cls(
            arch=arch,
            release=release,
            possible_cpus=possible_cpus,
            online_cpus=tuple(range(possible_cpus)),
            pid_max=4_194_304,
            btf=btf,
            raw_tracepoints=btf_tracepoints(btf),
            capabilities={name: _by_btf(btf, name) for name in CAPABILITIES},
            cgroup_v1=cgroup_v1,
        )

    @property
    def syscalls(self) -> Mapping[str, int]:
        """System call numbers of the target's architecture."""
        return syscalls.syscall_numbers(self.arch)

    def capability(self, name: str) -> Capability:
        """A capability by its own name or by a hook kind (`fexit` is `fentry`'s); `unknown` for what nobody stated."""
        found = self.capabilities.get(_SAME_AS.get(name, name))
        return found or Capability("unknown", "not examined")

    def btfs_naming(self, name: str) -> Iterator[tuple[str, Btf]]:
        """(module, BTF) wherever a name may be defined: the kernel first (module ""), then modules that have the string."""
        if self.btf is not None:
            yield "", self.btf
            yield from self.module_btf.naming(name)

    def tracepoint_args(self, name: str) -> list[KernelParam] | None:
        """Arguments of a tracepoint as a BTF-typed or raw program gets them; None when the BTF knows no such tracepoint.

        Types come from the typedef `btf_trace_NAME`, which has no names; those come from the tracepoint's own
        function `__traceiter_NAME` (since d25e37d89dd2, "tracepoint: Optimize using static_call()", 5.10) or `__bpf_trace_NAME`.
        """
        for _, btf in self.btfs_naming(f"btf_trace_{name}"):
            proto = _tracepoint_proto(btf, name)
            if proto is not None:
                params = proto.params[1:]
                names = _tracepoint_names(btf, name, len(params))
                return [KernelParam(names[at], param.type_id, btf) for at, param in enumerate(params)]
        return None

    def tracepoint_module(self, name: str) -> str:
        """The module that defines a tracepoint; empty for the kernel itself, and for what does not exist."""
        for module, btf in self.btfs_naming(f"btf_trace_{name}"):
            if btf.find_id(f"btf_trace_{name}", Typedef) is not None:
                return module
        return ""

    def function_proto(self, name: str) -> KernelFunction | None:
        """A kernel function with its types; None when it does not exist or cannot be probed."""
        if self.functions and name not in self.functions:
            return None
        for module, btf in self.btfs_naming(name):
            found = btf.find(name, Func)
            proto = btf.types(found.type_id) if found else None
            if isinstance(proto, FuncProto):
                args = tuple(KernelParam(param.name, param.type_id, btf) for param in proto.params)
                return KernelFunction(name, module, args, proto.return_id, proto.variadic, btf)
        return None

    def function_names(self) -> Iterable[str]:
        """Functions that can be probed, for suggestions."""
        if self.functions or self.btf is None:
            return self.functions
        return self.btf.names(Func)


def btf_tracepoints(btf: Btf) -> frozenset[str]:
    """Names of the tracepoints that a BTF types; those of its base not included."""
    prefix = "btf_trace_"
    return frozenset(name[len(prefix) :] for name in btf.names(Typedef) if name.startswith(prefix))


def _tracepoint_proto(btf: Btf, name: str) -> FuncProto | None:
    """`void (void *__data, ARGUMENTS)`, which the typedef points to."""
    typedef = btf.find(f"btf_trace_{name}", Typedef)
    pointer = btf.resolve(typedef.type_id) if typedef else None
    proto = btf.resolve(pointer.type_id) if isinstance(pointer, Ptr) else None
    return proto if isinstance(proto, FuncProto) and proto.params else None


def _tracepoint_names(btf: Btf, name: str, count: int) -> list[str]:
    for prefix in ("__traceiter_", "__bpf_trace_"):
        function = btf.find(prefix + name, Func)
        proto = btf.types(function.type_id) if function else None
        if isinstance(proto, FuncProto) and len(proto.params) == count + 1:
            return [param.name for param in proto.params[1:]]
    return [""] * count


def _by_btf(btf: Btf, capability: str) -> Capability:
    needed: Callable[[Btf], bool] | None = _NEEDS.get(capability)
    if needed is None or needed(btf):
        return Capability("yes")
    return Capability("no", "this kernel's BTF does not have it")


# That the helper exists is no proof that tracing programs may call it (task storage: LSM only in 5.11), but the nearest.
_NEEDS: Final[Mapping[str, Callable[[Btf], bool]]] = {
    "task_storage": lambda btf: btf.enum_value("BPF_MAP_TYPE_TASK_STORAGE") is not None,
    "current_task_btf": lambda btf: btf.enum_value("BPF_FUNC_get_current_task_btf") is not None,
}
