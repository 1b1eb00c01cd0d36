"""What the loader tells the daemon, once: schema, what became of every program, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from dsl.hooks import Hook
from dsl.schema import Schema

Stage = Literal["config", "check", "compile", "verify", "attach", "source"]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why something does not run, at its place."""

    stage: Stage
    message: str
    """One sentence without place."""
    sampler: str = ""
    """Empty when it is not about one sampler."""
    file: str = ""
    """The `.rzl` file."""
    line: int = 0
    detail: str = ""
    """All that the compiler or the kernel said; may be long."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        return f"{where}{self.message}"


class ProgramReport(msgspec.Struct, frozen=True, kw_only=True):
    """One program of the unit."""

    function: str
    hook: Hook
    samplers: tuple[str, ...]
    weights: tuple[int, ...] = ()
    file: str = ""
    """Of a hook in a user program: which file it is in, as device, inode and time of change."""
    error: Problem | None = None
    """None when it is attached."""


class SamplerBrief(msgspec.Struct, frozen=True, kw_only=True):
    """A sampler that is not in the schema because it does not run."""

    name: str
    state: Literal["disabled", "failed"]
    file: str = ""
    line: int = 0


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """The loader's whole result.

    Its descriptors travel beside it, named as in `rezolus.bpf.load.Loaded.fds`, and `perf:SOURCE:KEY:CPU` for the counters
    of perf sources.
    """

    schema: Schema
    programs: tuple[ProgramReport, ...] = ()
    problems: tuple[Problem, ...] = ()
    absent: tuple[SamplerBrief, ...] = ()
    cpus: tuple[int, ...] = (0,)
    """Possible CPUs."""
    seconds: dict[str, float] = {}
    """How long each step took."""
    failure: str = ""
    """Why there is nothing more to come; empty when all went its way."""
    privileged: bool = True
    """Whether the loader could load BPF programs at all; else only what is read from files is measured."""
    config: bytes = b""
    """The configuration as the loader read it (`rezolus.config.to_wire`)."""
    layouts: dict[str, str] = {}
    """What is in each map, as text: a map of the same text can be taken over by the next set."""
    taken: tuple[str, ...] = ()
    """Maps taken over from the set that this one replaces."""
    turn: int = 0
    """What the switch must say for these programs to run."""
    refusals: tuple[Problem, ...] = ()
    """Why the running set must not be replaced; then nothing else is to be used."""


class Outcome(msgspec.Struct, frozen=True):
    """What a worker sends back."""

    status: int
    stdout: str
    stderr: str


def problem_lines(problems: Iterable[Problem]) -> list[str]:
    """One line per problem; the same one of several samplers is told once."""
    grouped: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        grouped.setdefault((problem.stage, problem.message), []).append(problem)
    lines: list[str] = []
    for (_, message), group in grouped.items():
        names = [problem.sampler for problem in group if problem.sampler]
        if not names:
            lines.extend(str(problem) for problem in group)
        elif len(group) == 1:
            lines.append(f"sampler {names[0]} does not run: {group[0]}")
        else:
            lines.append(f"{len(names)} samplers do not run ({', '.join(names)}): {message}")
    return lines
