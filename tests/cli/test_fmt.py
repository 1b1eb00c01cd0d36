import os
from pathlib import Path

import pytest

from rezolus.cli import rezolus
from rezolus.cli.errors import run_reporting

UGLY = "sampler  s{counter a}"
NEAT = "sampler s {\n    counter a\n}\n"


def fmt(*arguments: str | Path) -> int:
    return run_reporting(lambda: rezolus.main(["fmt", *map(str, arguments)], standalone_mode=False))


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    file = tmp_path / "ugly.rzl"
    file.write_text(UGLY)
    return file


def test_a_file_is_rewritten_in_place_with_its_mode(ugly: Path) -> None:
    ugly.chmod(0o640)
    assert fmt(ugly) == 0
    assert ugly.read_text() == NEAT
    assert ugly.stat().st_mode & 0o777 == 0o640
    assert os.listdir(ugly.parent) == ["ugly.rzl"]


def test_a_neat_file_is_not_touched(ugly: Path) -> None:
    ugly.write_text(NEAT)
    before = ugly.stat()
    assert fmt(ugly) == 0
    assert (ugly.stat().st_ino, ugly.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_check_lists_what_is_not_neat_and_changes_nothing(ugly: Path, capsys: pytest.CaptureFixture[str]) -> None:
    neat = ugly.with_name("neat.rzl")
    neat.write_text(NEAT)
    assert fmt("--check", ugly, neat) == 1
    assert capsys.readouterr().out == f"{ugly}\n"
    assert ugly.read_text() == UGLY
    assert fmt("--check", neat) == 0


def test_a_link_stays_a_link(ugly: Path) -> None:
    link = ugly.with_name("link.rzl")
    link.symlink_to(ugly.name)
    assert fmt(link) == 0
    assert link.is_symlink()
    assert ugly.read_text() == NEAT


def test_line_breaks_of_other_systems_are_replaced(ugly: Path) -> None:
    ugly.write_bytes(NEAT.replace("\n", "\r\n").encode())
    assert fmt("--check", ugly) == 1
    assert fmt(ugly) == 0
    assert ugly.read_bytes() == NEAT.encode()


def test_files_with_errors_are_left_alone_and_the_others_are_formatted(
    ugly: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, binary, missing = (ugly.with_name(name) for name in ("wrong.rzl", "binary.rzl", "missing.rzl"))
    wrong.write_text("sampler 3 {}\n")
    binary.write_bytes(b"sampler \xff")
    assert fmt(wrong, binary, missing, ugly) == 1
    assert wrong.read_text() == "sampler 3 {}\n"
    assert ugly.read_text() == NEAT
    said = capsys.readouterr().err
    assert f"{wrong}:1:9: error[syntax]: expected a name, found the number `3`" in said
    assert f"error: {binary}: not UTF-8 text: byte 8 is 0xff" in said
    assert f"error: {missing}: no such file or directory" in said
    assert "Traceback" not in said
