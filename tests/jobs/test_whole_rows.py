"""Whatever whole rows the table holds, the jobs of other lanes are claimed."""

import asyncio
from collections.abc import Callable
from datetime import UTC
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.db.engine import Database
from service.jobs import NewJob, Registry, Worker, enqueue_batch
from service.settings import Settings
from tests.jobs.test_odd_rows import DIGITS, JSON, ODD_JSON, TIME_COLUMNS, insert
from tests.jobs.waiting import until_ended

pytestmark = pytest.mark.whole

SMALLINTS: Final = st.sampled_from((-32768, -32767, -5, -1, 32765, 32766, 32767)) | st.integers(
    0, 9
)
BIGINTS: Final = st.sampled_from((-(2**63), -1, 0, 2**53, 2**63 - 1))
TIMES: Final = st.sampled_from(
    ("-infinity", "infinity", "4713-01-01 BC", "0001-01-01Z", "1969-12-31Z", "294276-12-31Z")
) | st.datetimes(timezones=st.just(UTC)).map(str)
FLOATS: Final = st.sampled_from((float("nan"), float("inf"), 5e-324, 1e308, 0.01))
NAMES: Final = st.sampled_from(
    ("default", "mail", "no such", "Ä" * 50, "\n", "a:1", "*")
) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20
)
COLUMNS: Final = {
    **dict.fromkeys(TIME_COLUMNS, TIMES),
    "id": BIGINTS,
    "lease_token": BIGINTS,
    "worker_id": BIGINTS,
    "attempts": SMALLINTS,
    "lost_leases": SMALLINTS,
    "timeout_seconds": FLOATS,
    "priority": st.integers(0, 9),
    "max_retries": st.sampled_from((0, 1, 1000)),
    "queue": NAMES, "job_type": NAMES, "unique_key": NAMES, "last_error": NAMES,
    "status": st.sampled_from(("PENDING", "RUNNING")),
    **dict.fromkeys(
        ("payload", "result", "progress", "backoff", "errors"), st.sampled_from(ODD_JSON) | JSON
    ),
}  # fmt: skip
ROWS: Final = st.lists(st.fixed_dictionaries({}, optional=COLUMNS), min_size=1, max_size=6)
"""Any values that the columns' types can hold; what the table's checks refuse is left out."""


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(rows=ROWS)
@example(rows=[{"attempts": 32767}])
@example(rows=[{"lost_leases": 32767, "status": "RUNNING"}])
@example(rows=[{"attempts": -32768, "payload": DIGITS}])
@example(rows=[{"next_run_at": "-infinity"}, {"next_run_at": "4713-01-01 BC"}])
def test_no_row_keeps_the_jobs_of_other_lanes_from_being_claimed(
    beside_these_rows: Callable[[list[dict[str, Any]]], None], rows: list[dict[str, Any]]
) -> None:
    beside_these_rows(rows)


@pytest.fixture
def beside_these_rows(
    pg_dsn: str, quick: Callable[..., Settings]
) -> Callable[[list[dict[str, Any]]], None]:
    """Lets a worker of its own run good jobs in other lanes than the rows, to their end."""

    async def run(rows: list[dict[str, Any]]) -> None:
        settings = quick(shutdown_grace_seconds=0.5)
        database, handlers = Database(pg_dsn, settings), Registry()

        @handlers.handler("mail")
        async def handle(payload: Any) -> None:
            return None

        sql = await database.connect()
        await sql.execute("TRUNCATE background_jobs")
        for row in rows:
            await insert(sql, **row)
        good = await enqueue_batch(
            sql, [NewJob("mail", n, queue=f"good{n % 2}", priority=n) for n in range(4)]
        )
        worker = Worker(database, settings, handlers=handlers)
        await worker.start()
        try:
            for job in good:
                assert (await until_ended(sql, job.id))["status"] == "SUCCESS"
        finally:
            await worker.stop()
            await sql.close()
            await database.close()

    return lambda rows: asyncio.run(run(rows))
