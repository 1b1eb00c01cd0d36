from __future__ import annotations

import os
from pathlib import Path

import pytest

from rezolus import definitions
from rezolus.errors import UserError


def test_patterns_stand_for_their_files_in_order_and_each_file_once(tmp_path: Path) -> None:
    for name in ("b.rzl", "a.rzl", "[odd].rzl"):
        (tmp_path / name).write_text("")
    found = definitions.find_files(
        [tmp_path / "b.rzl", f"{tmp_path}/*.rzl", tmp_path / "[odd].rzl", tmp_path / "no*.rzl"]
    )
    assert [Path(path).name for path in found] == ["b.rzl", "[odd].rzl", "a.rzl", "no*.rzl"]


def test_what_cannot_be_read_is_told_apart_from_what_can(tmp_path: Path) -> None:
    good, latin, huge = tmp_path / "good.rzl", tmp_path / "latin.rzl", tmp_path / "huge.rzl"
    good.write_text("# Grüße\n", encoding="utf-8")
    latin.write_bytes(b"# Gr\xfc\xdfe\n")
    huge.touch()
    os.truncate(huge, definitions.MAXIMUM_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.rzl")
    read = definitions.read_files([good, latin, tmp_path / "none.rzl", tmp_path, huge, tmp_path / "pipe.rzl"])
    assert dict(read.texts) == {str(good): "# Grüße\n"}
    assert [str(problem) for problem in read.unreadable] == [
        f"{latin}: is not UTF-8 text: byte 4 is 0xfc",
        f"{tmp_path}/none.rzl: no such file or directory",
        f"{tmp_path}: is a directory; name its files: {tmp_path}/*.rzl",
        f"{huge}: file too large",
        f"{tmp_path}/pipe.rzl: not a regular file",
    ]
    with pytest.raises(UserError, match=r"(?s)latin.*none.*huge"):
        read.complete()


def test_used_files_are_read_relative_to_the_file_that_uses_them(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "tables.rzl").write_text("table parity(n) -> parity { even: 0 odd: 1 }\n")
    text = 'use "shared/tables.rzl"\nuse "shared/none.rzl"\n'
    parsed = definitions.parse({str(tmp_path / "main.rzl"): text})
    assert [module.source.path for module in parsed.used.values()] == [f"{tmp_path}/shared/tables.rzl"]
    assert [item.code for item in parsed.diagnostics] == ["unknown-file"]
