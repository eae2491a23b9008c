"""The causes of dead letters: counted right whatever brings them and takes them away."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import asyncpg
import pytest
from prometheus_client import REGISTRY

from service.db.connection import Link
from service.db.engine import Database
from service.errors import InvalidInput, NotFound
from service.jobs import Registry, delete_job, retry_dead_letter_job, store
from service.jobs.actions.causes import ignore_cause, reopen_cause, resolve_cause
from service.jobs.core.causes import CauseFilters, CauseGroup, CauseSort, CauseState
from service.jobs.core.fingerprint import cause_of, overflow_of
from service.jobs.core.job import JobId
from service.jobs.maintenance import causes
from service.jobs.maintenance.causes import Causes
from service.jobs.maintenance.maintainer import Maintainer
from service.jobs.read.causes import get_cause, list_causes
from service.settings import Settings
from tests.jobs.conftest import Quick

DIE: Final = """
INSERT INTO background_jobs (job_type, status, finished_at, last_error, errors, fingerprint, worker_id)
SELECT $1, 'DEAD_LETTER', now() - $5::interval, 'ValueError: no ' || n, jsonb_build_array(jsonb_build_object(
  'event', 'error', 'type', 'ValueError', 'message', 'no ' || n, 'traceback', NULL)), $2, $4
FROM generate_series(1, $3::int) n RETURNING id
"""
NOW: Final = timedelta(0)


@pytest.fixture
async def link(database: Database) -> AsyncIterator[Link]:
    one = database.link()
    yield one
    await one.close()


@pytest.fixture
def kept(link: Link, settings: Settings) -> Causes:
    """The leader's part."""
    return Causes(link, settings)


async def die(
    sql: Any, fingerprint: str | None, *, jobs: int = 1, job_type: str = "mail",
    worker: int | None = None, ago: timedelta = NOW,
) -> list[JobId]:  # fmt: skip
    return [row[0] for row in await sql.fetch(DIE, job_type, fingerprint, jobs, worker, ago)]


async def listed(database: Database, **filters: Any) -> list[CauseGroup]:
    async with database.sessions() as session:
        return (await list_causes(session, CauseFilters(**filters), limit=100)).groups


async def counts(database: Database) -> dict[str, int]:
    return {group.fingerprint: group.count for group in await listed(database)}


async def one(database: Database, fingerprint: str) -> CauseGroup:
    async with database.sessions() as session:
        return await get_cause(session, fingerprint)


# -- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [False, True])
async def test_every_way_in_and_out_is_counted(
    database: Database, sql: Any, kept: Causes, link: Link, folds: bool
) -> None:
    await go_every_way(database, sql, link, kept if folds else None)


@pytest.mark.parametrize("trigger", ["causes_came", "causes_left", "causes_changed", "causes_gone"])
async def test_a_way_that_is_not_counted_would_be_noticed(
    database: Database, sql: Any, link: Link, trigger: str
) -> None:
    await sql.execute(f"DROP TRIGGER {trigger} ON jobs_dead")
    with pytest.raises(AssertionError):
        await go_every_way(database, sql, link, None)


async def go_every_way(database: Database, sql: Any, link: Link, kept: Causes | None) -> None:
    async def check(**expected: int) -> None:
        if kept is not None:
            await kept.fold()
        assert await counts(database) == expected

    a = await die(sql, "a", jobs=5)
    (b,) = await die(sql, "b")
    await check(a=5, b=1)
    async with database.sessions.begin() as session:
        await retry_dead_letter_job(session, a[0])
        await delete_job(session, a[1])
    await check(a=3, b=1)
    await sql.execute("UPDATE background_jobs SET status = 'PENDING' WHERE id = $1", a[2])
    await check(a=2, b=1)
    await sql.execute("UPDATE background_jobs SET status = 'FAILED' WHERE id = $1", a[2])
    await check(a=3, b=1)
    await sql.execute("UPDATE jobs_dead SET fingerprint = 'b' WHERE id = $1", a[3])
    await check(a=2, b=2)
    await sql.execute("UPDATE jobs_dead SET fingerprint = 'b', last_error = 'x' WHERE id = $1", b)
    await check(a=2, b=2)
    await sql.execute("UPDATE jobs_dead SET finished_at = now() - interval '9 days'")
    await store.retention.drop(link, store.retention.DROP_DEAD_BEFORE, age=8, limit=3)
    assert sum((await counts(database)).values()) == 1
    await sql.execute("TRUNCATE jobs_dead")
    await check()


async def test_a_transaction_that_is_rolled_back_counts_nothing(
    database: Database, sql: Any, kept: Causes
) -> None:
    await die(sql, "a")
    transaction = sql.transaction()
    await transaction.start()
    await die(sql, "a", jobs=3)
    await sql.execute("DELETE FROM jobs_dead WHERE id IN (SELECT min(id) FROM jobs_dead)")
    await transaction.rollback()
    await kept.fold()
    assert await counts(database) == {"a": 1}


async def test_a_cause_is_named_by_its_newest_job(
    database: Database, sql: Any, kept: Causes
) -> None:
    ids = await die(sql, "a", jobs=3)
    before = await one(database, "a")
    await kept.fold()
    after = await one(database, "a")
    for group in (before, after):
        assert (group.kind, group.title, group.job_type) == ("ValueError", "no #", "mail")
        assert (group.sample_id, group.count, group.deaths) == (ids[-1], 3, 3)


async def test_what_died_stays_counted_by_the_hour_when_it_is_retried(
    database: Database, sql: Any, kept: Causes
) -> None:
    await die(sql, "a", jobs=2)
    await die(sql, "a", jobs=3, ago=timedelta(hours=2))
    await die(sql, "a", jobs=7, ago=timedelta(days=30))
    await kept.fold()
    await sql.execute("DELETE FROM jobs_dead")
    await kept.fold()
    await kept.drop_old()
    group = await one(database, "a")
    assert (group.count, group.deaths, group.sample_id) == (0, 12, None)
    assert len(group.trend) == 168
    assert (group.trend[-1], group.trend[-3], sum(group.trend)) == (2, 3, 5)
    assert (group.last_seen - group.first_seen).days in {29, 30}


async def test_workers_that_saw_it_are_named_newest_first_up_to_twenty(
    database: Database, sql: Any, kept: Causes
) -> None:
    workers = [
        await sql.fetchval(
            "INSERT INTO job_workers (name, queues, job_types, concurrency)"
            " VALUES ($1, '{}', '{}', 1) RETURNING id",
            f"w-{number:02}",
        )
        for number in range(25)
    ]
    for worker in workers:
        await die(sql, "a", worker=worker)
        await kept.fold()
    await sql.execute("DELETE FROM job_workers")
    group = await one(database, "a")
    assert group.workers == tuple(f"w-{number:02}" for number in range(24, 4, -1))


async def test_odd_times_of_plain_sql_hinder_no_count(
    database: Database, sql: Any, kept: Causes
) -> None:
    for moment in ("infinity", "-infinity", "4000-01-01", None):
        await sql.execute(
            "INSERT INTO jobs_dead (job_type, status, finished_at, fingerprint)"
            " VALUES (repeat('x', 50000), 'FAILED', $1::text::timestamptz, 'a')",
            moment,
        )
    assert (await one(database, "a")).count == 4
    await kept.fold()
    group = await one(database, "a")
    assert (group.count, group.last_seen.year > 2000) == (4, True)


async def test_a_cause_without_jobs_is_forgotten_unless_somebody_decided_about_it(
    database: Database, sql: Any, kept: Causes
) -> None:
    for name in ("a", "b", "c"):
        await die(sql, name, ago=timedelta(days=8))
    await die(sql, "d")
    await kept.fold()
    async with database.sessions.begin() as session:
        await resolve_cause(session, "b")
    await sql.execute("DELETE FROM jobs_dead WHERE fingerprint <> 'c'")
    await kept.fold()
    await kept.drop_old()
    assert await sql.fetchval("SELECT array_agg(fingerprint ORDER BY fingerprint) FROM causes") == [
        "b",
        "c",
        "d",
    ]
    assert await counts(database) == {"b": 0, "c": 1}


# -- states ---------------------------------------------------------------------------------------


async def test_a_resolved_cause_regresses_when_a_job_dies_of_it_again_and_not_before(
    database: Database, sql: Any, kept: Causes
) -> None:
    await die(sql, "a", ago=timedelta(minutes=1))
    async with database.sessions.begin() as session:
        group = await resolve_cause(session, "a", reason="fixed in 7")
    assert (group.state, group.reason, group.changed_by) == ("resolved", "fixed in 7", "python")
    await die(sql, "a", ago=timedelta(minutes=1))  # of a worker that told late
    await kept.fold()
    assert (await one(database, "a")).state == CauseState.RESOLVED
    await die(sql, "a")
    await kept.fold()
    group = await one(database, "a")
    assert (group.state, group.regressed) == (CauseState.UNRESOLVED, True)
    async with database.sessions.begin() as session:
        assert not (await resolve_cause(session, "a")).regressed


async def test_an_ignored_cause_is_unresolved_again_after_so_many_deaths(
    database: Database, sql: Any, kept: Causes
) -> None:
    await die(sql, "a", jobs=3)
    async with database.sessions.begin() as session:
        group = await ignore_cause(session, "a", deaths=2)
    assert (group.state, group.ignored_deaths_left) == (CauseState.IGNORED, 2)
    await die(sql, "a", jobs=2)
    await kept.fold()
    assert (await one(database, "a")).ignored_deaths_left == 0
    assert (await one(database, "a")).state == CauseState.IGNORED
    await die(sql, "a")
    await kept.fold()
    assert (await one(database, "a")).state == CauseState.UNRESOLVED


async def test_an_ignored_cause_is_unresolved_again_when_its_time_is_over(
    database: Database, sql: Any, kept: Causes
) -> None:
    await die(sql, "a")
    now = await sql.fetchval("SELECT now()")
    async with database.sessions.begin() as session:
        with pytest.raises(InvalidInput, match="has passed"):
            await ignore_cause(session, "a", until=now - timedelta(seconds=1))
        await ignore_cause(session, "a", until=now + timedelta(hours=1))
    await kept.fold()
    assert (await one(database, "a")).state == CauseState.IGNORED
    await sql.execute("UPDATE causes SET ignored_until = now()")
    await kept.fold()
    assert (await one(database, "a")).state == CauseState.UNRESOLVED


async def test_a_cause_is_ignored_for_good_and_opened_again(
    database: Database, sql: Any, kept: Causes
) -> None:
    await die(sql, "a")
    async with database.sessions.begin() as session:
        await ignore_cause(session, "a")
    await die(sql, "a", jobs=9)
    await kept.fold()
    assert (await one(database, "a")).state == CauseState.IGNORED
    async with database.sessions.begin() as session:
        assert (await reopen_cause(session, "a")).state == CauseState.UNRESOLVED
        with pytest.raises(NotFound):
            await reopen_cause(session, "unknown")


# -- lists ----------------------------------------------------------------------------------------


async def test_pages_skip_no_cause_of_the_same_count(database: Database, sql: Any) -> None:
    for number in range(7):
        await die(sql, f"f{number}", jobs=2)
    found: list[str] = []
    after = None
    async with database.sessions() as session:
        for sort in CauseSort:
            found.clear()
            while True:
                page = await list_causes(session, CauseFilters(), sort=sort, limit=3, after=after)
                found += [group.fingerprint for group in page.groups]
                if (after := page.next_after) is None:
                    break
            assert sorted(found) == [f"f{number}" for number in range(7)]


async def test_each_filter_leaves_exactly_its_causes(
    database: Database, sql: Any, kept: Causes
) -> None:
    await die(sql, "a", job_type="mail")
    await die(sql, "b", job_type="fax", jobs=2)
    await kept.fold()
    async with database.sessions.begin() as session:
        await ignore_cause(session, "b")

    async def found(**filters: Any) -> list[str]:
        return [group.fingerprint for group in await listed(database, **filters)]

    assert await found() == ["b", "a"]
    assert await found(job_type="mail") == ["a"]
    assert await found(states=frozenset({CauseState.IGNORED})) == ["b"]
    assert await found(text="valueERROR NO") == ["b", "a"]
    assert await found(text="%") == []


# -- dead letters without a fingerprint -----------------------------------------------------------


async def test_dead_letters_without_one_are_given_theirs(
    database: Database, sql: Any, kept: Causes
) -> None:
    await die(sql, None, jobs=1_203)
    await sql.execute(
        "INSERT INTO jobs_dead (job_type, status, finished_at, last_error)"
        " VALUES ('mail', 'FAILED', now(), 'ValueError: no 1'), ('mail', 'FAILED', now(), NULL)"
    )
    await kept.mark()
    await kept.fold()
    expected = cause_of("mail", "ValueError", "no 7", None).fingerprint
    nothing = cause_of("mail", "", "", None).fingerprint
    assert await counts(database) == {expected: 1_204, nothing: 1}


async def test_one_odd_row_harms_only_itself(
    database: Database, sql: Any, kept: Causes, caplog: pytest.LogCaptureFixture
) -> None:
    odd: list[Any] = [{"type": 1}, "text", 7, [7], [None], [[]], [{"type": {}, "message": [1]}], []]
    for errors in odd:
        await sql.execute(
            "INSERT INTO jobs_dead (job_type, status, finished_at, errors, last_error)"
            " VALUES ('odd', 'FAILED', now(), $1, repeat('x', 1000000))",
            errors,
        )
    await sql.execute(
        "INSERT INTO jobs_dead (job_type, status, finished_at, errors) VALUES ('odd', 'FAILED', now(),"
        " jsonb_build_array(jsonb_build_object('message', repeat('y', 100000000))))"
    )
    await sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.job_type = 'refused' THEN RAISE 'no'; END IF; RETURN NEW; END $$;"
        "INSERT INTO jobs_dead (job_type, status) VALUES ('refused', 'FAILED');"
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs_dead FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    await die(sql, None, jobs=600)
    for _ in range(20):
        await kept.mark()
    left = await sql.fetch("SELECT job_type FROM jobs_dead WHERE fingerprint IS NULL")
    assert [row[0] for row in left] == ["refused"]
    assert "dead_letter_unreadable" in caplog.text


async def test_a_row_that_somebody_holds_is_passed_over_and_read_later(
    database: Database, sql: Any, kept: Causes, pg_dsn: str
) -> None:
    (held, *_) = await die(sql, None, jobs=3)
    other = await asyncpg.connect(pg_dsn)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM jobs_dead WHERE id = $1 FOR UPDATE", held)
    await kept.mark()
    assert await sql.fetchval("SELECT count(*) FROM jobs_dead WHERE fingerprint IS NULL") == 1
    await transaction.commit()
    await other.close()
    await kept.mark()
    assert await sql.fetchval("SELECT count(*) FROM jobs_dead WHERE fingerprint IS NULL") == 0


# -- limits ---------------------------------------------------------------------------------------


async def test_a_message_that_escapes_the_rule_makes_no_million_causes(
    database: Database, sql: Any, kept: Causes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causes, "MAX_CAUSES_PER_TYPE", 5)
    for number in range(5):
        await die(sql, f"kept-{number}")
    await kept.fold()
    for number in range(40):
        await die(sql, f"new-{number:02}", jobs=2)
    await die(sql, "fax", job_type="fax")
    for _ in range(4):
        await kept.fold()
    found = {group.fingerprint: group for group in await listed(database)}
    other = found.pop(overflow_of("mail"))
    assert found.keys() == {*(f"kept-{number}" for number in range(5)), "fax"}
    assert (other.count, other.is_overflow, other.job_type, other.state) == (
        80,
        True,
        "mail",
        "unresolved",
    )
    assert "beyond the first" in other.title
    assert sum(other.trend) == 80
    assert (
        await sql.fetchval(
            "SELECT count(*) FROM jobs_dead WHERE fingerprint = $1", other.fingerprint
        )
        == 80
    )
    await die(sql, "new-01")
    for _ in range(3):
        await kept.fold()
    assert (await one(database, overflow_of("mail"))).count == 81
    await kept.drop_old()
    assert await sql.fetchval("SELECT count(*) FROM causes") == 7


async def test_types_that_clients_invent_make_no_million_causes(
    database: Database, sql: Any, kept: Causes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causes, "MAX_CAUSES", 3)
    for number in range(9):
        await die(sql, f"f{number}", job_type=f"type-{number}")
        await kept.fold()
    for _ in range(3):
        await kept.fold()
    found = {group.fingerprint: group.count for group in await listed(database)}
    assert found == {"f0": 1, "f1": 1, "f2": 1, overflow_of(None): 6}
    assert (await one(database, overflow_of(None))).job_type is None


# -- the leader -----------------------------------------------------------------------------------


async def test_the_leader_keeps_them_as_one_of_its_duties(
    database: Database, handlers: Registry, quick: Quick, sql: Any
) -> None:
    await die(sql, None, jobs=3)
    await die(sql, "a")
    leader = Maintainer(database, quick(), handlers=handlers)
    await leader.do_duties()
    await leader.do_duties()
    shown = REGISTRY.get_sample_value("finmind_dead_letter_groups", {"state": "unresolved"})
    await leader.close()
    assert shown == 2
    assert await sql.fetchval("SELECT sum(jobs) FROM causes") == 4
    assert await sql.fetchval("SELECT count(*) FROM cause_deltas") == 0
