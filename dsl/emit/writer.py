"""C text with the `.rzl` lines it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dsl.source import Span

_INDENT = "    "


@dataclass(slots=True)
class Writer:
    """Collects lines; `span` is where the lines being written come from."""

    span: Span | None = None
    depth: int = 1
    lines: list[tuple[int, str, Span | None]] = field(default_factory=list)

    def line(self, text: str) -> None:
        self.lines.append((self.depth, text, self.span))

    @contextmanager
    def braces(self, opening: str = "") -> Iterator[None]:
        """A block `opening { ... }`."""
        if opening == "else" and self.lines[-1][:2] == (self.depth, "}"):
            self.lines[-1] = (self.depth, "} else {", self.lines[-1][2])
        else:
            self.line(f"{opening} {{".lstrip())
        self.depth += 1
        yield
        self.depth -= 1
        # The end of a block belongs to what ends there.
        self.lines.append((self.depth, "}", self.lines[-1][2]))

    @contextmanager
    def at(self, span: Span) -> Iterator[None]:
        """Lines that come from another place."""
        before, self.span = self.span, span
        yield
        self.span = before

    def for_compiler(self) -> list[str]:
        """With a `#line` wherever the source line changes: our loader takes each to hold until the next."""
        return self._render(lambda span: f'#line {span.line} "{_quoted(span.source.path)}"', indented=False)

    def for_readers(self) -> list[str]:
        """With the text of a source line wherever it changes."""
        return self._render(
            lambda span: f"// {span.source.path}:{span.line}: {span.source.line(span.line).strip()}", indented=True
        )

    def _render(self, mark: Callable[[Span], str], *, indented: bool) -> list[str]:
        result: list[str] = []
        place: tuple[str, int] | None = None
        for depth, text, span in self.lines:
            if span is not None and (span.source.path, span.line) != place:
                place = (span.source.path, span.line)
                result.append((_INDENT * depth if indented else "") + mark(span))
            result.append(_INDENT * depth + text if text else "")
        return result


def _quoted(path: str) -> str:
    return path.replace("\\", "\\\\").replace('"', '\\"')
