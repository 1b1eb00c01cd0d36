"""Every example gets the code it stands for, and nothing is wrong with what is given as right."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest

from dsl import CODES, CompileError, as_file, check_files, examples, parse_files
from dsl.btf import Btf
from dsl.facts import Capability, TargetFacts

MERELY_SIZE = {"too-deep", "too-large"}
"""A text that gets these is no example for a reader."""


@cache
def facts() -> TargetFacts:
    btf = Btf.parse(Path("/sys/kernel/btf/vmlinux").read_bytes())
    return TargetFacts.for_btf(btf, release="test")


def target_of(code: str) -> TargetFacts:
    """What the kernel must be like for the example to be wrong."""
    no = Capability("no", "refused by the kernel")
    if code == "event-refused":
        return dataclasses.replace(facts(), capabilities={"fentry": no, "kprobe": no})
    if code == "no-cgroups":
        return dataclasses.replace(facts(), btf=without(b"sched_task_group"))
    return facts()


def without(name: bytes) -> Btf:
    """The kernel's BTF as if nothing in it were called `name`."""
    assert facts().btf is not None
    data = Path("/sys/kernel/btf/vmlinux").read_bytes()
    return Btf.parse(data.replace(b"\0" + name + b"\0", b"\0" + b"_" * len(name) + b"\0"))


def missing(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def codes(text: str, target: TargetFacts) -> set[str]:
    parsed = parse_files({"example.rzl": as_file(text)}, missing)
    try:
        found = check_files(parsed, target).diagnostics
    except CompileError as error:
        found = error.diagnostics
    return {item.code for item in found}


def test_every_code_has_an_example_and_every_example_a_code() -> None:
    assert set(examples()) == set(CODES) - MERELY_SIZE


@pytest.mark.parametrize("code", examples())
def test_the_wrong_text_gets_the_code_and_the_right_one_does_not(code: str) -> None:
    example, target = examples()[code], target_of(code)
    assert code in codes(example.wrong, target)
    # Lines of a sampler need not update every metric they declare.
    assert codes(example.right, target) <= ({"never-updated"} - {code})
