"""Causes are read at the cost of their number, not of their jobs."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.jobs import store
from service.jobs.core.causes import CauseFilters
from service.jobs.maintenance.causes import Causes
from service.jobs.read.attention import unresolved_causes
from service.jobs.read.causes import get_cause, list_causes
from service.settings import Settings

JOBS: Final = 100_000
DIE: Final = """
INSERT INTO jobs_dead (job_type, status, finished_at, last_error, fingerprint, payload)
SELECT 'mail', 'DEAD_LETTER', now() - n * interval '1 s', 'ValueError: no ' || n, 'cause-' || n % 12,
  jsonb_build_object('n', n)
FROM generate_series(1, $1::int) n
"""


async def blocks(sql: Any, statement: Any, **values: Any) -> int:
    """How many pages a statement reads."""
    text, *args = statement.bind(**values)
    plan = await sql.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *args)
    top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])


@pytest.mark.whole
async def test_a_hundred_thousand_dead_letters_of_twelve_causes_are_twelve_lines(
    database: Database, sql: Any, settings: Settings, session: AsyncSession
) -> None:
    await sql.execute(DIE, JOBS)
    link = database.link()
    kept = Causes(link, settings)
    await kept.fold()
    await link.close()
    assert await sql.fetchval("SELECT count(*) FROM cause_deltas") == 0
    await sql.execute("VACUUM ANALYZE cause_deltas, causes, cause_hours, jobs_dead")
    began = time.perf_counter()
    page = await list_causes(session, CauseFilters(), limit=100)
    took = time.perf_counter() - began
    assert [group.count for group in page.groups] == [JOBS // 12 + 1] * 4 + [JOBS // 12] * 8
    assert sum(sum(group.trend) for group in page.groups) > 80_000
    assert (await get_cause(session, "cause-7")).sample_id is not None
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    began = time.perf_counter()
    fresh, stale = await unresolved_causes(session, hour_ago, limit=3)
    assert time.perf_counter() - began < 1.0
    assert (len(fresh.worst), fresh.causes, fresh.jobs) == (3, 12, JOBS)
    assert (stale.worst, stale.causes, stale.jobs) == ([], 0, 0)
    unresolved = store.cause_listing.UNRESOLVED_CAUSES
    assert await blocks(sql, unresolved, since=hour_ago, limit=3) < 150
    read = await blocks(
        sql, store.cause_listing.LIST_CAUSES, sort="count", states=None, job_type=None, text=None,
        after=None, after_fingerprint=None, limit=101,
    )  # fmt: skip
    assert read < 150
    assert took < 1.0  # the blocks say what it costs; a machine may be slow
