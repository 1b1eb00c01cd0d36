"""`rezolus test FILE...`: the tests written in .rzl files, on the interpreter, without eBPF or privileges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rezolus.cli.target import TargetOptions, facts_for, target_options

if TYPE_CHECKING:
    from dsl import Outcome


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@target_options
def command(
    files: tuple[Path, ...],
    btf: Path | None,
    arch: str | None,
    release: str | None,
    cpus: int | None,
) -> int:
    """Run the `test` blocks of .rzl files.

    The events of a test go to an interpreter of the checked definitions; nothing is loaded into the kernel. Exit status 1
    when an expectation does not hold or a file has errors.
    """
    outcomes = _run(files, TargetOptions(btf, arch, release, cpus))
    for outcome in outcomes:
        _show(outcome)
    failed = sum(not outcome.passed for outcome in outcomes)
    if outcomes:
        print(f"{len(outcomes) - failed} passed, {failed} failed")
    else:
        print(f'no test in {", ".join(map(str, files))}; one begins with: test "what must hold" {{')
    return 1 if failed else 0


def _run(names: tuple[Path, ...], target: TargetOptions) -> tuple[Outcome, ...]:
    """Raises UserError and, with all errors, CompileError; warnings are printed."""
    from dsl import check_files, run_tests
    from rezolus import definitions
    from rezolus.cli.check import print_diagnostics

    parsed = definitions.parse(definitions.read_files(definitions.find_files(names)).complete())
    checked = check_files(parsed, facts_for(parsed, target))
    if checked.diagnostics:
        print_diagnostics(checked.diagnostics)
    return tuple(run_tests(checked.unit))


def _show(outcome: Outcome) -> None:
    print(f"{'pass' if outcome.passed else 'FAIL'} {outcome.place}: {outcome.name}")
    for mismatch in outcome.mismatches:
        print(f"     {mismatch.place}: {mismatch.line}")
        print(f"         expected {mismatch.expected}, got {mismatch.got}")
        for note in mismatch.notes:
            print(f"         {note}")
