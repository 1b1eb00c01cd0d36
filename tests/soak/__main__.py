"""`python -m tests.soak SECONDS`: a table over time and a verdict; exit status 1 when something grows."""

from __future__ import annotations

import os
import sys

from rezolus.errors import UserError
from tests.soak.held import growing, heading, line, verdict
from tests.soak.run import soak


def main() -> int:
    """Run it as root."""
    if os.geteuid() != 0:
        print("soak: a daemon with eBPF programs is watched: run it as root", file=sys.stderr)
        return 2
    try:
        seconds = float(sys.argv[1])
    except (IndexError, ValueError):
        print("usage: python -m tests.soak SECONDS", file=sys.stderr)
        return 2
    print(heading(), flush=True)
    try:
        samples, done = soak(lambda held: print(line(held), flush=True), seconds=seconds)
    except (AssertionError, OSError, UserError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    print("; ".join(f"{number} {what}" for what, number in done.items()))
    print(verdict(samples))
    return 1 if growing(samples) else 0


if __name__ == "__main__":
    sys.exit(main())
