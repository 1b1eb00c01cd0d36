"""Parse tree to syntax tree: expressions and statements. One method per grammar rule, `build_RULE(span, children)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from lark import Token, Tree
from lark.tree import Meta

from dsl.diagnostics import Diagnostics
from dsl.source import Source, Span
from dsl.syntax import ast
from dsl.syntax.precedence import BITWISE, COMPARISONS, build_chain
from dsl.syntax.tokens import number_parts, string_value

# Children are what the methods of the rules below returned, tokens, or None for an optional part that is not there: which
# of them stands where is said by the grammar and cannot be said to the type checker.
Children = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A clause of a declaration, or a suffix of a target, before its owner takes it up."""

    kind: str
    span: Span
    value: Any


class Builder:
    """What all rules need; errors that the grammar cannot express go to `diags`."""

    def __init__(self, source: Source, diags: Diagnostics) -> None:
        self.source = source
        self.diags = diags

    def build(self, tree: Tree[Token]) -> Any:
        """What the rule of the tree's root makes of it. Loops instead of recursing, because a tree may be of any depth."""
        order: list[Any] = []
        pending: list[Any] = [tree]
        while pending:
            node = pending.pop()
            order.append(node)
            if isinstance(node, Tree):
                pending.extend(node.children)
        values: list[Any] = []
        for node in reversed(order):
            if isinstance(node, Tree):
                split = len(values) - len(node.children)
                children = values[split:]
                del values[split:]
                values.append(getattr(self, f"_build_{node.data}")(self._meta_span(node.meta), children))
            else:
                values.append(node)
        return values[0]

    def _meta_span(self, meta: Meta) -> Span:
        return Span(self.source, 0, 0) if meta.empty else Span(self.source, meta.start_pos, meta.end_pos)

    def token_span(self, token: Token) -> Span:
        """Where a token lies."""
        return Span(self.source, token.start_pos or 0, token.end_pos or 0)

    def plain_number(self, token: Token) -> int:
        """The value of a number that may not have a suffix."""
        value, suffix = number_parts(token)
        if suffix:
            self.diags.error("bad-number", f"expected a number without a unit, found `{token}`", self.token_span(token))
        return value

    def optional_number(self, token: Token | None) -> int | None:
        """`plain_number`, where there is one."""
        return None if token is None else self.plain_number(token)

    def distinct(self, parts: Sequence[Part]) -> dict[str, Any]:
        """Values of clauses by kind; a second one of a kind is reported."""
        first: dict[str, Part] = {}
        for part in parts:
            other = first.setdefault(part.kind, part)
            if other is not part:
                labels = ((other.span, "it is given here"),)
                self.diags.error("duplicate-clause", f"a second {part.kind}", part.span, labels=labels)
        return {kind: part.value for kind, part in first.items()}


class ExpressionBuilder(Builder):
    """The rules of the grammar's section on expressions."""

    def _build_number(self, span: Span, children: Children) -> ast.Number:
        value, suffix = number_parts(children[0])
        return ast.Number(span, value, suffix)

    def _build_string(self, span: Span, children: Children) -> ast.String:
        return ast.String(span, string_value(children[0]))

    def _build_true(self, span: Span, _: Children) -> ast.Boolean:
        return ast.Boolean(span, value=True)

    def _build_false(self, span: Span, _: Children) -> ast.Boolean:
        return ast.Boolean(span, value=False)

    def _build_name(self, span: Span, children: Children) -> ast.Name:
        return ast.Name(span, str(children[0]))

    def _build_called(self, span: Span, children: Children) -> ast.Call:
        name, *args = present(children)
        return ast.Call(span, str(name), self.token_span(name), tuple(args))

    def _build_cgroup(self, span: Span, _: Children) -> ast.CgroupOf:
        return ast.CgroupOf(span, None)

    def _build_cgroup_of(self, span: Span, children: Children) -> ast.CgroupOf:
        return ast.CgroupOf(span, children[0])

    def _build_take(self, span: Span, children: Children) -> ast.Take:
        return ast.Take(span, children[0])

    def _build_enclosing(self, span: Span, children: Children) -> ast.Enclosing:
        operand, name, *member = children
        return ast.Enclosing(span, operand, str(name), self.token_span(name), tuple(map(str, member)))

    def _build_field(self, span: Span, children: Children) -> ast.Field:
        base, *names = children
        texts = tuple(string_value(name) if name.type == "STRING" else str(name) for name in names)
        return ast.Field(span, base, texts, tuple(map(self.token_span, names)))

    def _build_keys(self, span: Span, children: Children) -> Part:
        return Part("key", span, tuple(children))

    def _build_index(self, span: Span, children: Children) -> ast.Index:
        return ast.Index(span, children[0], children[1].value)

    def _build_index_of_name(self, span: Span, children: Children) -> ast.Index:
        name, keys = children
        return ast.Index(span, ast.Name(self.token_span(name), str(name)), keys.value)

    def _build_cast(self, span: Span, children: Children) -> ast.Cast:
        return ast.Cast(span, children[0], str(children[1]), self.token_span(children[1]))

    def _build_after(self, span: Span, children: Children) -> ast.After:
        return ast.After(span, children[0], str(children[1]), self.token_span(children[1]))

    def _build_or_else(self, span: Span, children: Children) -> ast.OrElse:
        read, default = children
        if not isinstance(read, ast.Index | ast.Take | ast.Name):
            message = "what stands before `or` must be the read of a state, or an argument of the event"
            self.diags.error("syntax", message, read.span, hint="as in `s[k] or 0`; a condition is written with `||`")
        return ast.OrElse(span, read, default)

    def _build_prefix(self, _: Span, children: Children) -> str:
        return str(children[0])

    def _build_prefixed(self, span: Span, children: Children) -> ast.Unary:
        return ast.Unary(span, cast("Literal['-', '!', '~']", children[0]), children[1])

    def _build_operator(self, _: Span, children: Children) -> str:
        return str(children[0])

    def _build_chain(self, _: Span, children: Children) -> ast.Expr:
        made = build_chain(children[::2], children[1::2])
        bare = set(made)  # without what stands in parentheses
        for node in made:
            for side in (node.left, node.right):
                if node.op in BITWISE and isinstance(side, ast.Binary) and side in bare and side.op in COMPARISONS:
                    self._warn_of_precedence(node, side)
        return made[-1]

    def _warn_of_precedence(self, node: ast.Binary, side: ast.Binary) -> None:
        """C's oldest trap."""
        message = f"`{node.op}` is applied to the result of `{side.op}`, which binds tighter"
        if side is node.right:
            meant = f"({node.left.span.text} {node.op} {side.left.span.text}) {side.op} {side.right.span.text}"
        else:
            meant = f"{side.left.span.text} {side.op} ({side.right.span.text} {node.op} {node.right.span.text})"
        hint = f"write `{' '.join(meant.split())}`" if len(meant) <= 80 else "say with parentheses what is meant"
        self.diags.warning("precedence", message, node.span, hint=hint)

    def _build_conditional(self, span: Span, children: Children) -> ast.Conditional:
        return ast.Conditional(span, *children)


class StatementBuilder(ExpressionBuilder):
    """The rules of the grammar's section on statements."""

    def _build_word(self, _: Span, children: Children) -> Token:
        return cast("Token", children[0])

    _build_plain_word = _build_word

    def _build_argument(self, span: Span, children: Children) -> ast.LabelArg:
        name, value = children
        return ast.LabelArg(span, str(name), self.token_span(name), value)

    def _build_arguments(self, span: Span, children: Children) -> Part:
        return Part("list of labels", span, tuple(present(children)))

    def _build_target(self, span: Span, children: Children) -> ast.MetricRef:
        name, *parts = children
        found = self.distinct(parts)
        keys, labels = found.get("key", ()), found.get("list of labels", ())
        return ast.MetricRef(span, str(name), self.token_span(name), keys, labels)

    def _build_block(self, span: Span, children: Children) -> ast.Block:
        return ast.Block(span, tuple(children))

    def _build_let(self, span: Span, children: Children) -> ast.Let:
        name, value = children
        return ast.Let(span, str(name), self.token_span(name), value)

    def _build_if(self, span: Span, children: Children) -> ast.If:
        return ast.If(span, *children)

    def _build_if_let(self, span: Span, children: Children) -> ast.IfLet:
        name, read, then, otherwise = children
        if not isinstance(read, ast.Index | ast.Take):
            message = "`if let` asks whether a state holds something, this is not the read of a state"
            self.diags.error("syntax", message, read.span, hint="write `s[k]` or `take s[k]`")
        return ast.IfLet(span, str(name), self.token_span(name), read, then, otherwise)

    def _build_update_operator(self, _: Span, children: Children) -> str:
        return str(children[0])

    def _build_update(self, span: Span, children: Children) -> ast.Assign | ast.Add | ast.Observe:
        target, operator, value = children
        match operator:
            case "=":
                return ast.Assign(span, target, value)
            case "+=":
                return ast.Add(span, target, value)
            case _:
                return ast.Observe(span, target, value)

    def _build_forget(self, span: Span, children: Children) -> ast.Forget:
        return ast.Forget(span, children[0])


def present(children: Children) -> list[Any]:
    """Without the optional parts that are not there."""
    return [child for child in children if child is not None]
