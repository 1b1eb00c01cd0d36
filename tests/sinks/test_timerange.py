from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezolus.sinks.timerange import MAX_NS, RangeError, TimeRange, parse_range

S = 10**9
NOW = 1_795_372_013 * S + 5
NOON = 1_769_860_800 * S
"""2026-01-31T12:00:00Z."""


@pytest.mark.parametrize(
    ("parameters", "start_ns", "end_ns"),
    [
        ({}, 0, MAX_NS),
        ({"start": "5"}, 5 * S, MAX_NS),
        ({"end": "7"}, 0, 7 * S),
        ({"start": "7", "end": "7"}, 7 * S, 7 * S),
        ({"last": "5m"}, NOW - 300 * S, NOW),
        ({"last": "1h 30m", "start": "nonsense"}, NOW - 5400 * S, NOW),
        ({"last": "200years"}, 0, NOW),
        ({"start": "2026-01-31T12:00:00Z"}, NOON, MAX_NS),
        ({"start": "2026-01-31t12:00:00.25z"}, NOON + S // 4, MAX_NS),
        ({"start": "2026-01-31 13:00:00.000000001+01:00"}, NOON + 1, MAX_NS),
        ({"end": "2026-01-31T10:30:00-01:30"}, 0, NOON),
        ({"start": "9999-12-31T23:59:59Z"}, MAX_NS, MAX_NS),
        ({"start": "99999999999999999999"}, MAX_NS, MAX_NS),
        ({"start": "9999-12-31T23:59:59-08:00", "end": "9999-12-31T23:59:59.5Z"}, MAX_NS, MAX_NS),
        ({"start": "2016-12-31T23:59:60Z"}, 1_483_228_800 * S, MAX_NS),
        ({"start": "2016-12-31T15:59:60.25-08:00"}, 1_483_228_800 * S + S // 4, MAX_NS),
        ({"start": "1900-01-01T00:00:00Z", "end": "99999999999999999999"}, 0, MAX_NS),
    ],
    ids=str,
)
def test_what_a_range_means(parameters: dict[str, str], start_ns: int, end_ns: int) -> None:
    assert parse_range(parameters, NOW) == TimeRange(start_ns, end_ns)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"last": "soon"}, "last: expected a duration such as 30s, 5m or 1h30m, found 'soon'"),
        ({"last": ""}, "last: expected a duration such as 30s, 5m or 1h30m, found ''"),
        ({"start": "-5"}, "start: expected Unix seconds or a time such as 2026-01-31T12:00:00Z"),
        ({"start": "5.5"}, "start: expected Unix seconds"),
        ({"start": ""}, "start: expected Unix seconds"),
        ({"end": "2026-13-01T00:00:00Z"}, "end: expected Unix seconds"),
        ({"end": "2026-01-31T12:00:60Z"}, "end: expected Unix seconds"),
        ({"end": "2016-12-31T23:59:60+01:00"}, "end: expected Unix seconds"),
        ({"end": "2016-12-31T23:59:61Z"}, "end: expected Unix seconds"),
        ({"end": "2026-11-22T18:26:55"}, "end: expected Unix seconds"),
        ({"end": "2026-11-22T19:26:56 01:00"}, "write the + of an offset as %2B"),
        ({"start": "5", "end": "4"}, "start must be before end"),
        ({"since": "5"}, "'since' is no parameter of a dump: use last, or start and end"),
    ],
    ids=str,
)
def test_what_cannot_be_understood_is_said(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(RangeError) as raised:
        parse_range(parameters, NOW)
    assert message in str(raised.value)


@given(st.dictionaries(st.sampled_from(["last", "start", "end"]), st.text()))
def test_no_text_does_more_than_be_refused(parameters: dict[str, str]) -> None:
    with contextlib.suppress(RangeError):
        span = parse_range(parameters, NOW)
        assert 0 <= span.start_ns <= span.end_ns <= MAX_NS
