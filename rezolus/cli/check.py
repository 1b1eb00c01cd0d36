"""`rezolus check FILE...`: every error of .rzl files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rezolus.cli.target import TargetOptions, facts_for, target_options
from rezolus.errors import UserError

if TYPE_CHECKING:
    from dsl import Diagnostic, Parsed, SamplerDescription


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--explain", metavar="CODE", help="Say what an error code means, with an example, and exit.")
@target_options
def command(
    files: tuple[Path, ...],
    explain: str | None,
    btf: Path | None,
    arch: str | None,
    release: str | None,
    cpus: int | None,
) -> int:
    """Report every error and warning in .rzl files, against this kernel or another.

    Files are checked together, as the agent would load them. Exit status 1 when there is an error.
    """
    if explain is not None:
        print(explanation(explain))
        return 0
    if not files:
        raise click.UsageError("name the .rzl files to check")
    return check(files, TargetOptions(btf, arch, release, cpus))


def check(names: tuple[Path, ...], target: TargetOptions, *, praise: bool = True) -> int:
    """Check files and say what was found, `praise`: of good files, too; the exit status."""
    from rezolus import definitions

    read = definitions.read_files(definitions.find_files(names))
    for unreadable in read.unreadable:
        print(f"error: {unreadable}", file=sys.stderr)
    parsed = definitions.parse(read.texts)
    diagnostics = _diagnose(parsed, target)
    if diagnostics:
        print_diagnostics(diagnostics)
    wrong = _files_with_errors(parsed, diagnostics)
    if praise:
        _print_good(parsed, diagnostics, wrong)
    errors = sum(item.severity == "error" for item in diagnostics)
    if errors > 1:
        places = {item.span.source.path for item in diagnostics if item.severity == "error"}
        print(f"{errors} errors in {_count(len(places), 'file')}", file=sys.stderr)
    return 1 if errors or read.unreadable else 0


def _diagnose(parsed: Parsed, target: TargetOptions) -> tuple[Diagnostic, ...]:
    from dsl import CompileError, check_files

    if not parsed.modules:  # the target has nothing to say about files that do not even parse
        return parsed.diagnostics
    try:
        return check_files(parsed, facts_for(parsed, target)).diagnostics
    except CompileError as error:
        return error.diagnostics


def print_diagnostics(diagnostics: tuple[Diagnostic, ...]) -> None:
    """On stderr, in colour where a terminal shows it and nobody objects (NO_COLOR)."""
    from dsl import render_all

    color = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    sys.stdout.flush()
    print(render_all(diagnostics, color=color), file=sys.stderr, flush=True)


def _files_with_errors(parsed: Parsed, diagnostics: tuple[Diagnostic, ...]) -> set[str]:
    """Also those that use a file with errors."""
    from dsl import incomplete_files

    wrong = {item.span.source.path for item in diagnostics if item.severity == "error"}
    users = {use.span.source.path for use, module in parsed.used.items() if module.source.path in wrong}
    return wrong | users | incomplete_files(parsed.modules, parsed.used)


def _print_good(parsed: Parsed, diagnostics: tuple[Diagnostic, ...], wrong: set[str]) -> None:
    from dsl import describe_samplers

    samplers: dict[str, list[SamplerDescription]] = {module.source.path: [] for module in parsed.modules}
    for sampler in describe_samplers(parsed.modules, parsed.used):
        samplers[sampler.file].append(sampler)
    for path, found in samplers.items():
        if path in wrong:
            continue
        parts = [_count(len(found), "sampler"), _count(sum(len(sampler.metrics) for sampler in found), "metric")]
        warnings = sum(item.span.source.path == path for item in diagnostics)
        if warnings:
            parts.append(_count(warnings, "warning"))
        print(f"{path}: ok, {', '.join(parts)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def explanation(code: str) -> str:
    """What a diagnostic code means, with a text that gets it. UserError for what is no code."""
    from dsl import CODES, did_you_mean, examples

    name = code.strip().removeprefix("error[").removeprefix("warning[").removesuffix("]")
    if name not in CODES:
        hint = did_you_mean(name, CODES) or f"the codes are {', '.join(CODES)}"
        raise UserError(f"no error or warning has the code `{name}`; {hint}")
    lines = [f"{name}: {CODES[name]}"]
    example = examples().get(name)
    if example is not None:
        for title, text in (("wrong", example.wrong), ("right", example.right)):
            if text:
                lines += ["", f"{title}:", *(f"    {line}".rstrip() for line in text.splitlines())]
    return "\n".join(lines)
