"""What `/status` says: the agent, and beside it the sources elsewhere, the sinks, and the last reload."""

from __future__ import annotations

from typing import Any

import msgspec

from rezolus.agent.status import AgentStatus
from rezolus.daemon.core import Daemon
from rezolus.daemon.feeds import Reporting
from rezolus.daemon.outlets import Outlet
from rezolus.daemon.reload import ReloadStatus
from rezolus.outputs import type_of
from rezolus.remote.status import RemoteStatus


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
    """Readings it was too slow to take."""
    waiting: int = 0
    """Readings it has not taken yet."""
    failure: str = ""
    """Why it does not run, or not all of it."""
    statistics: dict[str, Any] = {}
    """What it counts itself."""


class DaemonStatus(AgentStatus, frozen=True, kw_only=True, omit_defaults=True):
    """The daemon as a whole."""

    remotes: tuple[RemoteStatus, ...] = ()
    """The sources elsewhere."""
    sinks: tuple[SinkStatus, ...] = ()
    reload: ReloadStatus | None = None
    """How the last one went."""


def daemon_status(daemon: Daemon, agent: AgentStatus) -> DaemonStatus:
    """Everything there is to say now."""
    return DaemonStatus(
        **{name: getattr(agent, name) for name in agent.__struct_fields__},
        remotes=remote_statuses(daemon),
        sinks=tuple(sink_status(outlet) for outlet in daemon.ensemble.outlets.values()),
        reload=daemon.last_reload,
    )


def remote_statuses(daemon: Daemon) -> tuple[RemoteStatus, ...]:
    """The sources elsewhere."""
    sources = [feed.source for feed in daemon.ensemble.feeds]
    return tuple(source.status() for source in sources if isinstance(source, Reporting))


def sink_status(outlet: Outlet) -> SinkStatus:
    """One sink."""
    stream = outlet.stream.statistics()
    return SinkStatus(
        name=outlet.name,
        type=type_of(outlet.config),
        sources=outlet.config.source,
        interval_seconds=outlet.config.interval / 1e9,
        running=not outlet.trouble.text and not outlet.done.is_set(),
        delivered=stream.delivered,
        lost=stream.lost,
        waiting=stream.waiting,
        failure=outlet.trouble.text,
        statistics=msgspec.to_builtins(outlet.sink.statistics()),
    )
