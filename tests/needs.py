"""The only way to skip a test: name what is missing.

With REZOLUS_TESTS_STRICT=1 (continuous integration sets it where it is root) a test that cannot run fails instead:
there everything can be had, and a skip would hide a defect.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

STRICT = "REZOLUS_TESTS_STRICT"
BCC = Path("/usr/lib/python3/dist-packages/bcc/__init__.py")


def cannot_run(reason: str) -> NoReturn:
    """Ends the running test because of what this machine lacks."""
    if os.environ.get(STRICT) == "1":
        pytest.fail(f"cannot run here, and {STRICT} forbids to skip: {reason}", pytrace=False)
    pytest.skip(reason)


def root() -> None:
    """The test changes what only root may change."""
    if os.geteuid() != 0:
        cannot_run("needs root")


def program(name: str, package: str) -> str:
    """The path of a program that Debian's `package` brings."""
    found = shutil.which(name)
    if found is None:
        cannot_run(f"needs the program {name} (Debian: {package})")
    return found


def prometheus_3() -> str:
    """The path of a Prometheus of version 3: that on the PATH, or `prometheus3` that the setup puts beside our Python.

    Not every distribution has one yet, so this may be skipped even where nothing else may.
    """
    for found in (Path(sys.executable).with_name("prometheus3"), shutil.which("prometheus")):
        if found is not None and Path(found).exists():
            done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            if re.search(r"prometheus, version ([3-9]|\d\d)\.", done.stdout + done.stderr):
                return str(found)
    pytest.skip("needs Prometheus 3 (Debian: prometheus of version 14 or later)")


def bpf() -> None:
    """The test loads BPF programs into the running kernel."""
    reason = _why_no_bpf()
    if reason:
        cannot_run(reason)


@cache
def _why_no_bpf() -> str:
    if os.geteuid() != 0:
        return "needs root to load BPF programs"
    if not BCC.exists():
        return f"needs BCC at {BCC} (Debian: python3-bpfcc)"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "needs a kernel with type information in /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)"
    return ""
