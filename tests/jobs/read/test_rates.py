"""Counts by minute: exact after whatever happened, once, and whole at every border."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.errors import InvalidInput
from service.jobs import (
    Backoff,
    NewJob,
    PermanentError,
    Registry,
    Snooze,
    cancel_job,
    enqueue,
    enqueue_batch,
    get_job_stats,
    process_due_jobs,
    store,
)
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.core.outcomes import SUCCEEDED_EMPTY
from service.jobs.maintenance.rates import KeptRates
from service.jobs.read.rates import (
    MAX_TIMED_NAMES,
    REST,
    Counts,
    Rates,
    Window,
    series,
    spans_since,
    total,
    totals,
)
from service.jobs.store.rates import FOLD_RATES
from service.jobs.store.settle import FINISH
from service.jobs.store.statement import Transition
from service.settings import Settings
from tests.jobs.conftest import Quick

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _as_of_this_test() -> None:
    """The tests of a run that takes minutes are collected before the first of them."""
    global NOW  # noqa: PLW0603 - read by helpers all over this file
    NOW = datetime.now(UTC)


async def fold(database: Database, settings: Settings) -> None:
    link = database.link()
    await KeptRates(link, settings).fold()
    await link.close()


async def append(sql: Any, at: datetime, jobs: int = 1, *, queue: str = "q", job_type: str = "t",
                 outcome: str = "SUCCESS", timing: int | None = 3 << 7 | 9) -> None:  # fmt: skip
    """As a settle appends them."""
    await sql.execute(
        "INSERT INTO job_rate_deltas (at, jobs, queue, job_type, outcome, timings)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        at, jobs, queue, job_type, outcome,
        None if timing is None else [timing] * jobs,
    )  # fmt: skip


async def test_every_outcome_of_a_drain_is_counted_once(
    database: Database, handlers: Registry, session: AsyncSession, quick: Quick
) -> None:
    @handlers.handler("mixed", backoff=Backoff(base_seconds=0.001, factor=1.0, jitter=0.0))
    async def mixed(payload: str) -> None:
        match payload:
            case "permanent":
                raise PermanentError("no use")
            case "snooze":
                raise Snooze(3600)
            case "error":
                raise ValueError("bad")

    kinds = ["ok"] * 5 + ["permanent"] * 2 + ["snooze"] * 3 + ["error"] * 4
    async with database.sessions.begin() as writing:
        await enqueue_batch(writing, [NewJob("mixed", kind, max_retries=1) for kind in kinds])
        cancelled = await enqueue(writing, "mixed", queue="other", delay_seconds=3600)
    settings = quick()
    while (await process_due_jobs(database, settings=settings, handlers=handlers)).processed:
        pass
    async with database.sessions.begin() as writing:
        await cancel_job(writing, cancelled.id)
    await fold(database, settings)

    found = await total(session, since=NOW - HOUR)
    expected = Counts(succeeded=5, retried=4, dead_lettered=4, failed=2, cancelled=1)
    assert found.counts == expected
    assert found.start_delay is not None
    assert found.run_time is not None
    for durations in (found.start_delay, found.run_time):
        assert sum(durations.buckets.values()) == 15  # one each attempt that ran
        assert 0 <= durations.p50 <= durations.p95 <= durations.p99 < 60
    by_queue = await totals(session, since=NOW - HOUR, by="queue")
    assert list(by_queue) == ["default", "other"]
    assert by_queue["other"].counts == Counts(cancelled=1)
    by_type = await totals(session, since=NOW - HOUR, by="job_type")
    assert by_type["mixed"].counts == expected
    points = await series(
        session, since=NOW - HOUR, until=NOW + HOUR, step_seconds=60, job_type="mixed"
    )
    assert sum(point.rates.counts.attempts for point in points) == 15
    assert len(points) in {120, 121}


async def test_a_stretch_is_read_from_the_coarsest_counts_and_none_of_it_twice() -> None:
    now = datetime(2026, 5, 20, 13, 45, 10, tzinfo=UTC)
    for minutes in (1, 7, 45, 46, 60, 105, 825, 826, 1440, 1441, 2000, 10_080, 50_000):
        spans = spans_since(now - timedelta(minutes=minutes), now=now)
        assert spans[0].low == (now - timedelta(minutes=minutes)).replace(second=0)
        assert spans[-1].high > now
        for one, following in pairwise(spans):
            assert one.high == following.low
        for span in spans:
            whole = {"minute": 60, "hour": 3600, "day": 86_400}[span.step]
            assert span.low.timestamp() % whole == 0
            assert span.step == "day" or span.high > now or span.high - span.low <= HOUR * 24
        minutes_of = [span.high - span.low for span in spans if span.step == "minute"]
        assert all(length < HOUR or spans[-1].step == "minute" for length in minutes_of)


async def test_a_step_is_in_the_series_from_its_first_moment(session: AsyncSession) -> None:
    minute = NOW.replace(second=0, microsecond=0)
    for after, steps in ((0, 60), (1, 61), (999_999, 61), (60_000_000, 61), (60_000_001, 62)):
        until = minute + timedelta(microseconds=after)
        points = await series(session, since=minute - HOUR, until=until, step_seconds=60)
        assert len(points) == steps
    assert await series(session, since=minute, until=minute - HOUR, step_seconds=60) == []


async def test_sums_survive_folding_at_the_borders_of_minutes_hours_and_days(
    database: Database, session: AsyncSession, sql: Any, settings: Settings
) -> None:
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    moment = timedelta(microseconds=1)
    borders = [midnight, midnight - HOUR, midnight - timedelta(minutes=1), midnight - HOUR * 24]
    for border in borders:
        await append(sql, border - moment, 2)
        await append(sql, border, 3, outcome="RETRIED")
        await fold(database, settings)  # apart, so that kept counts are added to
    await append(sql, midnight, 4, outcome="CANCELLED", timing=None)
    await fold(database, settings)

    since = midnight - HOUR * 48
    assert (await total(session, since=since)).counts == Counts(8, retried=12, cancelled=4)
    steps = {86_400: 3, 3600: 7, 60: 8}
    for step, filled in steps.items():
        points = await series(
            session, since=since if step > 60 else midnight - HOUR * 2,
            until=midnight + HOUR, step_seconds=step,
        )  # fmt: skip
        counts = {point.at: point.rates.counts for point in points if point.rates != Rates()}
        assert counts[midnight] == Counts(retried=3, cancelled=4)
        assert counts[midnight - timedelta(seconds=step)].succeeded
        if step > 60:
            assert len(counts) <= filled
            assert sum(one.attempts for one in counts.values()) == 20
    found = await total(session, since=since)
    assert found.run_time is not None
    assert found.run_time.buckets == {9: 20}


async def test_folding_adds_each_appended_row_once_though_three_fold_at_once(
    database: Database, session: AsyncSession, sql: Any, settings: Settings
) -> None:
    for number in range(60):
        await append(sql, NOW, number % 5 + 1, job_type=f"t{number % 7}")
    expected = await sql.fetchval("SELECT sum(jobs) FROM job_rate_deltas")
    await asyncio.gather(*(fold(database, settings) for _ in range(3)))
    assert await sql.fetchval("SELECT count(*) FROM job_rate_deltas") == 0
    assert (await total(session, since=NOW - HOUR)).counts.succeeded == expected
    by_type = await totals(session, since=NOW - HOUR, by="job_type")
    assert sum(rates.counts.succeeded for rates in by_type.values()) == expected


async def test_what_a_cut_off_fold_took_is_folded_by_the_next(
    database: Database, session: AsyncSession, sql: Any, settings: Settings
) -> None:
    await append(sql, NOW, 5)
    cut_off = sql.transaction()
    await cut_off.start()
    await sql.fetch(*FOLD_RATES.bind(limit=10, pairs=10))
    await cut_off.rollback()
    assert (await total(session, since=NOW - HOUR)).counts == Counts()
    await fold(database, settings)
    assert (await total(session, since=NOW - HOUR)).counts == Counts(5)


async def test_pairs_beyond_the_limit_are_summed_and_a_named_one_keeps_its_name(
    database: Database, session: AsyncSession, sql: Any, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(counted_pairs=2)
    await append(sql, NOW, 1, job_type="first")
    await fold(database, settings)
    for number in range(9):
        await append(sql, NOW, 10 + number, queue=f"q{number}", job_type=f"name-{number}")
    await append(sql, NOW, 1, job_type="first")
    await fold(database, settings)

    by_type = await totals(session, since=NOW - HOUR, by="job_type")
    counted = {name: rates.counts.succeeded for name, rates in by_type.items()}
    assert counted == {"first": 2, "name-8": 18, REST: sum(range(10, 18))}
    by_queue = await totals(session, since=NOW - HOUR, by="queue")
    assert set(by_queue) == {"q", "q8", REST}
    assert (await total(session, since=NOW - HOUR)).counts.succeeded == sum(counted.values())


async def test_counts_are_dropped_over_the_retention_of_their_step(
    database: Database, sql: Any, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(minute_counts_hours=2, hour_counts_days=8, day_counts_days=10)
    # An age counts from the beginning of its day, so by up to a day more: none is near a limit.
    for age in (HOUR, HOUR * 3, HOUR * 24 * 8.5, HOUR * 24 * 12):
        await append(sql, NOW - age)
    await fold(database, settings)
    link = database.link()
    await KeptRates(link, settings).drop_old()
    await link.close()
    kept = "SELECT step, count(DISTINCT at) AS steps FROM job_rates GROUP BY 1 ORDER BY 1"
    left = {row["step"]: row["steps"] for row in await sql.fetch(kept)}
    oldest = await sql.fetchval("SELECT min(at) FROM job_rates")
    assert left["minute"] == 1
    assert left["hour"] == 2
    assert left["day"] in {2, 3}
    assert NOW - oldest < HOUR * 24 * 10


@pytest.mark.parametrize("step", [0, 30, 90])
async def test_a_step_that_is_not_whole_minutes_is_refused(
    session: AsyncSession, step: int
) -> None:
    with pytest.raises(InvalidInput, match="multiple of 60"):
        await series(session, since=NOW - HOUR, until=NOW, step_seconds=step)


async def test_a_series_of_too_many_steps_is_refused(session: AsyncSession) -> None:
    with pytest.raises(InvalidInput, match="at most"):
        await series(session, since=NOW - HOUR * 48, until=NOW, step_seconds=60)


async def test_settles_and_folds_of_the_version_before_do_no_harm(
    database: Database,
    session: AsyncSession,
    sql: Any,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_rates = re.sub(r",\ntimed AS \(.*?FROM ends\)", "", FINISH.text, flags=re.DOTALL)
    assert without_rates != FINISH.text
    monkeypatch.setattr(store.settle, "FINISH", Transition(without_rates))
    await append(sql, NOW, 2, job_type="new")
    link = database.link()
    async with database.sessions.begin() as writing:
        await enqueue(writing, "old")
    request = LaneRequest(Lane("default", 2), LANE_START, 1)
    jobs = await store.claim.take(
        link, [request], ["old"], limit=1, lease_seconds=30, worker_id=1, max_errors=9
    )
    assert not await store.settle.finish(link, [(jobs[0], SUCCEEDED_EMPTY)], max_errors=9)
    await store.kept_counts.fold(link)
    await link.close()
    assert (await get_job_stats(session)).by_type == {"old": 1}
    await fold(database, settings)
    by_type = await totals(session, since=NOW - HOUR, by="job_type")
    assert {name: rates.counts.succeeded for name, rates in by_type.items()} == {"new": 2}


MANY = """
INSERT INTO finmind_jobs.job_rates (step, scope, at, queue, job_type, outcome, jobs, delays, runs)
SELECT step, scope, date_trunc(step, now(), 'UTC') - back * ('1 ' || step)::interval,
  CASE scope WHEN 'total' THEN '' ELSE 'q' || n % 5 END, CASE scope WHEN 'pair' THEN 't' || n ELSE '' END,
  'SUCCESS', 1, '{"3": 1}', '{"9": 1}'
FROM unnest('{minute,hour,day}'::text[]) step, generate_series(0, 60) back, generate_series(1, 300) n,
  unnest('{total,queue,pair}'::text[]) scope ON CONFLICT DO NOTHING
"""


@pytest.mark.whole
async def test_however_many_types_and_steps_there_are_only_those_asked_for_are_read(
    session: AsyncSession,
) -> None:
    await session.execute(text(MANY))
    await session.commit()
    await session.execute(text("ANALYZE finmind_jobs.job_rates"))
    await session.commit()
    for window in Window:
        since = window.since(NOW)
        await series(session, since=since, until=NOW, step_seconds=window.step_seconds)
        assert await total(session, since=since) != Rates()
        assert len(await totals(session, since=since, by="queue")) == 5
        by_type = await totals(session, since=since, by="job_type")
        assert len(by_type) == 300
        timed = [name for name, rates in by_type.items() if rates.run_time is not None]
        assert timed == list(by_type)[:MAX_TIMED_NAMES]
    scans = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'job_rates'"
    assert await session.scalar(text(scans)) == 0
