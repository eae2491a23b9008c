"""Rows put into the table by hand, in any state."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.job import LIVE, JobId

_JSON = {"payload", "result", "errors", "progress", "backoff", "callback"}


async def add(session: AsyncSession, **values: Any) -> JobId:
    """One job; an ended one is told to the kept counts, as a settle does."""
    row = {"job_type": "mail", "status": "PENDING"} | values
    ended = row["status"] not in LIVE
    if ended:
        row.setdefault("finished_at", datetime.now(UTC))
    for name in _JSON & row.keys():
        row[name] = json.dumps(row[name])
    places = ", ".join(f"CAST(:{name} AS jsonb)" if name in _JSON else f":{name}" for name in row)
    job_id = await session.scalar(
        text(f"INSERT INTO background_jobs ({', '.join(row)}) VALUES ({places}) RETURNING id"), row
    )
    if ended:
        await session.execute(
            text("INSERT INTO job_stats VALUES (:queue, :job_type, :status, :day, 1)"),
            {
                "queue": row.get("queue", "default"),
                "job_type": row["job_type"],
                "status": row["status"],
                "day": row["finished_at"].date(),
            },
        )
    return JobId(job_id)
