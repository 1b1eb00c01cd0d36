"""What there is to say of a remote source."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["connecting", "up", "down"]


class RemoteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A remote source now; counts since the start."""

    name: str
    url: str
    protocol: Literal["auto", "msgpack", "prometheus"]
    """What it speaks; `auto` until that is known."""
    state: State
    error: str = ""
    """Why it is down: a sentence."""
    warnings: tuple[str, ...] = ()
    """What is odd about its last answer: sentences."""
    format: str = ""
    """Of its answers: `v1`, `v2`, `v3`, `text` or `openmetrics`."""
    version: str = ""
    """Of the agent there."""
    fetched: int = 0
    """Readings that came, the first contact included."""
    failed: int = 0
    """Attempts that brought none."""
    repeated: int = 0
    """Of those fetched, the same as the one before and therefore not passed on: the agent answers from memory."""
    skipped: int = 0
    """Ticks that passed while it was still being waited for, or not tried because it could not be reached or read just before."""
    contacts: int = 0
    """How often it was found after it had not been there."""
    last_fetch_ns: int = 0
    """When the last reading came, by our clock, ns since the Unix epoch; 0 for never."""
    fetch_seconds: float = 0.0
    """How long that took."""
    bytes: int = 0
    """Size of the last answer."""
    counters: int = 0
    gauges: int = 0
    histograms: int = 0
