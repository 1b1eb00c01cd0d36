"""`rezolus compile FILE...`: what .rzl files become."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from rezolus.cli.target import TargetOptions, facts_for, target_options

if TYPE_CHECKING:
    from dsl import Compiled

Form = Literal["plan", "c", "schema"]


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--plan", "form", flag_value="plan", default="plan", help="What runs at each hook and why (the default).")
@click.option("--c", "form", flag_value="c", help="The C, with the source lines it comes from.")
@click.option("--schema", "form", flag_value="schema", help="Metrics, memory and programs as JSON.")
@target_options
def command(
    files: tuple[Path, ...],
    form: Form,
    btf: Path | None,
    arch: str | None,
    release: str | None,
    cpus: int | None,
) -> None:
    """Show what .rzl files become, on this kernel or another. Nothing is loaded."""
    compiled = _compile(files, TargetOptions(btf, arch, release, cpus))
    sys.stdout.write(_shown(compiled, form))


def _compile(names: tuple[Path, ...], target: TargetOptions) -> Compiled:
    """Raises UserError and, with all errors, CompileError; warnings are printed."""
    from dsl import check_files, compile_unit
    from rezolus import definitions
    from rezolus.cli.check import print_diagnostics

    parsed = definitions.parse(definitions.read_files(definitions.find_files(names)).complete())
    facts = facts_for(parsed, target)
    checked = check_files(parsed, facts)
    if checked.diagnostics:
        print_diagnostics(checked.diagnostics)
    return compile_unit(checked.unit, facts)


def _shown(compiled: Compiled, form: Form) -> str:
    import msgspec

    from dsl import plan_text, readable_c

    match form:
        case "plan":
            return plan_text(compiled)
        case "c":
            return readable_c(compiled)
        case "schema":
            return msgspec.json.format(msgspec.json.encode(compiled.schema), indent=2).decode() + "\n"
