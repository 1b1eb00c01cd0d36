"""Which metrics are measured on this host: those that the wire serves and those that some sink takes from here."""

from __future__ import annotations

from collections.abc import Callable

from rezolus.config import LOCAL, Config


def wanted_by(config: Config) -> Callable[[str], bool]:
    """Whether the metric of a name is to be sampled."""
    selections = [config.agent.metrics]
    selections += [sink.metrics for sink in config.sinks.values() if LOCAL in sink.source]
    return lambda name: any(selection.wants(name) for selection in selections)
