"""Running `rezolus` as its users do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def rezolus(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished command; output goes to pipes."""
    command = [sys.executable, "-m", "rezolus", *map(str, arguments)]
    own = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **own, **environment}
    )
