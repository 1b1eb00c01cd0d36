"""Rezolus' own configuration files: agent.toml, exporter.toml and hindsight.toml of its versions 5.x, taken as they are.

They have a table `[general]`, which ours has not. Every key of theirs is known, with its type and range; what a key asks for
that is not done here is said once and is no mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from rezolus.config.classic_keys import (
    FILES,
    AgentFile,
    ExporterFile,
    ExternalMetrics,
    File,
    HindsightFile,
    SamplerTable,
)
from rezolus.config.sources import Sources
from rezolus.config.structures import (
    AgentConfig,
    Config,
    ExporterConfig,
    ExternalConfig,
    Form,
    HindsightConfig,
    Listen,
    LogConfig,
    SamplerConfig,
    SchedulerConfig,
    SinkConfig,
)
from rezolus.tables import TableReader, nearest

THEIRS = ("general", "prometheus", "external_metrics")
"""Tables that tell one of their files."""
OURS = ("agent", "sinks", "sources")
"""Tables that tell ours."""
COMMANDS: Mapping[Form, str] = {
    "agent": "rezolus FILE",
    "exporter": "rezolus exporter FILE",
    "hindsight": "rezolus hindsight FILE",
}
ONE_CLOCK = "there is one clock for all, and who asks gets a reading of now"
TYPO = 0.85
"""How alike a sampler's name and one of ours are that is meant by it: Rezolus has `cpu_power` beside our `cpu_cores`."""
WITHOUT_EFFECT: Mapping[str, str] = {
    r"(defaults|samplers\..*)\.interval": ONE_CLOCK,
    r"(defaults|samplers\..*)\.gpu_perf_level": "GPUs are left as they are",
    r"general\.segment_rows": "the buffer divides itself",
}
"""Keys of theirs (regular expressions) that change nothing here, and why."""


def is_classic(document: Mapping[str, Any], form: Form | None) -> bool:
    """Whether this is a file of theirs. One without a telling table is theirs where a command of theirs gets it."""
    if any(table in document for table in THEIRS):
        return True
    return form in {"exporter", "hindsight"} and not any(table in document for table in OURS)


def read(document: Mapping[str, Any], path: Path, form: Form | None, reader: TableReader) -> tuple[Config, list[str]]:
    """The configuration that a file of theirs stands for, without probes, and notes: `path: sentence`."""
    form = form or _form_of(document, path)
    strangers = _strangers(document, form)
    for other, command in COMMANDS.items():
        if strangers and not _strangers(document, other):
            what = f"this is a key of Rezolus' {other}.toml, not of its {form}.toml"
            reader.report(strangers[0], f"{what}: run `{command}`")
            return Config(path=path.absolute()), []
    notes = _without_effect(document)
    found = reader.table(document, "", FILES[form], skip=("samplers",) if form == "agent" else ())
    match found:
        case AgentFile():
            config = _agent(found, document, reader)
        case ExporterFile():
            config = _exporter(found)
        case HindsightFile():
            config = _hindsight(found)
            output = found.general.output
            if output.suffix == ".rez":
                notes.append(f"general.output: .rez is not written; dumps go to {_parquet(output)}")
    log = LogConfig(level=_level(found.log.level))
    return msgspec.structs.replace(config, path=path.absolute(), log=log), notes


def _agent(file: AgentFile, document: Mapping[str, Any], reader: TableReader) -> Config:
    general = file.general
    default = file.defaults.enabled is not False
    samplers = {
        name: reader.table(value, f"samplers.{name}", SamplerTable)
        for name, value in reader.named_tables(document.get("samplers", {}), "samplers")
    }
    return Config(
        agent=AgentConfig(
            listen=general.listen,
            hosts=_hosts(general.listen),
            ttl=general.ttl,
            btf_path=general.btf_path,
            snapshot_format=general.snapshot_format,
            external=_external(file.external_metrics),
        ),
        defaults=SamplerConfig(enabled=default),
        samplers={
            name: SamplerConfig(enabled=default if table.enabled is None else table.enabled)
            for name, table in samplers.items()
        },
        scheduler=SchedulerConfig(
            policy=file.scheduler.policy, priority=file.scheduler.priority, niceness=file.scheduler.niceness
        ),
    )


def _external(table: ExternalMetrics) -> ExternalConfig:
    """Their table; one that is not enabled is none."""
    if not table.enabled:
        return ExternalConfig()
    return ExternalConfig(
        socket=table.socket_path,
        protocol=table.protocol,
        ttl=table.metric_ttl,
        max_connections=table.max_connections,
        max_metrics=table.max_metrics,
        max_metrics_per_connection=table.max_metrics_per_connection,
        group=table.socket_group,
        mode=table.socket_mode,
    )


def _exporter(file: ExporterFile) -> Config:
    general, prometheus = file.general, file.prometheus
    forms: Mapping[tuple[bool, bool], Literal["summary", "buckets", "both", "none"]] = {
        (True, True): "both",
        (True, False): "summary",
        (False, True): "buckets",
        (False, False): "none",
    }
    sink = ExporterConfig(
        listen=general.listen,
        hosts=_hosts(general.listen),
        interval=general.interval,
        histograms=forms[prometheus.summaries, prometheus.histograms],
        grouping_power=prometheus.histogram_grouping_power,
        openmetrics=False,  # Prometheus prefers it, and every counter would get another name than before
    )
    return _service("exporter", sink, general.source)


def _hindsight(file: HindsightFile) -> Config:
    general = file.general
    sink = HindsightConfig(
        listen=general.listen,
        hosts=() if general.listen is None else _hosts(general.listen),
        interval=general.interval,
        duration=general.duration,
        path=_parquet(general.output),
    )
    return _service("hindsight", sink, general.source)


def _service(name: str, sink: SinkConfig, url: str) -> Config:
    """One sink and no agent."""
    sources = Sources({})
    sink = msgspec.structs.replace(sink, source=(sources.name_of(url),))
    return Config(agent=AgentConfig(enabled=False), sinks={name: sink}, sources=sources.taken([sink]))


def _hosts(listen: Listen) -> tuple[str, ...]:
    """Rezolus answers under any name, and who scrapes it from elsewhere may use one that we do not know."""
    return () if listen.is_loopback else ("*",)


def _parquet(output: Path) -> Path:
    return output.with_suffix(".parquet") if output.suffix == ".rez" else output


def _level(word: str) -> Literal["debug", "info", "warning", "error"]:
    match word:
        case "error":
            return "error"
        case "warn":
            return "warning"
        case "info":
            return "info"
        case _:
            return "debug"


def without_unknown_samplers(config: Config, notes: list[str]) -> Config:
    """The same configuration without the samplers that no definition file has; `notes` gets one that names them.

    Rezolus has more samplers than we, and its file names them all. So a name that is not known is no mistake, unless it
    differs from one of ours by a letter or two.
    """
    known = config.defined_samplers()
    if known is None:
        return config
    hints = {name: nearest(name, known, TYPO) for name in config.samplers if name not in known}
    notes.extend(
        f"samplers.{name}: without effect: no sampler has this name{hint}" for name, hint in hints.items() if hint
    )
    missing = sorted(name for name, hint in hints.items() if not hint and config.samplers[name].enabled)
    if missing:
        notes.append(f"samplers: not measured here: {', '.join(missing)}")
    samplers = {name: sampler for name, sampler in config.samplers.items() if name in known}
    return msgspec.structs.replace(config, samplers=samplers)


def in_their_words(problems: Iterable[str]) -> tuple[str, ...]:
    """Problems with the paths that their files have: what ours divides among agent and sinks is `[general]` there."""
    said = (re.sub(r"^agent\.external\.socket\b", "external_metrics.socket_path", problem) for problem in problems)
    return tuple(re.sub(r"^(agent|sinks\.\w+)\.", "general.", problem) for problem in said)


def _form_of(document: Mapping[str, Any], path: Path) -> Form:
    """Whose file this is, by its keys, and by its name where they do not tell."""
    return min(COMMANDS, key=lambda form: (len(_strangers(document, form)), form not in path.name))


def _strangers(document: Mapping[str, Any], form: Form) -> list[str]:
    """Tables, and keys of `[general]`, that this file of theirs does not have."""
    kind: type[File] = FILES[form]
    tables = {*kind.__struct_fields__, *(("samplers",) if form == "agent" else ())}
    general = document.get("general", {})
    allowed = msgspec.structs.asdict(kind().general)
    keys = [f"general.{key}" for key in general if key not in allowed] if isinstance(general, dict) else []
    return [*(table for table in document if table not in tables), *keys]


def _without_effect(document: Mapping[str, Any]) -> list[str]:
    """A note for each reason that keys are without effect."""
    notes = []
    paths = list(_paths(document))
    for pattern, why in WITHOUT_EFFECT.items():
        found = [path for path in paths if re.fullmatch(pattern, path)]
        if found:
            others = "" if len(found) == 1 else f" (and {len(found) - 1} more)"
            notes.append(f"{found[0]}{others}: without effect: {why}")
    return notes


def _paths(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
