"""What a reload is asked for and what it answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from rezolus.config import Config, Form, load
from rezolus.errors import UserError
from rezolus.status import ReloadResult, ReloadStatus


class Reread(Protocol):
    """What is in the files now."""

    @property
    def ok(self) -> bool:
        """Whether it can be used; if not, nothing was changed."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """Why not; otherwise what does not run although the rest does."""
        ...

    @property
    def config(self) -> Config | None:
        """The new configuration."""
        ...

    @property
    def changed(self) -> tuple[str, ...]:
        """Samplers that were changed already."""
        ...


RereadFiles = Callable[[], Awaitable[Reread]]


@dataclass(frozen=True, slots=True)
class Found:
    """A `Reread` of a configuration file."""

    ok: bool
    problems: tuple[str, ...] = ()
    config: Config | None = None
    changed: tuple[str, ...] = ()


async def reread_file(path: Path, form: Form) -> Found:
    """The configuration file alone, for who measures nothing here."""
    try:
        config = await trio.to_thread.run_sync(load, path, form)
    except UserError as error:
        return Found(ok=False, problems=(str(error),))
    return Found(ok=True, config=config)


@dataclass(slots=True)
class Request:
    """A reload that was asked for."""

    begin: float
    done: trio.Event
    result: ReloadResult

    @classmethod
    def now(cls) -> Request:
        """One whose answer, unless there is a better one, is that the daemon ended."""
        return cls(time.monotonic(), trio.Event(), refused("the daemon is stopping"))

    def answer(self, result: ReloadResult) -> ReloadStatus:
        """Tell whoever asked."""
        self.result = result
        self.done.set()
        seconds = round(time.monotonic() - self.begin, 3)
        return ReloadStatus(**msgspec.structs.asdict(result), time_ns=time.time_ns(), seconds=seconds)


def refused(problem: str) -> ReloadResult:
    """Nothing was done."""
    return ReloadResult(ok=False, problems=(problem,))


def unchangeable(old: Config, new: Config) -> tuple[Config, tuple[str, ...]]:
    """The new configuration with what only a start can change as it was, and notes about that."""
    notes = []
    agent = new.agent
    for key in ("user", "stats"):
        before, now = getattr(old.agent, key), getattr(agent, key)
        if before != now:
            notes.append(f"agent.{key}: takes effect at the next start")
            agent = msgspec.structs.replace(agent, **{key: before})
    if old.agent.external.group != agent.external.group:
        # Only root can join a group.
        notes.append("agent.external.group: takes effect at the next start")
        external = msgspec.structs.replace(agent.external, group=old.agent.external.group)
        agent = msgspec.structs.replace(agent, external=external)
    if old.scheduler != new.scheduler:
        notes.append("scheduler: takes effect at the next start")
    return msgspec.structs.replace(new, agent=agent, scheduler=old.scheduler), tuple(notes)
