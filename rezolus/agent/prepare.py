"""The loader's first half: read the configuration and the definitions, describe the host, check and compile.

Only the loader process calls this; it is where the compiler is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dsl import Checked, Diagnostic, check_each, render
from dsl.schema import TaskMemory
from rezolus import definitions
from rezolus.agent.facts import probe
from rezolus.agent.handover import Problem, SamplerBrief
from rezolus.agent.loader import Prepared, privileged
from rezolus.agent.wanted import wanted_by
from rezolus.bpf.targets import kernel_btf_ids
from rezolus.config import load, to_wire

NEEDS_ROOT = "not started as root: eBPF programs cannot be loaded; start it as root, it keeps no privileges"


def prepare(config_path: Path, before: TaskMemory | None = None) -> Prepared:
    """Everything up to loading; `before` is what the set that runs remembers of tasks.

    Raises ConfigError and FactsError; what concerns single samplers is in the result.
    """
    config = load(config_path)
    read = definitions.read_files(config.probes)
    problems = [Problem(stage="check", message=found.reason, file=found.path) for found in read.unreadable]
    parsed = definitions.parse(read.texts)
    facts = probe(btf_path=config.agent.btf_path, binaries=parsed.binaries)
    asked: dict[str, bool] = {}

    def switched_on(name: str) -> bool:
        asked[name] = config.sampler_enabled(name)
        return asked[name]

    checked = check_each(parsed, facts, switched_on)
    quotable = _Quotable(read.texts)
    problems.extend(_problem(diagnostic, quotable) for diagnostic in _not_rejected(checked))
    absent = [SamplerBrief(name=name, state="disabled") for name, enabled in asked.items() if not enabled]
    for name, diagnostics in checked.rejected.items():
        problems.extend(_problem(diagnostic, quotable, name) for diagnostic in diagnostics)
        place = diagnostics[0].span
        absent.append(SamplerBrief(name=name, state="failed", file=place.source.path, line=place.line))
    problems.extend(Problem(stage="config", message=text) for text in config.unknown_samplers(asked))
    return Prepared(
        compile_samplers=definitions.compiler(parsed, facts, checked, switched_on, before),
        btf_id=kernel_btf_ids(facts.btf),
        cpus=tuple(range(facts.possible_cpus)),
        wanted=wanted_by(config),
        problems=problems,
        absent=absent,
        refused="" if privileged() else NEEDS_ROOT,
        config=to_wire(config),
    )


def _not_rejected(checked: Checked) -> list[Diagnostic]:
    """Errors that are no single sampler's: of files that do not parse at all."""
    rejected = {id(diagnostic) for group in checked.rejected.values() for diagnostic in group}
    return [item for item in checked.diagnostics if item.severity == "error" and id(item) not in rejected]


class _Quotable:
    """Whether lines of a file may be shown to whoever asks for the status.

    Root reads what definitions `use`, and they may name any file. Those that the configuration names are shown, and what
    lies in their folders.
    """

    def __init__(self, named: Iterable[str]) -> None:
        self._named = frozenset(named)
        self._folders = tuple(f"{os.path.dirname(os.path.realpath(path))}/" for path in self._named)

    def __call__(self, path: str) -> bool:
        return path in self._named or os.path.realpath(path).startswith(self._folders)


def _problem(diagnostic: Diagnostic, quotable: _Quotable, sampler: str = "") -> Problem:
    span = diagnostic.span
    if quotable(span.source.path):
        labels = tuple(label for label in diagnostic.labels if quotable(label[0].source.path))
        message, detail = diagnostic.message, render(replace(diagnostic, labels=labels))
    else:
        message = "what is wrong there is told by `rezolus check`: the file is not in a folder of the definitions"
        detail = ""
    return Problem(
        stage="check",
        sampler=sampler,
        message=f"error[{diagnostic.code}]: {message}",
        file=span.source.path,
        line=span.line,
        detail=detail,
    )
