"""What a recording may replace: a typing error in a path must not cost anybody a file, least of all when root makes it."""

from __future__ import annotations

import os

PARQUET = b"PAR1"


def replaceable(fd: int) -> bool:
    """Whether the open, readable file is empty or a Parquet file. Raises OSError."""
    return os.pread(fd, len(PARQUET), 0) in (b"", PARQUET)
