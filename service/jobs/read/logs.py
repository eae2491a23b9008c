"""Read what handlers logged about a job."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import InvalidInput, NotFound
from service.jobs import store
from service.jobs.core.job import MAX_ID, JobId

MAX_LINES: Final = 1000
"""Limit on the lines that are read at once."""

_POSITION: Final = re.compile(r"(\d{1,19})\.(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LoggedLine:
    """One line that a handler logged by `ctx.log`."""

    position: str
    """Where it stands among the lines of its job; `read_log` continues after it."""
    attempt: int
    at: datetime
    level: str
    message: str
    fields: Mapping[str, Any] | None


async def read_log(
    session: AsyncSession, job_id: JobId, *, after: str | None = None, limit: int = MAX_LINES
) -> list[LoggedLine]:
    """The lines of a job, oldest attempt first, from its first line or `after` one on.

    Raises:
        InvalidInput: `after` is not the position of a line.
        NotFound: there is no such job.
    """
    token, line = _parsed(after)
    rows = await store.job_logs.after(session, job_id, token=token, line=line, limit=limit)
    if not rows:
        await _refuse_unknown(session, job_id)
    return [line_of(row) for row in rows]


async def read_log_end(
    session: AsyncSession, job_id: JobId, *, limit: int = MAX_LINES
) -> list[LoggedLine]:
    """The last lines of a job, in order.

    Raises:
        NotFound: there is no such job.
    """
    rows = await store.job_logs.last(session, job_id, limit=limit)
    if not rows:
        await _refuse_unknown(session, job_id)
    return [line_of(row) for row in reversed(rows)]


async def _refuse_unknown(session: AsyncSession, job_id: JobId) -> None:
    if await store.actions.status_of(session, job_id) is None:
        raise NotFound(f"There is no job {job_id}")


def _parsed(position: str | None) -> tuple[int, int]:
    if position is None:
        return 0, 0
    found = _POSITION.fullmatch(position)
    if found is None or int(found[1]) > MAX_ID:
        raise InvalidInput(
            "after is not the position of a line: pass next_after, or the position of the last "
            "line, unchanged",
            field="query.after",
        )
    return int(found[1]), int(found[2])


def line_of(row: Any) -> LoggedLine:
    """A row of `store.job_logs`."""
    token, line, attempt, at, level, message, fields = row
    return LoggedLine(
        f"{token}.{line}", attempt, at, level, message,
        None if fields is None else json.loads(fields),
    )  # fmt: skip
