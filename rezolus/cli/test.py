"""`rezolus test FILE...`: the tests written in .rzl files, on the interpreter, without eBPF or privileges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rezolus.errors import UserError

if TYPE_CHECKING:
    from dsl import Outcome
    from dsl.source import Span


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--btf", "btf_path", type=click.Path(path_type=Path), help="Type information of another kernel.")
def command(files: tuple[Path, ...], btf_path: Path | None) -> int:
    """Run the `test` blocks of .rzl files.

    The events of a test go to an interpreter of the checked program, so nothing is loaded into the kernel. Exit status 1
    when an expectation does not hold or a file has errors.
    """
    from dsl import check_files, parse_files, run_tests
    from rezolus.agent.facts import FactsError, probe

    parsed = parse_files({str(path): _read(str(path)) for path in files}, _read)
    try:
        facts = probe(btf_path=btf_path, binaries=parsed.binaries)
    except FactsError as error:
        raise UserError(str(error)) from None
    outcomes = tuple(run_tests(check_files(parsed, facts).unit))
    for outcome in outcomes:
        _show(outcome)
    failed = sum(not outcome.passed for outcome in outcomes)
    if not outcomes:
        print(f'no test in {", ".join(map(str, files))}; one begins with: test "what must hold" {{')
    else:
        print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None


def _show(outcome: Outcome) -> None:
    verdict = "pass" if outcome.passed else "FAIL"
    print(f"{verdict} {_place(outcome.test.span)}: {outcome.test.name}")
    for mismatch in outcome.mismatches:
        print(f"     {_place(mismatch.span)}: {mismatch.span.source.line(mismatch.span.line).strip()}")
        print(f"         expected {mismatch.expected}, got {mismatch.got}")
        for note in mismatch.notes:
            print(f"         {note}")


def _place(span: Span) -> str:
    return f"{span.source.path}:{span.line}"
