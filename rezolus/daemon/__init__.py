"""The daemon: sources of readings, the configured sinks, and the order in which they start, change and stop."""

from rezolus.daemon.core import Daemon, Signals
from rezolus.daemon.ensemble import Timing
from rezolus.daemon.reload import reread_file
from rezolus.daemon.services import Service, ServiceRun

__all__ = ["Daemon", "Service", "ServiceRun", "Signals", "Timing", "reread_file"]
