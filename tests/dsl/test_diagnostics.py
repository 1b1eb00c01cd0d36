import pytest

from dsl.diagnostics import (
    CODES,
    CompileError,
    CompilerBug,
    Diagnostic,
    Diagnostics,
    did_you_mean,
    did_you_mean_one_of,
    render,
    render_all,
    suggest,
)
from dsl.source import Source, Span


def span(text: str, part: str, path: str = "f.rzl") -> Span:
    start = text.index(part)
    return Span(Source(path, text), start, start + len(part))


def test_a_diagnostic_shows_place_message_line_and_caret() -> None:
    text = "sampler s {\n    counter x byts\n}\n"
    item = Diagnostic("syntax", "no unit `byts`", span(text, "byts"), hints=("did you mean `bytes`?",))
    assert render(item).splitlines() == [
        "f.rzl:2:15: error[syntax]: no unit `byts`",
        "        counter x byts",
        "                  ^~~~",
        "hint: did you mean `bytes`?",
    ]


def test_a_label_is_a_note_with_its_own_excerpt() -> None:
    text = "one two\nthree"
    item = Diagnostic("syntax", "twice", span(text, "three"), "warning", ((span(text, "two"), "first here"),))
    assert render(item).splitlines() == [
        "f.rzl:2:1: warning[syntax]: twice",
        "    three",
        "    ^~~~~",
        "f.rzl:1:5: note: first here",
        "    one two",
        "        ~~~",
    ]


@pytest.mark.parametrize(
    ("text", "part", "line", "marks"),
    [
        ("\tab", "ab", "        ab", "        ^~"),
        ("ab\r\ncd", "b\r\nc", "    ab", "     ^"),
        ("世界 x", "x", "    世界 x", "         ^"),
        ("a\x1b[31m", "[", "    a\N{REPLACEMENT CHARACTER}[31m", "      ^"),
    ],
    ids=["tabs", "line break", "wide characters", "control characters"],
)
def test_the_caret_stands_below_what_it_means(text: str, part: str, line: str, marks: str) -> None:
    assert render(Diagnostic("syntax", "m", span(text, part))).splitlines()[1:] == [line, marks]


def test_a_long_line_is_cut_around_the_span() -> None:
    text = "a" * 500 + "HERE" + "b" * 500
    _, line, marks = render(Diagnostic("syntax", "m", span(text, "HERE"))).splitlines()
    assert len(line) < 120
    assert line[marks.index("^") :].startswith("HERE")
    assert line.strip().startswith("...a")
    assert line.endswith("b...")


def test_the_end_of_a_text_can_be_pointed_at() -> None:
    source = Source("f.rzl", "ab")
    assert render(Diagnostic("syntax", "m", Span(source, 2, 2))).splitlines()[1:] == ["    ab", "      ^"]
    assert render(Diagnostic("syntax", "m", Span(Source("f", ""), 0, 0))) == "f:1:1: error[syntax]: m"


def test_color_adds_escapes_and_nothing_else() -> None:
    item = Diagnostic("syntax", "m", span("abc", "b"), hints=("h",))
    colored = render(item, color=True)
    assert "\x1b[1;31m" in colored
    plain = colored
    for code in ("1", "1;31", "1;32", "0"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert plain == render(item)


def test_an_unknown_code_is_our_bug() -> None:
    with pytest.raises(CompilerBug, match="no-such-code"):
        Diagnostic("no-such-code", "m", span("a", "a"))


def test_the_sink_keeps_each_message_once_and_sorts_by_position() -> None:
    text = "first second"
    diags = Diagnostics()
    diags.warning("syntax", "two", span(text, "second"))
    diags.stop_if_errors()
    source = Source("g.rzl", text)
    diags = Diagnostics()
    for start in (6, 0, 6):
        diags.error("syntax", f"at {start}", Span(source, start, start + 1), hint="h")
    with pytest.raises(CompileError) as caught:
        diags.stop_if_errors()
    assert [item.message for item in caught.value.diagnostics] == ["at 0", "at 6"]
    assert str(caught.value) == render_all(diags.items)
    assert diags.errors == diags.items


@pytest.mark.parametrize(
    ("name", "candidates", "found"),
    [
        ("histgram", ("counter", "gauge", "histogram"), "histogram"),
        ("Counter", ("counter", "gauge"), "counter"),
        ("volutnary", ("involuntary", "voluntary"), "voluntary"),
        ("tcp_send", ("tcp_sendmsg", "tcp_recvmsg"), "tcp_sendmsg"),
        ("zebra", ("counter", "gauge"), None),
        ("x", ("y",), None),
        ("pdi", ("tid", "pid"), "pid"),
    ],
)
def test_suggestions_are_near(name: str, candidates: tuple[str, ...], found: str | None) -> None:
    assert suggest(name, candidates) == found
    assert did_you_mean(name, candidates) == (f"did you mean `{found}`?" if found else None)


@pytest.mark.parametrize(
    ("name", "candidates", "hint"),
    [
        ("fork", ("sched_process_fork", "forkless"), "did you mean `sched_process_fork` or `forkless`?"),
        (
            "exit",
            ("xfs_log_exit", "sys_exit", "exiting", "sched_process_exit", "ext4_exit"),
            "did you mean `sched_process_exit`, `sys_exit`, `ext4_exit` or `xfs_log_exit`?",
        ),
        ("sched_swich", ("sched_switch", "old_sched_swich_b"), "did you mean `sched_switch`?"),
        ("state", ("stack", "exit_state", "__state"), "did you mean `exit_state` or `__state`?"),
        ("Fork", ("task_FORK",), "did you mean `task_FORK`?"),
        ("rq", ("block_rq_issue",), None),
        ("zebra", ("sched_switch",), None),
    ],
)
def test_names_that_contain_what_was_written_are_suggested_when_none_is_a_slip_away(
    name: str, candidates: tuple[str, ...], hint: str | None
) -> None:
    assert did_you_mean_one_of(name, candidates) == hint


def test_every_code_is_kebab_case_and_explained_in_a_sentence() -> None:
    for code, text in CODES.items():
        assert code == code.lower().replace("_", "-").replace(" ", "-")
        assert text.endswith(".")
        assert text[0].isupper()
