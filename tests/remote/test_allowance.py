"""What a remote may cause in a time: so much at once, so much in the long run."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from rezolus.reading import Catalog, Series
from rezolus.remote.allowance import NEW_AT_ONCE, NEW_PER_S, Allowance, Novelty
from rezolus.remote.fetch import FetchError
from rezolus.wire.messages import MOST_SERIES
from tests.remote.servers import Answers, polling, serving


async def test_what_was_used_up_comes_back_with_time(autojump_clock: trio.testing.MockClock) -> None:
    allowance = Allowance(3, 1 / 30)
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
    await trio.sleep(29)
    assert not allowance.take()
    await trio.sleep(2)
    assert [allowance.take() for _ in range(2)] == [True, False]
    await trio.sleep(3600)
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]


def catalog(begin: int, count: int) -> Catalog:
    return Catalog(tuple(Series(f"m{begin + at}", "counter", {}) for at in range(count)), (), ())


async def test_series_that_are_all_new_with_every_reading_soon_do_not_pass(
    autojump_clock: trio.testing.MockClock,
) -> None:
    novelty = Novelty()
    for number in range(NEW_AT_ONCE // MOST_SERIES):
        novelty.admit(catalog(number, MOST_SERIES))
    one_more = catalog(7, MOST_SERIES)
    with pytest.raises(FetchError, match=f"its series change too fast: {MOST_SERIES} are new"):
        novelty.admit(one_more)
    await trio.sleep(MOST_SERIES / NEW_PER_S)
    novelty.admit(one_more)
    novelty.admit(one_more)
    novelty.admit(Catalog(one_more.counters[:10], (), ()))  # what goes costs nothing


async def test_series_that_come_and_go_one_by_one_pass_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    novelty = Novelty()
    stays = catalog(0, 1000).counters
    for number in range(1000):
        novelty.admit(Catalog((*stays, *catalog(10**6 * (number + 1), 100).counters), (), ()))
        await trio.sleep(1)


@pytest.mark.slow
async def test_a_remote_whose_series_are_all_new_each_time_goes_down_and_says_why() -> None:
    pages = 0

    def page() -> bytes:
        nonlocal pages
        pages += 1
        return "".join(f"m{pages}_{at} 1\n" for at in range(NEW_AT_ONCE // 6)).encode()

    async with serving(Answers({"/metrics": page})) as port, polling(f"http://127.0.0.1:{port}/metrics") as polled:
        await polled.until_state("down")
        await polled.until(lambda: polled.source.status().skipped > 5)
        status = polled.source.status()
    assert status.error == (
        f"its series change too fast: {NEW_AT_ONCE // 6} are new, and in the long run {NEW_PER_S:g} a second may be"
    )
    assert 6 <= status.fetched <= 8
    assert status.failed == 1  # and then it is left alone
