"""Look-ups: lists by every filter at every depth, statistics and single jobs, over a full history.

Over the HTTP API of a serving process. Statistics also without it: what it answers may be kept from
the call before, so that only those computed for each call tell what they cost. Then each statement that these sent is explained: a
sequential scan of a partition that can grow fails the measurement.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from benchmarks.client import Client
from benchmarks.history import Contents, fill
from benchmarks.http import SECRET, serving
from benchmarks.lookup_plans import examine
from benchmarks.scenario import Report, Scale, fresh_database, settings
from service.api.cursors import encode_cursor
from service.api.job_query import JobQuery
from service.auth.principal import Role
from service.auth.tokens import make_token
from service.db.engine import Database
from service.jobs import get_job_stats

FIRST_PAGES: Final = 20
DEEP_PAGES: Final = 50
PAGES_FROM_A_PLACE: Final = 5
STATISTICS: Final = 50
SECONDS_A_LIST: Final = 6.0
"""A list that is slow is not followed for longer than this."""

Query = dict[str, str | list[str]]


def queries(now: datetime) -> dict[str, Query]:
    """Every documented filter alone, common and rare values, and the pairs that operators use."""

    def ago(**span: float) -> str:
        return (now - timedelta(**span)).isoformat()

    hour: Query = {"created_after": ago(days=3), "created_before": ago(days=3, hours=-1)}
    due_hour: Query = {"due_after": ago(days=3), "due_before": ago(days=3, hours=-1)}
    dead: Query = {"status": ["FAILED", "DEAD_LETTER"]}
    return {
        "everything": {},
        "status=SUCCESS": {"status": ["SUCCESS"]},
        "status=CANCELLED": {"status": ["CANCELLED"]},
        "status=PENDING": {"status": ["PENDING"]},
        "status=RUNNING (none)": {"status": ["RUNNING"]},
        "status=DEAD_LETTER": {"status": ["DEAD_LETTER"]},
        "status=FAILED": {"status": ["FAILED"]},
        "status=FAILED or DEAD_LETTER": dead,
        "job_type, common": {"job_type": "type-0"},
        "job_type, rare": {"job_type": "type-18"},
        "job_type, unknown": {"job_type": "type-99"},
        "queue, common": {"queue": "queue-0"},
        "queue, unknown": {"queue": "nowhere"},
        "priority=2 (nearly all)": {"priority": "2"},
        "priority=0 (one in ten)": {"priority": "0"},
        "priority=9 (none)": {"priority": "9"},
        "unique_key": {"unique_key": "order:8080"},
        "unique_key, unknown": {"unique_key": "order:none"},
        "created_after, an hour ago": {"created_after": ago(hours=1)},
        "created_after, 6 days ago": {"created_after": ago(days=6)},
        "created_before, 6 days ago": {"created_before": ago(days=6)},
        "created in an hour, 3 days ago": hour,
        "due_after, an hour ago": {"due_after": ago(hours=1)},
        "due_after, in a day": {"due_after": ago(days=-1)},
        "due_before, 6 days ago": {"due_before": ago(days=6)},
        "due in an hour, 3 days ago": due_hour,
        "error, every one": {"error": "connectionerror"},
        "error, one in fifty": {"error": "mx8.example"},
        "error, none": {"error": "disk full"},
        "SUCCESS + job_type, rare": {"status": ["SUCCESS"], "job_type": "type-18"},
        "CANCELLED + job_type, common": {"status": ["CANCELLED"], "job_type": "type-0"},
        "CANCELLED + job_type, rare": {"status": ["CANCELLED"], "job_type": "type-18"},
        "DEAD_LETTER + job_type": {"status": ["DEAD_LETTER"], "job_type": "type-3"},
        "FAILED + queue": {"status": ["FAILED"], "queue": "queue-3"},
        "PENDING + job_type, rare": {"status": ["PENDING"], "job_type": "type-18"},
        "PENDING + queue": {"status": ["PENDING"], "queue": "queue-3"},
        "PENDING + due_before now": {"status": ["PENDING"], "due_before": ago(days=0)},
        "CANCELLED + queue": {"status": ["CANCELLED"], "queue": "queue-3"},
        "job_type + its queue": {"job_type": "type-1", "queue": "queue-7"},
        "job_type + a queue of others": {"job_type": "type-1", "queue": "queue-3"},
        "job_type + an unknown queue": {"job_type": "type-0", "queue": "nowhere"},
        "job_type + priority (one in ten)": {"job_type": "type-0", "priority": "0"},
        "job_type + priority (none)": {"job_type": "type-0", "priority": "9"},
        "SUCCESS + created in an hour": hour | {"status": ["SUCCESS"]},
        "CANCELLED + created in an hour": hour | {"status": ["CANCELLED"]},
        "job_type + created in an hour": hour | {"job_type": "type-5"},
        "queue + created_before": {"queue": "queue-3", "created_before": ago(days=6)},
        "dead + created_after": dead | {"created_after": ago(days=1)},
        "dead + error": dead | {"error": "mx8.example"},
        "dead + error, none": dead | {"error": "disk full"},
        "SUCCESS + error": {"status": ["SUCCESS"], "error": "mx8.example"},
        "job_type + error": {"job_type": "type-18", "error": "mx8.example"},
    }


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Every look-up, and the plans behind them."""
    async with fresh_database(dsn, settings()) as database:
        await fill(database, contents(scale))
        now = datetime.now(UTC)
        async with _client(database) as client:
            for _ in range(scale.runs):
                await _lists(client, report, queries(now), last_id=4 * scale.history)
                await _singles(client, report, last_id=4 * scale.history)
                await _statistics(database, report)
        lists = {name: JobQuery.model_validate(query) for name, query in queries(now).items()}
        await examine(database, report, lists, last_id=4 * scale.history)


def contents(scale: Scale) -> Contents:
    """What stands behind the look-ups: at ten million finished jobs 100,000 dead, and as many
    scheduled ones.
    """
    return Contents(scale.history, scheduled=scale.history // 100, dead=scale.history // 100)


async def _lists(client: Client, report: Report, lists: dict[str, Query], *, last_id: int) -> None:
    worst = 0.0
    every, short, pages = [], 0, 0
    for name, query in lists.items():
        first, deep, too_short = await _one_list(client, query, last_id=last_id)
        for where, times in (("first page", first), ("deeper", deep)):
            if times:
                report.figure(f"list {name}, {where}, p95", "ms", better="lower").runs.append(
                    _p(times, 0.95)
                )
                worst = max(worst, _p(times, 0.95))
        every += first + deep
        short += too_short
        pages += len(first) + len(deep)
    report.figure("lists, p50 of all pages", "ms", better="lower").runs.append(_p(every, 0.5))
    report.figure("lists, p95 of all pages", "ms", better="lower").runs.append(_p(every, 0.95))
    report.figure("lists, p95 of the slowest filter", "ms", better="lower").runs.append(worst)
    # Not full and not the last: the time for one page was over before enough matches were found.
    report.figure("lists, pages cut short", "%", better="lower").runs.append(100 * short / pages)


async def _one_list(
    client: Client, query: Query, *, last_id: int
) -> tuple[list[float], list[float], int]:
    """Times of first pages and of deeper ones, in seconds; how many were cut short."""
    end = time.perf_counter() + SECONDS_A_LIST
    first: list[float] = []
    deep: list[float] = []
    short = 0

    async def page(times: list[float], cursor: str | None) -> str | None:
        nonlocal short
        asked = query if cursor is None else query | {"cursor": cursor}
        seconds, body = await client.get("/admin/jobs?" + urlencode(asked, doseq=True))
        times.append(seconds)
        following: str | None = body["next_cursor"]
        short += following is not None and len(body["jobs"]) < 50
        return following

    cursor = await page(first, None)
    first.clear()  # its statements were prepared by nothing yet
    short = 0
    for _ in range(FIRST_PAGES):
        if time.perf_counter() < end or not first:
            cursor = await page(first, None)
    named = JobQuery.model_validate(query).model_dump(
        mode="json", exclude={"limit", "cursor"}, exclude_none=True
    )
    starts = (
        (cursor, DEEP_PAGES),
        (encode_cursor(last_id // 2, named), PAGES_FROM_A_PLACE),
        (encode_cursor(last_id // 50, named), PAGES_FROM_A_PLACE),
    )
    for start, most in starts:
        following = start
        for _ in range(most):
            if following is None or (time.perf_counter() > end and len(deep) > 3):
                break
            following = await page(deep, following)
    return first, deep, short


async def _singles(client: Client, report: Report, *, last_id: int) -> None:
    step = max(4, last_id // 200 // 4 * 4)
    ids = range(step, last_id, step)
    for name, paths in (
        ("GET /admin/jobs/stats, perhaps kept", ["/admin/jobs/stats"] * STATISTICS),
        ("GET /jobs/{id}", [f"/jobs/{job_id}" for job_id in ids]),
        ("GET /admin/jobs/{id}", [f"/admin/jobs/{job_id}" for job_id in ids]),
    ):
        await client.get(paths[0])
        _tell(report, name, [(await client.get(path))[0] for path in paths])


async def _statistics(database: Database, report: Report) -> None:
    """What the API asks for, with nothing in between that could keep it."""
    cap = settings().count_cap
    times = []
    for _ in range(1 + STATISTICS):
        async with database.sessions() as session:
            began = time.perf_counter()
            await get_job_stats(session, cap=cap)
            times.append(time.perf_counter() - began)
    _tell(report, "statistics, computed for each call", times[1:])  # the first prepared statements


def _tell(report: Report, name: str, times: list[float]) -> None:
    for label, share in (("p50", 0.5), ("p95", 0.95)):
        figure = report.figure(f"{name}, {label}", "ms", better="lower")
        figure.runs.append(_p(times, share))


@asynccontextmanager
async def _client(database: Database) -> AsyncIterator[Client]:
    token = make_token(SECRET, role=Role.ADMIN, subject="bench", hours=8)
    command = ("-m", "service", "serve", "--no-worker", "--port", "0")
    async with serving(database.dsn, *command) as port:
        client = await Client.connect(port, {"Authorization": f"Bearer {token}"})
        try:
            yield client
        finally:
            client.close()


def _p(seconds: list[float], share: float) -> float:
    return 1000 * sorted(seconds)[round(share * (len(seconds) - 1))]
