from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import example, given

from dsl.codes import _PARSE
from dsl.diagnostics import Diagnostic, Diagnostics, render, render_all
from dsl.source import Source
from dsl.syntax import ast
from dsl.syntax.dump import dump
from dsl.syntax.errors import describe_expected
from dsl.syntax.grammar import ROLES, load_grammar
from dsl.syntax.parse import MAXIMUM_HEIGHT, parse
from dsl.syntax.tokens import MAXIMUM_LENGTH
from tests import strategies


def parsed(text: str) -> ast.Module:
    diags = Diagnostics()
    module = parse(Source("t.rzl", text), diags)
    assert module is not None, render_all(diags.items)
    return module


def errors(text: str) -> tuple[Diagnostic, ...]:
    diags = Diagnostics()
    assert parse(Source("t.rzl", text), diags) is None
    return diags.errors


def the_error(text: str) -> Diagnostic:
    (found,) = errors(text)
    return found


def in_block(statements: str) -> str:
    return f"sampler s {{\n    on e(x) {{\n{statements}\n    }}\n}}\n"


def expression(text: str) -> ast.Expr:
    (item,) = parsed(f"const x = {text}").items
    assert isinstance(item, ast.Const)
    return item.value


# Any text


@given(strategies.anything)
@example("")
@example("\ufeffrzl 1")
@example("rzl")
@example("\0")
@example("sampler s { on e { x = \U0001f600 } }")
@example("(}" * 50)
@example("{(}" * 50)
@example("é" * 9 + "\r\r")
def test_any_text_gives_a_tree_or_errors_inside_of_it(text: str) -> None:
    source, diags = Source("t.rzl", text), Diagnostics()
    module = parse(source, diags)
    assert (module is None) == diags.has_errors
    for item in diags.items:
        assert 0 <= item.span.start <= item.span.end <= len(text)
        render(item)


@pytest.mark.parametrize(
    "text",
    [
        "const x = " + "(" * 100_000,
        "const x = " + "(" * 100_000 + "1" + ")" * 100_000,
        "const x = " + "!" * 50_000 + "1",
        "const x = a" + ".b" * 20_000,
        "const x = 1" + "+1" * 20_000,
        "const x = " + "if a then b else " * 10_000 + "c",
        in_block("if a {} " + "else if a {} " * 10_000),
        "sampler s { on e {}" + " else on e {}" * 10_000 + "}",
        "{(}" * 50_000,
        "(]" * 50_000,
        "}" * 100_000,
        "sampler s {\n" + "x\n" * 50_000 + "}",
        "const x = " + "!" * 1000 + "\nx" * 50_000,
        "x { " * 50_000,
        "const x = " + "9" * 200_000,
        "\0" * 200_000,
        '"' * 200_000,
        "é " * 100_000,
        "# " * 100_000 + "\nx",
        "/*" * 100_000,
        "a" * (MAXIMUM_LENGTH + 1),
    ],
    ids=lambda text: text[:24] + "...",
)
def test_monstrous_texts_are_refused_with_few_words(text: str) -> None:
    assert 1 <= len(errors(text)) <= 50


def test_what_is_nested_as_deep_as_allowed_is_accepted() -> None:
    parsed("const x = " + "(" * 60 + "1" + ")" * 60)
    parsed("const x = 1" + " + 1" * (MAXIMUM_HEIGHT - 5))
    assert the_error("const x = 1" + " + 1" * MAXIMUM_HEIGHT).code == "too-deep"


# Trees


@pytest.mark.parametrize("file", strategies.FILES, ids=lambda file: file.name)
def test_realistic_files_parse_and_every_node_knows_its_place(file: Path) -> None:
    text = file.read_text()
    pending: list[object] = list(parsed(text).items)
    while pending:
        node = pending.pop()
        if isinstance(node, tuple):
            pending.extend(node)
        elif hasattr(node, "span"):
            assert node.span.text.strip() == node.span.text != ""
            if hasattr(node, "name_span"):
                assert node.name_span.text in {
                    getattr(node, "name", None),
                    getattr(node, "event", None),
                    node.span.text,
                }
            assert is_dataclass(node)
            pending.extend(getattr(node, field.name) for field in fields(node) if field.name != "span")


def test_a_metric_has_its_clauses_in_any_order() -> None:
    text = "sampler s { histogram h ns CLAUSES = 1 }"
    first, second = (
        " ".join(dump(parsed(text.replace("CLAUSES", clauses)).items).split())
        for clauses in ('by a, b limit 9 { k: x | y } power 5 "help"', '"help" power 5 { k: x | y, } by a, b limit 9')
    )
    assert first == second
    assert '(Metric "histogram" "h" "ns" 5 (Dimension (* "a" "b") 9)' in first


def test_a_label_may_take_its_values_from_a_table() -> None:
    (sampler,) = parsed("sampler s { counter c { op: syscall_op } }").items
    assert isinstance(sampler, ast.Sampler)
    (metric,) = sampler.members
    assert isinstance(metric, ast.Metric)
    assert [(label.name, label.values) for label in metric.labels] == [("op", ("syscall_op",))]


def test_keywords_are_names_where_the_parser_cannot_use_them() -> None:
    parsed(
        """
        sampler on {
            counter limit by cpu { state: read | on | else | if | counter, by: cpu | at }
            gauge state
            state by: ns by task
            on call return_of(from, to, value, key) when p.state == x.type + x.on.in.if.let.else {
                let at = from
                state = at
                limit{state: on, by: cpu} += 1
                by[current] = value
                to = 3
                limit[key] += 1
            }
        }
        table t(nr: syscall) -> op {
            read: read, readv
            to: sendto
            state: on, at
            at: else
        }
        """
    )


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a + b * c", '(Binary "+" (Name "a") (Binary "*" (Name "b") (Name "c")))'),
        ("a - b - c", '(Binary "-" (Binary "-" (Name "a") (Name "b")) (Name "c"))'),
        ("a & b == c", '(Binary "&" (Name "a") (Binary "==" (Name "b") (Name "c")))'),
        ("a || b && c | d", None),
        ("-a.b", '(Unary "-" (Field (Name "a") (* "b")))'),
        ("-a as u8", '(Unary "-" (Cast (Name "a") "u8"))'),
        ("s[k] or 1 + 2", '(Binary "+" (OrElse (Index (Name "s") (* (Name "k"))) (Number 1 "")) (Number 2 ""))'),
        ("cgroup of p.q", '(CgroupOf (Field (Name "p") (* "q")))'),
        ("cgroup", "(CgroupOf -)"),
        ("take s[a, b]", '(Take (Index (Name "s") (* (Name "a") (Name "b"))))'),
        ("rq after request", '(After (Name "rq") "request")'),
        ("enclosing(p, t, a.b)", '(Enclosing (Name "p") "t" (* "a" "b"))'),
        ("a.(b | c)", '(Field (Name "a") (* "b" "c"))'),
        ('m."A (b)"', '(Field (Name "m") (* "A (b)"))'),
        ("0x1F", '(Number 31 "")'),
        ("10ms", '(Number 10 "ms")'),
        ("18446744073709551615", '(Number 18446744073709551615 "")'),
        (r'"a\t\"\\\n"', r'(String "a\t\"\\\n")'),
        ("if a then b else if c then d else e", None),
    ],
)
def test_expressions_bind_as_in_c(text: str, tree: str | None) -> None:
    if tree is not None:
        assert " ".join(dump(expression(text)).split()) == tree
    else:
        expression(text)


def test_a_measurement_by_task_has_no_key() -> None:
    text = "sampler s {{ measure h from a to b by {} }}"
    by_task, by_key = (dump(parsed(text.format(key)).items) for key in ("task limit 7", "x limit 7"))
    assert "- 7 -" in " ".join(by_task.split())
    assert '(Name "x") 7 -' in " ".join(by_key.split())


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a & b == c", "write `(a & b) == c`"),
        ("a == b | c", "write `a == (b | c)`"),
        ("a & (b == c)", None),
        ("a && b == c", None),
        ("a & b << c", None),
    ],
)
def test_a_comparison_beside_a_bitwise_operator_is_doubted(text: str, hint: str | None) -> None:
    diags = Diagnostics()
    assert parse(Source("t.rzl", f"const x = {text}"), diags) is not None
    assert [(item.code, item.severity, item.hints) for item in diags.items] == (
        [("precedence", "warning", (hint,))] if hint else []
    )


# Messages


SLIPS: list[tuple[str, str, str, str, str]] = [
    ("sampler s {\n histgram x ns\n}", "unknown-keyword", "histgram", "found `histgram`", "`histogram`"),
    ("sampler s {\n counter y\n histgram x ns\n}", "unknown-keyword", "histgram", "found `histgram`", "`histogram`"),
    ("smapler s {}", "unknown-keyword", "smapler", "found `smapler`", "`sampler`"),
    (in_block("lett a = 1"), "syntax", "lett", "found `lett`", "`let`"),
    ("counter x", "misplaced-item", "counter", "belongs inside a sampler", "sampler name"),
    ('sampler s {\n use "x"\n}', "misplaced-item", "use", "inside a sampler", "`}` missing"),
    (in_block("counter c"), "misplaced-item", "counter", "inside a block", "`}` missing"),
    ("sampler s {\n let x = 1\n}", "misplaced-item", "let", "inside an event's block", "on event"),
    ("sampler", "syntax", "", "expected a name, found the end of the file", ""),
    ("sampler s { counter c by 3 }", "syntax", "3", "a dimension such as `cpu`, found the number `3`", ""),
    ("sampler s { counter c by cpu ns }", "syntax", "ns", "found `ns`", "directly behind the name"),
    ("sampler s { state x ns by task }", "syntax", "ns", "expected `:`, found `ns`", ""),
    ("const x 3", "syntax", "3", "expected `=`, found the number `3`", ""),
    ("const x = ", "syntax", "", "expected an expression, found the end of the file", ""),
    (in_block("let x: u32 = 1"), "syntax", ":", "expected `=`, found `:`", "types come from the kernel"),
    (in_block("a == 1"), "syntax", "==", "found `==`", "`=` sets"),
    (in_block("if a = 1 {}"), "syntax", "= 1", "found `=`", "`==` compares"),
    (in_block("a -= 1"), "syntax", "-", "found `-`", "`+= 1`"),
    (in_block("a++"), "syntax", "+", "found `+`", "`+= 1`"),
    (in_block("for i in x {}"), "syntax", "i in", "found `i`", "no loops"),
    (in_block("a = b and c"), "syntax", "c\n", "found `c`", "`&&`"),
    (in_block("a = if b { 1 }"), "syntax", "{ 1", "expected `then`, found `{`", "if c then a else b"),
    (in_block("a = 1 + if b then c else d"), "syntax", "if b", "expected an expression, found `if`", "parentheses"),
    (in_block("if let t = now {}"), "syntax", "now", "not the read of a state", "take s[k]"),
    (in_block("a = (b + c) or 1"), "syntax", "b + c", "before `or`", "||"),
    (in_block("forget s"), "syntax", "}", "expected `[`", ""),
    ("sampler s { on }", "syntax", "}", "expected an event", ""),
    ("sampler s { source m = fil }", "syntax", "fil", "found `fil`", "`file`"),
    ("sampler s { counter c by a by b }", "duplicate-clause", "by b", "a second `by`", ""),
    ("sampler s { counter c { a: b } { c: d } }", "duplicate-clause", "{ c: d }", "a second list of labels", ""),
    ("sampler s { counter c by a limit 5ms }", "bad-number", "5ms", "without a unit", ""),
    ("const x = 10sec", "bad-number", "10sec", "unknown suffix `sec`", "`ms`"),
    ("sampler s { on sample 99hz {} }", "bad-number", "99hz", "unknown suffix `hz`", "`99 hz`"),
    ("const x = 1.5ms", "bad-number", "1.5ms", "fraction", "smaller unit"),
    ("const x = 0xyz", "bad-number", "0xyz", "suffix `xyz`", "`ns`"),
    ("const x = 1_000", "bad-number", "1_000", "not a number", "0x1f"),
    ("const x = 18446744073709551616", "bad-number", "18446744073709551616", "64 bits", ""),
    ("use 'a'", "bad-string", "'a'", "single quotes", '`"`'),
    ('use "a\\q"', "bad-string", "\\q", "unknown escape", ""),
    ('use "a\0"', "bad-string", "\0", "control character", ""),
    ('use "a\n', "unterminated-string", '"a', "does not end on its line", ""),
    ('use "a\\"\n', "unterminated-string", '"a', "does not end on its line", ""),
    ("const x = 1; const y = 2;", "unexpected-character", ";", "2 times in this file", "white space"),
    ("const x = 1 // one", "unexpected-character", "// one", "`//` begins nothing", "`#`"),
    ("/* a\n */ const x = 1", "unexpected-character", "/* a\n */", "`/*` begins nothing", "`#`"),
    (in_block("a := 1"), "unexpected-character", ":=", "`:=` has no meaning", "`=`"),
    ("const x = 1 @@", "unexpected-character", "@", "`@`", ""),
    ("const é = 1", "unexpected-character", "é", "`é`", ""),
    ("rzl 2", "unsupported-version", "2", "no version 2", "`rzl 1`"),
    ("const x = (1", "unclosed", "(", "`(` is never closed", "`)`"),
    ("sampler s {", "unclosed", "{", "`{` is never closed", "`}`"),
    ("sampler s {}\n}", "unclosed", "}", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "at", "message", "hint"), SLIPS)
def test_a_slip_is_named_where_it_is(text: str, code: str, at: str, message: str, hint: str) -> None:
    found = the_error(text) if code != "unexpected-character" or "@@" not in text else errors(text)[0]
    assert found.code == code
    assert found.span.text != "" or at == ""
    assert text[found.span.start :].startswith(at)
    assert at or found.span.start == len(text)
    assert message in found.message
    assert hint in " ".join(found.hints)


def test_every_code_of_the_parser_has_a_case_above() -> None:
    assert set(_PARSE) - {code for _, code, _, _, _ in SLIPS} == {"precedence", "too-deep", "too-large"}


def test_a_missing_brace_is_found_by_the_indentation() -> None:
    found = the_error("sampler s {\n    on a(x) {\n        y += 1\n    on b(x) {\n        y += 2\n    }\n}\n")
    assert found.code == "unclosed"
    assert (found.span.line, found.span.column) == (2, 13)


def test_a_brace_too_many_is_found_by_the_indentation() -> None:
    found = the_error("sampler s {\n    on a(x) {\n        y += 1\n    }\n    }\n    counter z\n}\n")
    assert found.message == "`}` closes nothing"
    assert found.span.line == 5


def test_indentation_does_not_matter_where_the_braces_match() -> None:
    parsed("sampler s {\n      on a(x) {\n  if x {\n y += 1\n}\n            }\n counter y\n   }")


def test_all_errors_of_a_file_are_reported_at_once() -> None:
    text = """\
sampler first {
    counter a by
    histgram b ns
    on e(x) {
        a = = 1
        lett y = 2
        a += 1
        if x == { a += 1 }
    }
    measure b from e(x to f(x)
    source m = file "x" key
}

table t(nr) { read: read }

sampler second {
    on e(x) { a += }
    gauge c "unterminated
    state s: by task
}
tset "x" {}
"""
    assert [item.span.line for item in errors(text)] == [3, 5, 6, 8, 10, 11, 14, 17, 18, 19, 21]


def test_the_rest_of_a_file_is_not_blamed_for_one_error() -> None:
    for file in strategies.FILES:
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines):
            if line.strip().startswith(("let ", "counter ", "gauge ", "state ", "source ", "expect ")):
                damaged = [*lines[:number], line + " ]", *lines[number + 1 :]]
                found = the_error("\n".join(damaged))
                assert found.span.line == number + 1


def test_in_each_state_a_word_has_one_meaning() -> None:
    table = load_grammar().lark.parser.parser._parse_table
    for row in table.states.values():
        assert len([role for role in ROLES if role in row]) <= 1


def test_expectations_are_in_words_of_the_language() -> None:
    grammar = load_grammar()
    for row in grammar.lark.parser.parser._parse_table.states.values():
        terminals = {name for name in row if name.isupper()}
        if terminals:
            text = describe_expected(grammar, terminals)
            assert "ANON" not in text
            assert text == text.replace("_", "")
