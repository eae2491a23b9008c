"""Read one job for people: its JSON as the text that PostgreSQL writes, with every digit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, defer

from service.db.session import schema_of
from service.errors import NotFound
from service.jobs import store
from service.jobs.core.job import BackgroundJob, JobId

JSON_COLUMNS: Final[Mapping[str, InstrumentedAttribute[Any]]] = {
    "payload": BackgroundJob.payload,
    "result": BackgroundJob.result,
    "progress": BackgroundJob.progress,
    "backoff": BackgroundJob.backoff,
}


@dataclass(frozen=True, slots=True)
class JsonText:
    """A JSON value as text."""

    text: str
    """Its beginning, all of it unless it is longer than was asked for."""
    length: int
    """Characters of the whole."""

    @property
    def is_whole(self) -> bool:
        """Whether `text` is all there is."""
        return self.length == len(self.text)


@dataclass(frozen=True, slots=True)
class History:
    """The newest entries of `errors`."""

    entries: list[JsonText]
    """Oldest first."""
    left_out: int
    """Older entries that were not read."""


@dataclass(frozen=True, slots=True)
class JobDetail:
    """One job with its JSON columns, but `errors`, as text; a column that is null is missing."""

    job: BackgroundJob
    """Its JSON columns are not loaded."""
    texts: dict[str, JsonText]


async def get_detail(
    session: AsyncSession, job_id: JobId, *, max_chars: int, to_change: bool = False
) -> JobDetail:
    """The job, and up to `max_chars` characters of each JSON column.

    With `to_change` nobody else changes it before the transaction ends.

    Raises:
        NotFound: there is no such job.
    """
    await schema_of(session)
    shown: list[ColumnElement[Any]] = []
    for name, column in JSON_COLUMNS.items():
        whole = cast(column, Text)
        shown += [
            func.left(whole, max_chars).label(name),
            func.length(whole).label(f"{name}_length"),
        ]
    query: Select[Any] = (
        select(BackgroundJob, *shown)
        .where(BackgroundJob.id == job_id)
        .options(*map(defer, (*JSON_COLUMNS.values(), BackgroundJob.errors)))
    )
    if to_change:
        query = query.with_for_update()
    rows = await session.execute(query, execution_options={"populate_existing": True})
    found = rows.mappings().first()
    if found is None:
        raise NotFound(f"There is no job {job_id}")
    texts = {
        name: JsonText(found[name], found[f"{name}_length"])
        for name in JSON_COLUMNS
        if found[name] is not None
    }
    return JobDetail(found[BackgroundJob], texts)


async def read_history(
    session: AsyncSession, job_id: JobId, *, max_chars: int, max_entry_chars: int
) -> History:
    """The newest entries of the job's history.

    Args:
        session: read in its transaction.
        job_id: the job; one that is not there has no history.
        max_chars: once the entries read are so long, older ones are left out. The newest is always read.
        max_entry_chars: an entry that is longer comes without the payload before, then cut.
    """
    await schema_of(session)
    rows = await store.history.newest(
        session, job_id, max_chars=max_chars, max_entry_chars=max_entry_chars
    )
    entries = [JsonText(row.text, row.length) for row in rows]
    return History(entries, rows[0].older if rows else 0)


async def neighbours(
    session: AsyncSession, job: BackgroundJob
) -> tuple[JobId | None, JobId | None]:
    """The ids of the nearest older and the nearest newer job of its type; None: none is near.

    The rest of the transaction is planned by the order of indexes.
    """
    await store.listing.plan_by_index(session)
    return await store.neighbours.of_type(session, job.job_type, JobId(job.id))
