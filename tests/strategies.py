"""Hypothesis strategies for the language: trees of every node, and texts from proper to hopeless.

A new construct belongs here as well: the properties in `tests/dsl` then cover it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from hypothesis import strategies as st

from dsl.source import Source, Span
from dsl.syntax import ast
from dsl.syntax.grammar import RESERVED, load_grammar
from dsl.syntax.tokens import SUFFIXES

DATA = Path(__file__).parent / "dsl" / "data"
FILES = sorted(DATA.glob("*.rzl"))

HERE = Span(Source("generated", ""), 0, 0)
"""The place of every generated node: nothing was written anywhere."""

_KEYWORDS = load_grammar().keywords
_SOFT = sorted(word for word, terminal in _KEYWORDS.items() if terminal not in RESERVED)

plain_names = st.from_regex(r"[a-z_][a-z0-9_]{0,7}", fullmatch=True).filter(
    lambda name: name not in _KEYWORDS and name != "task"
)
"""Names that are keywords nowhere."""
any_words = st.one_of(plain_names, st.sampled_from(sorted(_KEYWORDS)))
"""For fields, labels and their values, which may be called anything."""
names = st.one_of(plain_names, st.sampled_from([word for word in _SOFT if word not in {"cgroup", "of"}]))
"""For variables, metrics and parameters."""
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[chr(code) for code in (*range(32), 127)]))
strings = st.one_of(texts, st.sampled_from(["", 'a"b', "a\\", "tab\there", "line\nbreak", "# no comment", "{", "}"]))
naturals = st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1))

numbers = st.builds(ast.Number, st.just(HERE), naturals, st.sampled_from(["", *SUFFIXES]))


def tuples(of: st.SearchStrategy[object], least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, min_size=least, max_size=most).map(tuple)


def places(count: int) -> tuple[Span, ...]:
    return (HERE,) * count


def node(kind: type, *parts: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """A node of a kind from strategies for its fields; places are filled in."""
    return st.builds(kind, st.just(HERE), *parts)


here = st.just(HERE)
leaves = st.one_of(
    numbers,
    node(ast.String, strings),
    st.booleans().map(lambda value: ast.Boolean(HERE, value)),
    node(ast.Name, names),
    st.just(ast.CgroupOf(HERE, None)),
)


def _fields(base: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    def field(inner: Any, found: tuple[str, ...]) -> ast.Field:
        return ast.Field(HERE, inner, found, places(len(found)))

    single = st.one_of(any_words, texts).map(lambda name: (name,))
    return st.builds(field, base, st.one_of(single, tuples(any_words, 2)))


def _index_of_name(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return node(ast.Index, node(ast.Name, names), tuples(inner, 1))


def _extended(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    index = node(ast.Index, inner, tuples(inner, 1, 2))
    take = node(ast.Take, _index_of_name(inner))
    return st.one_of(
        _fields(inner),
        index,
        take,
        node(ast.OrElse, st.one_of(index, take, node(ast.Name, names)), inner),
        node(ast.Unary, st.sampled_from("-!~"), inner),
        node(ast.Binary, st.sampled_from(get_args(ast.BinaryOp)), inner, inner),
        node(ast.Cast, inner, any_words, here),
        node(ast.After, inner, any_words, here),
        node(ast.Enclosing, inner, any_words, here, tuples(any_words, 1)),
        node(ast.CgroupOf, inner),
        node(ast.Call, names, here, tuples(inner)),
        node(ast.Conditional, inner, inner, inner),
    )


expressions = st.recursive(leaves, _extended, max_leaves=8)

arguments = node(ast.LabelArg, any_words, here, expressions)
targets = node(ast.MetricRef, names, here, tuples(expressions), tuples(arguments))
index_of_name = _index_of_name(expressions)
reads = st.one_of(node(ast.Index, expressions, tuples(expressions, 1, 2)), node(ast.Take, index_of_name))
simple_statements = st.one_of(
    node(ast.Let, names, here, expressions),
    node(ast.Assign, targets, expressions),
    node(ast.Add, targets, expressions),
    node(ast.Observe, targets, expressions),
    node(ast.Forget, index_of_name),
)


def _nested(statements: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    block = node(ast.Block, tuples(statements))

    def ifs(otherwise: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
        return st.one_of(
            node(ast.If, expressions, block, otherwise), node(ast.IfLet, names, here, reads, block, otherwise)
        )

    return ifs(st.one_of(st.none(), block, ifs(st.one_of(st.none(), block))))


statements = st.recursive(simple_statements, _nested, max_leaves=6)
blocks = node(ast.Block, tuples(statements))

params = node(ast.Param, st.one_of(names, st.just("_")), st.one_of(st.just(""), any_words))


def _event(kind: ast.EventKind) -> st.SearchStrategy[object]:
    symbolic = kind in {"user", "user_return", "usdt"}
    name = st.one_of(plain_names, texts) if symbolic else plain_names
    category: st.SearchStrategy[str] = st.just("")
    if kind in {"record", "usdt"}:
        category = name
    elif kind == "tracepoint":
        category = st.one_of(category, plain_names)

    def build(
        name: str,
        category: str,
        path: str,
        bound: tuple[ast.Param, ...],
        number: int,
        narrowed: tuple[int | None, str | None],
    ) -> ast.Event:
        counted = kind in {"sample", "perf"}
        return ast.Event(
            HERE,
            kind,
            "" if kind == "sample" else name,
            HERE,
            category,
            path if symbolic else "",
            () if counted else bound,
            number if counted else 0,
            *narrowed,
        )

    narrowings = st.one_of(st.just((None, None)), st.tuples(naturals, st.none()), st.tuples(st.none(), strings))
    return st.builds(build, name, category, strings, tuples(params), naturals, narrowings)


event_kinds: list[ast.EventKind] = list(get_args(ast.EventKind))
events = tuples(tuples(st.one_of(*map(_event, event_kinds)), 1, 2), 1, 2)
handlers: st.SearchStrategy[object] = st.deferred(
    lambda: node(
        ast.Handler, events, st.one_of(st.none(), expressions), blocks, st.one_of(st.none(), st.none(), handlers)
    )
)
limits = st.one_of(st.none(), naturals)
measures = node(
    ast.Measure,
    targets,
    events,
    events,
    st.one_of(st.just(()), events),
    st.one_of(st.none(), expressions),
    limits,
    st.one_of(st.none(), expressions),
)

labels = st.builds(
    lambda name, values: ast.LabelDecl(HERE, name, values, places(len(values))), any_words, tuples(any_words, 1, 9)
)
metrics = node(
    ast.Metric,
    st.sampled_from(["counter", "gauge", "histogram"]),
    names,
    here,
    st.one_of(st.just(""), plain_names),
    limits,
    st.one_of(st.none(), node(ast.Dimension, tuples(any_words, 1), limits)),
    tuples(labels),
    strings,
    st.one_of(st.none(), expressions, tuples(node(ast.LabelledValue, any_words, expressions), 1)),
)
states = node(ast.State, names, here, any_words, any_words, here, limits)


def _source(name: str, form: str, path: str, match: str, columns: tuple[str, ...]) -> ast.SourceDecl:
    has_path = form in {"keys", "value", "cpulist", "psi", "columns", "glob"}
    has_columns = form in {"columns", "perf"}
    return ast.SourceDecl(
        HERE,
        name,
        HERE,
        form,  # type: ignore[arg-type]  # from the list of the forms
        path if has_path else "",
        match if form == "columns" else "",
        columns if has_columns else (),
    )


forms = ["keys", "value", "cpulist", "columns", "psi", "glob", "rusage", "perf", "discards"]
sources = st.builds(_source, names, st.sampled_from(forms), strings, strings, tuples(any_words, 1))

rows = st.one_of(
    st.builds(lambda value, items: ast.TableRow(HERE, value, items, is_else=False), names, tuples(expressions, 1, 9)),
    st.builds(lambda value: ast.TableRow(HERE, value, (), is_else=True), names),
)
tables = node(ast.Table, names, here, names, st.one_of(st.just(""), any_words), any_words, tuples(rows))
functions = node(ast.Function, names, here, tuples(params), expressions)
consts = node(ast.Const, names, here, expressions)
members = st.one_of(metrics, states, sources, tables, functions, consts, handlers, measures)
samplers = node(ast.Sampler, names, here, strings, tuples(members, 0, 4))

values = st.recursive(expressions, lambda inner: node(ast.Record, tuples(st.tuples(any_words, inner))), max_leaves=4)


def _fire(
    time: ast.Expr,
    cpu: ast.Expr | None,
    current: ast.Value | None,
    event: str,
    kind: ast.EventKind,
    args: tuple[ast.Value, ...],
) -> ast.Fire:
    return ast.Fire(HERE, time, cpu, current, "" if kind == "sample" else event, HERE, kind, args)


fired_names = st.one_of(plain_names, st.builds(lambda first, second: f"{first}:{second}", plain_names, plain_names))
fires = st.builds(
    _fire,
    expressions,
    st.one_of(st.none(), expressions),
    st.one_of(st.none(), values),
    fired_names,
    st.sampled_from(event_kinds),
    tuples(values),
)
expects = st.one_of(
    st.builds(lambda target, value: ast.Expect(HERE, target, (value,), is_list=False), targets, expressions),
    st.builds(lambda target, found: ast.Expect(HERE, target, found, is_list=True), targets, tuples(expressions)),
)
tests = node(ast.Test, strings, tuples(st.one_of(node(ast.TestLet, names, values), fires, expects), 0, 4))

items = st.one_of(node(ast.Use, strings), tables, functions, consts, samplers, tests)
modules = st.builds(
    lambda version, found: ast.Module(HERE, HERE.source, version, found, ()),
    st.sampled_from([None, 1]),
    tuples(items, 0, 3),
)
"""Files that only exist as trees."""

comments = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=6).map(
    lambda text: f"# {text}\n"
)
_fragments = st.one_of(
    st.sampled_from(
        [*_KEYWORDS, *load_grammar().operators, "\n", "\n\n", " ", "\t", "\r\n", ";", ":=", "//", "/*", '"', "'", "\0"]
    ),
    plain_names,
    strings,
    comments,
    naturals.map(str),
)
soups = st.lists(_fragments, max_size=40).map(" ".join)
"""Texts of the language's words in no order."""


@st.composite
def damaged_files(draw: st.DrawFn) -> str:
    """A proper text with pieces cut out, doubled, or put in."""
    text = draw(st.sampled_from([file.read_text() for file in FILES]))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.one_of(st.just(""), st.just(text[start:end] * 2), _fragments)) + text[end:]
    return text


@st.composite
def commented_files(draw: st.DrawFn) -> str:
    """A proper text with comments and blank lines between any two of its lines and behind some."""
    lines = draw(st.sampled_from([file.read_text() for file in FILES])).splitlines()
    first = draw(st.integers(0, len(lines)))
    chosen = lines[first : first + 12]
    out = lines[:first]
    for line in chosen:
        tail = draw(st.sampled_from(["", "  # behind", " #{", '\t# "quoted']))
        out += [
            line + ("" if "#" in line else tail),
            *draw(st.lists(st.sampled_from(["", "# own", "        # far"]), max_size=2)),
        ]
    return "\n".join([*out, *lines[first + 12 :]]) + "\n"


anything = st.one_of(st.text(), soups, damaged_files(), commented_files())
"""Texts of every quality."""
