"""Every place that knows a job's columns agrees with `core.fields`."""

from dataclasses import fields
from inspect import signature
from typing import Any

from sqlalchemy.dialects import postgresql

from service.api.job_schemas import JobOut, JobSummaryOut
from service.api.new_job_schemas import JobIn
from service.jobs import BackgroundJob, NewJob, enqueue, store
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.fields import FIELDS, INPUTS, LISTED
from service.jobs.core.unique_key import OPTIONS
from service.jobs.read.list import JobSummary
from tests.jobs.statements import BY_SQL, statement, values_of

COLUMNS = """
SELECT a.attname, format_type(a.atttypid, NULL), pg_get_expr(d.adbin, d.adrelid), a.attnotnull
FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
WHERE a.attrelid = 'background_jobs'::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
LONG_NAMES = {"timestamptz": "timestamp with time zone", "float8": "double precision"}
NOT_OF_THE_ROW = {"effective_max_retries", "effective_timeout_seconds", "result_dropped"}
OTHERS = {"after", "on_parent_failure", "encrypt"}
"""What a new job says of other jobs, which is kept in a table of its own, and of its payload."""
NAMES = [field.name for field in FIELDS]


async def test_fields_are_the_columns_of_the_table_in_order(sql: Any) -> None:
    columns = await sql.fetch(COLUMNS)
    assert [(name, kind) for name, kind, _, _ in columns] == [
        (field.name, LONG_NAMES.get(field.type, field.type)) for field in FIELDS
    ]


async def test_what_a_new_job_leaves_out_has_the_columns_default(sql: Any) -> None:
    defaults = {name: default for name, _, default, _ in await sql.fetch(COLUMNS)}
    given = {name: defaults[name] for one in INPUTS if (name := one.name) in defaults}
    literals: dict[Any, str | None] = {
        2: "2",
        "default": "'default'::text",
        "{}": "'{}'::jsonb",
        None: None,
    }
    assert given == {one.name: literals[one.default] for one in INPUTS if one.name in defaults}


async def test_the_orm_has_the_columns_of_the_table(sql: Any) -> None:
    columns = BackgroundJob.__table__.columns
    dialect: Any = postgresql
    mapped = [
        (column.name, column.type.compile(dialect.dialect()).lower(), not column.nullable)
        for column in columns
    ]
    assert mapped == [
        (name, kind, required) for name, kind, _, required in await sql.fetch(COLUMNS)
    ]


def test_a_new_job_gives_what_the_statements_take() -> None:
    given = {one.name for one in fields(NewJob)}
    own = {"enqueued_by", "unique_until_start"}
    assert given - OTHERS == {one.name for one in INPUTS} - own | {*OPTIONS}
    assert given == JobIn.model_fields.keys()
    assert given == signature(enqueue).parameters.keys() - {"session"}
    encoded = encode_jobs([NewJob("mail")], max_payload_bytes=1_000)
    assert encoded.columns.keys() == {one.name for one in INPUTS} | {"key_rule"}


async def test_sql_takes_all_that_a_client_gives(sql: Any) -> None:
    given = {one.name for one in fields(NewJob)}
    names = await sql.fetchval(
        "SELECT proargnames FROM pg_proc WHERE oid = to_regproc('enqueue_job')"
    )
    members = await sql.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('jobs_new') AND attnum > 0"
    )
    assert set(names) == given
    assert {row[0] for row in members} - {"unique_until_start"} == given


def test_the_api_hands_on_all_that_a_client_gives() -> None:
    body = {
        "job_type": "mail", "payload": {"n": 1}, "queue": "letters", "priority": 1,
        "max_retries": 1, "timeout_seconds": 1.0, "run_at": "2030-01-01T00:00:00Z",
        "unique_key": "k", "backoff": {}, "concurrency_key": "c",
        "on_conflict": "extend", "debounce_max_seconds": 60.0,
        "after": [1], "on_parent_failure": "run", "batch_id": 1, "encrypt": ["n"],
        "callback": {"url": "https://shop.example.com/jobs"}, "result_ttl_seconds": 60.0,
    }  # fmt: skip
    job = JobIn.model_validate(body).to_new_job()
    left_out = {one.name for one in fields(NewJob) if getattr(job, one.name) is None}
    assert left_out == {"delay_seconds", "unique_for_seconds", "unique_by"}, "not all go together"


async def test_a_column_of_defaults_travels_as_an_empty_array_and_an_optional_one_not_at_all() -> (
    None
):
    plain, others = [NewJob("mail"), NewJob("mail")], [NewJob("mail"), NewJob("mail", priority=1)]
    sent: list[tuple[str, dict[str, Any]]] = []

    async def note(sql: str, *arrays: Any) -> list[Any]:
        values = values_of(statement(BY_SQL[sql]), arrays)
        sent.append((BY_SQL[sql], {name: array for name, array in values.items() if array}))
        return []

    for jobs, caller in ((plain, None), (others, None), (plain, "ann")):
        encoded = encode_jobs(jobs, max_payload_bytes=1_000, caller=caller)
        await store.enqueue.insert(note, encoded)
    types = {"job_type": ("mail", "mail")}
    assert sent == [
        ("ENQUEUE", types),
        ("ENQUEUE", types | {"priority": (2, 1)}),
        ("ENQUEUE_FOR_CALLERS", types | {"enqueued_by": ("ann", "ann")}),
    ]


def test_the_api_shows_columns_under_their_names() -> None:
    assert JobOut.model_fields.keys() - set(NAMES) == NOT_OF_THE_ROW
    shown = set(LISTED) - {"worker_id"}
    assert JobSummaryOut.model_fields.keys() == shown
    assert {one.name for one in fields(JobSummary)} == shown
