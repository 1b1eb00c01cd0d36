"""`python -m tests.fuzz N [--seed S]`: N generated programs, kernel against interpreter; prints what disagrees and exits 1.

The program of a seed is always the same, so a failure is repeated by `python -m tests.fuzz 1 --seed SEED`. Programs
are compiled many at a time, each batch in a process of its own: the C compiler keeps its memory and
may take the process with it, which is then a finding too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH = 40
_DEADLINE = 300
"""Seconds for a batch, which takes two; a compiler in an endless loop is ended."""


_STDERR = 2
"""Of a batch: a file, in which what the C compiler said outlives the process."""


def fuzz(
    first: int, count: int, *, typed: bool = False, jobs: int = os.cpu_count() or 1, batch: int = BATCH
) -> Iterator[tuple[int, str]]:
    """Seeds `first` and up that fail, each with what is wrong, as they are found.

    With `typed` the programs are for BTF-typed tracepoints, eight for each seed, and are only loaded.
    """
    starts = range(first, first + count, batch)
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(lambda start: run_batch(start, min(batch, first + count - start), typed=typed), starts):
            yield from found


def run_batch(first: int, count: int, *, typed: bool) -> list[tuple[int, str]]:
    """Failures among `count` seeds; a batch that ends its process is halved until the seed at fault is alone."""
    command = [sys.executable, "-m", "tests.fuzz", "--batch", str(first), str(count)]
    command += ["--typed"] if typed else []
    with tempfile.TemporaryFile("w+") as said:
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True, check=False, timeout=_DEADLINE
            )
        except subprocess.TimeoutExpired:
            trouble = f"no result after {_DEADLINE} s"
        else:
            if done.returncode == 0:
                return [(seed, text) for seed, text in json.loads(done.stdout)]
            said.seek(0)
            trouble = f"exit status {done.returncode}\n{done.stdout}{said.read()}"
    if count == 1:
        return [(first, trouble)]
    half = count // 2
    return run_batch(first, half, typed=typed) + run_batch(first + half, count - half, typed=typed)


def _batch(first: int, count: int) -> list[tuple[int, str]]:
    """In the process of the batch: seeds with differences. C that is refused is the finding of a single seed."""
    from rezolus.bpf.compile import CompileError
    from tests.ir_strategies import seeded_case
    from tests.oracle import differences, task_offsets

    seeds = range(first, first + count)
    cases = [seeded_case(seed, prefix=f"t{seed}", task_offsets=task_offsets()) for seed in seeds]
    try:
        results = zip(seeds, differences(cases, log_fd=_STDERR), strict=True)
    except CompileError as error:
        if count > 1:
            sys.exit("the C of these is refused")
        return [(first, str(error))]
    return [(seed, "\n".join(str(item) for item in found)) for seed, found in results if found]


def _typed_batch(first: int, count: int) -> list[tuple[int, str]]:
    """The same for programs of typed tracepoints. Those of one seed are one unit, with a program for each tracepoint."""
    from rezolus.bpf.compile import CompileError
    from tests.ir_strategies import TYPED_EVENTS, merge, typed_case
    from tests.oracle import refusals, task_offsets

    failed = []
    for seed in range(first, first + count):
        cases = [
            typed_case(seed * len(TYPED_EVENTS) + index, event, prefix=f"t{seed}_{event}", task_offsets=task_offsets())
            for index, event in enumerate(TYPED_EVENTS)
        ]
        try:
            refused = refusals(merge(cases), log_fd=_STDERR)
        except CompileError as error:
            refused = {"the unit": str(error)}
        if refused:
            failed.append((seed, "\n".join(f"{function}: {text}" for function, text in refused.items())))
    return failed


def _explain(seed: int, *, reduce: bool) -> str:
    """The program and the events of a seed; with `reduce` as few of them as still disagree."""
    from dsl.diagnostics import CompilerBug
    from rezolus.bpf.compile import CompileError
    from tests.ir_strategies import Case, seeded_case
    from tests.ir_text import unit_text
    from tests.oracle import differences, task_offsets
    from tests.reduce import reduced

    def fails(case: Case) -> bool:
        try:
            return bool(differences([case])[0])
        except CompileError:
            return True
        except CompilerBug:
            return False  # made too small to be a program

    case = seeded_case(seed, prefix=f"t{seed}", task_offsets=task_offsets())
    if reduce:
        case = reduced(case, fails)
    firings = "\n".join(f"{firing.event}{firing.args}" for firing in case.firings)
    return f"{unit_text(case.unit)}\n{firings}"


def main() -> int:
    """Run the command line; the exit status says whether everything agreed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=None, help="first seed (a random one)")
    parser.add_argument("--typed", action="store_true", help="programs of BTF-typed tracepoints, only loaded")
    parser.add_argument("--reduce", action="store_true", help="shrink what fails, some seconds for each part")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, nargs=2, metavar=("FIRST", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        print(json.dumps((_typed_batch if options.typed else _batch)(*options.batch)))
        return 0
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"{options.count} programs from seed {first}", flush=True)
    failed = 0
    for seed, text in fuzz(first, options.count, typed=options.typed, jobs=options.jobs):
        failed += 1
        print(f"\nseed {seed}:\n{text}", flush=True)
        if not options.typed:
            print(_explain(seed, reduce=options.reduce), flush=True)
    print(f"{options.count - failed} agree, {failed} do not")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
