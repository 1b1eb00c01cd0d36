"""Positions in C lead back to .rzl lines."""

from __future__ import annotations

from rezolus.bpf.lines import NOWHERE, Place, map_lines

TEXT = """struct a { int b; };
#line 7 "one.rzl"
x = 1;
y
 = 2;
  #line 9
z = 3;
#line 1 "two.rzl"
w = 4;
"""


def test_a_directive_holds_until_the_next_one() -> None:
    source = map_lines(TEXT)
    assert source.place(1) == NOWHERE
    assert [source.place(line) for line in (3, 4, 5)] == [Place("one.rzl", 7)] * 3
    assert source.place(7) == Place("one.rzl", 9)
    assert source.place(9) == Place("two.rzl", 1)
    assert source.place(99) == source.place(0) == NOWHERE
    assert (source.source(4), source.source(99)) == ("y", "")


def test_the_compiler_sees_its_own_line_numbers() -> None:
    lines = map_lines(TEXT).text.split("\n")
    assert len(lines) == len(TEXT.split("\n"))
    assert [line for line in lines if line.startswith("#line")] == [
        '#line 3 "unit.c"',
        '#line 7 "unit.c"',
        '#line 9 "unit.c"',
    ]
