"""Read the counts kept by minute, hour and day."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession


class Span(NamedTuple):
    """A stretch of time, read from the counts kept by `step`: minute, hour or day."""

    step: str
    low: datetime
    high: datetime


_SPANS: Final = """FROM unnest(
      CAST(:steps AS text[]), CAST(:lows AS timestamptz[]), CAST(:highs AS timestamptz[])
    ) AS span(step, low, high)
    CROSS JOIN LATERAL (
      SELECT * FROM finmind_jobs.job_rates r
      WHERE r.step = span.step AND r.scope = :scope AND r.at >= span.low AND r.at < span.high
        {named} OFFSET 0) AS r"""
"""One look into the index a span: the offset keeps the planner from reading the whole table instead."""

_OUTCOMES: Final = """
    SELECT key, 'outcome' AS kind, outcome AS name, sum(jobs)::bigint AS jobs FROM found GROUP BY 1, 3
    UNION ALL
    SELECT found.key, bucket.kind, bucket.name, sum(bucket.jobs)::bigint
    FROM found CROSS JOIN LATERAL (
      SELECT 'delay' AS kind, key AS name, value::bigint AS jobs FROM jsonb_each_text(delays)
      UNION ALL SELECT 'run', key, value::bigint FROM jsonb_each_text(runs)) AS bucket
    GROUP BY 1, 2, 3"""

_BIN: Final = "to_timestamp(floor(extract(epoch FROM r.at) / :step_seconds) * :step_seconds)"


async def series(
    session: AsyncSession,
    spans: Sequence[Span],
    *,
    step_seconds: int,
    queues: Sequence[str] | None = None,
    job_types: Sequence[str] | None = None,
) -> Sequence[Row[Any]]:
    """Rows of `key` (begin of a step), `kind` (outcome, delay, run), `name` (of the outcome or bucket), `jobs`."""
    found = _Found(spans, queues=queues, job_types=job_types)
    statement = text(found.with_durations(_BIN))
    return (await session.execute(statement, found.values | {"step_seconds": step_seconds})).all()


async def totals(
    session: AsyncSession,
    spans: Sequence[Span],
    *,
    by: str,
    with_durations: bool,
    queues: Sequence[str] | None = None,
    job_types: Sequence[str] | None = None,
) -> Sequence[Row[Any]]:
    """The same rows for each `by` (queue, job_type, or scope for one sum of all).

    Without durations, hundreds of thousands of rows are summed within the bound of a statement.
    """
    found = _Found(spans, queues=queues, job_types=job_types, by=by)
    sql = found.with_durations(f"r.{by}") if with_durations else found.counts(f"r.{by}")
    return (await session.execute(text(sql), found.values)).all()


class _Found:
    """The rows of the spans for some queues and types, from the scope that has the fewest and can tell them."""

    def __init__(
        self,
        spans: Sequence[Span],
        *,
        queues: Sequence[str] | None,
        job_types: Sequence[str] | None,
        by: str = "scope",
    ) -> None:
        if job_types is not None or by == "job_type":
            scope = "pair"
        elif queues is not None or by == "queue":
            scope = "queue"
        else:
            scope = "total"
        self.values: dict[str, Any] = {
            "steps": [span.step for span in spans],
            "lows": [span.low for span in spans],
            "highs": [span.high for span in spans],
            "scope": scope,
        }
        # Only what is asked for: in a condition that may be off, names would be compared row by row.
        named = ""
        if queues is not None:
            named += " AND r.queue = ANY (:queues)"
            self.values["queues"] = list(queues)
        if job_types is not None:
            named += " AND r.job_type = ANY (:job_types)"
            self.values["job_types"] = list(job_types)
        self._from = _SPANS.format(named=named)

    def counts(self, key: str) -> str:
        """Outcomes alone: the histograms take most of the time of a read."""
        return (
            f"SELECT {key} AS key, 'outcome' AS kind, r.outcome AS name, sum(r.jobs)::bigint AS jobs"
            f" {self._from} GROUP BY 1, 3"
        )

    def with_durations(self, key: str) -> str:
        """Outcomes and both histograms."""
        columns = f"{key} AS key, r.outcome, r.jobs, r.delays, r.runs"
        return f"WITH found AS MATERIALIZED (SELECT {columns} {self._from}) {_OUTCOMES}"
