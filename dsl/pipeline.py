"""The compiler from text to C, stage by stage. Everything behind `parse_files` is a pure function of text and facts."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dsl import ir
from dsl.btf import Func
from dsl.check.events import wanted_binaries
from dsl.check.kernel_types import find_member, find_structure
from dsl.check.scope import UnitScope
from dsl.check.unit import check
from dsl.diagnostics import CompileError, Diagnostic, Diagnostics
from dsl.emit.unit import emit
from dsl.facts import TargetFacts
from dsl.plan.unit import Plan, Target, plan
from dsl.schema import Schema, TaskMemory
from dsl.source import Source
from dsl.syntax import ast
from dsl.syntax.parse import parse

_MAX_USES = 64

Read = Callable[[str], str]
"""Gives the text of a file; raises OSError or UnicodeError."""


@dataclass(frozen=True, slots=True, eq=False)
class Parsed:
    """Files that follow the grammar, with what they `use`."""

    modules: tuple[ast.Module, ...]
    used: Mapping[ast.Use, ast.Module]
    diagnostics: tuple[Diagnostic, ...]
    """Of files that do not parse; those are not among the modules."""

    @property
    def binaries(self) -> tuple[str, ...]:
        """User programs that events name: the facts must describe them."""
        return wanted_binaries(self.modules)


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """Samplers without errors, and everything there is to say about the files."""

    unit: ir.Unit
    diagnostics: tuple[Diagnostic, ...]
    rejected: Mapping[str, tuple[Diagnostic, ...]] = field(default_factory=dict)
    """Samplers left out, with their errors."""


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A unit ready to be loaded: C for BCC, and what its memory means."""

    text: str
    schema: Schema
    initial: Mapping[str, bytes]
    plan: Plan
    layouts: Mapping[str, str]
    """What is in each map that lasts, as text: maps of the same text may stand for each other."""


def parse_files(sources: Mapping[str, str], read: Read) -> Parsed:
    """Parse files given by path; `read` fetches what they `use`, by a path relative to the user."""
    diags = Diagnostics()
    modules = []
    used: dict[ast.Use, ast.Module] = {}
    texts: dict[str, ast.Module | None] = {}
    for path, text in sources.items():
        module = parse(Source(path, text), diags)
        if module is not None:
            modules.append(module)
            _parse_uses(module, used, texts, read, diags)
    return Parsed(tuple(modules), used, diags.items)


def _parse_uses(
    module: ast.Module,
    used: dict[ast.Use, ast.Module],
    texts: dict[str, ast.Module | None],
    read: Read,
    diags: Diagnostics,
) -> None:
    for item in module.items:
        if not isinstance(item, ast.Use):
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(module.source.path), item.path))
        if path not in texts and len(texts) < _MAX_USES:
            try:
                texts[path] = parsed = parse(Source(path, read(path)), diags)
                if parsed is not None:
                    _parse_uses(parsed, used, texts, read, diags)
            except (OSError, UnicodeError) as error:
                why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "not UTF-8"
                diags.error("unknown-file", f"`{path}` cannot be read: {why}", item.span)
                texts[path] = None
        found = texts.get(path)
        if found is not None:
            used[item] = found


def check_files(parsed: Parsed, facts: TargetFacts, enabled: Callable[[str], bool] = lambda _: True) -> Checked:
    """Check every sampler and test of the files; raises CompileError with all errors, those of parsing included."""
    diags = Diagnostics()
    for diagnostic in parsed.diagnostics:
        diags.add(diagnostic)
    unit = check(_only(parsed.modules, enabled), parsed.used, UnitScope(facts, diags))
    diags.stop_if_errors()
    return Checked(unit, diags.items)


def check_each(parsed: Parsed, facts: TargetFacts, enabled: Callable[[str], bool] = lambda _: True) -> Checked:
    """Check, leaving out samplers with errors so that the others run. Never raises CompileError."""
    rejected: dict[str, tuple[Diagnostic, ...]] = {}
    said: list[Diagnostic] = list(parsed.diagnostics)
    modules = _only(parsed.modules, enabled)
    while True:
        diags = Diagnostics()
        unit = check(modules, parsed.used, UnitScope(facts, diags))
        if not diags.has_errors:
            return Checked(unit, (*said, *diags.items), rejected)
        said.extend(diags.errors)
        at_fault = _at_fault(modules, diags.errors)
        rejected.update(at_fault)
        modules = _only(modules, lambda name: name not in rejected, tests=False)


def _at_fault(modules: tuple[ast.Module, ...], errors: tuple[Diagnostic, ...]) -> dict[str, tuple[Diagnostic, ...]]:
    """Samplers to leave out: those an error lies in; for an error outside of any, all of that file; else all."""
    found: dict[str, tuple[Diagnostic, ...]] = {}
    for error in errors:
        samplers = [item for module in modules for item in module.items if isinstance(item, ast.Sampler)]
        same_file = [node for node in samplers if node.span.source is error.span.source]
        inside = [node for node in same_file if node.span.start <= error.span.start < node.span.end]
        for node in inside or same_file or samplers:
            found[node.name] = (*found.get(node.name, ()), error)
    return found


def _only(
    modules: tuple[ast.Module, ...], enabled: Callable[[str], bool], *, tests: bool = True
) -> tuple[ast.Module, ...]:
    """The modules without the samplers that are not enabled; then their tests go too."""
    kept = []
    for module in modules:
        samplers = [item for item in module.items if isinstance(item, ast.Sampler)]
        keep_tests = tests and all(enabled(node.name) for node in samplers)
        items = tuple(
            item
            for item in module.items
            if (enabled(item.name) if isinstance(item, ast.Sampler) else keep_tests or not isinstance(item, ast.Test))
        )
        kept.append(ast.Module(module.span, module.source, module.version, items, module.comments))
    return tuple(kept)


def compile_unit(unit: ir.Unit, facts: TargetFacts, before: TaskMemory | None = None) -> Compiled:
    """Lay out and emit a checked unit. `before` is what a set that runs remembers of tasks (`Schema.tasks`)."""
    planned = plan(unit, target_of(facts), before)
    emitted = emit(planned)
    return Compiled(emitted.text, planned.schema, emitted.initial, planned, emitted.layouts)


def target_of(facts: TargetFacts) -> Target:
    """What code generation needs of the facts."""
    return Target(
        possible_cpus=facts.possible_cpus,
        pid_max=facts.pid_max,
        arch=facts.arch,
        page_size=facts.page_size,
        task_storage=facts.capability("task_storage").state == "yes",
        current_task_btf=facts.capability("current_task_btf").state == "yes",
        recursion_safe=_recursion_safe(facts),
        cgroup_offsets=cgroup_offsets(facts),
    )


def _recursion_safe(facts: TargetFacts) -> bool:
    """Whether a raw tracepoint's program is kept from interrupting itself on a CPU.

    Since 05b24ff9b2cf ("bpf: Prevent bpf program recursion for raw tracepoint probes", 6.2), which made this function
    visible to the tracing code.
    """
    return facts.btf is not None and facts.btf.find_id("bpf_prog_inc_misses_counter", Func) is not None


_CGROUP_MEMBERS = (
    ("task_struct", "sched_task_group"),
    ("task_group", "css"),
    ("cgroup_subsys_state", "id"),
    ("cgroup_subsys_state", "serial_nr"),
    ("cgroup_subsys_state", "cgroup"),
    ("cgroup", "kn"),
    ("cgroup", "level"),
    ("kernfs_node", "name"),
    ("kernfs_node", "parent"),
    ("kernfs_node", "id"),
)


def cgroup_offsets(facts: TargetFacts) -> Mapping[str, int] | None:
    """Byte offsets of the members on the way from a task to its cgroup's names; None when the kernel lacks one.

    `kernfs_node.parent` became `__parent` in 6.15 (633488947ef6, "kernfs: Use RCU to access kernfs_node::parent.").
    """
    if facts.btf is None:
        return None
    offsets = {}
    for structure, member in _CGROUP_MEMBERS:
        found = find_structure((facts.btf,), structure)
        if found is None:
            return None
        where = find_member(found, member) or find_member(found, f"__{member}")
        if where is None:
            return None
        offsets[f"{structure}.{member}"] = where.offset
    return offsets


__all__ = [
    "Checked",
    "CompileError",
    "Compiled",
    "Parsed",
    "check_each",
    "check_files",
    "compile_unit",
    "parse_files",
]
