"""What `/status` says of the daemon; `rezolus.status` has the form."""

from __future__ import annotations

import msgspec

from rezolus.agent.report import AgentStatus
from rezolus.config import type_of
from rezolus.daemon.core import Daemon
from rezolus.daemon.feeds import Reporting
from rezolus.daemon.outlets import Outlet
from rezolus.remote.status import RemoteStatus
from rezolus.status import DaemonStatus, SinkStatus


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
    counts = msgspec.to_builtins(outlet.sink.statistics())
    return SinkStatus(
        name=outlet.name,
        type=type_of(outlet.config),
        sources=outlet.config.source,
        interval_seconds=outlet.config.interval / 1e9,
        running=not outlet.trouble.text and not outlet.done.is_set(),
        delivered=stream.delivered,
        lost=stream.lost + counts.get("lost", 0),
        waiting=stream.waiting,
        failure=outlet.trouble.text or counts.get("error", ""),
        statistics=counts,
    )
