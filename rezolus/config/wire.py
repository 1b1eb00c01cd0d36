"""A configuration as bytes: from the loader, which reads the file, to the daemon, which may not be able to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rezolus.config.structures import Config


def to_wire(config: Config) -> bytes:
    """What `from_wire` reads back as an equal configuration (msgpack)."""
    return msgspec.msgpack.encode(config, enc_hook=_encode)


def from_wire(body: bytes) -> Config:
    """The configuration in `body`; msgspec.DecodeError for what `to_wire` did not write."""
    return msgspec.msgpack.decode(body, type=Config, dec_hook=_decode)


def _encode(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a configuration holds a {type(value).__name__}")


def _decode(kind: type[Any], value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"a configuration holds a {kind.__name__}")
