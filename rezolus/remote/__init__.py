"""Readings from elsewhere: agents and Prometheus endpoints, over HTTP."""

from rezolus.remote.source import RemoteSource
from rezolus.remote.status import RemoteStatus

__all__ = ["RemoteSource", "RemoteStatus"]
