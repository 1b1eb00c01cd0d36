"""What user space reads at every tick: files of /proc and /sys, the agent's own usage, perf counters.

A `SourceReader` holds every file open and reads it again with one `pread`. What is missing is absent, what is
malformed keeps the value it had; both are reported once and shown until they are well again.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from dsl.schema import Source
from rezolus.agent.formats import (
    ColumnsParser,
    KeysParser,
    MalformedError,
    Row,
    parse_cpulist,
    parse_psi,
    parse_value,
)
from rezolus.agent.globs import Pattern

Instance = tuple[str, ...]
"""What a row of a source is called: its captures, in the order of the path, then the digits of a `columns` line."""

PerfFds = Mapping[tuple[str, str, int], int]
"""(source, key, cpu) to the fd of an open perf event."""

MAX_INSTANCES = 1024
"""Matches of one glob that are read; more are reported."""

_CHUNK = 65536
_WHOLE = 2048
"""A read shorter than this was all of the file: /proc hands out whole records of less than that, about a page at a time."""

COUNT = "#"
"""The column that holds the number of entries of a list source."""


@dataclass(slots=True)
class Table:
    """A source's values now."""

    rows: dict[Instance, Row] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()
    """The keys of `rows` in a stable order; the same object as long as they are the same."""


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """Something that cannot be read now."""

    source: str
    path: str
    message: str


Report = Callable[[SourceProblem], None]


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Counts of a `SourceReader` since it was made."""

    reads: int
    """Files and counters read."""
    malformed: int
    """Reads whose content could not be understood; the previous value stood."""
    open_files: int


class SourceReader:
    """Reads all sources of a schema; `read` refreshes `tables`."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        root: str = "/",
        perf: PerfFds | None = None,
        report: Report | None = None,
        clock: Callable[[], float] = time.monotonic,
        search_seconds: float = 1.0,
    ) -> None:
        self.tables: dict[str, Table] = {source.name: Table() for source in sources}
        self._files = FileCache()
        self._problems: dict[tuple[str, str], SourceProblem] = {}
        self._report = report
        self._malformed = 0
        self._reads = 0
        self._perf = perf or {}
        self._refresh: list[Callable[[], None]] = []
        for source in sources:
            table = self.tables[source.name]
            match source.form:
                case "rusage":
                    self._refresh.append(partial(self._read_rusage, table))
                case "perf":
                    self._refresh.append(partial(self._read_perf, source, table))
                case _:
                    reader = _FileSource(source, table, self, root, clock, search_seconds)
                    self._refresh.append(reader.read)

    def read(self) -> None:
        """Read everything once."""
        for refresh in self._refresh:
            refresh()

    def problems(self) -> tuple[SourceProblem, ...]:
        """What cannot be read now."""
        return tuple(self._problems.values())

    def statistics(self) -> SourceStatistics:
        """Counts so far."""
        return SourceStatistics(self._reads, self._malformed, len(self._files))

    def close(self) -> None:
        """Close all files."""
        self._files.close()

    def fetch(self, source: str, path: str) -> bytes | None:
        """The content of a file, or None when it cannot be read; then that is a problem."""
        self._reads += 1
        try:
            data = self._files.read(path)
        except OSError as error:
            self._files.forget(path)
            self.problem(source, path, os.strerror(error.errno or 0).lower())
            return None
        return data

    def well(self, source: str, path: str) -> None:
        """The file was read and understood: it is no problem any more."""
        if self._problems:
            self._problems.pop((source, path), None)

    def problem(self, source: str, path: str, message: str) -> None:
        """Note a problem; reported when it is new."""
        problem = SourceProblem(source, path, message)
        if self._problems.get((source, path)) != problem:
            self._problems[source, path] = problem
            if self._report is not None:
                self._report(problem)

    def malformed(self, source: str, path: str, error: MalformedError) -> None:
        """Note content that could not be understood."""
        self._malformed += 1
        self.problem(source, path, str(error))

    def forget(self, paths: Sequence[str]) -> None:
        """These files are gone: close them and forget their problems."""
        for path in paths:
            self._files.forget(path)
            for key in [key for key in self._problems if key[1] == path]:
                del self._problems[key]

    def _read_rusage(self, table: Table) -> None:
        resident = int(self._files.read("/proc/self/statm").split()[1]) * resource.getpagesize()
        _set(table, {(): {**read_rusage(), "rss": resident}})

    def _read_perf(self, source: Source, table: Table) -> None:
        rows: dict[Instance, dict[str, int]] = {}
        for (name, key, cpu), fd in self._perf.items():
            if name != source.name:
                continue
            self._reads += 1
            try:
                data = os.read(fd, 8)
            except OSError as error:
                self.problem(source.name, f"{key} on CPU {cpu}", os.strerror(error.errno or 0).lower())
                continue
            if len(data) == 8:  # an event that lost its counter reads as nothing
                rows.setdefault((str(cpu),), {})[key] = int.from_bytes(data, "little")
        if not rows:
            self.problem(source.name, "perf", "no counter could be opened")
        _set(table, dict(rows))


class FileCache:
    """Open files by path, read from the beginning each time."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def read(self, path: str) -> bytes:
        """All of the file now; raises OSError."""
        fd = self._fds.get(path)
        if fd is None:
            fd = self._fds[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        data = os.pread(fd, _CHUNK, 0)
        if len(data) < _WHOLE:
            return data
        chunks = [data]
        size = len(data)
        while chunk := os.pread(fd, _CHUNK, size):
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)

    def forget(self, path: str) -> None:
        fd = self._fds.pop(path, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        for path in list(self._fds):
            self.forget(path)

    def __len__(self) -> int:
        return len(self._fds)


class _FileSource:
    """One source that is a file, a file per key, or a glob of either."""

    def __init__(
        self,
        source: Source,
        table: Table,
        reader: SourceReader,
        root: str,
        clock: Callable[[], float],
        search_seconds: float,
    ) -> None:
        self._source = source
        self._table = table
        self._reader = reader
        self._root = root
        self._clock = clock
        self._search_seconds = search_seconds
        self._pattern = Pattern.parse(source.path)
        self._paths: dict[Instance, str] = {}
        self._parsers: dict[Instance, Callable[[bytes], Mapping[Instance, Row]]] = {}
        self._next_search = 0.0
        if self._pattern.fixed:
            self._paths = {(): root.rstrip("/") + source.path}

    def read(self) -> None:
        if not self._pattern.fixed and self._clock() >= self._next_search:
            self._search()
        rows: dict[Instance, Row] = {}
        previous = self._table.rows
        for instance, path in self._paths.items():
            if self._pattern.per_key:
                row = self._read_keys(path, previous.get(instance, {}))
                if row:
                    rows[instance] = row
            else:
                rows.update(self._read_file(instance, path))
        _set(self._table, rows)

    def _search(self) -> None:
        self._next_search = self._clock() + self._search_seconds
        found = self._pattern.expand(self._root, MAX_INSTANCES)
        if len(found) == MAX_INSTANCES:
            self._reader.problem(
                self._source.name, self._source.path, f"more than {MAX_INSTANCES} matches, the rest is not read"
            )
        for instance in self._paths.keys() - found.keys():
            path = self._paths[instance]
            keys = self._source.keys if self._pattern.per_key else ("",)
            self._reader.forget([path.replace("{key}", key) for key in keys])
            self._parsers.pop(instance, None)
        self._paths = found

    def _read_keys(self, path: str, previous: Row) -> Row:
        """One file per key."""
        row: dict[str, int] = {}
        for key in self._source.keys:
            name = path.replace("{key}", key)
            data = self._reader.fetch(self._source.name, name)
            if data is None:
                continue
            try:
                row[key] = parse_value(data)
                self._reader.well(self._source.name, name)
            except MalformedError as error:
                self._reader.malformed(self._source.name, name, error)
                if key in previous:
                    row[key] = previous[key]
        return row

    def _read_file(self, instance: Instance, path: str) -> Mapping[Instance, Row]:
        data = self._reader.fetch(self._source.name, path)
        if data is None:
            return {}
        parse = self._parsers.get(instance)
        if parse is None:
            parse = self._parsers[instance] = _parser(self._source, instance)
        try:
            rows = parse(data)
        except MalformedError as error:
            self._reader.malformed(self._source.name, path, error)
            size = len(instance)
            return {key: row for key, row in self._table.rows.items() if key[:size] == instance}
        self._report_missing(path, rows)
        return rows

    def _report_missing(self, path: str, rows: Mapping[Instance, Row]) -> None:
        if self._source.form in ("keys", "psi"):
            for row in rows.values():
                missing = [key for key in self._source.keys if key not in row]
                if missing:
                    self._reader.problem(self._source.name, path, f"does not have {', '.join(missing)}")
                    return
        self._reader.well(self._source.name, path)


def _parser(source: Source, instance: Instance) -> Callable[[bytes], Mapping[Instance, Row]]:
    """The parser of one file of a source."""
    match source.form:
        case "keys":
            keys = KeysParser(source.keys)
            return lambda data: {instance: keys.parse(data)}
        case "value":
            names = source.keys or ("value",)
            return lambda data: {instance: dict.fromkeys(names, parse_value(data))}
        case "cpulist":
            return lambda data: {instance: {COUNT: len(parse_cpulist(data))}}
        case "psi":
            return lambda data: {instance: parse_psi(data)}
        case "columns":
            columns = ColumnsParser(source.match, source.keys)
            return lambda data: {(*instance, name): row for name, row in columns.parse(data).items()}
        case "rusage" | "perf":
            raise TypeError(f"{source.form} is not a file")


def _set(table: Table, rows: Mapping[Instance, Row]) -> None:
    table.rows = dict(rows)
    if len(table.instances) != len(rows) or any(a != b for a, b in zip(table.instances, rows, strict=True)):
        table.instances = tuple(rows)


def read_rusage() -> Row:
    """Of this process, as getrusage tells: times in ns, `maxrss` in bytes, the rest counts."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "utime": round(usage.ru_utime * 1e9),
        "stime": round(usage.ru_stime * 1e9),
        "maxrss": usage.ru_maxrss * 1024,
        "minflt": usage.ru_minflt,
        "majflt": usage.ru_majflt,
        "inblock": usage.ru_inblock,
        "oublock": usage.ru_oublock,
        "nvcsw": usage.ru_nvcsw,
        "nivcsw": usage.ru_nivcsw,
    }
