"""Text to syntax tree and back: tokens, grammar, parser, and the formatter."""
