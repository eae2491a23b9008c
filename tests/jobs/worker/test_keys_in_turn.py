"""In a queue that chose it concurrency keys take turns, whatever waits under others."""

import asyncio
import time
from collections import Counter
from struct import pack
from typing import Any

import pytest

from benchmarks.plans import ExplainingLink
from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import KeysRequest, KeysWalk, Lane
from service.jobs.store.queues import IN_FORCE_SECONDS
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.proxy import Proxy
from tests.jobs.waiting import occurs, until_ended, until_true

QUEUE = "fair"
LANE = Lane(QUEUE, 2)
FAIR = "INSERT INTO queues (name, key_fairness) VALUES ('fair', true)"
UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs_live'"


async def backlog(sql: Any, key: str | None, count: int, *, priority: int = 2) -> None:
    """Jobs that have been due for an hour, each with its key for a payload."""
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload, queue, priority, concurrency_key, next_run_at)"
        " SELECT 'mail', to_jsonb(COALESCE($1, '-')), $2, $4, $1, now() - interval '1 hour'"
        " FROM generate_series(1, $3)",
        key, QUEUE, count, priority,
    )  # fmt: skip


async def add(sql: Any, key: str | None, count: int, **options: Any) -> None:
    jobs = [NewJob("mail", key or "-", queue=QUEUE, concurrency_key=key, **options)] * count
    await enqueue_batch(sql, jobs)


class Taker:
    """Claims by keys, one after another, as a worker asks for them."""

    def __init__(self, database: Database) -> None:
        self.link = database.link()
        self.walk = KeysWalk("", whole=True)

    async def take(self, limit: int, lane: Lane = LANE) -> list[ClaimedJob]:
        request = KeysRequest(lane, self.walk.last_key, limit)
        jobs, self.walk = await store.claim_by_keys.take(
            self.link, request, ["mail"], lease_seconds=9, worker_id=1, max_errors=9
        )
        return jobs


def keys(jobs: list[ClaimedJob]) -> Counter[str | None]:
    return Counter(job.concurrency_key for job in jobs)


# -- the statement --------------------------------------------------------------------------------


async def test_a_claim_takes_as_many_of_each_key_the_first_that_are_due(
    database: Database, sql: Any
) -> None:
    taker = Taker(database)
    await backlog(sql, "a", 20)
    await backlog(sql, "b", 3)
    await add(sql, "c", 1)
    await add(sql, None, 5)
    await add(sql, "later", 5, delay_seconds=60)
    jobs = await taker.take(12)
    assert keys(jobs) == {"a": 4, "b": 3, "c": 1}
    assert taker.walk.whole
    of_a = [job.id for job in jobs if job.concurrency_key == "a"]
    assert sorted(of_a) == await first_ids(sql, "a", 4)
    assert keys(await taker.take(12)) == {"a": 12}
    await taker.link.close()


async def first_ids(sql: Any, key: str, count: int) -> list[int]:
    rows = await sql.fetch(
        "SELECT id FROM jobs_live WHERE concurrency_key = $1 ORDER BY id LIMIT $2", key, count
    )
    return [row["id"] for row in rows]


async def test_where_there_are_more_keys_than_are_wanted_the_next_claim_goes_on(
    database: Database, sql: Any
) -> None:
    taker = Taker(database)
    for number in range(5):
        await backlog(sql, f"k{number}", 3)
    taken = [sorted(map(str, keys(await taker.take(2)).elements())) for _ in range(6)]
    assert taken == [
        ["k0", "k1"],
        ["k2", "k3"],
        ["k0", "k4"],
        ["k1", "k2"],
        ["k3", "k4"],
        ["k0", "k1"],
    ]
    await taker.link.close()


async def test_a_claim_by_keys_rescues_what_dead_workers_left_whatever_its_key(
    database: Database, sql: Any
) -> None:
    taker = Taker(database)
    await backlog(sql, "a" * 2_000, 2)
    assert len(await taker.take(9)) == 2
    assert await taker.take(9) == []
    await sql.execute("UPDATE jobs_live SET lease_until = now() - interval '1 s'")
    jobs = await taker.take(9)
    assert [(job.lost_leases, job.rescued) for job in jobs] == [(1, True)] * 2
    await taker.link.close()


@pytest.mark.whole
@pytest.mark.parametrize("mode", ["generic", "custom"])
async def test_it_goes_from_key_to_key_by_the_index(
    database: Database, sql: Any, mode: str
) -> None:
    taker = Taker(database)
    taker.link = link = ExplainingLink(database, modes=(mode,))
    for key, count in (("a", 20_000), ("b", 10), (None, 20_000)):
        await backlog(sql, key, count)
    await sql.execute("VACUUM ANALYZE jobs_live")
    assert keys(await taker.take(40)) == {"a": 20, "b": 10}
    await store.claim_by_keys.find_lost(taker.link, LANE, "", worker_id=1, known=[])
    await link.close()
    for one in link.explained:
        nodes = list(one.nodes())
        indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
        assert indexes - {"job_workers_pkey"} == {"jobs_live_keys"}, one.text
        assert all(node["Node Type"] != "Seq Scan" for node in nodes), one.text
    claim = link.explained[0]
    assert claim.root["Shared Hit Blocks"] < 400, claim.text


async def test_a_claim_by_keys_writes_no_index_entry(database: Database, sql: Any) -> None:
    taker = Taker(database)
    for key in ("a", "b"):
        await backlog(sql, key, 10)
    assert len(await taker.take(40)) == 10 + 10
    await taker.link.fetch("SELECT pg_stat_force_next_flush()")
    updates = await sql.fetchrow(UPDATES)
    assert (updates["n_tup_upd"], updates["n_tup_hot_upd"]) == (20, 20)
    await taker.link.close()


# -- the worker -----------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize("slots", [1, 20])
@pytest.mark.parametrize("key", ["small", None])
async def test_a_key_with_ten_jobs_starts_them_beside_one_with_twenty_thousand(
    handlers: Registry, sql: Any, start_worker: StartWorker, slots: int, key: str | None
) -> None:
    started: list[Any] = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started.append(payload)
        await asyncio.sleep(0.005)

    await sql.execute(FAIR)
    await backlog(sql, "big", 20_000)
    await start_worker(worker_concurrency=slots)
    await until_true(lambda: len(started) >= 10 * slots)
    before = len(started)
    await add(sql, key, 10)
    await until_true(lambda: started.count(key or "-") == 10, seconds=10)
    last = max(place for place, name in enumerate(started) if name == (key or "-"))
    assert last - before < 1_000


async def test_without_that_choice_they_come_as_they_are_due(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    started: list[Any] = []
    handlers.handler("mail")(started.append)
    await backlog(sql, "big", 300)
    await add(sql, "small", 10)
    await start_worker(worker_concurrency=10)
    await until_true(lambda: len(started) == 310)
    assert set(started[:250]) == {"big"}


async def test_one_queue_of_keys_leaves_others_their_share(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    started, all_begun = Counter[str](), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started[payload] += 1
        if started.total() == 20:
            all_begun.set()
        await asyncio.Event().wait()  # the slots stay taken

    await sql.execute(FAIR)
    for key in ("x", "y", None):
        await backlog(sql, key, 100)
    await enqueue_batch(sql, [NewJob("mail", "other", queue="other", priority=9)] * 100)
    await start_worker(worker_concurrency=20, shutdown_grace_seconds=0)
    await occurs(all_begun)
    assert started["other"] == 10
    assert all(2 <= started[key] <= 5 for key in ("x", "y", "-")), started


async def test_the_most_urgent_come_first_and_the_limit_of_the_queue_holds(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    started: list[Any] = []
    go_on = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started.append(payload)
        await go_on.wait()

    await sql.execute(FAIR)
    await sql.execute("UPDATE queues SET max_running = 3")
    await backlog(sql, "late", 5, priority=5)
    await backlog(sql, "soon", 2, priority=1)
    await start_worker(worker_concurrency=10, priority_ageing_seconds=0)
    await until_true(lambda: len(started) == 3)
    assert Counter(started) == {"soon": 2, "late": 1}
    go_on.set()
    await until_true(lambda: len(started) == 7)


async def test_jobs_of_a_dead_worker_are_found_with_a_key_and_without(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    handlers.handler("mail")(lambda _: None)
    await sql.execute(FAIR)
    ids = [await put("mail", "-", queue=QUEUE, concurrency_key=key) for key in ("a", None)]
    await sql.execute(
        "UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = 7, worker_id = 7,"
        " started_at = now(), lease_until = now() - interval '1 s'"
    )
    await start_worker()
    for job_id in ids:
        job = await until_ended(sql, job_id)
        assert (job["status"], job["lost_leases"]) == ("SUCCESS", 1)


@pytest.mark.whole
async def test_a_claim_by_keys_whose_answer_was_lost_is_given_back_and_run(
    proxy: Proxy, proxied: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    handlers.handler("mail")(lambda _: None)
    await sql.execute(FAIR)
    ids = [await put("mail", "-", queue=QUEUE, concurrency_key=key) for key in ("a", "b", "b")]
    walk = pack("!ii", 4, store.claim_by_keys.KEYS_WALK)  # no other claim has that parameter
    proxy.lose_answer_to(QUEUE.encode(), b"mail", walk)
    await start_worker(database=proxied)  # whose leases are twice as long as this test may take
    await occurs(proxy.lost)
    for job_id in ids:
        job = await until_ended(sql, job_id)
        assert (job["status"], job["attempts"], job["lost_leases"]) == ("SUCCESS", 1, 0)


@pytest.mark.whole
async def test_a_choice_holds_in_a_running_worker(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    started: list[Any] = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started.append(payload)
        await asyncio.sleep(0.005)

    await backlog(sql, "big", 20_000)
    await backlog(sql, "small", 20_000)
    await start_worker(worker_concurrency=8)
    await until_true(lambda: len(started) >= 200)
    assert set(started[:200]) == {"big"}
    await sql.execute(FAIR)
    in_force = time.monotonic() + IN_FORCE_SECONDS
    await until_true(lambda: time.monotonic() > in_force)
    begin = len(started)
    await until_true(lambda: len(started) >= begin + 200)
    assert Counter(started[begin : begin + 200])["small"] == pytest.approx(100, abs=20)
