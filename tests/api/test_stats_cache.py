"""Statistics for many who ask at once."""

import asyncio
import gc

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.stats_cache import StatsCache
from service.db.engine import Database
from service.jobs.read.statistics import JobStats, get_job_stats
from tests.jobs.rows import add


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> StatsCache:
    return StatsCache(clock=clock)


async def counted(database: Database) -> JobStats:
    async with database.sessions() as session:
        return await get_job_stats(session)


async def test_many_who_ask_at_once_share_an_answer_begun_after_they_asked(
    database: Database, cache: StatsCache, clock: Clock
) -> None:
    begun = running = most = 0
    first_runs, go_on = asyncio.Event(), asyncio.Event()

    async def query() -> JobStats:
        nonlocal begun, running, most
        begun, running = begun + 1, running + 1
        most = max(most, running)
        first_runs.set()
        await go_on.wait()
        stats = await counted(database)
        running -= 1
        return stats

    first = asyncio.create_task(cache.get(query))
    await first_runs.wait()
    clock.now += 10
    others = [asyncio.create_task(cache.get(query)) for _ in range(20)]
    await asyncio.sleep(0)  # lets them ask; they wait for the first
    go_on.set()
    stats = await asyncio.gather(first, *others)
    assert (begun, most) == (2, 1)
    assert stats[0] is not stats[1]
    assert len({id(one) for one in stats[1:]}) == 1


async def test_an_answer_is_shared_for_a_second_from_the_begin_of_its_query(
    database: Database, session: AsyncSession, cache: StatsCache, clock: Clock
) -> None:
    async def query() -> JobStats:
        stats = await counted(database)
        clock.now += 0.5  # what it took
        return stats

    assert (await cache.get(query)).total == 0
    await add(session)
    await session.commit()
    clock.now = 1.0
    assert (await cache.get(query)).total == 0
    clock.now = 1.01
    assert (await cache.get(query)).total == 1


async def test_an_answer_begun_before_an_invalidation_is_not_reused(
    database: Database, session: AsyncSession, cache: StatsCache
) -> None:
    counted_once, go_on = asyncio.Event(), asyncio.Event()

    async def query() -> JobStats:
        stats = await counted(database)
        counted_once.set()
        await go_on.wait()
        return stats

    early = asyncio.create_task(cache.get(query))
    await counted_once.wait()
    await add(session)
    await session.commit()
    cache.forget()
    late = asyncio.create_task(cache.get(query))
    go_on.set()
    assert (await early).total == 0
    assert (await late).total == 1


async def test_a_caller_who_leaves_takes_nobodys_answer_along(
    database: Database, cache: StatsCache
) -> None:
    begun = 0
    runs, go_on = asyncio.Event(), asyncio.Event()

    async def query() -> JobStats:
        nonlocal begun
        begun += 1
        runs.set()
        await go_on.wait()
        return await counted(database)

    first = asyncio.create_task(cache.get(query))
    await runs.wait()
    second = asyncio.create_task(cache.get(query))
    hurried = cache.get(query, deadline=asyncio.get_running_loop().time() + 0.01)
    with pytest.raises(TimeoutError):
        await hurried
    first.cancel()
    await asyncio.wait([first])
    go_on.set()
    assert (await second).total == 0
    assert (first.cancelled(), begun) == (True, 1)


async def test_a_failure_reaches_those_who_waited_and_nobody_else(
    database: Database, cache: StatsCache
) -> None:
    fails, go_on = True, asyncio.Event()

    async def query() -> JobStats:
        await go_on.wait()
        if fails:
            raise ConnectionError("the database went away")
        return await counted(database)

    waiting = [asyncio.create_task(cache.get(query)) for _ in range(3)]
    await asyncio.sleep(0)  # lets them ask
    go_on.set()
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in told] == [ConnectionError] * 3
    fails = False
    assert (await cache.get(query)).total == 0


async def test_a_failure_that_nobody_waits_for_is_no_error_of_the_event_loop() -> None:
    loop, reported, fails = asyncio.get_running_loop(), [], asyncio.Event()
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    cache = StatsCache()

    async def query() -> JobStats:
        await fails.wait()
        raise ConnectionError("the database went away")

    with pytest.raises(TimeoutError):
        await cache.get(query, deadline=loop.time() + 0.01)
    (flight,) = (task for task in asyncio.all_tasks() if task.get_name() == "statistics")
    fails.set()
    await asyncio.wait([flight])
    del cache, flight
    gc.collect()  # asyncio reports an exception that nobody asked for once its task is gone
    assert reported == []


async def test_after_a_hang_those_who_asked_meanwhile_share_the_next_answer(
    database: Database, cache: StatsCache, clock: Clock
) -> None:
    """However long they have waited by then: the query has a time of its own."""
    answer, queries, hangs = await counted(database), 0, asyncio.Event()

    async def query() -> JobStats:
        nonlocal queries
        queries += 1
        if queries == 1:
            await hangs.wait()
            raise TimeoutError
        return answer

    asked: list[asyncio.Task[JobStats]] = []
    for _ in range(50):
        asked.append(asyncio.create_task(cache.get(query)))
        await asyncio.sleep(0)  # lets it ask
        clock.now += 0.3
    hangs.set()
    told = await asyncio.gather(*asked, return_exceptions=True)
    # Those of the query's first second share its failure.
    assert [type(one) for one in told[:4]] == [TimeoutError] * 4
    assert all(one is answer for one in told[4:])
    assert queries == 2
