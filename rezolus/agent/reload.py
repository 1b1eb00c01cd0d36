"""What a reload came to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rezolus.agent.handover import Handover, Problem
from rezolus.config import Config, from_wire


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `Agent.reload`. When it is not `ok`, everything is as it was."""

    ok: bool
    problems: tuple[str, ...] = ()
    """Why not; with `ok`, what does not run although the rest does. Each may have several lines."""
    config: Config | None = None
    """The configuration as the loader read it."""
    changed: tuple[str, ...] = ()
    """What is different: `sampler NAME` added, removed or changed."""


def failed(*problems: str) -> Reloaded:
    """A reload that changed nothing."""
    return Reloaded(ok=False, problems=problems)


def done(now: Handover, before: Handover) -> Reloaded:
    """A reload that went through."""
    config = from_wire(now.config) if now.config else None
    return Reloaded(ok=True, problems=texts(now.problems), config=config, changed=changes(now, before))


def texts(problems: Sequence[Problem]) -> tuple[str, ...]:
    """Problems with all there is to see of them, each once: a diagnostic as the compiler shows it, else one line."""
    return tuple(dict.fromkeys(_text(problem) for problem in problems))


def _text(problem: Problem) -> str:
    if problem.stage == "check" and problem.detail:
        return problem.detail.rstrip()
    return f"sampler {problem.sampler}: {problem}" if problem.sampler else str(problem)


def changes(now: Handover, before: Handover) -> tuple[str, ...]:
    """The samplers that came, went, or have another text."""
    new = {sampler.name: sampler.version for sampler in now.schema.samplers}
    old = {sampler.name: sampler.version for sampler in before.schema.samplers}
    lines = []
    for name in sorted(new.keys() | old.keys()):
        if name not in old:
            lines.append(f"sampler {name} added")
        elif name not in new:
            lines.append(f"sampler {name} removed")
        elif new[name] != old[name]:
            lines.append(f"sampler {name} changed")
    return tuple(lines)
