"""`enqueue_job` and `enqueue_jobs` of SQL do what `POST /jobs` does: the same is played to all three."""

import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import httpx
import pytest

from service.db.engine import Database
from tests.api.conftest import Auth

ROWS = """
SELECT rank() OVER (ORDER BY id) AS nth, job_type, payload::text, queue, priority, max_retries, timeout_seconds,
  round(extract(epoch FROM COALESCE(held_due_at, next_run_at)
    - CASE WHEN run THEN timestamptz 'epoch' ELSE created_at END)::numeric) AS due,
  unique_key, unique_until_start,
  ARRAY(SELECT value::float8 FROM jsonb_each(backoff) ORDER BY key) AS backoff, concurrency_key, held_for, held_due_at IS NOT NULL AS held, batch_id, status,
  attempts, has_children, callback, result_ttl_seconds
FROM jobs_live, LATERAL (SELECT COALESCE(held_due_at, next_run_at) > timestamptz '2027-06-01' AS run) r
ORDER BY id"""
FORGET = """
DELETE FROM jobs_live; DELETE FROM unique_windows; DELETE FROM job_dependencies; DELETE FROM job_endings;
ALTER SEQUENCE background_job_ids RESTART"""
CALL = {
    "payload": "jsonb", "priority": "numeric::int", "max_retries": "numeric::int", "timeout_seconds": "float8",
    "run_at": "timestamptz", "delay_seconds": "float8", "backoff": "jsonb", "unique_for_seconds": "float8",
    "debounce_max_seconds": "float8", "after": "bigint[]", "batch_id": "bigint", "unique_by": "text[]",
    "callback": "jsonb", "result_ttl_seconds": "float8", "encrypt": "text[]",
}  # fmt: skip
Steps = list[dict[str, Any]]
CONFLICTS = {"23505", "55000", "40001"}

KEY = {"job_type": "mail", "payload": {"n": 1}, "unique_key": "k", "delay_seconds": 100}
OTHER = KEY | {"payload": {"n": 2}}
CALLED = KEY | {
    "callback": {"url": "HTTPS://[2001:db8::1]:8443?a=%20\\"},
    "result_ttl_seconds": 0.5,
}
DEEP = {"job_type": "mail", "payload": {"a": {"b": [1.0, 'é\n"', {"z": 1, "y": None}]}, "n": 2.50}}

TAKEN: list[Steps] = [
    [{"job_type": "mail"}],
    [
        {
            "job_type": "a.b:c-d_e",
            "queue": "q",
            "priority": 0,
            "max_retries": 0,
            "timeout_seconds": 0.5,
        }
    ],
    [
        {
            "job_type": "mail",
            "payload": {"a": 1.50, "b": [None, True]},
            "priority": 9.0,
            "max_retries": 1000,
        }
    ],
    [
        {
            "job_type": "mail",
            "run_at": "2030-01-31T09:00:00+01:00",
            "concurrency_key": "customer:é 42",
        }
    ],
    [
        {"job_type": "mail", "backoff": {}},
        {"job_type": "mail", "backoff": {"factor": 2, "jitter": 0}},
    ],
    [KEY, KEY, KEY | {"priority": 1}],
    [
        KEY,
        KEY | {"on_conflict": "replace", "payload": {}, "priority": 5, "queue": "q", "backoff": {}},
    ],
    [KEY, KEY | {"on_conflict": "extend", "delay_seconds": 900}],
    [KEY, KEY | {"on_conflict": "extend", "delay_seconds": 9000, "debounce_max_seconds": 500}],
    [KEY, KEY | {"on_conflict": "extend", "delay_seconds": 1}],
    [
        KEY | {"on_conflict": "keep_latest"},
        OTHER | {"on_conflict": "keep_latest", "delay_seconds": 5},
    ],
    [KEY | {"unique_scope": "until_started"}, KEY],
    [
        CALLED,
        CALLED | {"callback": {"url": "http://a", "sign_with": "s"}},
        OTHER | {"on_conflict": "replace"},
    ],
    [
        KEY,
        CALLED | {"callback": {"url": "http://a:1/", "sign_with": None}, "on_conflict": "replace"},
    ],
    [{"job_type": "mail", "callback": None, "result_ttl_seconds": 316_224_000, "encrypt": []}],
    [KEY | {"unique_for_seconds": 60}, KEY | {"unique_for_seconds": 60}],
    [{"job_type": "mail"}, {"job_type": "child", "after": [1, 1], "on_parent_failure": "hold"}],
    [
        {"job_type": "mail", "delay_seconds": 9},
        {"job_type": "child", "after": [1], "run_at": "2031-01-01T00:00:00Z"},
    ],
    [{"job_type": "child", "after": []}],
    [
        DEEP | {"unique_by": ["payload.a.b", "queue", "payload.n"]},
        DEEP | {"unique_by": ["job_type"], "queue": "q"},
    ],
    [{"job_type": "mail", "payload": {"t": "x" * 300}, "unique_by": ["payload.t"]}],
    [{"job_type": "mail", "payload": {"t": "a\u00a0b"}, "unique_by": ["payload.t"]}],
    [
        {
            "job_type": "mail",
            "payload": {"t": 0.00001, "u": 10**30, "v": 1e2},
            "unique_by": ["payload.u", "payload.t", "payload.v"],
        }
    ],
]
CALLBACKS: list[Any] = [
    "http://a", [], {}, {"url": 1}, {"url": None}, {"url": "ftp://a"}, {"url": "http://"}, {"url": "http://:80/"},
    {"url": "http://u@a"}, {"url": "http://u:p@a/"}, {"url": "http://a/#x"}, {"url": "http://a b"},
    {"url": "http://a/\n"}, {"url": "http://[::1"}, {"url": "http://é/"}, {"url": "http://a/" + "x" * 2000},
    {"url": "http://a", "more": 1}, {"url": "http://a", "sign_with": ""}, {"url": "http://a", "sign_with": 1},
    {"url": "http://a", "sign_with": "x" * 51},
]  # fmt: skip
REFUSED: list[Steps] = [
    [{}],
    [{"job_type": ""}],
    [{"job_type": "a b"}],
    [{"job_type": "x" * 101}],
    [{"job_type": 1}],
    [{"job_type": "mail", "prioritie": 1}],
    [{"job_type": "mail", "payload": []}],
    [{"job_type": "mail", "payload": "x"}],
    [{"job_type": "mail", "payload": {"x": "y" * 300_000}}],
    *([{"job_type": "mail", "queue": one}] for one in ("", "-a", "ä", 1)),
    *([{"job_type": "mail", "priority": one}] for one in (-1, 10, 1.5, "1", True)),
    *([{"job_type": "mail", "max_retries": one}] for one in (-1, 1001, 0.5, 1e30)),
    *([{"job_type": "mail", "timeout_seconds": one}] for one in (0, -1, 86401, "1", 1e400)),
    *([{"job_type": "mail", "run_at": one}] for one in
      ("2030-01-01T00:00:00", "soon", "1999-01-01T00:00:00Z", "2201-01-01T00:00:00Z", 7, "2030-13-01T00:00:00Z")),
    *([{"job_type": "mail", "delay_seconds": one}] for one in (-1, 1e9, "5")),
    [{"job_type": "mail", "delay_seconds": 1, "run_at": "2030-01-01T00:00:00Z"}],
    *([{"job_type": "mail", name: one}] for name in ("unique_key", "concurrency_key")
      for one in ("", "a\nb", "x" * 256, "a\u2028b", 1)),
    *([{"job_type": "mail", "backoff": one}] for one in ({"factor": 0}, {"jitter": 2}, {"cap": 1}, {"factor": "2"}, 7)),
    [{"job_type": "mail", "on_conflict": "replace"}],
    [{"job_type": "mail", "unique_scope": "until_started"}],
    [{"job_type": "mail", "unique_for_seconds": 1}],
    [KEY | {"on_conflict": "ignore"}],
    [KEY | {"unique_scope": "for_ever"}],
    *([KEY | {"unique_for_seconds": one}] for one in (0, 366 * 86_400 + 1, "1")),
    [KEY | {"unique_for_seconds": 1, "on_conflict": "replace"}],
    [KEY | {"unique_for_seconds": 1, "unique_scope": "until_started"}],
    [KEY | {"on_conflict": "keep_latest", "unique_scope": "until_started"}],
    [KEY | {"debounce_max_seconds": 1}],
    [KEY | {"debounce_max_seconds": 0, "on_conflict": "extend"}],
    [KEY | {"unique_by": ["queue"]}],
    *([{"job_type": "mail", "payload": {"a": [1]}, "unique_by": one}] for one in
      ([], ["payload"], ["payload.b"], ["payload.a.0"], ["a"], ["queue", "queue"], "queue", [1], ["queue"] * 21)),
    *([{"job_type": "child", "after": one}] for one in ([99], [0], ["1"], "1", [1.5], [2**63])),
    [{"job_type": "child", "on_parent_failure": "run"}],
    *([{"job_type": "mail", "callback": one}] for one in CALLBACKS),
    *([{"job_type": "mail", "result_ttl_seconds": one}] for one in (0, -1, "1", 316_224_001, 1e400)),
    [{"job_type": "mail"}, {"job_type": "child", "after": [1], "on_parent_failure": "stop"}],
    [{"job_type": "mail"}, KEY | {"after": [1], "on_conflict": "replace"}],
    *([{"job_type": "mail", "batch_id": one}] for one in (1, 0, "1", 1.5, 2**63)),
    [KEY, KEY | {"on_conflict": "reject"}],
    [KEY, OTHER],
    [KEY, OTHER | {"on_conflict": "extend"}],
    [KEY, KEY | {"job_type": "letter", "on_conflict": "replace"}],
    [KEY | {"unique_for_seconds": 60}, KEY | {"unique_for_seconds": 60, "on_conflict": "reject"}],
    [KEY | {"unique_for_seconds": 60}, OTHER | {"unique_for_seconds": 60}],
]  # fmt: skip


@pytest.fixture
async def sql(database: Database) -> Any:
    connection = await database.connect()
    yield connection
    await connection.close(timeout=5)


async def outcome(sql: Any, answers: Sequence[Any]) -> Any:
    """What became of some steps: the answers, and the rows."""
    rows = [tuple(row) for row in await sql.fetch(ROWS)]
    await sql.execute(FORGET)
    return answers, rows


async def by_rest(client: httpx.AsyncClient, headers: Any, steps: Steps) -> Any:
    answers: list[Any] = []
    for step in steps:
        content = json.dumps(step).replace("Infinity", "1e400")
        answer = await client.post(
            "/jobs", content=content, headers=headers | {"content-type": "application/json"}
        )
        body = answer.json()
        if answer.status_code in {200, 201}:
            answers.append((body["id"], answer.status_code == 201))
        elif answer.status_code == 409:
            answers.append("conflict")
        else:
            assert answer.status_code == 422, body
            field = body["errors"][0]["field"].removeprefix("body").strip(".")
            # Of two values that do not go together the whole body is at fault.
            answers.append({"refused": field.split(".")[0] or "run_at"})
    return answers


async def by_sql(sql: Any, text: str, *values: Any) -> Any:
    try:
        async with sql.transaction():
            return await sql.fetchrow(text, *values)
    except asyncpg.PostgresError as error:
        if error.sqlstate in CONFLICTS:
            return "conflict"
        if error.sqlstate != "22023":
            raise
        return {"refused": (error.column_name or "").split(".")[-1]}


async def by_array(sql: Any, steps: Steps) -> Any:
    answers = []
    for step in steps:
        text = json.dumps([step]).replace("Infinity", "1e400")
        answer = await by_sql(sql, "SELECT * FROM enqueue_jobs($1)", text)
        answers.append(tuple(answer) if isinstance(answer, asyncpg.Record) else answer)
    return answers


async def by_call(sql: Any, steps: Steps) -> Any:
    answers = []
    for step in steps:
        named = ", ".join(
            f"{name} => (${n}::text::jsonb ->> 0)::{kind}" if not kind.endswith("]")
            else f"{name} => ARRAY(SELECT jsonb_array_elements_text(${n}::text::jsonb -> 0))::{kind}"
            for n, name in enumerate(step, 1) for kind in [CALL.get(name, "text")]
        )  # fmt: skip
        values = [json.dumps([value]) for value in step.values()]
        before = await sql.fetchval("SELECT count(*) FROM jobs_live")
        answer = await by_sql(sql, f"SELECT enqueue_job({named})", *values)
        if isinstance(answer, asyncpg.Record):
            after = await sql.fetchval("SELECT count(*) FROM jobs_live")
            answer = answer[0], after > before
        answers.append(answer)
    return answers


async def test_what_rest_takes_sql_takes_and_stores_the_same(
    client: httpx.AsyncClient, auth: Auth, sql: Any
) -> None:
    for steps in TAKEN:
        rest = await outcome(sql, await by_rest(client, auth("service"), steps))
        assert all(isinstance(one, tuple) for one in rest[0]), rest
        assert await outcome(sql, await by_array(sql, steps)) == rest, steps
        assert await outcome(sql, await by_call(sql, steps)) == rest, steps


async def test_what_rest_refuses_sql_refuses_for_the_same_field(
    client: httpx.AsyncClient, auth: Auth, sql: Any
) -> None:
    for steps in REFUSED:
        rest = await outcome(sql, await by_rest(client, auth("service"), steps))
        assert not isinstance(rest[0][-1], tuple), rest
        assert await outcome(sql, await by_array(sql, steps)) == rest, steps
