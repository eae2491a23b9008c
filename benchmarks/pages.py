"""Pages of the dashboard over a full history: every page that the navigation leads to, and the deep ones.

Over HTTP, by one visitor, from a process that works as well. The first visit of each page is told
apart: no statement of it was prepared, and little of what it reads is in memory.
"""

import time
from typing import Final

import asyncpg
import httpx

from benchmarks.history import fill
from benchmarks.http import SECRET, serving
from benchmarks.lookups import contents
from benchmarks.scenario import Report, Scale, fresh_database, settings
from service.auth.principal import Role
from service.auth.tokens import make_token
from service.dashboard.access import COOKIE
from service.dashboard.navigation import ITEMS
from service.db.engine import Database
from service.jobs import store

VISITS: Final = 20
RATES_BATCH: Final = 20_000

_RATES: Final = """
INSERT INTO finmind_jobs.job_rate_deltas (at, jobs, queue, job_type, outcome, timings)
SELECT date_trunc('minute', finished_at), count(*), queue, job_type, status,
  ARRAY[(128 * (8 + min(id) % 20) + 20 + max(id) % 30)::smallint]
FROM finmind_jobs.background_jobs WHERE finished_at IS NOT NULL GROUP BY 1, 3, 4, 5"""

TIMEOUT_SECONDS: Final = 30.0


def paths(last_id: int) -> dict[str, str]:
    """What is visited, by name."""
    return {item.label: item.path for item in ITEMS} | {
        "Overview, 24 h": "/dashboard?window=24h",
        "Overview, 7 d": "/dashboard?window=7d",
        "Jobs, dead letters": "/dashboard/jobs?status=DEAD_LETTER",
        "Jobs, of a rare type": "/dashboard/jobs?job_type=type-18",
        "Jobs, by a payload field": "/dashboard/jobs?q=payload.user_id:4",
        "Jobs, by a text that no error has": "/dashboard/jobs?q=nowhere",
        "Job": f"/dashboard/jobs/{last_id // 8 * 4}",
    }


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """How long each page takes."""
    async with fresh_database(dsn, settings()) as database:
        await fill(database, contents(scale))
        await _fill_rates(database)
        async with (
            serving(database.dsn, "-m", "service", "serve", "--port", "0") as port,
            _visitor(port) as visitor,
        ):
            await _sign_in(visitor)
            for name, path in paths(4 * scale.history).items():
                await _visit(visitor, report, name, path)
        await _sizes(database, report)


async def _fill_rates(database: Database) -> None:
    """What settles would have counted by minute, folded as the leader folds it."""
    # A connection of its own: no statement of the service may take as long.
    connection = await asyncpg.connect(database.dsn)
    await connection.execute(_RATES)
    link = database.link()
    while await store.rates.fold(link, limit=RATES_BATCH, pairs=settings().counted_pairs):
        pass
    await link.close()
    await connection.execute(
        "VACUUM (ANALYZE) finmind_jobs.job_rates, finmind_jobs.job_rate_deltas"
    )
    await connection.close()


def _visitor(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"sec-fetch-site": "same-origin"},
        timeout=TIMEOUT_SECONDS,
    )


async def _sign_in(visitor: httpx.AsyncClient) -> None:
    token = make_token(SECRET, role=Role.ADMIN, subject="bench", hours=8)
    answer = await visitor.post("/dashboard/sign-in", data={"credential": token})
    # Over plain HTTP httpx would keep a Secure cookie to itself.
    visitor.headers["cookie"] = f"{COOKIE}={answer.raise_for_status().cookies[COOKIE]}"


async def _visit(visitor: httpx.AsyncClient, report: Report, name: str, path: str) -> None:
    first = await _seconds(visitor, path)
    times = sorted([await _seconds(visitor, path) for _ in range(VISITS)])
    for label, seconds in (
        ("first visit", first),
        ("p50", times[VISITS // 2]),
        ("p95", times[round(0.95 * (VISITS - 1))]),
    ):
        figure = report.figure(f"page {name}, {label}", "ms", better="lower")
        figure.runs.append(1000 * seconds)


async def _seconds(visitor: httpx.AsyncClient, path: str) -> float:
    began = time.perf_counter()
    answer = await visitor.get(path)
    seconds = time.perf_counter() - began
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:500]}")
    return seconds


async def _sizes(database: Database, report: Report) -> None:
    connection = await asyncpg.connect(database.dsn)
    jobs = await connection.fetchval("SELECT count(*) FROM finmind_jobs.background_jobs")
    await connection.close()
    report.figure("jobs behind the pages", "jobs").runs.append(float(jobs))
