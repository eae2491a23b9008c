"""Why one job does not run: the reason, since when, who is in its way, and what to do."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import Actor
from service.jobs import NewJob, Registry, enqueue_batch, get_job
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.job_types import JobTypePolicy, policies
from service.jobs.core.queue_limits import Rate
from service.jobs.queues import pause_queue
from service.jobs.read.advice import advice, summary
from service.jobs.read.explain import explain
from service.jobs.read.explanation import Explanation
from service.jobs.read.list import count_newer, list_jobs
from service.jobs.read.statistics import get_job_stats
from service.jobs.read.waiting import Waiting, waiting_for, what_holds
from tests.jobs.conftest import StartWorker
from tests.jobs.rows import add
from tests.jobs.waiting import until, until_ended

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


async def why(session: AsyncSession, job_id: JobId) -> Explanation:
    """The explanation of one job, which agrees with what lists say of it."""
    job, now = await get_job(session, job_id), datetime.now(UTC)
    listed = await waiting_for(session, [job], now=now, alive_seconds=60)
    found = await explain(session, job, now=now, alive_seconds=60, max_lost_leases=5)
    assert listed == ({job_id: found.waiting_for} if job.status == JobStatus.PENDING else {})
    held = await what_holds(session, job, now=now, alive_seconds=60)
    assert held.reason == found.waiting_for
    return found


async def worker(
    session: AsyncSession, name: str = "w", *, queues: str = "*", types: str = "mail", **more: Any
) -> int:
    row = {"name": name, "queues": [queues], "job_types": [types], "concurrency": 10} | more
    places = ", ".join(f":{column}" for column in row)
    made = await session.scalar(
        text(f"INSERT INTO job_workers ({', '.join(row)}) VALUES ({places}) RETURNING id"), row
    )
    return int(made or 0)


async def held(session: AsyncSession, held_for: str, *, since: datetime, **more: Any) -> JobId:
    job = await add(session, held_for=held_for, held_since=since, **({"held_due_at": since} | more))
    await session.execute(
        text("UPDATE background_jobs SET next_run_at = 'infinity' WHERE id = :id"), {"id": job}
    )
    return job


async def permit(session: AsyncSession, key: str, *, limit: int, running: int) -> None:
    await session.execute(
        text("INSERT INTO job_permits (key, max_running, running) VALUES (:key, :limit, :running)"),
        {"key": key, "limit": limit, "running": running},
    )


async def running(session: AsyncSession, now: datetime, worker_id: int, **more: Any) -> JobId:
    return await add(
        session, status="RUNNING", next_run_at=now - HOUR, started_at=now - HOUR, attempts=1,
        lease_until=now + HOUR, worker_id=worker_id, **({"lease_token": 1} | more),
    )  # fmt: skip


async def ended(session: AsyncSession, now: datetime, jobs: int, *, minutes_ago: int) -> None:
    for scope, queue, job_type in (
        ("total", "", ""),
        ("queue", "default", ""),
        ("pair", "default", "mail"),
    ):
        await session.execute(
            text(
                "INSERT INTO job_rates (step, scope, at, queue, job_type, outcome, jobs, delays, runs)"
                " SELECT step, :scope, date_trunc(step, CAST(:at AS timestamptz)), :queue, :type, 'SUCCESS',"
                " :jobs, '{}', CAST(:runs AS jsonb) FROM unnest('{minute,hour,day}'::text[]) step"
                " ON CONFLICT DO NOTHING"
            ),
            {
                "scope": scope, "at": now - minutes_ago * MINUTE, "queue": queue, "type": job_type,
                "jobs": jobs, "runs": f'{{"20": {jobs}}}',
            },
        )  # fmt: skip


async def test_a_scheduled_job_waits_for_its_time_and_starts_then(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    job = await add(session, next_run_at=now + HOUR, created_at=now - HOUR)
    found = await why(session, job)
    assert (found.waiting_for, found.since, found.also) == (Waiting.TIME, now - HOUR, ())
    assert found.estimate is not None
    assert found.estimate.start_at == now + HOUR
    assert f"{now + HOUR:%H:%M:%S}" in summary(found)
    assert f"run it now (POST /admin/jobs/{job}/run-now)" in advice(found)[0]


async def test_a_retry_waits_since_its_last_attempt_ended(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    entry = {"event": "error", "attempt": 1, "at": (now - MINUTE).isoformat()}
    job = await add(
        session, next_run_at=now + HOUR, attempts=1, started_at=now - HOUR, errors=[entry]
    )
    found = await why(session, job)
    assert (found.waiting_for, found.since) == (Waiting.TIME, now - MINUTE)
    assert "Attempt 1 has ended" in summary(found)


async def test_what_keeps_a_scheduled_job_after_its_time_is_told_before(
    session: AsyncSession, now: datetime
) -> None:
    await pause_queue(session, "default", actor=Actor("olga"), reason="the bank is down")
    found = await why(session, await add(session, next_run_at=now + HOUR))
    assert found.waiting_for is Waiting.TIME
    assert found.also == (Waiting.QUEUE_PAUSED, Waiting.WORKER)
    assert found.estimate is None
    assert len(advice(found)) == 3


async def test_a_job_without_a_worker_names_the_live_ones_and_the_last_that_could(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session, "other", types="sms")
    await worker(session, "gone", seen_at=now - MINUTE, stopped_at=now - MINUTE)
    job = await add(session, next_run_at=now - HOUR)
    found = await why(session, job)
    assert found.waiting_for is Waiting.WORKER
    assert found.workers is not None
    assert [one.name for one in found.workers.workers] == ["other"]
    assert (found.workers.live, found.workers.serving) == (1, 0)
    assert found.last_worker is not None
    assert (found.last_worker.name, found.last_worker.stopped) == ("gone", True)
    assert found.since == found.last_worker.seen_at
    assert "none of the live workers (1) serves its type mail" in summary(found)
    assert "HANDLER_MODULES" in advice(found)[0]


async def test_a_queue_that_no_worker_of_the_type_serves_is_told_apart(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session, queues="vip:5")
    found = await why(session, await add(session, next_run_at=now - HOUR))
    assert found.waiting_for is Waiting.WORKER
    assert "none of them its queue default" in summary(found)
    assert "WORKER_QUEUES" in advice(found)[0]


async def test_a_job_of_a_paused_queue_says_who_paused_it_and_since_when_it_waits_for_that(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    await pause_queue(session, "default", actor=Actor("olga"), reason="the bank is down")
    found = await why(session, await add(session, next_run_at=now - HOUR))
    assert found.waiting_for is Waiting.QUEUE_PAUSED
    assert found.pause is not None
    assert found.since == found.pause.since
    assert "paused by olga since" in summary(found)
    assert "the bank is down" in summary(found)
    assert 'PATCH /queues/default with {"paused": false}' in advice(found)[0]
    later = await add(session, next_run_at=now + timedelta(milliseconds=1))
    await session.execute(text("UPDATE queues SET paused_at = now() - interval '1 day'"))
    assert (await why(session, later)).since == now + timedelta(milliseconds=1)


async def test_a_job_over_the_limit_of_its_key_names_who_holds_the_permits(
    session: AsyncSession, now: datetime
) -> None:
    by = await worker(session)
    key = "key:customer:7"
    await permit(session, key, limit=2, running=2)
    holders = [
        await running(session, now, by, permits=[key], queue=queue) for queue in ("default", "vip")
    ]
    await running(session, now, by, permits=["key:customer:8"])
    await add(session, next_run_at=now - HOUR)
    _, job, _ = [
        await held(session, key, since=now - MINUTE, priority=priority) for priority in (1, 2, 3)
    ]
    found = await why(session, job)
    assert (found.waiting_for, found.since) == (Waiting.CONCURRENCY, now - MINUTE)
    assert found.limit is not None
    assert (found.limit.max_running, found.limit.running) == (2, 2)
    assert sorted(one.id for one in found.limit.holders) == holders
    assert {(one.worker, one.since) for one in found.limit.holders} == {("w", now - HOUR)}
    assert found.before is not None
    assert (found.before.jobs, found.before.exact) == (1, True)
    assert "2 jobs run under customer:7, of 2 that may; 1 job is before it" in summary(found)
    assert "Raise max_running_per_key of the handler of mail" in advice(found)[0]
    await session.execute(
        text("INSERT INTO queues (name, max_running_per_key) VALUES ('default', 2)")
    )
    assert "of the queue default (PATCH /queues/default)" in advice(await why(session, job))[0]
    await session.execute(text("UPDATE queues SET max_running_per_key = 9"))
    assert "of the handler of mail" in advice(await why(session, job))[0]


async def test_a_job_is_told_the_limit_of_its_own_queue_and_not_the_one_asked_for_last(
    session: AsyncSession, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(policies, "mail", JobTypePolicy())
    await worker(session)
    await permit(session, "key:k", limit=2, running=2)  # a job of another queue asked
    await session.execute(
        text("INSERT INTO queues (name, max_running_per_key) VALUES ('default', 10)")
    )
    first, second = [await held(session, "key:k", since=now - MINUTE) for _ in range(2)]
    found = await why(session, second)
    assert found.limit is not None
    assert (found.limit.max_running, found.limit.set_by_queue) == (10, True)
    assert "2 jobs run under k, of 10 that may; 1 job is before it" in summary(found)
    assert advice(found) == ["Wait: a permit is free, and jobs before it get it first."]
    assert advice(await why(session, first)) == [
        "Wait: a permit is free, and it gets it within seconds."
    ]
    await session.execute(text("UPDATE queues SET max_running_per_key = 2"))
    assert "of the queue default (PATCH" in advice(await why(session, second))[0]


async def test_a_job_over_the_limit_of_its_queue_says_so(
    session: AsyncSession, now: datetime
) -> None:
    by = await worker(session)
    await session.execute(text("INSERT INTO queues (name, max_running) VALUES ('default', 1)"))
    await permit(session, "queue:default", limit=9, running=1)
    holder = await running(session, now, by, permits=["queue:default"])
    job = await held(session, "queue:default", since=now - MINUTE)
    found = await why(session, job)
    assert found.limit is not None
    assert (found.limit.max_running, [one.id for one in found.limit.holders]) == (1, [holder])
    (said,) = advice(found)
    assert said.startswith(
        "Raise max_running of the queue default (PATCH /queues/default), or wait"
    )
    assert said.endswith("1 job runs in the queue default.")


async def test_a_due_job_of_a_queue_at_its_limit_waits_for_that_although_nothing_has_held_it(
    session: AsyncSession, now: datetime
) -> None:
    by = await worker(session)
    await session.execute(text("INSERT INTO queues (name, max_running) VALUES ('default', 1)"))
    job = await add(session, next_run_at=now - HOUR)
    assert (await why(session, job)).waiting_for is None
    await permit(session, "queue:default", limit=1, running=1)
    holder = await running(session, now, by, permits=["queue:default"])
    await held(session, "queue:default", since=now)
    await add(session, next_run_at=now - 2 * HOUR)
    found = await why(session, job)
    assert (found.waiting_for, found.since) == (Waiting.CONCURRENCY, now - HOUR)
    assert found.limit is not None
    assert [one.id for one in found.limit.holders] == [holder]
    assert found.before is not None
    assert found.before.jobs == 2  # the held one gets the next permit
    assert "It is due: 1 job runs in the queue default, of 1 that may" in summary(found)
    await pause_queue(session, "default")
    found = await why(session, job)
    assert (found.waiting_for, found.also) == (Waiting.QUEUE_PAUSED, (Waiting.CONCURRENCY,))
    later = await why(session, await add(session, next_run_at=now + HOUR))
    assert Waiting.CONCURRENCY not in later.also


async def test_the_latest_of_a_unique_key_names_the_one_that_runs(
    session: AsyncSession, now: datetime
) -> None:
    by = await worker(session)
    runs = await running(session, now, by, unique_until_start="k")
    await running(session, now, by, unique_until_start="other")
    waits = await held(session, "unique", since=now, unique_key="k", unique_until_start="k")
    await held(session, "unique", since=now, unique_key="other", unique_until_start="other")
    found = await why(session, waits)
    assert (found.waiting_for, found.before) == (Waiting.CONCURRENCY, None)
    assert found.limit is not None
    assert [one.id for one in found.limit.holders] == [runs]
    assert "held until another job with its unique key has ended" in summary(found)
    assert advice(found) == ["Wait until that job has ended, or cancel it."]


@pytest.mark.parametrize(
    ("held_for", "reason"),
    [("rate:default", Waiting.RATE_LIMIT), ("after", Waiting.DEPENDENCIES)],
)
async def test_what_is_held_for_something_else_says_for_what(
    session: AsyncSession, now: datetime, held_for: str, reason: Waiting
) -> None:
    await worker(session)
    found = await why(session, await held(session, held_for, since=now - MINUTE))
    assert (found.waiting_for, found.since) == (reason, now - MINUTE)
    assert summary(found)
    assert advice(found)


async def test_a_job_over_the_rate_of_its_queue_is_told_its_turn(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    await session.execute(
        text("INSERT INTO queues (name, rate_limit, rate_seconds) VALUES ('default', 2, 60)")
    )
    for _ in range(3):
        job = await held(session, "rate:default", since=now)
    found = await why(session, job)
    assert found.rate == Rate(2, 60.0)
    assert "of 2 jobs in 60 s comes; 2 jobs are before it" in summary(found)
    assert found.estimate is not None
    assert found.estimate.start_at is not None
    assert (found.estimate.start_at - now).total_seconds() == pytest.approx(90, abs=10)
    assert found.estimate.drain_seconds == 90


async def test_a_due_job_of_a_queue_out_of_turns_waits_for_that_although_nothing_has_held_it(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    await session.execute(
        text("INSERT INTO queues (name, rate_limit, rate_seconds) VALUES ('default', 2, 60)")
    )
    await held(session, "rate:default", since=now)
    await add(session, next_run_at=now - HOUR)
    job = await add(session, next_run_at=now - MINUTE)
    turn = "INSERT INTO rate_limits (key, queue, next_at) VALUES ('rate:default', 'default', now())"
    await session.execute(text(turn))
    assert (await why(session, job)).waiting_for is None, "one may start now"
    await session.execute(text("UPDATE rate_limits SET next_at = now() + interval '20 s'"))
    found = await why(session, job)
    assert (found.waiting_for, found.since) == (Waiting.RATE_LIMIT, now - MINUTE)
    assert summary(found) == (
        "It is due, and waits until its turn under the rate of the queue default of 2 jobs in 60 s comes; "
        "2 jobs are before it."
    )
    assert advice(found) == [
        "Wait, or raise the rate of the queue default (PATCH /queues/default)."
    ]
    assert found.estimate is not None
    await session.execute(text("UPDATE queues SET rate_limit = NULL, rate_seconds = NULL"))
    assert (await why(session, job)).waiting_for is None


async def test_a_job_over_the_rate_of_its_key_is_told_that_key_and_its_turn(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    await session.execute(
        text(
            "INSERT INTO queues (name, rate_limit, rate_seconds, key_rate_limit, key_rate_seconds)"
            " VALUES ('default', 9, 1, 2, 60)"
        )
    )
    await held(session, "rate:default/customer:8", since=now)
    for _ in range(3):
        job = await held(session, "rate:default/customer:7", since=now)
    found = await why(session, job)
    assert (found.waiting_for, found.rate) == (Waiting.RATE_LIMIT, Rate(2, 60.0))
    assert summary(found) == (
        "It is due, and held until its turn under the rate of the key customer:7 in the queue default of 2 "
        "jobs in 60 s comes; 2 jobs are before it."
    )
    assert advice(found) == [
        "Wait, or raise the rate_per_key of the queue default (PATCH /queues/default)."
    ]
    assert found.estimate is not None
    assert found.estimate.start_at is not None
    assert (found.estimate.start_at - now).total_seconds() == pytest.approx(90, abs=10)


async def test_a_child_names_the_parents_that_it_waits_for_the_dead_ones_first(
    session: AsyncSession, now: datetime
) -> None:
    by = await worker(session)
    runs, waits, dead, gone, met = (
        await running(session, now, by),
        await add(session, next_run_at=now + HOUR),
        await add(session, status="DEAD_LETTER"),
        4711,
        await add(session, status="SUCCESS"),
    )
    child = await held(session, "after", since=now - MINUTE)
    assert "it is let go within seconds" in summary(await why(session, child))
    for parent in (runs, waits, dead, gone, met):
        await session.execute(
            text(
                "INSERT INTO job_dependencies (parent_id, child_id, on_parent_failure, met)"
                " VALUES (:parent, :child, 'hold', :met)"
            ),
            {"parent": parent, "child": child, "met": parent == met},
        )
    found = await why(session, child)
    assert (found.waiting_for, found.since) == (Waiting.DEPENDENCIES, now - MINUTE)
    assert found.parents is not None
    assert (found.parents.unmet, found.parents.exact) == (4, True)
    assert [(one.id, one.status) for one in found.parents.named] == [
        (dead, "DEAD_LETTER"), (waits, "PENDING"), (runs, "RUNNING"), (gone, None),
    ]  # fmt: skip
    assert "4 jobs that it comes after have not ended" in summary(found).lower()
    assert f"Retry job {dead}" in advice(found)[0]


async def test_a_child_that_is_due_later_waits_for_its_parents_and_for_its_time(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    child = await held(session, "after", since=now, held_due_at=now + HOUR)
    found = await why(session, child)
    assert (found.waiting_for, found.also) == (Waiting.DEPENDENCIES, (Waiting.TIME,))


async def test_a_job_that_waits_for_a_slot_alone_counts_what_goes_first(
    session: AsyncSession, now: datetime
) -> None:
    by = await worker(session)
    await running(session, now, by)
    await add(session, next_run_at=now - 2 * HOUR)  # before it
    await add(session, next_run_at=now - MINUTE)  # after it
    await add(session, next_run_at=now - MINUTE, priority=0)  # before it: more urgent
    await add(session, next_run_at=now + MINUTE, priority=0)  # not due
    await add(session, next_run_at=now - 2 * HOUR, priority=5)  # less urgent
    await add(session, next_run_at=now - 2 * HOUR, queue="vip")
    job = await add(session, next_run_at=now - HOUR)
    found = await why(session, job)
    assert (found.waiting_for, found.since, found.also) == (None, now - HOUR, ())
    assert found.before is not None
    assert (found.before.jobs, found.before.exact) == (2, True)
    assert found.workers is not None
    assert (found.workers.serving, found.workers.slots) == (1, 10)
    assert "waits for a free slot of a worker; 2 jobs are before it" in summary(found)
    assert "WORKER_CONCURRENCY" in advice(found)[0]


async def test_the_start_is_estimated_from_what_ended_in_the_last_minutes(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    for _ in range(3):
        job = await add(session, next_run_at=now - HOUR)
    assert (await why(session, job)).estimate is None
    await ended(session, now, 100, minutes_ago=3)
    await ended(session, now, 20, minutes_ago=40)  # too long ago
    found = (await why(session, job)).estimate
    assert found is not None
    assert found.exact
    assert found.start_at is not None
    # 100 in 3 to 4 minutes, and 2 jobs before it.
    assert 3 * 180 / 100 <= (found.start_at - now).total_seconds() <= 3 * 250 / 100
    assert found.drain_seconds is not None
    assert 3 * 180 / 100 <= found.drain_seconds <= 3 * 250 / 100
    assert "100 attempts of the queue default ended" in found.based_on


async def test_jobs_that_a_queues_limit_holds_count_until_it_is_drained(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    await add(session, next_run_at=now - MINUTE)
    for _ in range(9):
        job = await held(session, "queue:default", since=now)
    await ended(session, now, 100, minutes_ago=3)
    found = (await why(session, job)).estimate
    assert found is not None
    assert found.drain_seconds is not None
    assert 10 * 180 / 100 <= found.drain_seconds <= 10 * 250 / 100


async def test_a_turn_under_a_key_is_estimated_by_how_long_its_type_runs(
    session: AsyncSession, now: datetime
) -> None:
    await worker(session)
    await permit(session, "key:k", limit=2, running=2)
    for _ in range(5):
        job = await held(session, "key:k", since=now)
    assert (await why(session, job)).estimate is None
    await ended(session, now, 100, minutes_ago=3)
    found = (await why(session, job)).estimate
    assert found is not None
    assert "2 at once, and jobs of type mail ran for" in found.based_on
    assert found.start_at is not None
    assert found.start_at > now


async def test_a_running_job_says_who_runs_it_and_a_lost_one_that_it_was_lost(
    session: AsyncSession, now: datetime
) -> None:
    by = await worker(session)
    runs = await why(session, await running(session, now, by))
    assert (runs.waiting_for, runs.since) == (None, now - HOUR)
    assert runs.run is not None
    assert runs.run.worker == "w"
    assert (summary(runs)[:8], advice(runs)) == ("It runs ", [])
    lost = await running(session, now, by)
    await session.execute(
        text("UPDATE background_jobs SET lease_until = :at WHERE id = :id"),
        {"at": now - MINUTE, "id": lost},
    )
    found = await why(session, lost)
    assert (found.waiting_for, found.since, found.run) == (None, now - MINUTE, None)
    assert "The worker that ran it was lost" in summary(found)


async def test_a_running_job_that_is_to_be_cancelled_says_so(
    session: AsyncSession, now: datetime
) -> None:
    job = await running(session, now, await worker(session))
    await session.execute(
        text("UPDATE background_jobs SET cancel = CAST(:cancel AS jsonb) WHERE id = :id"),
        {"id": job, "cancel": json.dumps({"requested_at": now.isoformat(), "by": "olga"})},
    )
    found = await why(session, job)
    assert found.cancel_asked_at == now
    assert "its cancel was asked for at" in summary(found)
    assert "CANCEL_GRACE_SECONDS" in advice(found)[0]


@pytest.mark.parametrize("status", ["SUCCESS", "DEAD_LETTER", "FAILED", "CANCELLED"])
async def test_a_job_that_has_ended_says_how(
    session: AsyncSession, now: datetime, status: str
) -> None:
    found = await why(session, await add(session, status=status, finished_at=now))
    assert (found.waiting_for, found.since) == (None, now)
    assert status in summary(found)
    assert bool(advice(found)) == (status in {"DEAD_LETTER", "FAILED"})


async def test_a_job_on_its_last_chance_says_so(session: AsyncSession, now: datetime) -> None:
    await worker(session)
    values = {"next_run_at": now + HOUR, "started_at": now - HOUR, "attempts": 4}
    found = await why(session, await add(session, lost_leases=4, **values))
    assert found.last_chance
    assert "becomes a dead letter with the next one" in advice(found)[-1]
    assert not (await why(session, await add(session, lost_leases=3, **values))).last_chance


async def test_held_jobs_are_found_by_what_they_are_held_for_and_by_when_they_were_due(
    session: AsyncSession, now: datetime
) -> None:
    key = await held(session, "key:k", since=now - HOUR, concurrency_key="k")
    queue = await held(session, "queue:q", since=now, queue="q")
    plain = await add(session, next_run_at=now + HOUR)
    await add(session, status="SUCCESS", concurrency_key="j", next_run_at=now - 2 * HOUR)
    for filters, expected in (
        (JobFilters(held_for="*"), [queue, key]),
        (JobFilters(held_for="key"), [key]),
        (JobFilters(held_for="queue:q"), [queue]),
        (JobFilters(held_for="q"), []),
        (JobFilters(held_for="*", statuses={JobStatus.SUCCESS}), []),
        (JobFilters(held_for="*", fingerprint="0"), []),
        (JobFilters(concurrency_key="k"), [key]),
        (JobFilters(due_after=now), [plain, queue]),
        (JobFilters(due_before=now, statuses={JobStatus.PENDING}), [key]),
    ):
        page = await list_jobs(session, filters, limit=10)
        assert ([job.id for job in page.jobs], page.total) == (expected, len(expected)), filters
        counted, exact = await count_newer(session, filters, JobId(0), cap=10)
        assert (counted, exact) == (len(expected), True), filters


async def test_held_jobs_are_counted_apart_from_those_that_wait_for_their_time(
    session: AsyncSession, now: datetime
) -> None:
    await held(session, "key:k", since=now - HOUR)
    await held(session, "after", since=now)
    await add(session, next_run_at=now + HOUR)
    await add(session, next_run_at=now - HOUR)
    stats = await get_job_stats(session)
    assert (stats.held, stats.scheduled, stats.due_now) == (2, 1, 1)
    assert stats.oldest_due_seconds == pytest.approx(3600, abs=30)


@pytest.mark.whole
async def test_an_explanation_reads_a_bounded_number_of_rows_however_many_jobs_are_due(
    session: AsyncSession, now: datetime
) -> None:
    by = await worker(session)
    await permit(session, "key:k", limit=1, running=1)
    await running(session, now, by, permits=["key:k"])
    await ended(session, now, 100, minutes_ago=3)
    # No lease has the token 0: it says that the row was checked.
    many = (
        "INSERT INTO background_jobs (job_type, lease_token, priority, next_run_at, held_for, held_since,"
        " held_due_at) SELECT 'mail', 0, n % 3, now() - n * interval '1 ms', :held_for, now(), now()"
        " FROM generate_series(1, 30000) n"
    )
    for held_for in (None, None, "key:k"):
        await session.execute(text(many), {"held_for": held_for})
    await session.execute(
        text("UPDATE jobs_live SET next_run_at = 'infinity' WHERE held_for IS NOT NULL")
    )
    due = await add(session, priority=2, next_run_at=now)
    waits = await held(session, "key:k", since=now, priority=9)
    read = text(
        "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs_live'"
    )
    for job in (due, waits):
        whole, by_index = (await session.execute(read)).one()
        found = await why(session, job)
        assert found.before is not None
        assert (found.before.jobs, found.before.exact) == (10_000, False)
        assert found.estimate is not None
        assert not found.estimate.exact
        read_whole, read_by_index = (await session.execute(read)).one()
        assert read_whole == whole
        assert read_by_index - by_index < 40_000


async def test_a_job_that_a_worker_holds_for_its_key_names_the_one_that_runs(
    handlers: Registry, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    let_go = asyncio.Event()

    @handlers.handler("mail", max_running_per_key=1)
    async def mail(_: Any) -> None:
        await let_go.wait()

    jobs = await enqueue_batch(sql, [NewJob("mail", concurrency_key="customer:7")] * 2)

    async def is_held() -> bool:
        return bool(await sql.fetchval("SELECT count(held_for) FROM jobs_live"))

    await start_worker()
    await until(is_held)
    holder, waiting = sorted(
        [await why(session, job.id) for job in jobs], key=lambda one: one.waiting_for or ""
    )
    assert (holder.waiting_for, waiting.waiting_for) == (None, Waiting.CONCURRENCY)
    assert holder.run is not None
    assert waiting.limit is not None
    assert (waiting.limit.max_running, waiting.limit.running) == (1, 1)
    assert [one.id for one in waiting.limit.holders] == [holder.id]
    assert waiting.limit.holders[0].worker == holder.run.worker
    assert waiting.also == ()
    let_go.set()
    await until_ended(sql, waiting.id)
