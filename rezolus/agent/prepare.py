"""The loader's first half: read the configuration and the definitions, describe the host, check and compile.

Only the loader process calls this; it is where the compiler is.
"""

from __future__ import annotations

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
    """Everything up to loading; `before` is what the set that runs remembers of tasks. Raises ConfigError and FactsError; what concerns single samplers is in the result."""
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
    problems.extend(_problem(diagnostic) for diagnostic in _not_rejected(checked))
    absent = [SamplerBrief(name=name, state="disabled") for name, enabled in asked.items() if not enabled]
    for name, diagnostics in checked.rejected.items():
        problems.extend(_problem(diagnostic, name) for diagnostic in diagnostics)
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


def _problem(diagnostic: Diagnostic, sampler: str = "") -> Problem:
    return Problem(
        stage="check",
        sampler=sampler,
        message=f"error[{diagnostic.code}]: {diagnostic.message}",
        file=diagnostic.span.source.path,
        line=diagnostic.span.line,
        detail=render(diagnostic),
    )
