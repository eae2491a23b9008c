"""What plain SQL may not put into the table: the INSERT fails, with words for the one who writes it."""

import math
from typing import Any, Final

import asyncpg
import pytest

from service.errors import ConfigurationError, InvalidInput
from service.jobs import NewJob, Registry
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.job_types import DEFAULTS
from service.settings import Settings

pytestmark = pytest.mark.whole

NAMES: Final = ("with space", "", "_first", "é", "a" * 101, "line\n", "semi;colon", "slash/")

REFUSED: Final = [
    *(("job_type", f"'{name}'") for name in NAMES),
    *(("queue", f"'{name}'") for name in NAMES),
    *(
        (column, f"'{moment}'")
        for column in ("next_run_at", "created_at", "started_at", "finished_at", "lease_until")
        for moment in ("infinity", "-infinity", "10000-01-01Z", "4000-01-01 BC", "1999-12-31Z")
    ),
    ("attempts", "-5"),
    ("attempts", "32767"),
    ("lost_leases", "-1"),
    ("lost_leases", "32767"),
    ("timeout_seconds", "'NaN'"),
    ("timeout_seconds", "'Infinity'"),
    ("timeout_seconds", "0"),
    ("timeout_seconds", "-1"),
    ("max_retries", "-1"),
    ("max_retries", "1001"),
    ("priority", "-1"),
    ("priority", "10"),
    ("unique_key", "''"),
    ("id", "0"),
    ("id", "9223372036854775807"),
    *(("errors", f"'{value}'") for value in ("{}", "null", "7", '"abc"')),
    *(
        ("backoff", f"'{value}'")
        for value in (
            '"abc"',
            "null",
            "[]",
            "7",
            '[{"factor": 2}]',
            '{"base_seconds": "abc"}',
            '{"base_seconds": null}',
            '{"base_seconds": [30]}',
            '{"base_seconds": -1}',
            '{"base_seconds": 1e400}',
            '{"cap_seconds": 604801}',
            '{"factor": 0.5}',
            '{"jitter": 2}',
            '{"jitter": true}',
        )
    ),
]


async def insert(sql: Any, **columns: str) -> int:
    row = {"job_type": "'mail'"} | columns
    job_id: int = await sql.fetchval(
        f"INSERT INTO background_jobs ({', '.join(row)}) VALUES ({', '.join(row.values())})"
        " RETURNING id"
    )
    return job_id


@pytest.mark.parametrize(("column", "value"), REFUSED)
async def test_the_table_refuses_what_no_client_may_write(
    sql: Any, column: str, value: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await insert(sql, **{column: value})
    assert column in str(refused.value)


async def test_a_refusal_names_the_value_and_the_rule(sql: Any) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await insert(sql, queue="'my queue'")
    assert str(refused.value) == (
        "queue is my queue: expected 1 to 100 letters, digits or _ . : - with a letter or digit first"
    )
    assert (refused.value.table_name, refused.value.column_name) == ("jobs_live", "queue")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("job_type", "'" + "a" * 100 + "'"),
        ("queue", "'0:mails-to_be.sent'"),
        ("next_run_at", "'2000-01-01Z'"),
        ("next_run_at", "'2200-01-01Z'"),
        ("timeout_seconds", "0.001"),
        ("max_retries", "1000"),
        ("errors", "'[]'"),
        ("backoff", "'{}'"),
        ("backoff", """'{"base_seconds": 0, "cap_seconds": 604800, "factor": 1, "jitter": 1}'"""),
        ("backoff", """'{"a_later_one": "x", "factor": 2.5}'"""),
        ("payload", "'7'"),
    ],
)
async def test_what_a_client_may_write_is_taken_by_plain_sql(
    sql: Any, column: str, value: str
) -> None:
    assert await insert(sql, **{column: value}) > 0


@pytest.mark.parametrize("asked", [math.nan, math.inf, -1.0, 0.0])
def test_a_timeout_that_bounds_nothing_counts_as_none(asked: float, settings: Settings) -> None:
    assert DEFAULTS.timeout_of(asked, settings) == settings.default_timeout_seconds
    with pytest.raises(InvalidInput, match="timeout_seconds"):
        encode_jobs([NewJob("mail", timeout_seconds=asked)], max_payload_bytes=1000)


@pytest.mark.parametrize("timeout", [math.nan, -1.0, 0.0])
def test_a_handler_cannot_be_registered_with_a_timeout_that_bounds_nothing(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="expected seconds above 0"):
        Registry().handler("mail", timeout=timeout)(handle)


async def handle(payload: object) -> None:
    """A handler to register."""


async def test_a_small_payload_that_is_huge_as_text_is_refused(sql: Any) -> None:
    numbers = "[" + ",".join(["1e131000"] * 200) + "]"
    with pytest.raises(
        asyncpg.CheckViolationError, match=r"payload is .* bytes: .* 16 MiB as text"
    ):
        await sql.execute(
            "INSERT INTO finmind_jobs.background_jobs (job_type, payload)"
            " VALUES ('mail', jsonb_build_object('a', $1::text::jsonb))",
            numbers,
        )
