"""The options that choose the kernel to compile for: this host's, or another one known by its type information."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rezolus.errors import UserError

if TYPE_CHECKING:
    from dsl import Parsed
    from dsl.facts import TargetFacts

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--btf",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Compile for the kernel with this type information.",
    ),
    click.option(
        "--arch", type=click.Choice(["x86_64", "aarch64"]), help="Its architecture (with --btf; default x86_64)."
    ),
    click.option("--release", metavar="NAME", help="Its release, for readers (with --btf)."),
    click.option("--cpus", type=click.IntRange(1, 8192), metavar="N", help="Number of its CPUs."),
)


@dataclasses.dataclass(frozen=True, slots=True)
class TargetOptions:
    """What was chosen; without anything the host itself."""

    btf: Path | None = None
    arch: str | None = None
    release: str | None = None
    cpus: int | None = None

    def __post_init__(self) -> None:
        """UserError for options that say nothing without another."""
        for name in ("arch", "release"):
            if getattr(self, name) is not None and self.btf is None:
                raise UserError(f"--{name} describes another kernel: give its type information with --btf FILE")


def target_options(command: Command) -> Command:
    """Gives a command the options `btf`, `arch`, `release` and `cpus`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def facts_for(parsed: Parsed, options: TargetOptions) -> TargetFacts:
    """Describe the target that these definitions are for. Raises FactsError and UserError."""
    from rezolus.agent.facts import probe

    if options.btf is None:
        facts = probe(binaries=parsed.binaries)
        return facts if options.cpus is None else _with_cpus(facts, options.cpus)
    return _foreign(parsed, options.btf, options)


def _with_cpus(facts: TargetFacts, cpus: int) -> TargetFacts:
    return dataclasses.replace(facts, possible_cpus=cpus, online_cpus=tuple(range(cpus)))


def _foreign(parsed: Parsed, path: Path, options: TargetOptions) -> TargetFacts:
    import platform

    from dsl.btf import Btf, BtfError
    from dsl.facts import TargetFacts

    try:
        btf = Btf.parse(path.read_bytes())
    except BtfError as error:
        raise UserError(f"{path} holds no valid BTF: {error.problem}") from None
    facts = TargetFacts.for_btf(
        btf,
        release=options.release or "another kernel",
        arch="aarch64" if options.arch == "aarch64" else "x86_64",
        possible_cpus=options.cpus or 2,
    )
    if facts.arch != platform.machine() or not parsed.binaries:
        return facts
    from rezolus.agent.userland import probe_binaries

    return dataclasses.replace(facts, binaries=probe_binaries(parsed.binaries))
