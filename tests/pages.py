"""The pages of the documentation as tests see them: blocks of code, and what commands really print.

`python -m tests.pages` writes into the pages what the compiler says about their examples today. Blocks are told apart by the
words behind the fence:

- `rzl`: a whole file without errors, in the standard form; `rzl members`: the same for what stands inside a sampler;
- `rzl fragment`: a file that lacks another one, so it is only parsed;
- `rzl wrong`: a file with an error, followed by a `text` block with what `rezolus check` prints;
- `rzl file=NAME`: a file that the `console run` blocks behind it use, `rzl append=NAME`: what is added to its end;
- `console run`: commands after `$ ` and their output, which is compared; other `console` blocks are only read.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from dsl import CompileError, Parsed, check_files, parse_files, render_all
from dsl.btf import Btf
from dsl.facts import CAPABILITIES, Capability, TargetFacts, TracepointFormats
from rezolus.agent.facts import probe
from tests.btfwriter import BtfWriter

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = (*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")), *sorted(DOCS.rglob("*.md")))
EXAMPLE = "example.rzl"
"""What an example's file is called in its messages."""

REZOLUS = Path(sys.executable).with_name("rezolus")
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    info: tuple[str, ...]
    text: str
    start: int
    """Where `text` begins in the page, in characters."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> tuple[Literal["w", "a"], str] | None:
        """The file that the block is for, and whether to write it anew or at its end."""
        for word in self.info:
            how, _, name = word.partition("=")
            if name and how in {"file", "append"}:
                return ("w" if how == "file" else "a"), name
        return None


def blocks(page: Path) -> tuple[Block, ...]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return tuple(
        Block(page, text.count("\n", 0, found.start()) + 1, tuple(found["info"].split()), found["text"], found.start(2))
        for found in _FENCE.finditer(text)
    )


def wrong_examples(page: Path) -> Iterator[tuple[Block, Block]]:
    """Each `rzl wrong` with the output behind it."""
    found = blocks(page)
    for at, block in enumerate(found):
        if block.info == ("rzl", "wrong"):
            yield block, found[at + 1]


def as_file(block: Block) -> str:
    """The text of an `rzl` block as a whole file."""
    if "members" not in block.info:
        return block.text
    body = "".join(f"    {line}".rstrip() + "\n" for line in block.text.splitlines())
    return f'sampler example "An example" {{\n{body}}}\n'


_FORMATS = {
    "sched:sched_switch": """\
name: sched_switch
ID: 300
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:char prev_comm[16];	offset:8;	size:16;	signed:0;
	field:pid_t prev_pid;	offset:24;	size:4;	signed:1;
"""
}
"""Of classic tracepoints in examples: tracefs, where the kernel has them, is for root and need not be mounted."""


@cache
def facts() -> TargetFacts:
    """This kernel's types on a host as the pages describe it: tracepoints and user space, no probes of kernel functions."""
    can = {name: Capability("yes") for name in CAPABILITIES}
    can["fentry"] = Capability("no", "refused by the kernel (operation not permitted)")
    can["kprobe"] = Capability("no", "this kernel has no kprobes")
    return dataclasses.replace(probe(binaries=("libc",)), capabilities=can, tracepoints=TracepointFormats(_FORMATS))


def without_cgroups() -> TargetFacts:
    """A kernel with a task and a tracepoint and nothing else."""
    btf = BtfWriter()
    task = btf.ptr(btf.struct("task_struct", 4, ("pid", btf.integer("int", 4, signed=True), 0)))
    btf.tracepoint("sched_process_fork", ("parent", task), ("child", task))
    return TargetFacts.for_btf(Btf.parse(btf.blob()), release="example")


def messages(text: str, *, code: str = "") -> str:
    """What `rezolus check` prints about a file; `code` because one error exists only on a kernel of its own."""
    try:
        found = check_files(parsed(text), without_cgroups() if code == "no-cgroups" else facts()).diagnostics
    except CompileError as error:
        found = error.diagnostics
    return f"{render_all(found)}\n" if found else ""


def parsed(text: str) -> Parsed:
    """An example, parsed; it can use no other file."""
    return parse_files({EXAMPLE: text}, _no_file)


def _no_file(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


def code_before(block: Block) -> str:
    """The heading that a block stands under, without its quotes."""
    head = block.page.read_text(encoding="utf-8")[: block.start]
    headings: list[str] = re.findall(r"^##+ `?(.*?)`?$", head, re.MULTILINE)
    return headings[-1]


# Commands


def commands(block: Block) -> list[str]:
    """The commands of a `console` block."""
    return [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]


def run_console(page: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """Go through a page in `folder`: write its files, run its commands; each `console run` with its true text."""
    for block in blocks(page):
        if block.file:
            mode, name = block.file
            with (folder / name).open(mode, encoding="utf-8") as file:
                file.write(block.text)
        elif block.info == ("console", "run"):
            yield block, "".join(f"$ {command}\n{_output(command, folder)}" for command in commands(block))


def _output(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    if program == "cat":
        return (folder / arguments[0]).read_text(encoding="utf-8")
    assert program == "rezolus", command
    done = subprocess.run(
        [REZOLUS, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


def main() -> None:
    """Bring the outputs in the pages up to date."""
    import tempfile

    for page in PAGES:
        true = [(out, messages(block.text, code=code_before(block))) for block, out in wrong_examples(page)]
        with tempfile.TemporaryDirectory() as folder:
            true += run_console(page, Path(folder))
        text = page.read_text(encoding="utf-8")
        for block, new in sorted(true, key=lambda pair: -pair[0].start):
            text = text[: block.start] + new + text[block.start + len(block.text) :]
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
