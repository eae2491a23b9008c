"""Every page of the dashboard, found by its routes, and a database with something on each of them."""

import json
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
from service.db.engine import Database
from tests.api.test_policies import declared, is_page
from tests.jobs.rows import add

FINGERPRINT: Final = "c0ffee0123456789"
NO_PAGES: Final = frozenset(
    {"/dashboard/events", "/dashboard/audit/export", "/dashboard/{path:path}"}
)
"""What answers with something else: a stream, a file, and whatever no page answers."""

QUERIES: Final[dict[str, str]] = {
    "/dashboard/queues/queue": "?name={queue}",
    "/dashboard/schedules/edit": "?name={queue}",
    "/dashboard/schedules/schedule": "?name={queue}",
    "/dashboard/jobs": "?q=status:DEAD_LETTER",
    "/dashboard/operations/new": "?action=retry&queue={queue}",
}
"""What a page needs to be told besides its path."""

MORE_ROWS: Final = (
    (
        "INSERT INTO job_workers (name, queues, job_types, concurrency, version)"
        " VALUES (:word, ARRAY[:queue], ARRAY[:queue], 8, left(:word, 40)) RETURNING id"
    ),
    (
        "INSERT INTO served_types (job_type, served_at, payload_schema) VALUES (:queue, now(), CAST(:schema AS jsonb))"
        " RETURNING 1"
    ),
    (
        "INSERT INTO queues (name, paused_at, paused_by, pause_reason, max_running, max_running_per_key,"
        " rate_limit, rate_seconds, weight, changed_by) VALUES (:queue, now(), :word, :word, 2147483647,"
        " 2147483647, 2147483647, 1e300, 2147483647, :word) RETURNING 1"
    ),
    (
        "INSERT INTO api_keys (prefix, secret_hash, name, scopes, created_by)"
        " VALUES ('0123456789', sha256('secret'), left(:word, 100), '{jobs:read}', :word) RETURNING 1"
    ),
    (
        "INSERT INTO reminders (send_at, user_id, message, channel, recipient)"
        " VALUES (now() + interval '1 day', :word, :word, 'log', :word) RETURNING 1"
    ),
    (
        "INSERT INTO causes (fingerprint, job_type, kind, title, jobs, deaths, first_seen, last_seen, workers,"
        " changed_at, changed_by, reason)"
        f" VALUES ('{FINGERPRINT}', :queue, :word, :word, 1, 3, now(), now(), ARRAY[:word], now(), :word, :word)"
        " RETURNING 1"
    ),
    (
        "INSERT INTO targets (name, opened_at, retry_at, last_error, last_failure_at) VALUES (left(:word, 300), now(),"
        " now() + interval '1 minute', :word, now()) RETURNING 1"
    ),
    (
        "INSERT INTO schedules (name, owner, created_by, cron, zone, jitter_seconds, job_type, payload, queue,"
        " concurrency_key, overlap, catch_up, catch_up_seconds, declared, pinned_by, paused_at, paused_by,"
        " pause_reason, failures) VALUES (:queue, :word, :word, :word, :word, 5, :queue,"
        " jsonb_build_object(CAST(:word AS text), CAST(:word AS text)), :queue, :word, 'skip', 'one', 1e300, '{}', :word, now(), :word, :word,"
        " 12) RETURNING id"
    ),
    (
        "INSERT INTO schedule_ticks (schedule_id, schedule, planned_at, outcome, reason, until, ticks)"
        " SELECT id, name, now(), 'missed', :word, now(), 5 FROM schedules RETURNING id"
    ),
    f"INSERT INTO cause_hours VALUES ('{FINGERPRINT}', date_trunc('hour', now()), 3) RETURNING 1",
    (
        "INSERT INTO job_rates (step, scope, at, queue, job_type, outcome, jobs, delays, runs)"
        " SELECT step, scope, date_trunc(step, now()), q, t, 'FAILED', 3, '{\"3\": 3}', '{\"20\": 3}'"
        " FROM unnest('{minute,hour,day}'::text[]) step,"
        " (VALUES ('total', '', ''), ('queue', :queue, ''), ('pair', :queue, :queue)) s(scope, q, t) RETURNING 1"
    ),
)
OPERATION: Final = """
INSERT INTO operations (action, parameters, filter, state, note, before_id, expected, expected_exact,
  changed, skipped, actor, reason)
VALUES ('retry', '{}', CAST(:filter AS jsonb), 'stopped', :word, 100, 5, true, 2, CAST(:skipped AS jsonb),
  :word, :word)
RETURNING id"""


async def seed(database: Database, word: str) -> dict[str, str]:
    """Put `word` wherever the database holds text; the parameters of the pages' paths."""
    queue = word.encode()[:100].decode(errors="ignore")
    given: dict[str, Any] = {"word": word, "queue": queue}
    async with database.sessions.begin() as session:
        worker = await _rows(session, given)
        dead = await _jobs(session, word, queue, worker)
        operation = await session.scalar(
            text(OPERATION),
            {
                "word": word,
                "filter": json.dumps({"queue": word}),
                "skipped": json.dumps({"status": 3}),
            },
        )
        await session.execute(
            text("INSERT INTO operation_skips VALUES (:id, :job, 'status', :word)"),
            {"id": operation, "job": dead, "word": word},
        )
        await audit.record(
            session, Actor(word, word, word), "job.edit", subject_type=word, subject_id=str(dead),
            filter={word: word}, before={word: word}, after={word: [word]}, reason=word,
        )  # fmt: skip
        batch = await session.scalar(
            text("INSERT INTO batches (name, created_by, cancelled_by, cancelled_at)"
                 " VALUES (:word, :word, :word, now()) RETURNING id"),
            {"word": word},
        )  # fmt: skip
        await session.execute(
            text("INSERT INTO job_dependencies (parent_id, child_id, on_parent_failure)"
                 " VALUES (:id, :id, 'hold')"),
            {"id": dead},
        )  # fmt: skip
        entry = await session.scalar(text("SELECT max(id) FROM audit_log"))
    return {
        "job_id": str(dead), "column": "payload", "queue": quote(queue, safe=""),
        "name": quote(queue, safe=""), "job_type": quote(queue, safe=""), "entry_id": str(entry),
        "batch_id": str(batch), "prefix": "0123456789", "fingerprint": FINGERPRINT, "operation_id": str(operation),
    }  # fmt: skip


def pages(app: FastAPI, parameters: dict[str, str]) -> dict[str, str]:
    """Where the pages are that a browser opens by GET, by the paths of their routes."""
    found = {}
    for method, template in declared(app):
        if method == "GET" and is_page(template) and template not in NO_PAGES:
            # A parameter that is not known here is a KeyError: give it a value in `seed`.
            path = template.format(**parameters) + QUERIES.get(template, "").format(**parameters)
            if not path.endswith(".txt"):
                found[template] = path
    return dict(sorted(found.items()))


def paths(app: FastAPI, parameters: dict[str, str]) -> list[str]:
    """The same without their routes."""
    return sorted(pages(app, parameters).values())


async def _rows(session: AsyncSession, given: dict[str, Any]) -> int:
    schema = {
        "title": given["word"],
        "type": "object",
        "properties": {given["word"]: {"type": "string", "description": given["word"]}},
    }
    worker = 0
    for statement in MORE_ROWS:
        names = {name for name in ("word", "queue") if f":{name}" in statement}
        bound = {name: given[name] for name in names}
        if ":schema" in statement:
            bound["schema"] = json.dumps(schema)
        made = await session.scalar(text(statement), bound)
        worker = worker or int(made or 0)
    return worker


async def _jobs(session: AsyncSession, word: str, queue: str, worker: int) -> int:
    """A job of each status, with the word in each of their texts; the id of the dead one."""
    error = {
        "event": "error", "attempt": 1, "type": word, "message": word, "traceback": word,
        "started_at": "2026-03-01T09:00:00+00:00", "at": "2026-03-01T09:00:05+00:00", "worker": word,
        "by": word, word: word,
    }  # fmt: skip
    # No lease has the token 0: it says that the row was checked.
    common = {"job_type": queue, "queue": queue, "enqueued_by": word, "lease_token": 0}
    value = {word: word, "list": [word, {"deep": word}], "password": word}
    progress = {"fraction": 0.5, "message": word}
    await add(session, **common, payload=value, unique_key=queue)
    await add(session, **common, payload=value, status="SUCCESS", result=value, attempts=1)
    await add(session, **common, payload=value, status="CANCELLED")
    await add(
        session, **common, payload=value, status="RUNNING", progress=progress, worker_id=worker,
        attempts=1,
    )  # fmt: skip
    dead = 0
    for status in ("FAILED", "DEAD_LETTER"):
        dead = await add(
            session, **common, payload=value, status=status, errors=[error], last_error=word,
            attempts=1, progress=progress, fingerprint=FINGERPRINT, worker_id=worker,
        )  # fmt: skip
    await session.execute(
        text(
            "INSERT INTO job_logs VALUES (:id, 1, 1, 1, now(), 'info', :word, CAST(:fields AS json))"
        ),
        {"id": dead, "word": word, "fields": json.dumps({word: word})},
    )
    await session.execute(
        text(
            "INSERT INTO job_steps VALUES (:id, :word, 'call', 1, 1, now(), NULL, now(), false,"
            " CAST(:result AS json))"
        ),
        {"id": dead, "word": word, "result": json.dumps({word: word})},
    )
    return dead
