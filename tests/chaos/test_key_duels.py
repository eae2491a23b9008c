"""Fifty clients of three services, and of Python, duel over unique keys under each `on_conflict`."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from service.db.engine import Database
from service.errors import Conflict
from service.jobs import NewJob, Registry, enqueue_batch
from service.settings import Settings
from tests.chaos.reports import report
from tests.chaos.serving import Serving, serving
from tests.jobs.waiting import until

pytestmark = pytest.mark.whole

CLIENTS: Final = 50
KEYS: Final = [
    pytest.param(3),
    pytest.param(100, marks=[pytest.mark.chaos, pytest.mark.timeout(600)]),
]
ROUNDS: Final = [
    pytest.param(4),
    pytest.param(60, marks=[pytest.mark.chaos, pytest.mark.timeout(600)]),
]


@pytest.fixture
def quiet(make_settings: Callable[..., Settings]) -> Settings:
    # Three services, their workers and the tests share PostgreSQL's hundred connections.
    return make_settings(database_pool_size=15, maintenance_seconds=0.5, query_timeout_seconds=30)


@pytest.fixture
async def doors(quiet: Settings, pg_dsn: str) -> AsyncIterator[list[Serving]]:
    """Three services on one database, without workers."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(quiet, pg_dsn)) for _ in range(3)]


class Clients:
    """Clients that enqueue one key at once, most over HTTP, some from Python."""

    def __init__(self, doors: list[Serving], database: Database) -> None:
        self._doors = doors
        self._database = database

    async def one(self, place: int, payload: Any, **options: Any) -> tuple[int, int]:
        """The status, and the id of the job."""
        if place % 10 == 0:
            job = NewJob("sync", payload, **options)
            while True:
                try:
                    async with self._database.sessions.begin() as session:
                        (made,) = await enqueue_batch(session, [job])
                except Conflict as error:
                    if "try again" not in error.detail:
                        raise
                else:
                    return 201 if made.created else 200, made.id
        answer = await self._doors[place % 3].post_job("sync", payload, **options)
        # No connection is free, or all others were faster: sent again, as the answer says.
        while answer.status_code == 503 or "try again" in answer.text:
            answer = await self._doors[place % 3].post_job("sync", payload, **options)
        return answer.status_code, answer.json().get("id", 0)

    async def all(self, payload: Callable[[int], Any], **options: Any) -> list[tuple[int, int]]:
        return await asyncio.gather(
            *(self.one(place, payload(place), **options) for place in range(CLIENTS))
        )


@pytest.mark.parametrize("policy", ["replace", "extend", "keep_latest"])
@pytest.mark.parametrize("keys", KEYS)
async def test_fifty_enqueues_of_one_key_make_one_job_under_every_policy(
    doors: list[Serving], database: Database, policy: str, keys: int
) -> None:
    clients = Clients(doors, database)
    told: Counter[int] = Counter()
    for number in range(keys):
        answers = await clients.all(
            lambda place: {} if policy == "extend" else {"n": place},
            unique_key=f"key-{number}", on_conflict=policy, delay_seconds=1000.0,
        )  # fmt: skip
        counts = Counter(status for status, _ in answers)
        # None is told of the new job only where the one who made it was answered 503.
        assert counts.keys() <= {200, 201}, number
        assert counts[201] <= 1, number
        assert len({job_id for _, job_id in answers}) == 1, number
        told.update(status for status, _ in answers)
    sql = await database.connect()
    stored = await sql.fetchrow(
        "SELECT count(*), count(DISTINCT unique_key), bool_and(held_for IS NULL) FROM jobs_live"
    )
    await sql.close()
    assert stored is not None
    assert tuple(stored) == (keys, keys, True)
    report(f"key-duels-{policy}-{keys}", keys=keys, clients=CLIENTS, answers=told)


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_while_jobs_run_one_of_a_key_runs_at_a_time_and_the_newest_last(
    quiet: Settings, database: Database, pg_dsn: str, rounds: int
) -> None:
    handlers = Registry()
    running: Counter[str] = Counter()
    most_running: Counter[str] = Counter()
    runs: dict[str, list[int]] = defaultdict(list)
    rng = random.Random("key duels")

    @handlers.handler("sync", max_retries=3)
    async def sync(payload: Any) -> None:
        key = payload["key"]
        running[key] += 1
        most_running[key] = max(most_running[key], running[key])
        runs[key].append(payload["n"])
        try:
            await asyncio.sleep(rng.choice((0, 0.001, 0.02)))
            if rng.random() < 0.1 and payload["n"] < 10**6:
                raise ValueError("again")
        finally:
            running[key] -= 1

    keys = [f"key-{number}" for number in range(3)]
    options = {"on_conflict": "keep_latest", "backoff": {"base_seconds": 0.05, "factor": 1.0}}
    refused: Counter[int] = Counter()
    async with AsyncExitStack() as stack:
        doors = [
            await stack.enter_async_context(serving(quiet, pg_dsn, handlers=handlers))
            for _ in range(3)
        ]
        clients = Clients(doors, database)

        async def client(place: int) -> None:
            for number in range(rounds):
                key = keys[(place + number) % len(keys)]
                payload = {"key": key, "n": place * 1000 + number}
                over_http = place if place % 10 else place + 1
                status, _ = await clients.one(over_http, payload, unique_key=key, **options)
                if status not in {200, 201}:
                    refused[status] += 1

        await asyncio.gather(*(client(place) for place in range(CLIENTS)))
        for key in keys:
            payload = {"key": key, "n": 10**6}
            status, _ = await clients.one(1, payload, unique_key=key, **options)
            assert status in {200, 201}
        sql = await database.connect()

        async def all_ended() -> bool:
            return not await sql.fetchval("SELECT count(*) FROM jobs_live")

        await until(all_ended, seconds=60)
        ends = await sql.fetch("SELECT status, count(*) FROM background_jobs GROUP BY 1")
        await sql.close()
    report(
        f"key-turns-{rounds}", requests=CLIENTS * rounds, refused=refused,
        runs={key: len(runs[key]) for key in keys}, ends={row[0]: row[1] for row in ends},
    )  # fmt: skip
    assert not refused
    assert most_running == dict.fromkeys(keys, 1)
    assert {runs[key][-1] for key in keys} == {10**6}
