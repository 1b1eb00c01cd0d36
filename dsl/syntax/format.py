"""Syntax tree to canonical text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import assert_never

from dsl.diagnostics import Diagnostics
from dsl.source import Source, Span
from dsl.syntax import ast
from dsl.syntax.format_expressions import (
    braced,
    expression_pieces,
    format_expression,
    format_list,
    format_name,
    format_string,
    format_target,
    format_value,
)
from dsl.syntax.layout import Layout
from dsl.syntax.parse import parse

_WITHOUT_PARAMS = frozenset({"sample", "perf"})
_HEADER = re.compile(r"(?:\s|\N{ZERO WIDTH NO-BREAK SPACE}|#[^\n]*\n)*(rzl(?:\s|#[^\n]*\n)*[0-9]+)")
_TO_BRACE = re.compile(r'(?:[^#"{]|#[^\n]*|"(?:[^"\\]|\\.)*")*\{')


def format(module: ast.Module) -> str:  # noqa: A001  the name of what a user does
    """The one layout of a file: 4 spaces, a declaration or statement per line, comments and single blank lines kept.

    A fixed point: formatting the result changes nothing, and its tree is that of `module` but for places in the text.
    """
    return _Formatter(module).format()


def format_text(path: str, text: str) -> str:
    """`format` for a text; `path` is its name in messages. Raises `CompileError` when it does not follow the grammar."""
    diags = Diagnostics()
    module = parse(Source(path, text), diags)
    diags.stop_if_errors()
    assert module is not None
    return format(module)


class _Formatter:
    def __init__(self, module: ast.Module) -> None:
        self.module = module
        self.layout = Layout(module.source, module.comments)

    def format(self) -> str:
        if self.module.version is not None:
            found = _HEADER.match(self.module.source.text)
            start, end = found.span(1) if found else (0, 0)
            self.layout.add([f"rzl {self.module.version}"], Span(self.module.source, start, end))
        for item in self.module.items:
            self._item(item)
        return self.layout.finish()

    def _item(self, node: ast.Item | ast.Member) -> None:
        match node:
            case ast.Sampler():
                self._braces(node, [f"sampler {node.name}", *_help(node.help)], node.members)
            case ast.Test():
                self._braces(node, [f"test {format_string(node.name)}"], node.steps)
            case ast.Table():
                param = _param(node.param, node.param_type)
                self._braces(node, [f"table {node.name}({param}) -> {node.result}"], node.rows)
            case ast.Handler():
                self._handler(node)
            case _:
                self.layout.add(_declaration(node), node.span)

    def _braces(
        self,
        node: ast.Sampler | ast.Test | ast.Table,
        head: list[str],
        children: Iterable[ast.Member | ast.TestLet | ast.Fire | ast.Expect | ast.TableRow],
    ) -> None:
        found = _TO_BRACE.match(node.span.source.text, node.span.start, node.span.end)
        brace = found.end() - 1 if found else node.span.start
        self.layout.open(head, node.span, brace)
        for child in children:
            match child:
                case ast.TestLet() | ast.Fire() | ast.Expect():
                    self.layout.add(_step(child), child.span)
                case ast.TableRow():
                    self.layout.add(_row(child), child.span)
                case _:
                    self._item(child)
        self.layout.close(node.span.end)

    def _handler(self, node: ast.Handler) -> None:
        head = _on(node)
        inline = _inline(node.span, [(" ".join(head), node.body)], self.layout.room)
        if inline is not None and node.otherwise is None:
            self.layout.add([inline], node.span)
            return
        self.layout.open(head, node.span, node.body.span.start)
        last = node
        self._statements(node.body)
        while last.otherwise is not None:
            last = last.otherwise
            first, *rest = _on(last)
            self.layout.reopen([f"}} else {first}", *rest], last.body.span.start)
            self._statements(last.body)
        self.layout.close(last.span.end)

    def _statements(self, block: ast.Block) -> None:
        for node in block.statements:
            if isinstance(node, ast.If | ast.IfLet):
                self._if(node)
            else:
                self.layout.add(_simple(node), node.span)

    def _if(self, node: ast.If | ast.IfLet) -> None:
        branches = _branches(node)
        inline = _inline(node.span, [(" ".join(head), block) for head, block in branches], self.layout.room)
        if inline is not None:
            self.layout.add([inline], node.span)
            return
        for index, (head, block) in enumerate(branches):
            if index == 0:
                self.layout.open(head, node.span, block.span.start)
            else:
                self.layout.reopen([f"}} {head[0]}", *head[1:]], block.span.start)
            self._statements(block)
        self.layout.close(branches[-1][1].span.end)


def _inline(span: Span, branches: Sequence[tuple[str, ast.Block]], room: int) -> str | None:
    """A statement with blocks on one line: if it was written so, holds little, and fits."""
    if "\n" in span.text:
        return None
    parts = []
    for head, block in branches:
        simple = [_simple(node) for node in block.statements if not isinstance(node, ast.If | ast.IfLet)]
        if len(block.statements) > 1 or len(simple) < len(block.statements):
            return None
        body = " ".join(piece for pieces in simple for piece in pieces)
        parts.append(f"{head} {{ {body} }}" if body else f"{head} {{}}")
    text = " ".join(parts)
    return text if len(text) <= room else None


def _branches(node: ast.If | ast.IfLet) -> list[tuple[list[str], ast.Block]]:
    """The heads and blocks of a chain of `if ... else if ... else`."""
    found: list[tuple[list[str], ast.Block]] = []
    rest: ast.Block | ast.If | ast.IfLet | None = node
    prefix = ""
    while rest is not None:
        if isinstance(rest, ast.Block):
            found.append((["else"], rest))
            break
        if isinstance(rest, ast.If):
            first, *others = expression_pieces(rest.condition)
            found.append(([f"{prefix}if {first}", *others], rest.then))
        else:
            found.append(([f"{prefix}if let {rest.name} = {format_expression(rest.read)}"], rest.then))
        prefix, rest = "else ", rest.otherwise
    return found


def _simple(node: ast.Let | ast.Assign | ast.Add | ast.Observe | ast.Forget) -> list[str]:
    match node:
        case ast.Let(_, name, _, value):
            return _led(f"let {name} =", value)
        case ast.Assign(_, target, value):
            return _led(f"{format_target(target)} =", value)
        case ast.Add(_, target, value):
            return _led(f"{format_target(target)} +=", value)
        case ast.Observe(_, target, value):
            return _led(f"{format_target(target)} <<", value)
        case ast.Forget(_, target):
            return [f"forget {format_expression(target)}"]
        case _:
            assert_never(node)


def _led(lead: str, value: ast.Expr) -> list[str]:
    first, *rest = expression_pieces(value)
    return [f"{lead} {first}", *rest]


def _declaration(
    node: ast.Use | ast.Const | ast.Function | ast.Metric | ast.State | ast.SourceDecl | ast.Measure,
) -> list[str]:
    match node:
        case ast.Use(_, path):
            return [f"use {format_string(path)}"]
        case ast.Const(_, name, _, value):
            return _led(f"const {name} =", value)
        case ast.Function(_, name, _, params, body):
            return _led(f"fn {name}({_params(params)}) =", body)
        case ast.Metric():
            return _metric(node)
        case ast.State():
            return [f"state {node.name}: {node.type_name} by {node.key}{_limit(node.limit)}"]
        case ast.SourceDecl():
            return _source(node)
        case ast.Measure():
            return _measure(node)
        case _:
            assert_never(node)


def _metric(node: ast.Metric) -> list[str]:
    pieces = [f"{node.kind} {node.name}" + (f" {node.unit}" if node.unit else "")]
    if node.dimension is not None:
        pieces.append(f"by {format_list(node.dimension.names)}{_limit(node.dimension.limit)}")
    if node.labels:
        pieces += _labels(node.labels)
    if node.power is not None:
        pieces.append(f"power {node.power}")
    pieces += _help(node.help)
    if isinstance(node.value, tuple):
        first, *rest = braced([f"{value.label}: {format_expression(value.value)}" for value in node.value])
        pieces += [f"= {first}", *rest]
    elif node.value is not None:
        pieces += _led("=", node.value)
    return pieces


def _labels(labels: Sequence[ast.LabelDecl]) -> list[str]:
    """`{ op: read | write }`, breakable behind each `|` when it is long."""
    whole = braced([f"{label.name}: {' | '.join(label.values)}" for label in labels])
    if all(len(piece) <= _LONG_LABELS for piece in whole):
        return whole
    return [part for piece in whole for part in re.split(r"(?<=\|) ", piece)]


_LONG_LABELS = 80


def _source(node: ast.SourceDecl) -> list[str]:
    head = f"source {node.name} ="
    match node.form:
        case "glob":
            return [f"{head} glob {format_string(node.path)}"]
        case "rusage" | "discards":
            return [f"{head} {node.form}"]
        case "perf":
            return [f"{head} perf by cpu", *braced(node.columns)]
        case "columns":
            return [
                f"{head} file {format_string(node.path)} columns {format_string(node.match)}",
                *braced(node.columns),
            ]
        case "keys" | "value" | "cpulist" | "psi":
            return [f"{head} file {format_string(node.path)} {node.form}"]
        case _:
            assert_never(node.form)


def _measure(node: ast.Measure) -> list[str]:
    pieces = [
        f"measure {format_target(node.target)}",
        *_led_events("from", node.start),
        *_led_events("to", node.stop),
    ]
    if node.unless:
        pieces += _led_events("unless", node.unless)
    key = "task" if node.key is None else format_expression(node.key)
    pieces.append(f"by {key}{_limit(node.limit)}")
    return pieces + ([] if node.condition is None else _led("when", node.condition))


def _on(node: ast.Handler) -> list[str]:
    return _led_events("on", node.events) + ([] if node.condition is None else _led("when", node.condition))


def _led_events(lead: str, events: Sequence[Sequence[ast.Event]]) -> list[str]:
    pieces: list[str] = []
    for alternatives in events:
        pieces += [f"else {_event(event)}" if index else _event(event) for index, event in enumerate(alternatives)]
        pieces[-1] += ","
    pieces[-1] = pieces[-1].removesuffix(",")
    return [f"{lead} {pieces[0]}", *pieces[1:]]


def _event(node: ast.Event) -> str:
    text = _event_form(node) + ("" if node.kind in _WITHOUT_PARAMS else f"({_params(node.params)})")
    if node.of_pid is not None:
        return f"{text} of pid {node.of_pid}"
    return text if node.of_comm is None else f"{text} of comm {format_string(node.of_comm)}"


def _event_form(node: ast.Event) -> str:
    path, name = format_string(node.path), format_name(node.name)
    match node.kind:
        case "tracepoint":
            return f"{node.category}:{name}" if node.category else name
        case "record":
            return f"record {node.category}:{name}"
        case "call" | "return":
            return f"{node.kind} {name}"
        case "user":
            return f"user {path}:{name}"
        case "user_return":
            return f"user return {path}:{name}"
        case "usdt":
            return f"usdt {path}:{format_name(node.category)}:{name}"
        case "sample":
            return f"sample {node.number} hz"
        case "perf":
            return f"perf {name} every {node.number}"
        case _:
            assert_never(node.kind)


def _row(node: ast.TableRow) -> list[str]:
    if node.is_else:
        return [f"{node.value}: else"]
    items = [format_expression(item) for item in node.items]
    pieces = [f"{item}," for item in items[:-1]] + items[-1:]
    return [f"{node.value}: {pieces[0]}", *pieces[1:]]


def _step(node: ast.TestLet | ast.Fire | ast.Expect) -> list[str]:
    match node:
        case ast.TestLet(_, name, value):
            first, *rest = _value_pieces(value)
            return [f"let {name} = {first}", *rest]
        case ast.Fire():
            pieces = [f"at {format_expression(node.time)}"]
            if node.cpu is not None:
                pieces.append(f"cpu {format_expression(node.cpu)}")
            if node.current is not None:
                pieces.append(f"current {format_value(node.current)}")
            bare = node.event_kind in _WITHOUT_PARAMS and not node.args
            given = "" if bare else f"({format_list(map(format_value, node.args))})"
            kind = "" if node.event_kind == "tracepoint" else node.event_kind.replace("_", " ")
            return [*pieces, " ".join(filter(None, (kind, node.event))) + given]
        case ast.Expect():
            values = format_list(map(format_expression, node.values))
            return [f"expect {format_target(node.metric)} == {f'[{values}]' if node.is_list else values}"]
        case _:
            assert_never(node)


def _value_pieces(value: ast.Value) -> list[str]:
    if isinstance(value, ast.Record):
        return braced([f"{name}: {format_value(field)}" for name, field in value.fields])
    return expression_pieces(value)


def _help(text: str) -> list[str]:
    return [format_string(text)] if text else []


def _limit(limit: int | None) -> str:
    return "" if limit is None else f" limit {limit}"


def _param(name: str, type_name: str) -> str:
    return f"{name}: {type_name}" if type_name else name


def _params(params: Sequence[ast.Param]) -> str:
    return format_list(_param(param.name, param.type_name) for param in params)
