"""The documentation tells the truth: its examples compile, its outputs are real, its links lead somewhere, its tables are complete."""

from __future__ import annotations

import itertools
import re
import shlex
import tempfile
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import click
import msgspec
import pytest
import tomli

from dsl import CODES, CompileError, Diagnostic, check_files, format_text, parse_files, render_all, run_tests
from dsl.syntax.tokens import MAXIMUM_LENGTH
from rezolus.cli import COMMANDS, rezolus
from rezolus.config import (
    SINK_TYPES,
    AgentConfig,
    Config,
    ConfigError,
    ExternalConfig,
    LogConfig,
    SamplerConfig,
    SchedulerConfig,
    Selection,
    SourceConfig,
    parse,
)
from tests import needs, pages
from tests.pages import DOCS, PAGES, ROOT, Block

ERRORS = DOCS / "errors.md"
ALL = [block for page in PAGES for block in pages.blocks(page)]
GOOD = [block for block in ALL if block.info[:1] == ("rzl",) and "wrong" not in block.info and not block.file]
WRONG = [(block, out) for page in PAGES for block, out in pages.wrong_examples(page)]


def ids(block: Block) -> str:
    return block.place


@pytest.fixture(autouse=True)
def _kernel_types() -> None:
    if not Path("/sys/kernel/btf/vmlinux").exists():
        needs.cannot_run("needs a kernel with type information in /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)")


# Examples


def diagnostics(text: str) -> tuple[Diagnostic, ...]:
    try:
        return check_files(pages.parsed(text), pages.facts()).diagnostics
    except CompileError as error:
        return error.diagnostics


@pytest.mark.parametrize("block", GOOD, ids=ids)
def test_every_example_that_is_not_called_wrong_has_no_errors_and_the_standard_form(block: Block) -> None:
    text = pages.as_file(block)
    assert format_text(block.place, text) == text
    if "fragment" in block.info:
        return
    found = [item for item in diagnostics(text) if item.code not in {"never-updated", "event-refused"}]
    assert render_all(found) == ""


@pytest.mark.parametrize("block", [block for block in GOOD if "\ntest " in block.text], ids=ids)
def test_the_tests_in_examples_pass(block: Block) -> None:
    outcomes = list(run_tests(check_files(pages.parsed(block.text), pages.facts()).unit))
    assert [outcome.test.name for outcome in outcomes if not outcome.passed] == []


@pytest.mark.parametrize(("block", "out"), WRONG, ids=lambda block: block.place)
def test_the_messages_under_wrong_examples_are_what_the_compiler_says(block: Block, out: Block) -> None:
    """When this fails: `python -m tests.pages` writes the new messages."""
    code = pages.code_before(block)
    assert out.info == ("text",)
    assert out.text == pages.messages(block.text, code=code)
    assert f"[{code}]" in out.text or block.page != ERRORS


# Errors


def test_every_code_has_its_place_in_the_page_of_errors() -> None:
    headings = re.findall(r"^### `(.*)`$", ERRORS.read_text(), re.MULTILINE)
    assert headings == list(CODES)


def test_every_code_is_explained_there_as_in_the_terminal() -> None:
    page = ERRORS.read_text()
    assert [code for code, text in CODES.items() if f"### `{code}`\n\n{text}\n" not in page] == []


def test_every_code_has_an_example_that_gets_it() -> None:
    shown = {pages.code_before(block) for block, _ in WRONG if block.page == ERRORS}
    assert set(CODES) - shown == {"too-large"}


def test_a_file_that_cannot_be_shown_as_an_example_is_too_large() -> None:
    found = parse_files({"example.rzl": "#" * (MAXIMUM_LENGTH + 1)}, lambda _: "").diagnostics
    assert [item.code for item in found] == ["too-large"]
    assert f"{MAXIMUM_LENGTH:,}" in ERRORS.read_text()


def test_a_right_example_does_not_get_the_code_that_it_stands_under() -> None:
    for block in pages.blocks(ERRORS):
        if block.info == ("rzl",):
            assert pages.code_before(block) not in {item.code for item in diagnostics(block.text)}, block.place


# Commands


def parse_command(line: str) -> None:
    """Let click read a command line as if it were called; raises ClickException."""
    words = shlex.split(line.split(" | ", maxsplit=1)[0], comments=True)[1:]
    context = click.Context(rezolus, info_name="rezolus")
    name, command, rest = rezolus.resolve_command(context, words)
    assert command is not None
    command.make_context(name, rest, parent=context)


def command_lines() -> Iterator[tuple[Block, str]]:
    for block in ALL:
        if block.info[:1] == ("console",):
            for shown in pages.commands(block):
                line = re.sub(r"^(sudo )?(\.venv/bin/)?", "", shown).removesuffix(" &")
                if line.startswith("rezolus "):
                    yield block, line


@pytest.mark.parametrize(
    ("block", "line"), list(command_lines()), ids=lambda item: item if isinstance(item, str) else ""
)
def test_every_command_shown_exists_with_its_options(block: Block, line: str) -> None:
    try:
        parse_command(line)
    except click.ClickException as error:
        pytest.fail(f"{block.place}: {line}: {error.format_message()}")


def test_every_command_is_shown_somewhere() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in COMMANDS if f"rezolus {name}" not in text] == []


def test_every_command_in_running_text_exists_with_its_options() -> None:
    """Arguments may be left out there; FILE alone is a configuration."""
    wrong = []
    for page in PAGES:
        for line in re.findall(r"`(?:sudo )?(rezolus [^`\n]+)`", _without_code(page.read_text())):
            shown = line.replace("rezolus FILE", "rezolus agent FILE").replace("--pid N", "--pid 7")
            try:
                parse_command(shown)
            except (click.MissingParameter, click.BadOptionUsage):
                continue
            except click.ClickException as error:
                wrong.append(f"{page.name}: {line}: {error.format_message()}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_outputs_of_commands_are_real(page: Path) -> None:
    """When this fails: `python -m tests.pages` writes the new outputs."""
    with tempfile.TemporaryDirectory() as folder:
        for block, true in pages.run_console(page, Path(folder)):
            assert block.text == true, block.place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_of_make_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text()))
    assert named <= known


# Links


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", _without_code(page.read_text()), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(anchor)
    return found


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    pending = [ROOT / "README.md"]
    while pending:
        page = pending.pop()
        if page in seen:
            continue
        seen.add(page)
        linked = (page.parent / name for name in re.findall(r"\]\(([^)#\s:]+\.md)", page.read_text()))
        pending.extend(target.resolve() for target in linked if target.exists())
    assert {str(page.relative_to(ROOT)) for page in set(PAGES) - seen} == set()


def test_paths_of_files_in_running_text_exist() -> None:
    """`dsl/check/unit.py`, `probes/tcp.rzl`: what looks like a file of this project is one."""
    path = re.compile(r"`((?:bpf|config|docs|dsl|examples|probes|rezolus|tests)/[\w./-]+)`")
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        for name in path.findall(page.read_text())
        if not (ROOT / name).exists()
    ]
    assert missing == []


# Configuration

CONFIGURATION = DOCS / "configuration.md"


def documented_keys() -> dict[str, dict[str, str]]:
    """Table heading to keys and defaults: `### [agent]` and the rows under it."""
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in CONFIGURATION.read_text().splitlines():
        title = re.match(r"#+ .*`\[(.+)\]`", line)
        row = re.match(r"\| `([\w.]+)` \| (.*?) \|", line)
        if title:
            heading = title[1]
        elif line.startswith("#"):
            heading = ""
        elif row and heading:
            found.setdefault(heading, {})[row[1]] = row[2].strip("`")
    return found


def keys_of(table: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(table)}


TABLES: dict[str, type[msgspec.Struct]] = {
    "agent": AgentConfig,
    "log": LogConfig,
    "scheduler": SchedulerConfig,
    "defaults": SamplerConfig,
    "samplers.NAME": SamplerConfig,
    "sources.NAME": SourceConfig,
    "metrics": Selection,
    "agent.external": ExternalConfig,
}


def test_every_key_of_the_configuration_is_documented_and_no_other() -> None:
    found = {heading: set(keys) for heading, keys in documented_keys().items()}
    common = found.pop("sinks.NAME")
    sinks = {f"sinks.NAME: {name}" for name in SINK_TYPES}
    assert set(found) == {*TABLES, *sinks}
    for heading, table in TABLES.items():
        assert found[heading] == keys_of(table), heading
    for name, table in SINK_TYPES.items():
        assert found[f"sinks.NAME: {name}"] | (common & keys_of(table)) == keys_of(table), name
    assert common - {"type"} <= set.intersection(*map(keys_of, SINK_TYPES.values()))


def test_the_defaults_in_the_tables_are_those_of_the_code() -> None:
    """A documented default, put into a file, changes nothing."""
    tables = {heading: table for heading, table in TABLES.items() if "NAME" not in heading}
    for name, sink_table in SINK_TYPES.items():
        tables[f"sinks.NAME: {name}"] = sink_table
    for heading, table in tables.items():
        sink = heading.partition(": ")[2]
        name = "sinks.x" if sink else heading
        lines = [f'type = "{sink}"'] if sink else []
        lines += [f"{k} = {v}" for k, v in documented_keys()[heading].items() if not v.startswith("none")]
        document = tomli.loads(f"[{name}]\n" + "\n".join(lines))
        value = reduce(lambda table, key: table[key], name.split("."), document)
        assert _read(table, value, sink) == _read(table, {}, sink), heading


def _read(table: type[msgspec.Struct], value: dict[str, object], sink: str) -> msgspec.Struct:
    from rezolus.tables import TableReader

    reader = TableReader()
    found = reader.table(value, "x", table, skip=("type",) if sink else ())
    assert reader.problems == []
    return found


@pytest.mark.parametrize("block", [block for block in ALL if block.info[:1] == ("toml",)], ids=ids)
def test_every_configuration_shown_is_one(block: Block, tmp_path: Path) -> None:
    """Read as the program reads it; only the definitions that it names need not be here."""
    problems: tuple[str, ...] = ()
    try:
        parse(block.text, tmp_path / "shown.toml", form=None)
    except ConfigError as error:
        problems = error.problems
    assert [text for text in problems if not text.startswith("agent.probes: no file matches")] == []


def test_the_messages_in_troubleshooting_are_those_of_the_program() -> None:
    """Of each message that a table quotes, some words in a row stand in the program."""
    files = [*(ROOT / "rezolus").rglob("*.py"), *(ROOT / "dsl").rglob("*.py"), ROOT / "config" / "install.sh"]
    program = " ".join(file.read_text() for file in files)
    page = (DOCS / "troubleshooting.md").read_text()
    first_cells = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    quoted = [text for cell in first_cells for text in re.findall(r"`([^`]+)`", cell)]
    sentences = [words for text in quoted if len(words := text.split()) > 3]
    assert len(sentences) > 20
    assert [" ".join(words) for words in sentences if not any(part in program for part in pairs(words))] == []


def pairs(words: list[str]) -> Iterator[str]:
    """Each two words in a row that are not too common."""
    return (f"{one} {other}" for one, other in itertools.pairwise(words) if len(one + other) > 6)


def test_the_page_of_the_exporter_names_its_keys() -> None:
    table = (DOCS / "exporter.md").read_text().partition("## Keys\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {"type", *keys_of(SINK_TYPES["exporter"])}


def test_the_top_level_tables_are_named() -> None:
    names = {field.name for field in msgspec.structs.fields(Config)} - {"path", "probes", "warnings"}
    text = CONFIGURATION.read_text()
    assert [name for name in names if f"`[{name}" not in text] == []


def test_a_broken_link_and_a_wrong_anchor_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `page`, here\n\n```text\n# no heading\n```\n")
    assert anchors(page) == {"a-page-here"}
