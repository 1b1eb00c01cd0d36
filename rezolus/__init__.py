"""Linux performance telemetry: the daemon and its tools."""

__version__ = "0.1.0"
