"""Parse tree to syntax tree: declarations, events and tests. One method per grammar rule, `build_RULE(span, children)`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from lark import Token

from dsl.source import Span
from dsl.syntax import ast
from dsl.syntax.build_expressions import Children, Part, StatementBuilder, present
from dsl.syntax.tokens import string_value

_VERSIONS = (1,)
"""Of the language, as the header `rzl 1` gives them."""

_FIRED: dict[tuple[str, ...], ast.EventKind] = {
    ("call",): "call",
    ("return",): "return",
    ("user",): "user",
    ("user", "return"): "user_return",
    ("usdt",): "usdt",
    ("record",): "record",
    ("perf",): "perf",
}


class EventBuilder(StatementBuilder):
    """The rules of the grammar's section on events."""

    def _build_param(self, span: Span, children: Children) -> ast.Param:
        name, type_name = children
        return ast.Param(span, str(name), str(type_name or ""))

    def _build_params(self, _: Span, children: Children) -> tuple[ast.Param, ...]:
        return tuple(children)

    def _build_bound(self, _: Span, children: Children) -> tuple[ast.Param, ...]:
        return children[0] or ()

    def _build_symbol(self, _: Span, children: Children) -> Token:
        return cast("Token", children[0])

    def _event(self, span: Span, kind: ast.EventKind, name: Token, bound: Any, **rest: Any) -> ast.Event:
        return ast.Event(span, kind, _symbol(name), self.token_span(name), params=bound or (), **rest)

    def _build_tracepoint(self, span: Span, children: Children) -> ast.Event:
        first, second, bound = children
        if second is None:
            return self._event(span, "tracepoint", first, bound)
        return self._event(span, "tracepoint", second, bound, category=str(first))

    def _build_record(self, span: Span, children: Children) -> ast.Event:
        category, name, bound = children
        return self._event(span, "record", name, bound, category=str(category))

    def _build_call(self, span: Span, children: Children) -> ast.Event:
        return self._event(span, "call", *children)

    def _build_return(self, span: Span, children: Children) -> ast.Event:
        return self._event(span, "return", *children)

    def _build_user(self, span: Span, children: Children) -> ast.Event:
        path, name, bound = children
        return self._event(span, "user", name, bound, path=string_value(path))

    def _build_user_return(self, span: Span, children: Children) -> ast.Event:
        path, name, bound = children
        return self._event(span, "user_return", name, bound, path=string_value(path))

    def _build_usdt(self, span: Span, children: Children) -> ast.Event:
        path, provider, name, bound = children
        return self._event(span, "usdt", name, bound, path=string_value(path), category=_symbol(provider))

    def _build_sample(self, span: Span, children: Children) -> ast.Event:
        return ast.Event(span, "sample", "", span, number=self.plain_number(children[0]))

    def _build_perf(self, span: Span, children: Children) -> ast.Event:
        name, period = children
        return self._event(span, "perf", name, (), number=self.plain_number(period))

    def _build_of_pid(self, _: Span, children: Children) -> dict[str, int | str]:
        return {"of_pid": self.plain_number(children[0])}

    def _build_of_comm(self, _: Span, children: Children) -> dict[str, int | str]:
        return {"of_comm": string_value(children[0])}

    def _build_event(self, span: Span, children: Children) -> ast.Event:
        event, narrowed = children
        return cast("ast.Event", event if narrowed is None else replace(event, span=span, **narrowed))

    def _build_alternatives(self, _: Span, children: Children) -> tuple[ast.Event, ...]:
        return tuple(children)

    def _build_events(self, _: Span, children: Children) -> tuple[tuple[ast.Event, ...], ...]:
        return tuple(children)

    def _build_when(self, span: Span, children: Children) -> Part:
        return Part("`when`", span, children[0])

    def _build_unless(self, span: Span, children: Children) -> Part:
        return Part("`unless`", span, children[0])

    def _build_key(self, span: Span, children: Children) -> Part:
        key, limit = children
        return Part("`by`", span, (key, self.optional_number(limit)))

    def _build_handler(self, span: Span, children: Children) -> ast.Handler:
        events, when, body, otherwise = children
        return ast.Handler(span, events, when and when.value, body, otherwise)

    def _build_measure(self, span: Span, children: Children) -> ast.Measure:
        target, start, stop, *parts = children
        found = self.distinct(parts)
        key, limit = found.get("`by`", (None, None))
        # `task` is no value: it names the lifetime that the measurement has without a key.
        if isinstance(key, ast.Name) and key.name == "task":
            key = None
        unless, condition = found.get("`unless`", ()), found.get("`when`")
        return ast.Measure(span, target, start, stop, unless, key, limit, condition)


class MetricBuilder(EventBuilder):
    """The rules of metrics and what they are read from."""

    def _build_metric_kind(self, _: Span, children: Children) -> str:
        return str(children[0])

    def _build_help(self, span: Span, children: Children) -> Part:
        return Part("help text", span, string_value(children[0]))

    def _build_power(self, span: Span, children: Children) -> Part:
        return Part("`power`", span, self.plain_number(children[0]))

    def _build_dimension(self, span: Span, children: Children) -> Part:
        *names, limit = children
        return Part("`by`", span, ast.Dimension(span, tuple(map(str, names)), self.optional_number(limit)))

    def _build_label(self, span: Span, children: Children) -> ast.LabelDecl:
        name, *values = children
        return ast.LabelDecl(span, str(name), tuple(map(str, values)), tuple(map(self.token_span, values)))

    def _build_labels(self, span: Span, children: Children) -> Part:
        return Part("list of labels", span, tuple(present(children)))

    def _build_labelled_value(self, span: Span, children: Children) -> ast.LabelledValue:
        return ast.LabelledValue(span, str(children[0]), children[1])

    def _build_values(self, _: Span, children: Children) -> tuple[ast.LabelledValue, ...]:
        return tuple(present(children))

    def _build_metric(self, span: Span, children: Children) -> ast.Metric:
        kind, name, unit, *parts, value = children
        found = self.distinct(parts)
        return ast.Metric(
            span,
            kind,
            str(name),
            self.token_span(name),
            str(unit or ""),
            found.get("`power`"),
            found.get("`by`"),
            found.get("list of labels", ()),
            found.get("help text", ""),
            value,
        )

    def _build_state(self, span: Span, children: Children) -> ast.State:
        name, type_name, key, limit = children
        number = self.optional_number(limit)
        return ast.State(span, str(name), self.token_span(name), str(type_name), str(key), self.token_span(key), number)

    def _build_columns(self, _: Span, children: Children) -> tuple[str, ...]:
        return tuple(map(str, present(children)))

    def _build_file_source(self, _: Span, children: Children) -> dict[str, Any]:
        path, form, *rest = children[1:]
        match, columns = rest or ('""', ())
        return {"form": str(form), "path": string_value(path), "match": string_value(match), "columns": columns}

    def _build_glob_source(self, _: Span, children: Children) -> dict[str, Any]:
        return {"form": "glob", "path": string_value(children[0])}

    def _build_perf_source(self, _: Span, children: Children) -> dict[str, Any]:
        return {"form": "perf", "columns": children[0]}

    def _build_own_source(self, _: Span, children: Children) -> dict[str, Any]:
        return {"form": str(children[0])}

    def _build_source(self, span: Span, children: Children) -> ast.SourceDecl:
        name, form = children
        settings = {"path": "", "match": "", "columns": ()} | form
        return ast.SourceDecl(span, str(name), self.token_span(name), **settings)


class ModuleBuilder(MetricBuilder):
    """The rules of files, their items, and tests."""

    def _build_module(self, _: Span, children: Children) -> tuple[int | None, tuple[ast.Item, ...]]:
        """The version and the items; the comments are known elsewhere."""
        header, *items = children
        version = self.optional_number(header)
        if header is not None and version not in _VERSIONS:
            hint = "this compiler knows " + ", ".join(f"`rzl {known}`" for known in _VERSIONS)
            self.diags.error("unsupported-version", f"no version {version}", self.token_span(header), hint=hint)
        return version, tuple(items)

    def _build_use(self, span: Span, children: Children) -> ast.Use:
        return ast.Use(span, string_value(children[0]))

    def _build_const(self, span: Span, children: Children) -> ast.Const:
        name, value = children
        return ast.Const(span, str(name), self.token_span(name), value)

    def _build_function(self, span: Span, children: Children) -> ast.Function:
        name, params, body = children
        return ast.Function(span, str(name), self.token_span(name), params or (), body)

    def _build_rest(self, _: Span, __: Children) -> None:
        return None

    def _build_row(self, span: Span, children: Children) -> ast.TableRow:
        value, *items = children
        return ast.TableRow(span, str(value), tuple(present(items)), is_else=items == [None])

    def _build_table(self, span: Span, children: Children) -> ast.Table:
        name, param, result, *rows = children
        return ast.Table(span, str(name), self.token_span(name), param.name, param.type_name, str(result), tuple(rows))

    def _build_sampler(self, span: Span, children: Children) -> ast.Sampler:
        name, help_text, *members = children
        text = "" if help_text is None else string_value(help_text)
        return ast.Sampler(span, str(name), self.token_span(name), text, tuple(members))

    def _build_named_value(self, _: Span, children: Children) -> tuple[str, ast.Value]:
        return str(children[0]), children[1]

    def _build_fields(self, span: Span, children: Children) -> ast.Record:
        return ast.Record(span, tuple(present(children)))

    def _build_test_let(self, span: Span, children: Children) -> ast.TestLet:
        return ast.TestLet(span, str(children[0]), children[1])

    def _build_fire_cpu(self, _: Span, children: Children) -> ast.Expr:
        return cast("ast.Expr", children[0])

    def _build_fire_current(self, _: Span, children: Children) -> ast.Value:
        return cast("ast.Value", children[0])

    def _build_fired_kind(self, _: Span, children: Children) -> ast.EventKind:
        return _FIRED[tuple(map(str, children))]

    def _build_fired(self, span: Span, children: Children) -> tuple[ast.EventKind, str, Span]:
        parts = present(children)
        kind: ast.EventKind = "tracepoint"
        if not isinstance(parts[0], Token):
            kind = parts.pop(0)
        elif parts[0].type == "SAMPLE":
            return "sample", "", span
        return kind, "".join(parts), Span(self.source, self.token_span(parts[0]).start, span.end)

    def _build_given(self, _: Span, children: Children) -> tuple[ast.Value, ...]:
        return tuple(present(children))

    def _build_fire(self, span: Span, children: Children) -> ast.Fire:
        time, cpu, current, (kind, name, name_span), given = children
        return ast.Fire(span, time, cpu, current, name, name_span, kind, given or ())

    def _build_observations(self, _: Span, children: Children) -> tuple[ast.Expr, ...]:
        return tuple(present(children))

    def _build_expect(self, span: Span, children: Children) -> ast.Expect:
        target, found = children
        is_list = isinstance(found, tuple)
        return ast.Expect(span, target, found if is_list else (found,), is_list=is_list)

    def _build_test(self, span: Span, children: Children) -> ast.Test:
        return ast.Test(span, string_value(children[0]), tuple(children[1:]))


def _symbol(token: Token) -> str:
    return string_value(token) if token.type == "STRING" else str(token)
