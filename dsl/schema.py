"""What the compiled programs leave in memory and what it means: the compiler's contract with the sampler.

All values user space reads lie in *banks*: mmapable BPF arrays of `rows` rows of `words` u64.
What a row stands for is the bank's `axis`:

- `cpu`: one row per possible CPU. Counters without a dimension are summed over the rows,
  counters `by cpu` are one series per row.
- `stripe`: histograms; rows exist only to keep CPUs apart and are always summed.
- `one`: a single row, for gauges without a dimension.
- `cgroup`: one row per cgroup id. Word 0 is the `serial_nr` of the cgroup the row belongs to
  (0: never used); it changes when the kernel hands the id to another cgroup, after the program has zeroed
  the row. Names are in the map `CGROUP_NAMES`, see there.
- `key`: one row per distinct open-ended key. Word 0 is 0 while the row has no key, and another number for each key that
  the row is given in turn (a definition may `forget` keys); it is set once the key is in place in the map `<bank>_keys`
  (same row number, `key_size` bytes). The last row collects every key past the limit and is the visible overflow.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dsl.hooks import Hook

CGROUP_ROWS = 4096
"""Cgroup ids (`css.id`) at or above this go to row 0, the visible overflow (id 0 belongs to no cgroup)."""

CGROUP_NAMES = "cgroup_names"
"""Map beside the cgroup bank, mmapable, `CGROUP_ROWS` rows of `CGROUP_NAME_ROW` bytes:
u64 serial (written last), u64 kernfs id (inode number of the directory), u64 level, then the directory's own name, its
parent's and its grandparent's, 64 bytes each, NUL-terminated."""

CGROUP_NAME_ROW = 24 + 3 * 64

Kind = Literal["counter", "gauge", "histogram"]


class Label(msgspec.Struct, frozen=True):
    """An enumerated label: its values are slots, in this order."""

    name: str
    values: tuple[str, ...]


class ByCpu(msgspec.Struct, frozen=True, tag="cpu"):
    """One series per CPU, label `id`."""


class ByCgroup(msgspec.Struct, frozen=True, tag="cgroup"):
    """One series per cgroup, labels `id` and `name`."""


class KeyField(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an open-ended key as it lies in the key's bytes."""

    label: str
    kind: Literal["string", "unsigned", "signed"]
    offset: int
    size: int


class ByKey(msgspec.Struct, frozen=True, tag="key"):
    """One series per distinct key, at most `limit`."""

    fields: tuple[KeyField, ...]
    limit: int


class ByCapture(msgspec.Struct, frozen=True, tag="capture"):
    """One series per name found by a source: glob captures, CPUs of a per-CPU source."""

    labels: tuple[str, ...]


Dimension = ByCpu | ByCgroup | ByKey | ByCapture


class Slots(msgspec.Struct, frozen=True, tag="slots"):
    """The metric's words in each row of a bank: label values in row-major order, a histogram's buckets innermost."""

    bank: str
    offset: int


class Op(msgspec.Struct, frozen=True):
    """One step of a source expression in postfix order.

    `load SOURCE KEY` pushes a column of the source, `const` pushes `number`, `count SOURCE` pushes the number of
    entries of a list source; `add sub mul div` (floor) combine the two topmost.
    """

    op: Literal["load", "const", "count", "add", "sub", "mul", "div"]
    source: str = ""
    key: str = ""
    number: int = 0


class FromSource(msgspec.Struct, frozen=True, tag="source"):
    """Read in user space: one postfix expression per label value (row-major), one in all without labels."""

    values: tuple[tuple[Op, ...], ...]


class FromDiscards(msgspec.Struct, frozen=True, tag="discards"):
    """The sampler's own discarded samples, by CPU: the words at these offsets of the `cpu` bank, summed."""

    offsets: tuple[int, ...]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A metric: what it is called and where its values are."""

    name: str
    kind: Kind
    unit: str
    """As in the wire format: `nanoseconds`, `bytes`, ...; empty when the metric has none."""
    help: str
    sampler: str
    labels: tuple[Label, ...] = ()
    dimension: Dimension | None = None
    power: int = 3
    """Grouping power of a histogram."""
    storage: Slots | FromSource | FromDiscards
    hooks: tuple[str, ...] = ()
    """The events that update it, or the files it is read from."""
    file: str = ""
    line: int = 0

    @property
    def cells(self) -> int:
        """Number of label value combinations."""
        count = 1
        for label in self.labels:
            count *= len(label.values)
        return count


class Bank(msgspec.Struct, frozen=True, kw_only=True):
    """An mmapable array; see the top of the module."""

    name: str
    axis: Literal["cpu", "stripe", "one", "cgroup", "key"]
    rows: int
    words: int
    key_size: int = 0
    """Axis `key`: bytes per row of `<name>_keys`."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Something user space reads at every tick.

    `form` says how bytes become columns: `keys` (`MemFree:  123 kB`, `numa_hit 123`: name to integer), `value` (the one
    number of a file, key `value`), `cpulist` (`0-3,8`: a list), `columns` (`cpu0 1 2 3`: key `<n>` is the n-th
    field after the name; one row per line whose name matches `match`), `psi` (`some.avg10`, `full.total`, ...),
    `rusage` (`utime`, `stime` in ns, `maxrss`, `minflt`, `majflt`, `inblock`, `oublock`, `nvcsw`, `nivcsw` of the
    agent), `perf` (counters per CPU).
    """

    name: str
    form: Literal["keys", "value", "cpulist", "columns", "psi", "rusage", "perf"]
    path: str = ""
    """File path; with `{capture}` parts a glob whose captures become labels; a part `{key}` names the
    file that holds the key."""
    match: str = ""
    """Form `columns`: a line counts when its first field is this word followed by digits (`cpu` takes `cpu0`, ...)."""
    keys: tuple[str, ...] = ()
    """Keys that metrics use, so that nothing else is parsed."""
    events: tuple[tuple[str, int, int], ...] = ()
    """Form `perf`: (key, perf_event_attr.type, config)."""


class EventUse(msgspec.Struct, frozen=True, kw_only=True):
    """An `on` clause: the hook it became, and the alternatives that this kernel does not have."""

    event: str
    hook: Hook | None = None
    """None when no alternative is available; `missing` then says why."""
    missing: tuple[tuple[str, str], ...] = ()
    """(alternative, why it is not available), in the order of the source."""
    line: int = 0


class StateMap(msgspec.Struct, frozen=True, kw_only=True):
    """Memory between two events: `task` lives with the task, `hash` has a bound."""

    name: str
    map: str
    kind: Literal["task", "hash"]
    limit: int
    entry_bytes: int


class TaskMember(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the structure of a task's state; offset and size in bytes."""

    owner: str
    """Which field of which state it is for; of a state that is gone it stays empty."""
    offset: int
    size: int


class TaskMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The structure of what is remembered of each task; two of one epoch may stand for each other."""

    kind: Literal["storage", "hash"]
    limit: int
    epoch: int
    """Counts how often it had to be laid out anew."""
    flag_words: int
    """Words of bits at its beginning."""
    words: int
    """In all, spare room included."""
    members: tuple[TaskMember, ...]
    flags: tuple[str, ...]
    """Owners of the bits."""


class Sampler(msgspec.Struct, frozen=True, kw_only=True):
    """A sampler, and what became of its events on this kernel."""

    name: str
    help: str
    file: str
    line: int = 0
    events: tuple[EventUse, ...] = ()
    states: tuple[StateMap, ...] = ()
    version: str = ""
    """A digest of its text: a sampler of the same name and version is the same."""
    discards: tuple[tuple[str, int], ...] = ()
    """(reason, offset in the `cpu` bank): samples thrown away. Reasons: `clock` (time went backwards), `null` (a null
    pointer on the way), `zero` (division by zero), `state_full`, `key_overflow`, `range` (label value unknown)."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One BPF program: a function of the C unit on one hook, shared by `samplers`."""

    function: str
    hook: Hook
    samplers: tuple[str, ...]
    weights: tuple[int, ...] = ()
    """Per sampler, its share of the program's emitted operations; splits the program's time."""


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that user space must know of a unit."""

    samplers: tuple[Sampler, ...]
    metrics: tuple[Metric, ...]
    banks: tuple[Bank, ...] = ()
    sources: tuple[Source, ...] = ()
    programs: tuple[Program, ...] = ()
    maps: tuple[str, ...] = ()
    """Names of every BPF map of the unit, banks and companions included."""
    tasks: TaskMemory | None = None
    """None when nothing is remembered of tasks."""
