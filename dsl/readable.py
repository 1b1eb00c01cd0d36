"""A compilation for people: what runs at each hook and why, and the C with the lines it comes from."""

from __future__ import annotations

from dsl.emit.unit import emit
from dsl.pipeline import Compiled
from dsl.plan.render import render_plan


def plan_text(compiled: Compiled) -> str:
    """One paragraph per hook, then the memory that all of it takes."""
    return render_plan(compiled.plan)


def readable_c(compiled: Compiled) -> str:
    """The C that is loaded, with a comment for each line of the source in place of directives to the compiler."""
    return emit(compiled.plan).readable
