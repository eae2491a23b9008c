"""The command `enqueue`."""

import re
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tests.running import Run


async def test_enqueue_prints_the_id_of_a_durable_job(
    run: Run, pg_dsn: str, session: AsyncSession
) -> None:
    arguments = ["--payload", '{"n": 1}', "--queue", "emails", "--priority", "0"]
    arguments += ["--run-at", "2031-03-01T09:00:00+01:00", "--timeout-seconds", "60"]
    done = run("enqueue", "mail.send", *arguments, "--unique-key", "k", DATABASE_URL=pg_dsn)
    row = (
        await session.execute(
            text(
                "SELECT job_type, queue, priority, payload, next_run_at, timeout_seconds"
                " FROM finmind_jobs.background_jobs WHERE id = :id"
            ),
            {"id": int(done.stdout)},
        )
    ).one()
    due = datetime(2031, 3, 1, 8, tzinfo=UTC)
    assert tuple(row) == ("mail.send", "emails", 0, {"n": 1}, due, 60.0)
    again = run("enqueue", "mail.send", "--unique-key", "k", DATABASE_URL=pg_dsn)
    assert again.stdout == done.stdout
    assert again.stderr == (
        f"Nothing was enqueued: job {int(done.stdout)} is live and has the unique key 'k'.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", "--payload", "{"),
        ("x y",),
        ("x", "--priority", "10"),
        ("x", "--queue", "a b"),
        ("x", "--run-at", "2031-03-01T09:00:00"),
    ],
)
def test_enqueue_refuses_bad_input_in_one_line(
    run: Run, pg_dsn: str, arguments: tuple[str, ...]
) -> None:
    done = run("enqueue", *arguments, DATABASE_URL=pg_dsn)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*\n", done.stderr)


async def test_a_secret_of_the_command_line_is_in_no_table(
    run: Run, pg_dsn: str, session: AsyncSession
) -> None:
    await session.execute(
        text("INSERT INTO served_types VALUES ('charge', now(), NULL, CAST(:rules AS jsonb))"),
        {"rules": '{"encrypt": ["card"]}'},
    )
    await session.commit()
    payload = ("--payload", '{"card": "4111", "iban": "DE02", "n": 1}', "--encrypt", "iban")
    refused = run("enqueue", "charge", *payload, DATABASE_URL=pg_dsn)
    assert (refused.returncode, "PAYLOAD_KEYS" in refused.stderr) == (2, True)
    done = run("enqueue", "charge", *payload, DATABASE_URL=pg_dsn, PAYLOAD_KEYS="B" * 43 + "=")
    assert done.returncode == 0, done.stderr
    rows = await session.execute(
        text("SELECT j::text FROM background_jobs j UNION ALL SELECT a::text FROM audit_log a")
    )
    kept = [row[0] for row in rows]
    assert len(kept) == 2
    assert [one for one in kept if "4111" in one or "DE02" in one] == []
