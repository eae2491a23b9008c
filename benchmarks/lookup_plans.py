"""The plans of the operators' look-ups: every statement that is sent, explained."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.scenario import Report
from service.api.job_query import JobQuery
from service.db.engine import Database
from service.jobs import get_job, get_job_stats
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import JobId
from service.jobs.read.list import list_jobs

SMALL_ROWS: Final = 1000
"""A partition of fewer rows may be read whole: no index is faster."""

LARGE_SHARE: Final = 0.1
"""A scan that passes more of a partition than this, and more than a step's rows, is told of."""

LARGE_ROWS: Final = 20_000
"""More rows than a step of a list or a count looks at."""

MODES: Final = ("force_custom_plan", "force_generic_plan")
"""PostgreSQL plans a prepared statement for its values first, and may later plan it for any."""

Sent = dict[str, tuple[Any, ...]]
"""Statements as the driver gets them, each with the last values it came with."""


async def examine(
    database: Database, report: Report, lists: dict[str, JobQuery], *, last_id: int
) -> None:
    """Explain what lists, statistics and single jobs send.

    Raises:
        RuntimeError: a plan reads a partition from end to end; it is shown.
    """
    sizes = await _sizes(database)
    statements, most_buffers, wide = 0, 0, 0
    for name, query in lists.items():
        async with _recorded(database) as (session, sent):
            for before in (None, JobId(last_id // 2)):
                await list_jobs(session, filters_of(query), limit=50, before_id=before)
            if not query.model_dump(exclude_unset=True):
                await get_job_stats(session)
                await get_job(session, JobId(last_id // 8 * 4))
            for statement, values in list(sent.items()):
                statements += 1
                for mode in MODES:
                    plan = await _explain(session, statement, values, mode)
                    found = _check(plan, sizes, f"{name}, {mode}:\n{statement}")
                    if found:
                        print(f"# {name}, {mode}: {', '.join(found)}")
                    wide += len(found)
                    touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
                    most_buffers = max(most_buffers, touched)
    report.figure("look-ups, statements explained", "statements").runs.append(statements)
    report.figure("look-ups, sequential scans in their plans", "scans").runs.append(0)
    report.figure("look-ups, scans of over a tenth", "scans", better="lower").runs.append(wide)
    report.figure("look-ups, most buffers of a statement", "pages").runs.append(most_buffers)


def filters_of(query: JobQuery) -> JobFilters:
    """The filters that the API makes of a query."""
    values = query.model_dump(exclude={"status", "limit", "cursor"})
    return JobFilters(statuses=None if query.status is None else frozenset(query.status), **values)


@asynccontextmanager
async def _recorded(database: Database) -> AsyncIterator[tuple[AsyncSession, Sent]]:
    sent: Sent = {}

    def note(_c: object, _k: object, statement: str, values: Any, *_: object) -> None:
        if not statement.startswith(("EXPLAIN", "SELECT set_config")):
            sent[statement] = tuple(values)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        async with database.sessions() as session:
            yield session, sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def _explain(
    session: AsyncSession, statement: str, values: tuple[Any, ...], mode: str
) -> dict[str, Any]:
    await session.execute(text("SELECT set_config('plan_cache_mode', :mode, true)"), {"mode": mode})
    connection = await session.connection()
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
    plan = (await connection.exec_driver_sql(explain, values)).scalar_one()
    document = json.loads(plan) if isinstance(plan, str) else plan
    return document[0]["Plan"]  # type: ignore[no-any-return]


def _check(plan: dict[str, Any], sizes: dict[str, float], statement: str) -> list[str]:
    """The scans of `plan` that pass much of a partition, in words."""
    wide = []
    for node in _nodes(plan):
        relation = node.get("Relation Name", "")
        rows = sizes.get(relation, 0.0)
        if rows < SMALL_ROWS or node["Actual Loops"] == 0:
            continue
        if node["Node Type"] == "Seq Scan":
            shown = json.dumps(plan, indent=1)
            raise RuntimeError(f"sequential scan of {relation} by {statement}\n{shown}")
        removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
        passed = node["Actual Rows"] + sum(node.get(name, 0) for name in removed)
        if passed > max(LARGE_SHARE * rows, LARGE_ROWS):
            by = node.get("Index Name", node["Node Type"])
            wide.append(f"{passed:,.0f} of {rows:,.0f} rows of {relation} by {by}")
    return wide


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _sizes(database: Database) -> dict[str, float]:
    async with database.sessions() as session:
        rows = await session.execute(
            text(
                "SELECT relname, reltuples FROM pg_class"
                " WHERE relkind = 'r' AND relname LIKE 'jobs\\_%'"
            )
        )
        return {row.relname: row.reltuples for row in rows}
