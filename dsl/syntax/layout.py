"""Lines with the comments and blank lines of the text they come from: the mechanical half of the formatter."""

from __future__ import annotations

from collections.abc import Sequence

from dsl.source import Source, Span
from dsl.syntax.ast import Comment

WIDTH = 100
"""Columns after which a line is broken where it may be."""
_INDENT = 4
_CONTINUED = 8
"""A continued line is indented further than a block, so that the two are not confused."""


class Layout:
    """Collects lines. What is added is given with its place in the source, in the order of the source."""

    def __init__(self, source: Source, comments: Sequence[Comment]) -> None:
        self.lines: list[str] = []
        self._source = source
        self._comments = list(comments)
        self._next = 0
        self._depth = 0
        self._last_line = 0
        """Line of the source where what was added last ended."""
        self._may_be_blank = False

    @property
    def room(self) -> int:
        """Columns left of a line at the present indentation."""
        return WIDTH - _INDENT * self._depth

    def add(self, pieces: Sequence[str], span: Span) -> None:
        """Something without a block. Comments from its inside come before it."""
        self._begin(span, span.end)
        self._put(pieces)
        self._end(span.end)

    def open(self, pieces: Sequence[str], span: Span, brace: int) -> None:
        """The line of a block's brace, which is at offset `brace`; what follows is indented."""
        self._begin(span, brace)
        self._open(pieces, brace)

    def reopen(self, pieces: Sequence[str], brace: int) -> None:
        """The end of a block and on the same line the brace of another one that belongs to it."""
        self._add_comments(brace)
        self._depth -= 1
        self._open(pieces, brace)

    def close(self, end: int) -> None:
        """The brace that ends a block, just before offset `end`."""
        self._add_comments(end - 1)
        self._depth -= 1
        self._put(["}"])
        self._end(end)

    def finish(self) -> str:
        """The text, with the comments behind everything else."""
        self._add_comments(len(self._source.text) + 1)
        return "".join(f"{line}\n" for line in self.lines)

    def _open(self, pieces: Sequence[str], brace: int) -> None:
        self._put([*pieces[:-1], f"{pieces[-1]} {{"])
        self._depth += 1
        self._end(brace + 1)

    def _begin(self, span: Span, until: int) -> None:
        line = span.line
        self._add_comments(until, line)
        self._add_blank(line)

    def _end(self, offset: int) -> None:
        """Take up a comment on the line where something ends."""
        self._last_line = self._source.position(max(offset - 1, 0))[0]
        if self._next == len(self._comments):
            return
        comment = self._comments[self._next]
        start = comment.span.start
        # A comma may stand between, where the last of a list is given one.
        if start >= offset and not self._source.text[offset:start].strip(" \t\r,"):
            self.lines[-1] += f"  {comment.text}"
            self._next += 1

    def _add_comments(self, until: int, owner: int | None = None) -> None:
        """The comments before an offset on lines of their own; `owner` is the line of what they come before."""
        while self._next < len(self._comments) and self._comments[self._next].span.start < until:
            comment = self._comments[self._next]
            line = comment.span.line
            self._add_blank(line if owner is None else min(line, owner))
            self._put([comment.text])
            self._last_line = line
            self._next += 1

    def _add_blank(self, line: int) -> None:
        if self._may_be_blank and line - self._last_line > 1:
            self.lines.append("")

    def _put(self, pieces: Sequence[str]) -> None:
        """Pieces on one line, or on as many as they need."""
        line = " " * (_INDENT * self._depth) + pieces[0]
        for piece in pieces[1:]:
            if len(line) + 1 + len(piece) <= WIDTH:
                line += f" {piece}"
            else:
                self.lines.append(line)
                line = " " * (_INDENT * self._depth + _CONTINUED) + piece
        self.lines.append(line)
        self._may_be_blank = True
