"""Statistics for many who ask at once."""

import asyncio
from types import SimpleNamespace

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.api import stats_cache
from service.api.stats_cache import StatsCache
from service.db.engine import Database
from service.jobs.read.statistics import JobStats, get_job_stats
from tests.jobs.rows import add


async def counted(database: Database) -> JobStats:
    async with database.sessions() as session:
        return await get_job_stats(session)


async def test_many_who_ask_at_once_share_an_answer_begun_after_they_asked(
    database: Database,
) -> None:
    cache = StatsCache()
    begun = 0
    first_runs, go_on = asyncio.Event(), asyncio.Event()

    async def query() -> JobStats:
        nonlocal begun
        begun += 1
        first_runs.set()
        await go_on.wait()
        return await counted(database)

    first = asyncio.create_task(cache.get(query))
    await first_runs.wait()
    others = [asyncio.create_task(cache.get(query)) for _ in range(20)]
    await asyncio.sleep(0)  # lets them ask; they wait for the first
    go_on.set()
    stats = await asyncio.gather(first, *others)
    assert 1 <= begun <= 2
    assert len({id(one) for one in stats[1:]}) == 1


async def test_a_cheap_answer_is_not_kept_and_a_dear_one_is(
    database: Database, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StatsCache()
    monkeypatch.setattr(stats_cache, "CHEAP_SECONDS", 1000)

    async def query() -> JobStats:
        return await counted(database)

    assert (await cache.get(query)).total == 0
    await add(session)
    await session.commit()
    assert (await cache.get(query)).total == 1
    monkeypatch.setattr(stats_cache, "CHEAP_SECONDS", 0)
    monkeypatch.setattr(stats_cache, "KEPT_FOR", 10**9)
    assert (await cache.get(query)).total == 1
    await add(session)
    await session.commit()
    assert (await cache.get(query)).total == 1


async def test_an_answer_begun_before_it_was_to_be_forgotten_is_given_to_none_who_ask_later(
    database: Database, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StatsCache()
    monkeypatch.setattr(stats_cache, "CHEAP_SECONDS", -1)
    monkeypatch.setattr(stats_cache, "KEPT_FOR", 10**9)
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


async def test_dear_statistics_take_a_twentieth_of_one_connection_at_most(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As dear as they are while a transaction is held open, asked for every second of an hour."""
    now = spent = 0.0
    monkeypatch.setattr(stats_cache, "time", SimpleNamespace(monotonic=lambda: now))
    stats, cache = await counted(database), StatsCache()

    async def query() -> JobStats:
        nonlocal now, spent
        now += 2.5
        spent += 2.5
        return stats

    while now < 3600:
        await cache.get(query)
        now += 1
    assert 0 < spent <= now / 20


async def test_after_a_hang_those_who_ask_are_answered_at_once(database: Database) -> None:
    cache, answer, queries = StatsCache(), await counted(database), 0
    loop = asyncio.get_running_loop()

    async def ask(deadline: float) -> JobStats:
        async def query() -> JobStats:
            nonlocal queries
            queries += 1
            async with asyncio.timeout_at(deadline):
                await asyncio.sleep(1000 if queries == 1 else 0.1)
            return answer

        return await cache.get(query, deadline=deadline)

    began = loop.time()
    asked = [asyncio.create_task(ask(began + 0.3 + n / 10)) for n in range(50)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(told[0], TimeoutError)
    # But for those whose own time was over before the second answer could come.
    assert sum(one is answer for one in told) > 40
    assert queries == 2
