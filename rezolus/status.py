"""The form of what the daemon's `/status` says, and its answer to `POST /reload`; light, for who reads them."""

from __future__ import annotations

from typing import Any

import msgspec

from rezolus.agent.report import AgentStatus
from rezolus.remote.status import RemoteStatus


class ReloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a reload went."""

    ok: bool
    """Whether everything is now as the files say."""
    problems: tuple[str, ...] = ()
    """What is wrong. When definitions or configuration are, everything is as before; when a sink does not start, the rest is new."""
    changed: tuple[str, ...] = ()
    """Samplers, sinks and sources that were begun, ended or begun anew."""
    notes: tuple[str, ...] = ()
    """Worth knowing: what takes effect at the next start only, what did not run before and does not now."""


class ReloadStatus(ReloadResult, frozen=True, kw_only=True):
    """The last reload."""

    time_ns: int
    """When it ended, ns since the Unix epoch."""
    seconds: float
    """How long it took."""


class SinkStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sink."""

    name: str
    type: str
    sources: tuple[str, ...]
    interval_seconds: float
    running: bool
    """False when it is done or cannot run."""
    delivered: int
    """Readings it was given."""
    lost: int
    """Readings it was too slow to take, or could not write."""
    waiting: int = 0
    """Readings it has not taken yet."""
    failure: str = ""
    """Why it does not run, or not all of it."""
    statistics: dict[str, Any] = {}
    """What it counts itself."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a service without an agent says of itself, as far as it is shown."""

    name: str
    version: str
    remotes: tuple[RemoteStatus, ...]
    """The sources elsewhere."""


class DaemonStatus(AgentStatus, frozen=True, kw_only=True, omit_defaults=True):
    """The daemon as a whole."""

    remotes: tuple[RemoteStatus, ...] = ()
    """The sources elsewhere."""
    sinks: tuple[SinkStatus, ...] = ()
    reload: ReloadStatus | None = None
    """How the last one went."""
