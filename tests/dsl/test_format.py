from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given

from dsl.diagnostics import CompileError, Diagnostics, render_all
from dsl.source import Source
from dsl.syntax import ast
from dsl.syntax.dump import dump
from dsl.syntax.format import format, format_text  # noqa: A004
from dsl.syntax.parse import parse
from tests import strategies


def parsed(text: str) -> ast.Module:
    diags = Diagnostics()
    module = parse(Source("t.rzl", text), diags)
    assert module is not None, render_all(diags.items) + "\n" + text
    return module


def assert_formats(text: str) -> None:
    """Formatting keeps the tree and the comments, and a second time changes nothing."""
    module = parsed(text)
    formatted = format(module)
    again = parsed(formatted)
    assert dump(again) == dump(module)
    assert Counter(comment.text for comment in again.comments) == Counter(comment.text for comment in module.comments)
    assert format(again) == formatted


@given(strategies.modules)
def test_a_formatted_tree_parses_to_the_same_tree(module: ast.Module) -> None:
    text = format(module)
    again = parsed(text)
    assert dump(again) == dump(module)
    assert format(again) == text


@given(strategies.commented_files())
def test_comments_survive_anywhere_and_formatting_is_a_fixed_point(text: str) -> None:
    assert_formats(text)


@pytest.mark.parametrize("file", strategies.FILES, ids=lambda file: file.name)
def test_realistic_files_survive_formatting(file: Path) -> None:
    assert_formats(file.read_text())


@pytest.mark.parametrize("file", strategies.FILES, ids=lambda file: file.name)
def test_line_breaks_of_other_systems_are_accepted(file: Path) -> None:
    text = file.read_text()
    assert format_text("t.rzl", text.replace("\n", "\r\n")) == format_text("t.rzl", text)


@given(strategies.anything)
@example("sampler s { counter\n# inside\nx }")
def test_whatever_parses_survives_formatting(text: str) -> None:
    if parse(Source("t.rzl", text), Diagnostics()) is not None:
        assert_formats(text)


def check(text: str, expected: str) -> None:
    assert format_text("t.rzl", text) == expected
    assert format_text("t.rzl", expected) == expected


def test_spaces_are_evened_out_and_columns_are_not_aligned() -> None:
    check(
        'sampler  s"S"{\n\n\n  counter   a   by cpu{k:x|y}\n  histogram bb ns    "B"\n\n\n\n  state t:ns by task}',
        'sampler s "S" {\n\n    counter a by cpu { k: x | y }\n    histogram bb ns "B"\n\n    state t: ns by task\n}\n',
    )


def test_comments_stay_where_they_are() -> None:
    text = """\
# about the file

rzl 1  # the version

# about the sampler
sampler s {  # behind the brace
    # about the metric
    counter a  # behind the metric

    # about the handler
    on e(x) {  # behind its brace
        a += 1  # behind the statement
        # at the end of the block
    }  # behind the end
    # at the end of the sampler
}

# at the end of the file
"""
    check(text, text)


def test_a_comment_inside_of_a_line_that_is_joined_comes_before_it() -> None:
    check(
        "sampler s {\n    counter a\n        # why\n        by cpu\n}\n",
        "sampler s {\n    # why\n    counter a by cpu\n}\n",
    )


def test_small_blocks_stay_on_the_line_they_were_written_on() -> None:
    text = """\
sampler s {
    on e(x) { a += 1 }
    on f() {}
    on sample 99 hz {}
    on g(x) {
        if x { a += 1 } else { a += 2 }
        if x {
            a += 1
        }
        if let t = take s[x] { h << t }
    }
}
"""
    check(text, text)


def test_two_statements_of_one_line_are_parted() -> None:
    check(
        "sampler s { on e(x) { a += 1 b += 2 } }",
        "sampler s {\n    on e(x) {\n        a += 1\n        b += 2\n    }\n}\n",
    )


def test_long_tables_are_wrapped() -> None:
    calls = ", ".join(f"syscall_number_{index}" for index in range(8))
    check(
        f"table t(nr: syscall) -> op {{ many: {calls} other: else }}",
        "table t(nr: syscall) -> op {\n"
        "    many: syscall_number_0, syscall_number_1, syscall_number_2, syscall_number_3, syscall_number_4,\n"
        "            syscall_number_5, syscall_number_6, syscall_number_7\n"
        "    other: else\n"
        "}\n",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(a)+(b*c)", "a + b * c"),
        ("(a+b)*c", "(a + b) * c"),
        ("a-(b-c)-d", "a - (b - c) - d"),
        ("a&b==c", "a & (b == c)"),
        ("a|b|c&d", "a | b | (c & d)"),
        ("a||b&&c", "a || (b && c)"),
        ("a<<b+1", "a << (b + 1)"),
        ("(x as u32).y", "(x as u32).y"),
        ("x as u32.y", "(x as u32).y"),
        ("(a+b)as ns", "(a + b) as ns"),
        ("-(-x)", "-(-x)"),
        ("s[k]or 0", "s[k] or 0"),
        ("1+(s[k]or 0)", "1 + (s[k] or 0)"),
        ("cgroup of(p)", "cgroup of p"),
        ("a.( x|y )", "a.(x | y)"),
        ('m."Active(anon)"', 'm."Active(anon)"'),
        ('m."plain"', "m.plain"),
        ("0xFF+0x0fKiB", "0xFF + 0x0fKiB"),
        ("if a then b else if c then d else e", "if a then b else if c then d else e"),
    ],
)
def test_expressions_get_the_parentheses_that_a_reader_needs(text: str, expected: str) -> None:
    check(f"const x = {text}", f"const x = {expected}\n")


def test_an_empty_file_stays_empty() -> None:
    check("", "")
    check("\n\n", "")


def test_a_text_with_errors_is_not_formatted() -> None:
    with pytest.raises(CompileError, match=r"t\.rzl:1:9: error\[syntax\]"):
        format_text("t.rzl", "sampler 3")
