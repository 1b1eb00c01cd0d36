"""The loader's first half: read the configuration and the definitions, describe the host, check and compile.

Only the loader process calls this; it is where the compiler is.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dsl import Checked, Diagnostic, Parsed, check_each, compile_unit, parse_files, render
from dsl.facts import TargetFacts
from rezolus.agent.facts import probe
from rezolus.agent.handover import Problem, SamplerBrief
from rezolus.agent.isolate import Compile, CompiledUnit, Enabled
from rezolus.agent.loader import Prepared, privileged
from rezolus.bpf.targets import kernel_btf_ids
from rezolus.config import Config, load

NEEDS_ROOT = "not started as root: eBPF programs cannot be loaded; start it as root, it keeps no privileges"


def prepare(config_path: Path) -> Prepared:
    """Everything up to loading. Raises ConfigError and FactsError; what concerns single samplers is in the result."""
    config = load(config_path)
    problems: list[Problem] = []
    parsed = parse_files(_read_all(config.probes, problems), _read)
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
        compile_samplers=_compiler(parsed, facts, checked, switched_on),
        btf_id=kernel_btf_ids(facts.btf),
        cpus=tuple(range(facts.possible_cpus)),
        wanted=_wanted(config),
        problems=problems,
        absent=absent,
        refused="" if privileged() else NEEDS_ROOT,
    )


def _compiler(parsed: Parsed, facts: TargetFacts, checked: Checked, switched_on: Enabled) -> Compile:
    names = frozenset(sampler.name for sampler in checked.unit.samplers)

    def compile_samplers(enabled: Enabled) -> CompiledUnit:
        chosen = frozenset(name for name in names if enabled(name))
        if chosen == names:
            return compile_unit(checked.unit, facts)
        fewer = check_each(parsed, facts, lambda name: switched_on(name) and name in chosen)
        return compile_unit(fewer.unit, facts)

    return compile_samplers


def _wanted(config: Config) -> Enabled:
    """Whether some sink takes a metric; without sinks everything is measured, for whoever looks at the status."""
    sinks = tuple(config.sinks.values())
    return lambda name: not sinks or any(sink.metrics.wants(name) for sink in sinks)


def _read_all(paths: Iterable[Path], problems: list[Problem]) -> dict[str, str]:
    texts = {}
    for path in paths:
        try:
            texts[str(path)] = path.read_text(encoding="utf-8")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            problems.append(Problem(stage="check", message=f"cannot be read: {reason}", file=str(path)))
        except UnicodeDecodeError as error:
            message = f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
            problems.append(Problem(stage="check", message=message, file=str(path)))
    return texts


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


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
