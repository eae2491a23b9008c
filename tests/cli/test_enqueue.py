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
