"""Every diagnostic code with its one-sentence explanation; a code that is not here cannot be reported."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_PARSE = {
    "syntax": "The text does not follow the grammar at this place.",
    "unclosed": "A bracket or brace is opened and never closed.",
    "unexpected-character": "A character that has no meaning in the language, outside of strings and comments.",
    "unterminated-string": "A string must end on the line it begins on.",
    "bad-string": 'A backslash in a string must be followed by one of `\\"`, `\\\\`, `\\n`, `\\t`.',
    "bad-number": "A number is too large for 64 bits, or its digits or suffix are not known.",
    "unknown-keyword": "A declaration begins with a word that no declaration begins with.",
    "misplaced-item": "A declaration that is known, at a level of the file where it does not belong.",
    "duplicate-clause": "A clause such as `by`, `power` or the help text is given twice in one declaration.",
    "precedence": "A comparison binds tighter than `&`, `|` and `^`, as in C, and is seldom meant to be their operand.",
    "unsupported-version": "The header names a version of the language that this compiler does not know.",
    "too-deep": "Expressions or blocks are nested deeper than the compiler follows.",
    "too-large": "The file is larger than any metric definition can be.",
}

_CHECK = {
    "unknown-name": "A name that is no variable, constant, label value, function, table or kernel enumerator here.",
    "unknown-metric": "An update or expectation names a metric that this sampler does not declare.",
    "unknown-state": "A read names a state that this sampler does not declare.",
    "unknown-source": "A metric is read from a source that this sampler does not declare.",
    "unknown-field": "A structure, record or source has no member of that name.",
    "unknown-label": "An update names a label that the metric does not have.",
    "unknown-label-value": "An expression names a value that the label cannot have.",
    "unknown-type": "A type is neither an integer type, a unit nor a structure of this kernel.",
    "unknown-event": "The kernel or program has no such event, or not with these arguments.",
    "unknown-file": "A `use` names a file that cannot be read.",
    "event-refused": "The event exists, but the host does not let programs attach to it; the sampler runs without.",
    "absent-enumerator": "A row of a table names a number that this kernel does not have; the row is as if it were not there.",
    "missing-label": "An update leaves a label out; every label has a value at every update.",
    "missing-help": "Every metric says what it is, for the people who read its graphs.",
    "duplicate-name": "Two declarations share a name that must be unique.",
    "duplicate-row": "A number stands twice in a table.",
    "type-mismatch": "A value is of another kind than its place needs.",
    "unit-mismatch": "Values of different units are combined, or stored where another unit is declared.",
    "sign-mismatch": "A signed and an unsigned number are combined; both are taken as unsigned.",
    "loses-width": "A value is stored where it does not fit without losing bits.",
    "constant-range": "A constant is outside of what its place can hold.",
    "constant-division": "A constant is divided by zero.",
    "not-constant": "The value must be known when compiling.",
    "not-a-value": "A structure or array is used where a number, pointer or string is needed.",
    "not-a-structure": "A member is named of something that has none.",
    "not-an-array": "Something that is no array is indexed.",
    "not-a-task": "A state by task, or `cgroup of`, needs the task itself.",
    "no-cgroups": "The kernel does not keep cpu cgroups.",
    "state-read": "Reading a state must say what happens when there is nothing.",
    "state-key": "The key of a state is not what its declaration says.",
    "state-limit": "A limit where there is none to set.",
    "cgroup-key": "A metric by cgroup is indexed by the cgroup of a task.",
    "key-type": "Updates of a metric use keys of different types.",
    "no-dimension": "A metric without a dimension is indexed.",
    "dimension-mismatch": "A metric's dimension does not go with what it is read from, or with another dimension.",
    "bad-limit": "A bound is missing or outside of what is possible.",
    "bad-power": "A grouping power is outside of 0 to 7, or not on a histogram.",
    "metric-too-large": "A metric would take more memory than a host should give it.",
    "wrong-update": "The operator is not the one for this kind of metric.",
    "read-metric": "A metric that is read from a source is updated by an event, or cannot be read.",
    "source-expression": "A metric is read by an expression that is not possible over sources.",
    "never-updated": "No handler that can run on this kernel updates the metric.",
    "shadowed-builtin": "A variable has the name of something built in.",
    "arity": "A function, table or key has another number of parts than is given.",
    "recursion": "A function is defined by itself.",
}

CODES: Mapping[str, str] = MappingProxyType({**_PARSE, **_CHECK})
"""Kebab-case code to what it means. One table per stage above."""
