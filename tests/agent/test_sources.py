"""Sources: every form, what is missing and what is malformed, read from a tree made for the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsl.schema import ByCapture, ByCpu, FromSource, Metric, Op, Source
from rezolus.agent.expressions import SourcePart
from rezolus.agent.formats import ColumnsParser, KeysParser, MalformedError, parse_cpulist, parse_psi, parse_value
from rezolus.agent.globs import Pattern
from rezolus.agent.sources import COUNT, SourceProblem, SourceReader
from rezolus.reading import ABSENT_GAUGE


def write(root: Path, path: str, text: str) -> Path:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def value(source: str, key: str = "value") -> tuple[Op, ...]:
    return (Op("load", source=source, key=key),)


def metric(kind: str, *expressions: tuple[Op, ...], **more: object) -> tuple[Metric, FromSource]:
    storage = FromSource(expressions)
    described = Metric(name="m", kind=kind, unit="", help="", sampler="s", storage=storage, **more)  # type: ignore[arg-type]
    return described, storage


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


MEMINFO = (
    "MemTotal:       24682416 kB\nMemFree:          123456 kB\nActive(anon):      77 kB\nHugePages_Total:       0\n"
)


def test_keys_are_found_with_colon_unit_and_parentheses() -> None:
    parser = KeysParser(["MemFree", "Active(anon)", "HugePages_Total", "Nonsense"])
    expected = {"MemFree": 123456, "Active(anon)": 77, "HugePages_Total": 0}
    assert parser.parse(MEMINFO.encode()) == expected
    assert parser.parse(MEMINFO.encode()) == expected


def test_keys_are_found_when_the_lines_move_and_a_longer_name_stands_before() -> None:
    parser = KeysParser(["pgfault"])
    assert parser.parse(b"pgfault 1\npgfault_extra 2\n") == {"pgfault": 1}
    assert parser.parse(b"pgfault_extra 2\nnew 3\npgfault 4\n") == {"pgfault": 4}
    assert parser.parse(b"new 3\n") == {}


@given(st.dictionaries(st.from_regex(r"[A-Za-z_]+", fullmatch=True), st.integers(-(2**63), 2**64), max_size=20))
def test_what_was_written_is_read(values: dict[str, int]) -> None:
    text = "".join(f"{key} {number}\n" for key, number in values.items()).encode()
    assert KeysParser(list(values)).parse(text) == values


def test_a_key_without_a_number_is_malformed() -> None:
    with pytest.raises(MalformedError, match="expected an integer, found 'lots'"):
        KeysParser(["MemFree"]).parse(b"MemFree: lots\n")


@pytest.mark.parametrize(("text", "expected"), [("42\n", 42), ("-1", -1), ("0x1f\n", 31)])
def test_a_value_is_one_integer(text: str, expected: int) -> None:
    assert parse_value(text.encode()) == expected


@pytest.mark.parametrize("text", ["", "up\n", "1 2\n", "1.5\n"])
def test_anything_else_is_no_value(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_value(text.encode())


@pytest.mark.parametrize(
    ("text", "expected"), [("0-3,8\n", (0, 1, 2, 3, 8)), ("0\n", (0,)), ("\n", ()), ("1,3-3", (1, 3))]
)
def test_cpu_lists(text: str, expected: Sequence[int]) -> None:
    assert parse_cpulist(text.encode()) == expected


@pytest.mark.parametrize("text", ["3-1", "a", "0-99999999999"])
def test_malformed_cpu_lists(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_cpulist(text.encode())


def test_pressure_is_in_hundredths_of_a_percent_and_microseconds() -> None:
    text = b"some avg10=1.25 avg60=0.00 avg300=100.00 total=987\nfull avg10=0.01 avg60=0.00 avg300=0.00 total=5\n"
    row = parse_psi(text)
    assert (row["some.avg10"], row["some.avg300"], row["some.total"], row["full.avg10"]) == (125, 10000, 987, 1)


def test_columns_are_counted_from_one_and_lines_named_by_their_number() -> None:
    stat = b"cpu  9 9 9\ncpu0 1 2 3\ncpu12 4 5 6\nintr 7\n"
    assert ColumnsParser("cpu", ["1", "3"]).parse(stat) == {"0": {"1": 1, "3": 3}, "12": {"1": 4, "3": 6}}


def test_columns_without_a_match_are_named_by_their_first_field() -> None:
    assert ColumnsParser("", ["2"]).parse(b"  eth0: 10 20\n    lo: 1 2\n") == {"eth0": {"2": 20}, "lo": {"2": 2}}


def test_a_glob_captures_in_natural_order(tmp_path: Path) -> None:
    for name in ("eth10", "eth9", "lo"):
        write(tmp_path, f"/sys/class/net/{name}/statistics/rx_bytes", "1")
    write(tmp_path, "/sys/class/net/bonding_masters", "")
    pattern = Pattern.parse("/sys/class/net/{interface}/statistics/{key}")
    assert pattern.captures == ("interface",)
    assert pattern.per_key
    found = pattern.expand(str(tmp_path), 100)
    assert list(found) == [("eth9",), ("eth10",), ("lo",)]
    assert found["lo",] == f"{tmp_path}/sys/class/net/lo/statistics/{{key}}"


def test_a_glob_may_capture_part_of_a_name_and_match_without_capturing(tmp_path: Path) -> None:
    for cpu in (0, 1):
        write(tmp_path, f"/sys/cpu{cpu}/cache/index0/size", "1")
    assert list(Pattern.parse("/sys/cpu{id}/*/index{level}/size").expand(str(tmp_path), 9)) == [("0", "0"), ("1", "0")]


def test_interfaces_come_and_go(tmp_path: Path) -> None:
    write(tmp_path, "/net/a/rx", "5")
    clock = Clock()
    source = Source(name="nic", form="value", path="/net/{interface}/{key}", keys=("rx",))
    reader = SourceReader([source], root=str(tmp_path), clock=clock)
    part = SourcePart(*metric("counter", value("nic", "rx"), dimension=ByCapture(("interface",))), reader)
    reader.read()
    assert part.poll()
    first = reader.tables["nic"].instances
    reader.read()
    assert not part.poll()
    assert reader.tables["nic"].instances is first
    write(tmp_path, "/net/b/rx", "7")
    clock.now = 1.0
    reader.read()
    assert part.poll()
    assert [dict(series.labels) for series in part.series] == [{"interface": "a"}, {"interface": "b"}]
    (tmp_path / "net/a/rx").unlink()
    (tmp_path / "net/a").rmdir()
    clock.now = 2.0
    reader.read()
    assert part.poll()
    assert [dict(series.labels) for series in part.series] == [{"interface": "b"}]
    assert reader.problems() == ()
    reader.close()


def test_a_missing_file_is_reported_once_and_absent(tmp_path: Path) -> None:
    said: list[SourceProblem] = []
    reader = SourceReader(
        [Source(name="f", form="value", path="/proc/nothing")], root=str(tmp_path), report=said.append
    )
    part = SourcePart(*metric("gauge", value("f")), reader)
    for _ in range(3):
        reader.read()
        part.poll()
    assert part.series == ()
    assert [problem.message for problem in said] == ["no such file or directory"]
    write(tmp_path, "/proc/nothing", "3")
    reader.read()
    assert part.poll()
    assert reader.problems() == ()
    reader.close()


def test_a_missing_key_is_reported_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path, "/proc/meminfo", MEMINFO)
    reader = SourceReader(
        [Source(name="m", form="keys", path="/proc/meminfo", keys=("MemFree", "Shiny"))], root=str(tmp_path)
    )
    reader.read()
    assert reader.tables["m"].rows[()] == {"MemFree": 123456}
    assert [problem.message for problem in reader.problems()] == ["does not have Shiny"]
    reader.close()


def test_malformed_content_keeps_the_previous_value_and_is_counted(tmp_path: Path) -> None:
    file = write(tmp_path, "/v", "3")
    said: list[SourceProblem] = []
    reader = SourceReader([Source(name="v", form="value", path="/v")], root=str(tmp_path), report=said.append)
    reader.read()
    file.write_text("rubbish")
    reader.read()
    reader.read()
    assert reader.tables["v"].rows[()] == {"value": 3}
    assert reader.statistics().malformed == 2
    assert len(said) == 1
    reader.close()


def test_a_counter_keeps_its_value_where_a_gauge_becomes_absent(tmp_path: Path) -> None:
    write(tmp_path, "/a", "6")
    divisor = write(tmp_path, "/b", "2")
    reader = SourceReader([Source(name=name, form="value", path=f"/{name}") for name in ("a", "b")], root=str(tmp_path))
    ratio = (*value("a"), *value("b"), Op("div"))
    counter = SourcePart(*metric("counter", ratio), reader)
    gauge = SourcePart(*metric("gauge", ratio), reader)
    for text, expected in (("2", (3, 3)), ("0", (3, ABSENT_GAUGE))):
        divisor.write_text(text)
        reader.read()
        counter.poll()
        gauge.poll()
        values = []
        for part in (counter, gauge):
            out = np.zeros(1, dtype=np.uint64)
            part.fill(out)
            values.append(int(out[0]) if part is counter else int(out.view(np.int64)[0]))
        assert tuple(values) == expected
    reader.close()


def test_expressions_combine_columns_of_each_cpu_with_a_plain_value(tmp_path: Path) -> None:
    write(tmp_path, "/stat", "cpu0 1 2\ncpu1 3 4\n")
    write(tmp_path, "/factor", "10")
    sources = [
        Source(name="stat", form="columns", path="/stat", match="cpu", keys=("1", "2")),
        Source(name="factor", form="value", path="/factor"),
    ]
    reader = SourceReader(sources, root=str(tmp_path))
    expression = (*value("stat", "2"), *value("stat", "1"), Op("sub"), *value("factor"), Op("mul"))
    by_cpu = SourcePart(*metric("gauge", expression, dimension=ByCpu()), reader)
    total = SourcePart(*metric("gauge", value("stat", "1")), reader)
    reader.read()
    assert by_cpu.poll()
    assert total.poll()
    assert [series.labels["id"] for series in by_cpu.series] == ["0", "1"]
    out = np.zeros(2, dtype=np.uint64)
    by_cpu.fill(out)
    assert out.tolist() == [10, 10]
    total.fill(out[:1])
    assert out[0] == 4
    reader.close()


def test_a_list_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "/online", "0-3,8\n")
    reader = SourceReader([Source(name="online", form="cpulist", path="/online")], root=str(tmp_path))
    reader.read()
    assert reader.tables["online"].rows[()] == {COUNT: 5}
    reader.close()


def test_a_file_longer_than_a_page_is_read_to_its_end(tmp_path: Path) -> None:
    write(tmp_path, "/long", "".join(f"key{n} {n}\n" for n in range(20_000)))
    reader = SourceReader([Source(name="long", form="keys", path="/long", keys=("key19999",))], root=str(tmp_path))
    reader.read()
    assert reader.tables["long"].rows[()] == {"key19999": 19999}
    reader.close()


def test_the_running_kernel_has_what_we_read() -> None:
    sources = [
        Source(name="meminfo", form="keys", path="/proc/meminfo", keys=("MemTotal", "MemFree")),
        Source(name="vmstat", form="keys", path="/proc/vmstat", keys=("pgfault", "thp_swpout")),
        Source(name="stat", form="columns", path="/proc/stat", match="cpu", keys=("1",)),
        Source(name="online", form="cpulist", path="/sys/devices/system/cpu/online"),
        Source(name="self", form="rusage"),
        Source(name="nic", form="value", path="/sys/class/net/{interface}/statistics/{key}", keys=("rx_bytes",)),
    ]
    reader = SourceReader(sources)
    reader.read()
    tables = reader.tables
    assert tables["meminfo"].rows[()]["MemTotal"] > 0
    assert tables["vmstat"].rows[()]["pgfault"] > 0
    assert len(tables["stat"].rows) == tables["online"].rows[()][COUNT]
    assert tables["self"].rows[()]["utime"] > 0
    assert ("lo",) in tables["nic"].rows
    reader.close()
