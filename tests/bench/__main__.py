"""`python -m tests.bench [NAME...]`: all benchmarks, or those named."""

from __future__ import annotations

import importlib
import os
import sys

from tests.bench.rows import render
from tests.bench.units import others

NAMES = ("tax", "hooks", "maps", "start", "memory", "cpu", "reading", "render", "wire", "recording", "hindsight")


def main() -> int:
    """Run what was asked for; 2 when that is unknown or we are not root."""
    names = sys.argv[1:] or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"bench: no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("bench: eBPF programs are measured: run it as root", file=sys.stderr)
        return 2
    # Users have bytecode files and parser tables beside the program, which this would keep from being written.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in names:
        if disturbing := others():
            print(f"bench: figures will be off, these have eBPF programs too: {', '.join(disturbing)}", file=sys.stderr)
        print(render(importlib.import_module(f"tests.bench.{name}").run()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
