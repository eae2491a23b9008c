"""Rows of plain SQL, with whatever the table accepts: each ends, and no slot is lost to it."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.db.engine import Database
from service.jobs import Backoff, NewJob, Registry, Worker, enqueue_batch
from service.settings import Settings
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until, until_ended, until_true

RETRIES: Final = 2
DIGITS: Final = "9" * 5_000
JSON_COLUMNS: Final = ("errors", "backoff", "progress", "result")
TIME_COLUMNS: Final = ("created_at", "next_run_at", "started_at", "finished_at", "lease_until")
ODD_JSON: Final = (
    "{}", '{"a": 1}', '"abc"', "7", "null", "true", "[]", "[1]", "[null]", '["abc", {}]', DIGITS,
    '{"base_seconds": "abc"}', '{"base_seconds": -1}', f'{{"base_seconds": {DIGITS}}}',
    '{"base_seconds": 1e400}', "[" * 2000 + "]" * 2000,
)  # fmt: skip

JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["base_seconds", "factor", "type", "a"]), inner, max_size=3),
    max_leaves=5,
).map(json.dumps)  # fmt: skip
ROWS: Final = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(JSON_COLUMNS, st.sampled_from(ODD_JSON) | JSON),
        "last_error": st.text(max_size=5).map(lambda text: text.replace("\x00", "")),
        "lost_leases": st.integers(0, 1),
        "attempts": st.integers(-3, 1),
    },
)
"""Columns that a row fills with what no code of ours writes."""


async def insert(sql: Any, **columns: Any) -> int:
    """One row; JSON and times are given as text. One that the table refuses is not there: 0.

    As a restored dump brings it, or a version whose table checked less: no trigger sees it.
    """
    await sql.execute("SET session_replication_role = replica")
    row = {"job_type": "mail", "max_retries": RETRIES} | columns
    casts = dict.fromkeys((*JSON_COLUMNS, "payload"), "::text::jsonb")
    casts |= dict.fromkeys(TIME_COLUMNS, "::text::timestamptz")
    places = [f"${n}{casts.get(name, '')}" for n, name in enumerate(row, 1)]
    try:
        job_id: int = await sql.fetchval(
            f"INSERT INTO background_jobs ({', '.join(row)}) VALUES ({', '.join(places)})"
            " RETURNING id",
            *row.values(),
        )
    except asyncpg.IntegrityConstraintViolationError:
        return 0
    return job_id


class Failing:
    """A handler that fails each time, and counts its runs by job."""

    def __init__(self, handlers: Registry) -> None:
        self.runs: Counter[int] = Counter()
        at_once = Backoff(base_seconds=0.0, jitter=0.0)
        handlers.handler("mail", backoff=at_once)(self.run)

    async def run(self, payload: Any, ctx: Any) -> None:
        self.runs[ctx.job_id] += 1
        raise ValueError("no")


@pytest.fixture
def failing(handlers: Registry) -> Failing:
    return Failing(handlers)


async def until_none_is_live(sql: Any) -> None:
    async def hasten() -> bool:
        # Some of what stands in `backoff` asks for a long wait.
        await sql.execute(
            "UPDATE jobs_live SET next_run_at = now() WHERE status = 'PENDING' AND next_run_at > now()"
        )
        return bool(await sql.fetchval("SELECT count(*) = 0 FROM jobs_live"))

    await until(hasten, seconds=30)


@pytest.mark.parametrize("column", JSON_COLUMNS)
async def test_no_row_makes_a_job_run_more_often_than_its_retries_allow(
    failing: Failing, sql: Any, start_worker: StartWorker, column: str
) -> None:
    jobs = [await insert(sql, **{column: value}) for value in ODD_JSON]
    worker = await start_worker()
    await until_none_is_live(sql)
    told = "jsonb_path_query_array(errors, '$[*].attempt', '{}', true)"
    rows = await sql.fetch(f"SELECT id, status, {told} AS attempts FROM background_jobs")
    assert {row["status"] for row in rows} == {"DEAD_LETTER"}
    assert {row["id"]: failing.runs[row["id"]] for row in rows} == dict.fromkeys(jobs, RETRIES + 1)
    assert [row["attempts"] for row in rows] == [[1, 2, 3]] * len(ODD_JSON)
    assert worker.slots.used == 0


@pytest.mark.whole
@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(rows=st.lists(ROWS, min_size=1, max_size=8))
def test_every_row_ends_after_the_runs_it_has(
    of_these_rows: Callable[[list[dict[str, Any]]], None], rows: list[dict[str, Any]]
) -> None:
    of_these_rows(rows)


@pytest.fixture
def of_these_rows(
    pg_dsn: str, quick: Callable[..., Settings]
) -> Callable[[list[dict[str, Any]]], None]:
    """Lets a worker of its own run rows to their end, and looks at what came of them."""

    async def run(rows: list[dict[str, Any]]) -> None:
        settings = quick()
        database, handlers = Database(pg_dsn, settings), Registry()
        failing = Failing(handlers)
        sql = await database.connect()
        attempts = {await insert(sql, **row): row.get("attempts", 0) for row in rows}
        attempts.pop(0, None)
        worker = Worker(database, settings, handlers=handlers)
        await worker.start()
        try:
            await until_none_is_live(sql)
            await until_true(lambda: worker.slots.used == 0)
        finally:
            await worker.stop()
            await sql.close()
            await database.close()
        for job_id, before in attempts.items():
            assert failing.runs[job_id] <= RETRIES + 1 - min(before, 0)

    return lambda rows: asyncio.run(run(rows))


@pytest.mark.whole
async def test_a_number_too_long_to_read_fails_its_job_and_frees_its_slot(
    failing: Failing, sql: Any, start_worker: StartWorker
) -> None:
    job_id = await insert(sql, payload=DIGITS)
    worker = await start_worker()
    ended = "SELECT status, last_error FROM jobs_dead WHERE id = $1"
    job = await until(lambda: sql.fetchrow(ended, job_id))
    assert (job["status"], failing.runs[job_id]) == ("FAILED", 0)
    assert "the payload cannot be read" in job["last_error"]
    assert worker.slots.used == 0


async def test_an_end_that_cannot_be_computed_fails_the_job_and_frees_its_slot(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    class Unspeakable(Exception):
        @property
        def __notes__(self) -> Any:  # type: ignore[override]  # it is the oddity
            raise RuntimeError("its notes cannot be read")

    @handlers.handler("mail", max_retries=3)
    async def handle(payload: Any) -> None:
        raise Unspeakable

    job_id = await put("mail")
    worker = await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("FAILED", 1)
    assert "cannot be recorded" in job["last_error"]
    assert worker.slots.used == 0


async def test_a_trigger_that_refuses_an_end_fails_its_job_with_its_words(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> Any:
        return payload

    await sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'not this one'; END $$"
    )
    await sql.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON jobs_done FOR EACH ROW"
        " WHEN (NEW.result = '3') EXECUTE FUNCTION refuse()"
    )
    jobs = await enqueue_batch(sql, [NewJob("mail", n) for n in range(6)])
    await start_worker(settle_delay_seconds=0.1)
    rows = [await until_ended(sql, job.id) for job in jobs]
    assert [row["status"] for row in rows] == ["SUCCESS"] * 3 + ["FAILED"] + ["SUCCESS"] * 2
    assert "not this one" in rows[3]["last_error"]


async def test_a_history_is_cut_to_the_setting_once_that_is_lowered(
    failing: Failing, sql: Any, start_worker: StartWorker
) -> None:
    history = [{"event": "error", "attempt": n} for n in range(100)]
    job_id = await insert(sql, errors=json.dumps(history), max_retries=0)
    await start_worker(max_error_entries=20)
    errors = (await until_ended(sql, job_id))["errors"]
    assert [entry["attempt"] for entry in errors] == [*range(81, 100), 1]
