"""A new release migrates a large table while the old one goes on working on it."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from service.db import migrate
from service.db.engine import Database
from service.jobs import Registry
from service.settings import Settings
from tests.chaos.reports import report
from tests.chaos.serving import Serving, serving
from tests.jobs.waiting import until, until_true

RATE: Final = 50
"""Jobs a second; beside every fifth somebody reads the list of jobs."""
LONGEST_SECONDS: Final = 3.0
"""Far below the time of the reader, which a request that waits for the migration would take."""
REVISIONS: Final = Path(__file__).with_name("revisions")
"""Migrations of the usual kinds, as a later release might bring them."""

LIVE: Final = """
INSERT INTO jobs_live (job_type, queue, payload, next_run_at)
SELECT 'later', 'q' || n % 10, jsonb_build_object('n', n), now() + interval '1 day'
FROM generate_series(1, $1::int) n"""
DONE: Final = """
INSERT INTO background_jobs (job_type, queue, payload, status, finished_at, attempts)
SELECT 'mail', 'q' || n % 10, jsonb_build_object('n', n), 'SUCCESS', now(), 1
FROM generate_series(1, $1::int) n"""

POSTED: Final = """
SELECT id, status, attempts, (result ->> 'n')::int FROM background_jobs
WHERE job_type = 'mail' AND queue = 'default'"""

FORMS: Final = [
    pytest.param(20_000, 8.0, id="short"),
    pytest.param(1_000_000, 30.0, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(900)]),
]


@dataclass
class Clients:
    """Ask at a steady rate, whether or not the one before was answered, and time each answer."""

    under_test: Serving
    seconds: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    acknowledged: dict[int, int] = field(default_factory=dict)
    """By the id of each job the number in its payload."""

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._ask(group))
            yield
            asking.cancel()

    async def _ask(self, group: asyncio.TaskGroup) -> None:
        began, sent = time.monotonic(), 0
        while True:
            sent += 1
            group.create_task(self._post(sent))
            if sent % 5 == 0:
                group.create_task(self._read(sent))
            await asyncio.sleep(max(0.0, began + sent / RATE - time.monotonic()))

    async def _post(self, number: int) -> None:
        answer = await self._timed(self.under_test.post_job("mail", {"n": number}))
        if answer.status_code == 201:
            self.acknowledged[answer.json()["id"]] = number
        else:
            self.refused.append(answer.text)

    async def _read(self, number: int) -> None:
        path = f"/admin/jobs?job_type=mail&queue=q{number % 10}&limit=10"
        answer = await self._timed(self.under_test.client.get(path))
        if answer.status_code != 200:
            self.refused.append(answer.text)

    async def _timed(self, request: Awaitable[httpx.Response]) -> httpx.Response:
        began = time.monotonic()
        answer = await request
        self.seconds.append(time.monotonic() - began)
        return answer


@pytest.fixture
def newer_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scripts of this release and those of a later one; in force for who migrates."""
    scripts = tmp_path / "alembic"
    shutil.copytree(migrate._scripts_path(), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    for script in REVISIONS.glob("*.py"):
        shutil.copy(script, scripts / "versions")
    return scripts


@pytest.mark.parametrize(("rows", "reader_seconds"), FORMS)
async def test_no_request_waits_for_a_migration(
    rows: int,
    reader_seconds: float,
    newer_release: Path,
    pg_dsn: str,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = Registry()
    runs: Counter[int] = Counter()

    @handlers.handler("mail")
    async def mail(payload: Any) -> Any:
        runs[payload["n"]] += 1
        return payload

    settings = make_settings(database_command_timeout_seconds=120.0)
    database = Database(pg_dsn, settings)
    sql = await database.connect()
    try:
        await sql.execute("SET synchronous_commit = off")
        await sql.execute(LIVE, rows // 2)
        await sql.execute(DONE, rows // 2)
        await sql.execute("ANALYZE")
        async with serving(make_settings(), pg_dsn, handlers=handlers) as under_test:
            clients = Clients(under_test)
            monkeypatch.setattr(migrate, "_scripts_path", lambda: newer_release)
            async with clients.going():
                async with long_reader(database, reader_seconds):
                    began = time.monotonic()
                    await migrate.upgrade(database, settings)
                    took = time.monotonic() - began
                revision = await migrate.current_revision(database)
                before = len(clients.acknowledged)
                await until_true(lambda: len(clients.acknowledged) > before + RATE)
            stands = await until(lambda: _all_ran(sql, len(clients.acknowledged)))
            # A machine that is slow stalls the event loop, and readiness says so for 10 s.
            await until(lambda: _is_ready(under_test), seconds=30)
    finally:
        await sql.close()
        await database.close()
    longest = max(clients.seconds)
    report(
        f"migration-{rows}-rows",
        migration_seconds=round(took, 2),
        requests=len(clients.seconds),
        longest_request_seconds=round(longest, 3),
        refused=len(clients.refused),
    )
    assert revision == "9004"
    assert clients.refused == []
    assert stands == {job_id: ("SUCCESS", 1, n) for job_id, n in clients.acknowledged.items()}
    assert runs == Counter(clients.acknowledged.values())
    assert longest < LONGEST_SECONDS


async def _is_ready(under_test: Serving) -> bool:
    return (await under_test.client.get("/health/ready")).status_code == 200


@asynccontextmanager
async def long_reader(database: Database, seconds: float) -> AsyncIterator[None]:
    """Somebody who reads the table, and leaves the transaction open for so long."""
    connection = await database.connect()
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetchval("SELECT count(*) FROM (SELECT 1 FROM background_jobs LIMIT 1) one")

    async def leave() -> None:
        await asyncio.sleep(seconds)
        await transaction.rollback()

    leaving = asyncio.create_task(leave())
    try:
        yield
    finally:
        await asyncio.wait({leaving})
        await connection.close()


async def _all_ran(sql: Any, count: int) -> dict[int, tuple[str, int, int]]:
    """What was posted, and stands, once so many have ended: status, attempts and result of each."""
    rows = await sql.fetch(POSTED)
    ended = sum(row["status"] not in {"PENDING", "RUNNING"} for row in rows)
    return {row[0]: (row[1], row[2], row[3]) for row in rows} if ended >= count else {}
